"""AllasObjectSensor on a real Ceph RGW, also while that is away."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partialmethod
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from botocore.config import Config

from airflow_provider_csc.hooks._object_store import open_store
from airflow_provider_csc.sensors.allas import AllasObjectSensor
from airflow_provider_csc.transport.object_store import S3Store
from tests.chaos.proxy import Mode, Proxy
from tests.support.task import build_context, run_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_csc.hooks.allas import AllasHook

pytestmark = pytest.mark.cluster


@pytest.fixture
def connect(
    cluster: dict[str, Any], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Define ``allas_default``, with the cluster's own keys unless told otherwise."""

    def define(keys: dict[str, Any] = cluster, **extra: object) -> None:
        described = {
            "conn_type": "allas",
            "login": keys["s3_access_key"],
            "password": keys["s3_secret_key"],
            "extra": {"endpoint_url": cluster["s3_endpoint_url"], **extra},
        }
        monkeypatch.setenv("AIRFLOW_CONN_ALLAS_DEFAULT", json.dumps(described))

    define()
    return define


@pytest.fixture
def hook(allas_hook: AllasHook, connect: Callable[..., None], bucket: str) -> AllasHook:
    connect(bucket_name=bucket)
    return allas_hook


@pytest.fixture
def bucket(allas_hook: AllasHook) -> str:
    return str(allas_hook.service_config["bucket_name"])


@pytest.fixture
def prefix() -> str:
    return f"{uuid.uuid4().hex[:8]}/"


@pytest.fixture(params=[True, False], ids=["deferrable", "poke"])
def deferrable(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def sensor(key: str, **arguments: Any) -> AllasObjectSensor:
    return AllasObjectSensor(
        **{"task_id": "wait", "poke_interval": 1, "timeout": 600, "key": key} | arguments
    )


@contextmanager
def after(log: list[str], said: str, write: Callable[[], object]) -> Iterator[None]:
    """Have somebody write when the sensor has said something."""

    def run() -> None:
        wait_for_line(log, said)
        write()

    writer = threading.Thread(target=run, daemon=True)
    writer.start()
    yield
    writer.join()


def wait_for_line(log: list[str], said: str) -> None:
    while not any(said in line for line in log):
        time.sleep(0.02)


def test_it_waits_for_an_object_and_returns_it(
    hook: AllasHook, bucket: str, prefix: str, deferrable: bool, task_log: list[str]
) -> None:
    with after(task_log, "0 of 1", lambda: hook.load_string("12345", f"{prefix}a.csv")):
        (found,) = run_task(sensor(f"s3://{bucket}/{prefix}a.csv", deferrable=deferrable))

    head = hook.head_object(f"{prefix}a.csv")
    assert found["uri"] == f"s3://{bucket}/{prefix}a.csv"
    assert (found["key"], found["size"]) == (f"{prefix}a.csv", 5)
    assert found["etag"] == head["ETag"].strip('"')
    assert found["last_modified"][:19] == head["LastModified"].isoformat()[:19]


def test_it_waits_for_so_many_and_ignores_the_others(
    hook: AllasHook, prefix: str, deferrable: bool, task_log: list[str]
) -> None:
    hook.load_string("x", f"{prefix}a.csv")
    hook.load_string("x", f"{prefix}a.txt")
    hook.load_string("x", f"{prefix}deeper/c.csv")
    with after(task_log, "1 of 2", lambda: hook.load_string("x", f"{prefix}b.csv")):
        found = run_task(sensor(f"{prefix}*.csv", min_count=2, deferrable=deferrable))
    assert [each["key"] for each in found] == [f"{prefix}a.csv", f"{prefix}b.csv"]


def test_it_waits_until_nothing_has_changed(
    hook: AllasHook, prefix: str, deferrable: bool, task_log: list[str]
) -> None:
    """The second object comes while it waits, and the time begins anew."""
    hook.load_string("x", f"{prefix}a")
    with after(task_log, "until nothing has", lambda: hook.load_string("y", f"{prefix}b")):
        found = run_task(
            sensor(prefix, inactivity_period=timedelta(seconds=3), deferrable=deferrable)
        )
    assert len(found) == 2
    assert len([line for line in task_log if "until nothing has changed for 3 s" in line]) == 2
    newest = max(datetime.fromisoformat(each["last_modified"]) for each in found)
    assert datetime.now(UTC) - newest >= timedelta(seconds=3)


def test_it_waits_for_a_document_to_say_so(
    hook: AllasHook, prefix: str, deferrable: bool, task_log: list[str]
) -> None:
    key = f"{prefix}status.json"
    hook.load_string(json.dumps({"status": "running", "epoch": 3}), key)
    done = json.dumps({"status": "done", "epoch": 10})
    said = "not == the text 'done'"
    with after(task_log, said, lambda: hook.load_string(done, key, replace=True)):
        (found,) = run_task(
            sensor(
                key,
                json_condition={"status": "done", "epoch": {">=": 10}},
                deferrable=deferrable,
            )
        )
    assert found["size"] == len(done)
    told = [line for line in task_log if said in line]
    assert told == [f"{key}: status is the text 'running', not == the text 'done'."]


def test_what_is_no_json_and_what_is_too_large_is_told_once_and_not_met(
    hook: AllasHook, prefix: str, task_log: list[str]
) -> None:
    hook.load_bytes(b"\x00" * 100, f"{prefix}1")
    hook.load_bytes(b" " * (1024**2 + 1), f"{prefix}2")
    write = lambda: hook.load_string('{"a": 1}', f"{prefix}3")  # noqa: E731
    with after(task_log, "0 of 1", write):
        (found,) = run_task(sensor(prefix, json_condition={"a": 1}, deferrable=True))
    assert found["key"] == f"{prefix}3"
    assert len([line for line in task_log if "it is no JSON document" in line]) == 1
    assert len([line for line in task_log if "has 1048577 bytes" in line]) == 1


@pytest.mark.parametrize("key", ["tilde~star*[x].txt", "åäö š.txt", "a+b&c=d?.txt", "100%.txt"])
def test_a_key_is_taken_to_the_letter_where_that_is_asked(
    hook: AllasHook, prefix: str, key: str
) -> None:
    hook.load_string("x", prefix + key)
    (found,) = run_task(sensor(prefix + key, wildcards=False, deferrable=True))
    assert found["key"] == prefix + key


def test_more_than_a_page_is_counted_and_only_some_are_returned(
    hook: AllasHook, prefix: str, task_log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(S3Store, "list_page", partialmethod(S3Store.list_page, limit=20))
    for number in range(41):
        hook.load_bytes(b"", f"{prefix}{number:05}")
    found = run_task(sensor(prefix, min_count=41, max_results=3, deferrable=True))
    assert [each["key"] for each in found] == [f"{prefix}{number:05}" for number in range(3)]
    assert "Only the first 3 are returned (max_results)." in task_log


def wrong_key(cluster: dict[str, Any]) -> dict[str, Any]:
    return {**cluster, "s3_access_key": "NOSUCHKEY"}


def wrong_secret(cluster: dict[str, Any]) -> dict[str, Any]:
    return {**cluster, "s3_secret_key": "wrong"}


def stranger(cluster: dict[str, Any]) -> dict[str, Any]:
    keys: dict[str, Any] = cluster["users"]["bob"]
    return keys


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (wrong_key, "InvalidAccessKeyId: the object store does not know this access key"),
        (wrong_secret, "SignatureDoesNotMatch: the secret key does not belong"),
        (stranger, "AccessDenied: the object store refuses what was asked"),
    ],
)
def test_what_waiting_cannot_mend_fails_at_once_and_says_what_does(
    cluster: dict[str, Any],
    connect: Callable[..., None],
    bucket: str,
    deferrable: bool,
    keys: Callable[[dict[str, Any]], dict[str, Any]],
    said: str,
) -> None:
    connect(keys(cluster))
    with pytest.raises(AirflowFailException, match=said):
        run_task(sensor(f"s3://{bucket}/a", deferrable=deferrable))


def test_a_bucket_that_is_not_there_is_named(
    connect: Callable[..., None], deferrable: bool
) -> None:
    with pytest.raises(AirflowFailException, match="NoSuchBucket: no bucket of that name exists"):
        run_task(sensor(f"s3://absent-{uuid.uuid4().hex}/a", deferrable=deferrable))


def test_no_bucket_at_all_says_where_to_name_one(
    connect: Callable[..., None], deferrable: bool
) -> None:
    with pytest.raises(AirflowFailException, match=r"has no default bucket\. Give a URI"):
        run_task(sensor("a", deferrable=deferrable))


def test_soft_fail_skips(connect: Callable[..., None], deferrable: bool) -> None:
    from tests.cluster.test_slurm_sensor import run_sensor

    task = sensor(f"s3://absent-{uuid.uuid4().hex}/a", deferrable=deferrable, soft_fail=True)
    with pytest.raises(AirflowSkipException):
        run_sensor(task)


def test_reschedule_mode_frees_the_slot(hook: AllasHook, prefix: str) -> None:
    task = sensor(f"{prefix}a", mode="reschedule", deferrable=False)
    context = build_context(task)
    context["ti"].get_first_reschedule_date = lambda _context: None
    # Airflow 3.1 and 3.3 keep this exception in different places.
    with pytest.raises(Exception, match=r"^$") as caught:
        task.execute(context)
    assert type(caught.value).__name__ == "AirflowRescheduleException"


def test_a_triggerer_with_many_sensors_lists_once(hook: AllasHook, prefix: str) -> None:
    """A hundred sensors, each of another key or pattern, cost one listing per interval."""
    store, _bucket = open_store("allas_default", None)
    requests: list[float] = []
    store._client.meta.events.register(
        "before-call.s3.ListObjectsV2", lambda **_: requests.append(time.monotonic())
    )
    tasks = [
        *(sensor(f"{prefix}{number % 5}", deferrable=True) for number in range(60)),
        *(sensor(f"{prefix}**/{number % 5}", deferrable=True) for number in range(40)),
    ]

    async def wait() -> list[Any]:
        triggers = [task._build_trigger() for task in tasks]
        waits = [asyncio.ensure_future(anext(aiter(each.run()))) for each in triggers]
        while len(requests) < 3:
            await asyncio.sleep(0.1)
        for number in range(5):
            await asyncio.to_thread(hook.load_string, "x", f"{prefix}{number}")
        return await asyncio.gather(*waits)

    began = time.monotonic()
    events = asyncio.run(wait())
    # One listing a second, and one for who came while the first was made.
    seconds = time.monotonic() - began
    assert [event.payload["count"] for event in events] == [1] * 100
    assert len(requests) <= seconds + 3


@pytest.fixture
def proxy(cluster: dict[str, Any]) -> Iterator[Proxied]:
    with Proxied(urlsplit(cluster["s3_endpoint_url"]).port or 80) as proxied:
        yield proxied


class Proxied(threading.Thread):
    """A TCP proxy before RGW, in a thread with a loop of its own; cut and restored at will."""

    def __init__(self, target: int) -> None:
        super().__init__(daemon=True)
        self._proxy = Proxy(target=target)
        self._loop = asyncio.new_event_loop()
        self._is_up = threading.Event()
        self._end = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._proxy.port}"

    def run(self) -> None:
        async def serve() -> None:
            async with self._proxy:
                self._is_up.set()
                await self._end.wait()

        self._loop.run_until_complete(serve())
        self._loop.close()

    def set_mode(self, mode: Mode) -> None:
        def change() -> None:
            self._proxy.mode = mode
            if mode is not Mode.PASS:
                self._proxy.cut_all()

        self._loop.call_soon_threadsafe(change)

    def __enter__(self) -> Self:
        self.start()
        assert self._is_up.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self.join(5)


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that says nothing is given half a minute in earnest."""
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=2)
    monkeypatch.setattr("airflow_provider_csc.hooks._object_store._CONFIG", config)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.SILENT])
def test_a_store_that_is_away_is_outlasted_and_told_once(
    hook: AllasHook,
    connect: Callable[..., None],
    prefix: str,
    proxy: Proxied,
    mode: Mode,
    deferrable: bool,
    task_log: list[str],
) -> None:
    connect(endpoint_url=proxy.url, bucket_name=hook.service_config["bucket_name"])

    def outage() -> None:
        proxy.set_mode(mode)
        hook.load_string("x", f"{prefix}a")
        wait_for_line(task_log, away)
        time.sleep(3)  # for a second failure, of which nothing is to be told
        proxy.set_mode(Mode.PASS)

    away = "No answer from the object store since"
    with after(task_log, "0 of 1", outage):
        (found,) = run_task(sensor(f"{prefix}a", deferrable=deferrable))
    assert found["key"] == f"{prefix}a"
    assert len([line for line in task_log if line.startswith(away)]) == 1, list(task_log)
    assert [line for line in task_log if line.startswith("The object store answers again")]


def test_an_outage_does_not_lengthen_the_time_out(
    connect: Callable[..., None], bucket: str, proxy: Proxied
) -> None:
    from airflow.sdk.exceptions import AirflowSensorTimeout

    connect(endpoint_url=proxy.url, bucket_name=bucket)
    proxy.set_mode(Mode.REFUSE)
    with pytest.raises(AirflowSensorTimeout):
        run_task(sensor("a", deferrable=False, timeout=4))
