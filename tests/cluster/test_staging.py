"""Files that a job fetches and delivers itself, on the real cluster and a real Ceph RGW."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import re
import subprocess
import threading
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowTaskTimeout,
    TaskDeferred,
)

from airflow_provider_csc import worker_kill
from airflow_provider_csc.client import staging as client_staging
from airflow_provider_csc.errors import (
    ConnectFailedError,
    JobExitCodeError,
    JobFailedError,
    JobStagingError,
    MissingInputError,
    SubmitKilledError,
)
from airflow_provider_csc.hooks._login_staging import LoginStaging
from airflow_provider_csc.hooks.allas import AllasHook
from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.slurm import attempt
from airflow_provider_csc.staging.manifest import Manner
from airflow_provider_csc.store import staging
from airflow_provider_csc.store.store import Store
from airflow_provider_csc.task_state import Standing
from airflow_provider_csc.transfers.allas_slurm import AllasToSlurmOperator, SlurmToAllasOperator
from airflow_provider_csc.triggers.slurm import SlurmJobTrigger, SlurmSiteTrigger
from tests.support.byte_proxy import ByteProxy
from tests.support.forward_proxy import serve_proxy
from tests.support.own_servers import OwnGateway, OwnServer, OwnSshd
from tests.support.rgw import address_of
from tests.support.task import after, build_context, first_event, resume, run_task, stored
from tests.support.tls import TlsFront, serve_tls
from tests.support.transfers import MIB, PART, content
from tests.support.waiting import Heartbeat, as_soon_as, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.cluster.conftest import SlurmConnection

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("slurm_connection", "allas")]

LARGE = 12 * MIB + 345
# What every presigned URL and form has.
MARKS = (b"X-Amz-Signature", b"x-amz-signature", b"X-Amz-Credential")


@dataclass
class Bucket:
    """A bucket of the tests' own, and a client beside the one under test."""

    name: str
    client: Any
    secret: str
    keep: list[str] = field(default_factory=list)

    def put(self, key: str, data: bytes) -> str:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)
        return self.url(key)

    def put_parts(self, key: str, data: bytes, size: int = PART) -> str:
        at = {"Bucket": self.name, "Key": key}
        upload = self.client.create_multipart_upload(**at)["UploadId"]
        parts = []
        for number, offset in enumerate(range(0, len(data), size), start=1):
            body = data[offset : offset + size]
            done = self.client.upload_part(**at, UploadId=upload, PartNumber=number, Body=body)
            parts.append({"PartNumber": number, "ETag": done["ETag"]})
        self.client.complete_multipart_upload(
            **at, UploadId=upload, MultipartUpload={"Parts": parts}
        )
        return self.url(key)

    def read(self, key: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return data

    def keys(self, prefix: str = "") -> list[str]:
        return [f"{prefix}{name}" for name in self.etags(prefix)]

    def etags(self, prefix: str) -> dict[str, str]:
        """What there is below a prefix, by its path below it."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=prefix
        )
        found = [each for page in pages for each in page.get("Contents", ())]
        return {each["Key"].removeprefix(prefix): each["ETag"] for each in found}

    def unfinished(self) -> list[str]:
        found = self.client.list_multipart_uploads(Bucket=self.name)
        return [each["Key"] for each in found.get("Uploads", ())]

    def url(self, key: str = "") -> str:
        return f"s3://{self.name}/{key}"


@pytest.fixture(scope="module")
def bucket(cluster: dict[str, Any]) -> Iterator[Bucket]:
    described = json.dumps(allas_connection(cluster, cluster["s3_endpoint_url"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_DIRECT", described)
        client: Any = AllasHook("direct").get_conn()
    made = Bucket(f"staging-{uuid.uuid4().hex[:12]}", client, cluster["s3_secret_key"])
    client.create_bucket(Bucket=made.name)
    yield made
    while keys := made.keys()[:1000]:
        doomed = [{"Key": key} for key in keys]
        client.delete_objects(Bucket=made.name, Delete={"Objects": doomed, "Quiet": True})
    for left in client.list_multipart_uploads(Bucket=made.name).get("Uploads", ()):
        client.abort_multipart_upload(Bucket=made.name, Key=left["Key"], UploadId=left["UploadId"])
    client.delete_bucket(Bucket=made.name)


def allas_connection(cluster: dict[str, Any], url: str, **extra: Any) -> dict[str, Any]:
    return {
        "conn_type": "allas",
        "login": cluster["s3_access_key"],
        "password": cluster["s3_secret_key"],
        "extra": {"endpoint_url": url, **extra},
    }


@pytest.fixture
def allas(cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``allas_default``; small parts, so that few bytes are many of them."""
    monkeypatch.setattr(staging, "SINGLE_BYTES", PART)
    monkeypatch.setattr(staging, "PIECE_BYTES", PART)

    def define(url: str, **extra: Any) -> None:
        described = json.dumps(allas_connection(cluster, url, **extra))
        monkeypatch.setenv("AIRFLOW_CONN_ALLAS_DEFAULT", described)

    define(cluster["s3_endpoint_url"])
    return define


@pytest.fixture
def top() -> str:
    """A prefix of a test's own."""
    return uuid.uuid4().hex[:8]


def operator(**arguments: Any) -> SlurmSubmitOperator:
    given: dict[str, Any] = {
        "task_id": "stage", "command": "true", "poll_interval": 0.5, "deferrable": True,
        "options": {"time": "00:05:00"},
    }  # fmt: skip
    return SlurmSubmitOperator(**given | arguments)


def submitted(task: SlurmSubmitOperator, context: dict[str, Any] | None = None) -> SlurmJobTrigger:
    """Submit; return the trigger as the triggerer builds it."""
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context or build_context(task))  # type: ignore[arg-type]
    trigger = stored(deferred.value.trigger)
    assert isinstance(trigger, SlurmJobTrigger)
    return trigger


class Spy(threading.Thread):
    """Looks for secrets in the arguments and environments of all processes; nodes are here."""

    def __init__(self, secret: str) -> None:
        super().__init__(daemon=True)
        self.marks = (*MARKS, secret.encode())
        self.found: list[str] = []
        self.curls = 0
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(0.05):
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    arguments = (process / "cmdline").read_bytes()
                    is_ours = b"curl" in arguments or b"stage.sh" in arguments
                    if not is_ours:
                        continue
                    self.curls += arguments.startswith(b"curl")
                    seen = arguments + (process / "environ").read_bytes()
                    self.found += [arguments.decode() for mark in self.marks if mark in seen]


def grep(run_dir: str, marks: tuple[bytes, ...]) -> list[str]:
    paths = [path for path in Path(run_dir).rglob("*") if path.is_file()]
    return [path.name for path in paths if any(mark in path.read_bytes() for mark in marks)]


@pytest.mark.parametrize("deferrable", [True, False], ids=["deferred", "waiting"])
def test_files_of_every_kind_reach_the_job_and_come_back_and_no_secret_does(
    bucket: Bucket, top: str, task_log: list[str], deferrable: bool
) -> None:
    names = ["plain.txt", 'a b/it\'s "ünï".txt', "a b/-x", "deep/er/$(id)`#%&+.bin", "zero"]
    for number, name in enumerate(names):
        bucket.put(f"{top}/tree/{name}", b"" if name == "zero" else content(1000 + number, number))
    bucket.put(f"{top}/tree/empty directory/", b"")
    large = content(LARGE)
    script = (
        "set -e; [ $(find tree -type f | wc -l) = 5 ]; [ ! -e nothing ]; mkdir -p 'out put/x y'\n"
        "cp 'data/large one' 'out put/large ünï'; cp -r tree 'out put/x y/'; wc -c data/single\n"
        "cp data/single 'out put/small'; : > 'out put/empty'\n"
    )
    task = operator(
        command=script,
        deferrable=deferrable,
        inputs=[
            bucket.url(f"{top}/tree/"),
            {"url": bucket.put_parts(f"{top}/large", large), "path": "data/large one"},
            {"url": bucket.put(f"{top}/single", large), "path": "data/single"},
            {"url": bucket.url(f"{top}/nothing"), "optional": True},
        ],
        outputs=[
            {"url": bucket.url(f"{top}/out/large ünï"), "path": "out put/large ünï"},
            {"url": bucket.url(f"{top}/out/small"), "path": "out put/small"},
            {"url": bucket.url(f"{top}/out/empty"), "path": "out put/empty"},
            {"url": bucket.url(f"{top}/out/tree/"), "path": "out put/x y/"},
            {"url": bucket.url(f"{top}/out/never"), "optional": True},
        ],
    )
    context = build_context(task)

    with Spy(bucket.secret) as spy:
        result = run_task(task, context)

    assert bucket.read(f"{top}/out/large ünï") == large
    assert bucket.read(f"{top}/out/small") == large
    assert bucket.read(f"{top}/out/empty") == b""
    for number, name in enumerate(names):
        expected = b"" if name == "zero" else content(1000 + number, number)
        assert bucket.read(f"{top}/out/tree/tree/{name}") == expected
    assert (result["staged"]["fetched"]["files"], result["staged"]["delivered"]["files"]) == (7, 8)
    assert result["staged"]["absent"] == ["never"]
    assert bucket.unfinished() == []
    marks = (*MARKS, bucket.secret.encode())
    told = json.dumps([result, context["ti"].xcoms, list(task_log)]).encode()
    assert not [mark for mark in marks if mark in told]
    assert grep(result["run_dir"], marks) == []
    assert not (Path(result["run_dir"]) / "staging.urls").exists()
    assert spy.curls
    assert spy.found == []


def test_an_output_that_was_not_written_fails_the_task_by_its_name(
    bucket: Bucket, top: str
) -> None:
    task = operator(
        command=f"echo 1 >one; head -c {LARGE} /dev/zero >large",
        outputs=[bucket.url(f"{top}/{name}") for name in ("large", "one", "two", "three/")],
    )

    with pytest.raises(JobStagingError, match=r"did not write two \(nor 1 more") as caught:
        run_task(task)

    assert (caught.value.phase, caught.value.state) == ("out", "FAILED")
    # What is there is not lost.
    assert bucket.keys(f"{top}/") == [f"{top}/large", f"{top}/one"]
    assert bucket.unfinished() == []


@pytest.mark.parametrize("on_failure", [True, False])
def test_a_job_that_fails_delivers_what_it_has_only_if_asked(
    bucket: Bucket, top: str, on_failure: bool
) -> None:
    task = operator(
        command=f"head -c {LARGE} /dev/zero >partial; exit 3",
        outputs=[bucket.url(f"{top}/partial"), bucket.url(f"{top}/final")],
        outputs_on_failure=on_failure,
    )

    with pytest.raises(JobExitCodeError) as caught:
        run_task(task)

    assert not isinstance(caught.value, JobStagingError)
    assert caught.value.exit_code == 3
    assert bucket.keys(f"{top}/") == ([f"{top}/partial"] if on_failure else [])
    assert bucket.unfinished() == []


def test_a_missing_input_is_an_error_before_anything_is_queued(bucket: Bucket, top: str) -> None:
    task = operator(inputs=[bucket.url(f"{top}/nothing/")])

    with pytest.raises(MissingInputError, match=f"{top}/nothing/.*nothing below it"):
        run_task(task)
    assert task._job_id is None


def test_an_input_that_is_gone_when_the_job_starts_ends_it_with_the_reason(
    bucket: Bucket, top: str
) -> None:
    task = operator(inputs=[bucket.put(f"{top}/short-lived", b"x")], command="echo ran >ran")
    context = build_context(task)
    trigger = submitted(task, context)
    bucket.client.delete_object(Bucket=bucket.name, Key=f"{top}/short-lived")

    event = asyncio.run(first_event(trigger))

    with pytest.raises(JobStagingError, match=r"short-lived.*no such object") as caught:
        task.execute_complete(context, json.loads(json.dumps(event)))  # type: ignore[arg-type]
    assert caught.value.exit_code == 74
    assert not (Path(trigger.run_dir or "") / "ran").exists()


def test_a_job_that_nobody_gives_urls_ends_by_itself(bucket: Bucket, top: str) -> None:
    task = operator(inputs=[bucket.put(f"{top}/x", b"x")], staging_timeout=10)
    context = build_context(task)
    trigger = submitted(task, context)
    record = Path(trigger.run_dir or "") / "exit.json"
    wait_until(record.exists)

    event = asyncio.run(first_event(trigger))

    with pytest.raises(JobStagingError, match="no URLs within 10 s") as caught:
        task.execute_complete(context, json.loads(json.dumps(event)))  # type: ignore[arg-type]
    assert caught.value.exit_code == 75


def test_a_triggerer_may_stop_at_any_moment_and_urls_are_issued_once(
    bucket: Bucket, top: str, task_log: list[str]
) -> None:
    task = operator(
        command="sleep 8; cp x y",
        inputs=[bucket.put(f"{top}/x", b"x")],
        outputs=[bucket.url(f"{top}/y")],
    )
    context = build_context(task)
    trigger = submitted(task, context)
    for said in ("is RUNNING", "was given URLs"):
        asyncio.run(stopped_after(stored(trigger), task_log, said))

    event = asyncio.run(first_event(stored(trigger)))

    value = task.execute_complete(context, json.loads(json.dumps(event)))  # type: ignore[arg-type]
    assert value["staged"]["delivered"]["files"] == 1
    assert bucket.read(f"{top}/y") == b"x"
    assert len([line for line in task_log if "was given URLs" in line]) == 1
    assert bucket.unfinished() == []


async def stopped_after(trigger: Any, task_log: list[str], said: str) -> None:
    """Run a trigger until it has said something, and stop it as the end of a triggerer does."""
    waiting = asyncio.create_task(first_event(trigger))
    while not any(said in line for line in task_log):
        assert not waiting.done(), "it ended before"
        await asyncio.sleep(0.02)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await trigger.cleanup()


def test_a_killed_job_leaves_neither_an_upload_nor_a_url(
    bucket: Bucket, top: str, task_log: list[str]
) -> None:
    task = operator(
        command="sleep 300",
        outputs=[bucket.url(f"{top}/never"), bucket.url(f"{top}/tree/")],
        outputs_on_failure=True,
    )
    trigger = submitted(task)
    asyncio.run(stopped_after(stored(trigger), task_log, "was given URLs"))
    urls = Path(trigger.run_dir or "") / "staging.urls"
    assert urls.stat().st_mode & 0o777 == 0o600
    assert bucket.unfinished() == [f"{top}/never"]

    asyncio.run(trigger._kill(SlurmHook().get_settings(), 30))

    assert bucket.unfinished() == []
    wait_until(lambda: not urls.exists())
    assert bucket.keys(f"{top}/") == []


def test_a_worker_that_is_killed_while_its_job_runs_leaves_neither_an_upload_nor_a_url(
    bucket: Bucket, top: str, task_log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = operator(command="sleep 300", outputs=[bucket.url(f"{top}/never")])
    trigger = submitted(task)
    asyncio.run(stopped_after(stored(trigger), task_log, "was given URLs"))
    urls = Path(trigger.run_dir or "") / "staging.urls"
    assert urls.exists()
    assert bucket.unfinished() == [f"{top}/never"]
    monkeypatch.setattr(worker_kill, "ask_standing", lambda *_, **__: Standing.ENDED)

    task.on_kill()

    assert bucket.unfinished() == []
    wait_until(lambda: not urls.exists())
    assert state_of(trigger.job_ids) == {"CANCELLED"}


@pytest.mark.parametrize("by", ["worker", "trigger"])
def test_a_job_that_is_killed_before_it_started_has_begun_nothing(
    bucket: Bucket, top: str, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    task = operator(
        options={"time": "00:05:00", "hold": True},
        inputs=[bucket.put(f"{top}/x", b"x")],
        outputs=[bucket.url(f"{top}/never")],
    )
    trigger = submitted(task)
    monkeypatch.setattr(worker_kill, "ask_standing", lambda *_, **__: Standing.ENDED)

    if by == "worker":
        task.on_kill()
    else:
        asyncio.run(trigger._kill(SlurmHook().get_settings(), 30))

    assert state_of(trigger.job_ids) == {"CANCELLED"}
    assert bucket.unfinished() == []
    assert staging_files(trigger.run_dir) == {"stage.sh"}


@pytest.mark.parametrize("staging", ["node", "login"])
def test_a_submission_that_is_killed_becomes_no_job_and_leaves_no_upload_and_no_url(
    bucket: Bucket,
    top: str,
    slurm_connection: SlurmConnection,
    monkeypatch: pytest.MonkeyPatch,
    task_log: list[str],
    staging: str,
) -> None:
    slurm_connection.set(staging=staging)
    monkeypatch.setattr(worker_kill, "ask_standing", lambda *_, **__: Standing.ENDED)
    task = operator(inputs=[bucket.put(f"{top}/x", b"x")], outputs=[bucket.url(f"{top}/never")])
    submit = SlurmHook.submit

    def killed_first(self: SlurmHook, *arguments: Any, **more: Any) -> Any:
        task.on_kill()
        return submit(self, *arguments, **more)

    monkeypatch.setattr(SlurmHook, "submit", killed_first)

    with pytest.raises(SubmitKilledError):
        run_task(task)

    identity = task._identity
    assert identity is not None
    place = SlurmHook().run(f"cd ~ && realpath {SlurmHook().get_settings().work_dir}").text
    assert staging_files(f"{place}/{identity.token}") == set()
    assert list(Path(place).glob("staging.????????")) == []
    assert bucket.unfinished() == []
    queue = subprocess.run(
        ["squeue", "--all", "--noheader", "-o%j"], capture_output=True, check=True
    )
    assert identity.token.encode() not in queue.stdout
    assert [line for line in task_log if "it had become no job" in line]


def staging_files(run_dir: str | None) -> set[str]:
    """What there is in a run directory for, and of, staging."""
    return {path.name for path in Path(run_dir or "").glob("stag*")}


def state_of(job_ids: Sequence[str]) -> set[str]:
    return {each.state for each in SlurmHook().query(job_ids).values()}


def test_a_job_that_somebody_cancels_is_no_success_and_leaves_no_upload(
    bucket: Bucket, top: str, task_log: list[str]
) -> None:
    task = operator(command="sleep 300", outputs=[bucket.url(f"{top}/never")])
    context = build_context(task)
    trigger = submitted(task, context)

    async def cancel() -> None:
        while not any("was given URLs" in line for line in task_log):
            await asyncio.sleep(0.1)
        await asyncio.to_thread(subprocess.run, ["scancel", *trigger.job_ids], check=True)

    async def both() -> Any:
        return (await asyncio.gather(first_event(trigger), cancel()))[0]

    event = asyncio.run(both())

    with pytest.raises(JobFailedError, match="CANCELLED"):
        task.execute_complete(context, json.loads(json.dumps(event)))  # type: ignore[arg-type]
    assert bucket.unfinished() == []
    assert grep(trigger.run_dir or "", MARKS) == []


def test_a_requeued_job_gets_urls_again(bucket: Bucket, top: str, task_log: list[str]) -> None:
    task = operator(
        command='[ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || sleep 300; cp x y',
        options={"time": "00:05:00", "requeue": True},
        inputs=[bucket.put(f"{top}/x", b"x")],
        outputs=[bucket.url(f"{top}/y")],
    )
    context = build_context(task)
    trigger = submitted(task, context)

    async def requeue() -> None:
        while not any("was given URLs" in line for line in task_log):
            await asyncio.sleep(0.1)
        await asyncio.to_thread(
            subprocess.run, ["scontrol", "requeue", *trigger.job_ids], check=True
        )
        while not any("has requeued" in line for line in task_log):
            await asyncio.sleep(0.1)
        # Slurm lets it wait for two minutes otherwise.
        for _ in range(20):
            begun = await asyncio.to_thread(
                subprocess.run,
                ["scontrol", "update", f"JobId={trigger.job_ids[0]}", "StartTime=now"],
                check=False,
            )
            if begun.returncode == 0:
                return
            await asyncio.sleep(1)

    async def both() -> Any:
        return (await asyncio.gather(first_event(trigger), requeue()))[0]

    event = asyncio.run(both())

    value = task.execute_complete(context, json.loads(json.dumps(event)))  # type: ignore[arg-type]
    assert value["staged"]["delivered"]["files"] == 1
    assert len([line for line in task_log if "was given URLs" in line]) == 2
    assert bucket.unfinished() == []


def test_cut_and_corrupted_connections_are_mended_and_never_believed(
    bucket: Bucket, top: str, allas: Callable[[str], None], cluster: dict[str, Any]
) -> None:
    large = content(LARGE)
    task = operator(
        command="cp large copy; cp small copy2",
        inputs=[bucket.put_parts(f"{top}/large", large), bucket.put(f"{top}/small", content(9999))],
        outputs=[
            {"url": bucket.url(f"{top}/out/large"), "path": "copy"},
            {"url": bucket.url(f"{top}/out/tree/small"), "path": "copy2"},
        ],
    )
    with ByteProxy(address_of(cluster)) as proxy:
        allas(proxy.url)
        proxy.add("cut", "down", 2 * MIB)
        proxy.add("corrupt", "down", 4 * MIB)
        # Behind the requests of Airflow itself.
        proxy.add("cut", "up", 3 * MIB)
        proxy.add("corrupt", "up", 7 * MIB)

        run_task(task)

        assert all(not fault.times for fault in proxy.faults)
    assert bucket.read(f"{top}/out/large") == large
    assert bucket.read(f"{top}/out/tree/small") == content(9999)
    assert bucket.unfinished() == []


def test_an_expired_url_is_named_as_such_and_not_shown(
    bucket: Bucket, top: str, monkeypatch: pytest.MonkeyPatch, task_log: list[str]
) -> None:
    monkeypatch.setattr(staging, "url_seconds", lambda _left: 1)
    task = operator(command="sleep 3; echo 1 >y", outputs=[bucket.url(f"{top}/y")])

    with pytest.raises(JobStagingError, match=r"y: the store answered 403.*URL has expired"):
        run_task(task)

    assert not [line for line in task_log if re.search("X-Amz|https?://", line)]
    assert bucket.unfinished() == []


def test_a_bucket_of_nobody_is_an_error_before_anything_is_queued() -> None:
    from airflow_provider_csc.errors import AllasError

    task = operator(outputs=[f"s3://no-such-{uuid.uuid4().hex[:10]}/y"])

    with pytest.raises(AllasError, match="NoSuchBucket"):
        run_task(task)
    assert task._job_id is None


@pytest.mark.parametrize("deferrable", [True, False], ids=["deferred", "waiting"])
def test_where_nodes_have_no_way_out_the_login_node_stages(
    bucket: Bucket, top: str, slurm_connection: SlurmConnection, deferrable: bool
) -> None:
    slurm_connection.set(staging="login")
    large = content(LARGE)
    bucket.put(f"{top}/tree/a b/ü", b"x")
    task = operator(
        deferrable=deferrable,
        command="set -e; mkdir -p res/deep; cp large res/big; cp 'tree/a b/ü' 'res/deep/it''s'",
        inputs=[bucket.put_parts(f"{top}/large", large), bucket.url(f"{top}/tree/")],
        outputs=[
            bucket.url(f"{top}/out/res/"),
            {"url": bucket.url(f"{top}/out/no"), "optional": True},
        ],
    )

    with Spy(bucket.secret) as spy:
        result = run_task(task)

    assert bucket.keys(f"{top}/out/") == [f"{top}/out/res/big", f"{top}/out/res/deep/its"]
    assert bucket.read(f"{top}/out/res/big") == large
    assert result["staged"]["delivered"]["files"] == 2
    assert result["staged"]["absent"] == ["no"]
    assert spy.curls
    assert spy.found == []
    assert bucket.unfinished() == []


@pytest.fixture
def front(cluster: dict[str, Any], tmp_path: Path) -> Iterator[TlsFront]:
    """The store over https, with a certificate that nobody knows."""
    with serve_tls(tmp_path, address_of(cluster)) as made:
        yield made


@pytest.fixture
def proxy(cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[ByteProxy]:
    """A way to the store that can be closed; who waits for it does not wait for long."""
    monkeypatch.setattr(attempt, "_SHORTEST_PAUSE", 0.2)
    with ByteProxy(address_of(cluster)) as made:
        yield made


def parked(step: Callable[[], Any]) -> TaskDeferred:
    """Take a step by which the task is parked, not failed."""
    with pytest.raises(TaskDeferred) as deferred:
        step()
    assert isinstance(deferred.value.trigger, SlurmSiteTrigger)
    return deferred.value


@pytest.mark.parametrize("staging", ["node", "login"])
def test_a_store_that_is_away_before_the_submission_is_waited_for(
    bucket: Bucket,
    top: str,
    slurm_connection: SlurmConnection,
    allas: Callable[..., None],
    proxy: ByteProxy,
    task_log: list[str],
    staging: str,
) -> None:
    slurm_connection.set(staging=staging)
    allas(proxy.url)
    task = operator(
        command="cp x y", inputs=[bucket.put(f"{top}/x", b"x")], outputs=[bucket.url(f"{top}/y")]
    )
    context = build_context(task)
    proxy.is_refusing = True

    first = parked(lambda: task.execute(context))  # type: ignore[arg-type]
    second = parked(after(task, context, first))
    assert task._job_id is None
    proxy.is_refusing = False
    result = resume(task, context, after(task, context, second))

    assert result["state"] == "COMPLETED"
    assert bucket.read(f"{top}/y") == b"x"
    assert [line for line in task_log if "Waiting since" in line and proxy.url[7:] in line]


@pytest.mark.parametrize("away", ["store", "site", "store of the log-in node"])
def test_what_is_away_when_the_login_node_is_to_deliver_is_waited_for(
    bucket: Bucket,
    top: str,
    slurm_connection: SlurmConnection,
    allas: Callable[..., None],
    proxy: ByteProxy,
    monkeypatch: pytest.MonkeyPatch,
    away: str,
) -> None:
    slurm_connection.set(staging="login", login_setup="export CSC_STAGING_ATTEMPTS=1")
    task = operator(command="echo 1 >one", outputs=[bucket.url(f"{top}/one")])
    context = build_context(task)
    trigger = submitted(task, context)
    event = json.loads(json.dumps(asyncio.run(first_event(trigger))))
    proxy.is_refusing = True

    with pytest.MonkeyPatch.context() as patch:
        match away:
            case "store":
                allas(proxy.url)
            case "site":
                lost = ConnectFailedError("nobody is let in")
                patch.setattr(LoginStaging, "_list", raiser(lost))
            case _:
                patch.setattr(Store, "presign", presigner(proxy.url))
        deferred = parked(lambda: task.execute_complete(context, event))  # type: ignore[arg-type]
        again = parked(after(task, context, deferred))
    proxy.is_refusing = False

    assert deferred.method_name == "execute_delivery"
    assert bucket.unfinished() == bucket.keys(f"{top}/") == []
    late = functools.partial(task.execute_delivery, **json.loads(json.dumps(again.kwargs)))
    with pytest.raises(AirflowTaskTimeout, match=r"job \d+ could not be delivered.*\.files"):
        late(context, {"status": "deadline"})
    value = resume(task, context, after(task, context, again))
    assert value["staged"]["delivered"]["files"] == 1
    assert bucket.read(f"{top}/one") == b"1\n"


def raiser(error: Exception) -> Callable[..., Any]:
    async def fail(*_: object) -> None:
        raise error

    return fail


def presigner(url: str) -> Callable[..., str]:
    """URLs that lead elsewhere, for whoever has nothing else."""
    presign = Store.presign

    def elsewhere(*arguments: Any, **more: Any) -> str:
        right = urlsplit(presign(*arguments, **more))
        return right._replace(netloc=urlsplit(url).netloc).geturl()

    return elsewhere


def test_a_worker_that_waits_itself_waits_for_the_store_too(
    bucket: Bucket,
    top: str,
    slurm_connection: SlurmConnection,
    allas: Callable[..., None],
    proxy: ByteProxy,
    task_log: list[str],
) -> None:
    slurm_connection.set(staging="login", login_setup="export CSC_STAGING_ATTEMPTS=1")
    allas(proxy.url)
    task = operator(
        command="sleep 4; echo 1 >one", outputs=[bucket.url(f"{top}/one")], deferrable=False
    )
    said = "the outputs of job"

    def come_and_go() -> None:
        wait_until(lambda: any("RUNNING" in line for line in task_log))
        proxy.is_refusing = True
        wait_until(lambda: any(said in line for line in task_log))
        proxy.is_refusing = False

    changing = threading.Thread(target=come_and_go)
    changing.start()
    value = run_task(task)
    changing.join()

    assert value["staged"]["delivered"]["files"] == 1
    assert [line for line in task_log if said in line]


def test_what_the_store_refuses_the_login_node_is_not_waited_for(
    bucket: Bucket,
    top: str,
    slurm_connection: SlurmConnection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slurm_connection.set(staging="login")
    task = operator(command="echo 1 >one", outputs=[bucket.url(f"{top}/one")])
    presign = Store.presign
    monkeypatch.setattr(Store, "presign", lambda *all, **more: presign(*all, **more)[:-4] + "0000")

    with pytest.raises(JobStagingError, match="the store answered 403"):
        run_task(task)


def test_who_finds_his_job_again_does_not_fetch_its_inputs_again(
    bucket: Bucket, top: str, slurm_connection: SlurmConnection, task_log: list[str]
) -> None:
    slurm_connection.set(staging="login")
    arguments: dict[str, Any] = {
        "inputs": [bucket.put(f"{top}/short-lived", b"x")],
        "outputs": [bucket.url(f"{top}/y")],
        "command": "cp short-lived y",
        "options": {"time": "00:05:00", "hold": True},
    }
    first = operator(**arguments)
    trigger = submitted(first, build_context(first, run_id=f"again-{top}"))
    bucket.client.delete_object(Bucket=bucket.name, Key=f"{top}/short-lived")

    task = operator(**arguments)
    context = build_context(task, run_id=f"again-{top}", try_number=2)
    again = submitted(task, context)
    subprocess.run(["scontrol", "release", *again.job_ids], check=True)
    event = asyncio.run(first_event(again))

    assert again.job_ids == trigger.job_ids
    value = task.execute_complete(context, json.loads(json.dumps(event)))  # type: ignore[arg-type]
    assert value["staged"]["delivered"]["files"] == 1
    assert len([line for line in task_log if "The log-in node fetched" in line]) == 1


def test_files_of_a_run_that_was_deleted_are_no_outputs_of_the_next(
    bucket: Bucket, top: str, slurm_connection: SlurmConnection
) -> None:
    slurm_connection.set(staging="login")
    task = operator(command="true", outputs=[bucket.url(f"{top}/stale")])
    context = build_context(task)
    work_dir = SlurmHook().get_settings().work_dir
    place = f"{work_dir}/{task._identify(context, attempt.Attempt()).token}.files"  # type: ignore[arg-type]
    SlurmHook().run(f"mkdir -p {place} && echo old >{place}/stale")

    with pytest.raises(JobStagingError, match="did not write stale"):
        run_task(task, context)

    assert bucket.keys(f"{top}/") == []
    assert SlurmHook().run(f"cat {place}~*/stale; rm -r {place}*").text == "old"


@pytest.mark.parametrize("staging", ["node", "login"])
def test_the_certificates_of_the_connection_reach_who_stages_and_no_key_does(
    bucket: Bucket,
    top: str,
    slurm_connection: SlurmConnection,
    allas: Callable[..., None],
    front: TlsFront,
    staging: str,
) -> None:
    slurm_connection.set(staging=staging)
    # The file of the tests has the front's key, too.
    allas(front.url, ca_bundle=str(front.certificate))
    large = content(LARGE)
    task = operator(
        command="cp large copy; grep ^cacert staging.urls | cut -f 2 | base64 -d >certificates",
        inputs=[bucket.put_parts(f"{top}/large", large)],
        outputs=[bucket.url(f"{top}/copy"), bucket.url(f"{top}/certificates")],
    )

    run_task(task)

    held = front.certificate.read_bytes()
    assert bucket.read(f"{top}/copy") == large
    if staging == "node":
        sent = bucket.read(f"{top}/certificates")
        assert b"BEGIN CERTIFICATE" in sent
        assert sent in held
        assert b"PRIVATE KEY" in held
        assert b"PRIVATE KEY" not in sent


def test_a_node_that_does_not_trust_the_store_says_so(
    bucket: Bucket,
    top: str,
    allas: Callable[..., None],
    front: TlsFront,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As if the worker's own system trusted it.
    monkeypatch.setattr(staging, "manner_of", lambda *_, **__: Manner())
    task = operator(inputs=[bucket.put(f"{top}/x", b"x" * 9_000_000)], command="true")
    allas(front.url, ca_bundle=str(front.certificate))

    with pytest.raises(JobStagingError, match=r"x: curl: \(60\) SSL"):
        run_task(task)


def test_a_connection_that_verifies_nothing_has_the_node_verify_nothing(
    bucket: Bucket, top: str, allas: Callable[..., None], front: TlsFront
) -> None:
    task = operator(
        command="cp x y", inputs=[bucket.put(f"{top}/x", b"x")], outputs=[bucket.url(f"{top}/y")]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        allas(front.url, verify=False)

        run_task(task)

    assert bucket.read(f"{top}/y") == b"x"


@pytest.mark.parametrize("text", [None, "no certificate"], ids=["missing", "another"])
def test_certificates_that_cannot_be_sent_are_an_error_before_anything_is_queued(
    bucket: Bucket,
    top: str,
    allas: Callable[..., None],
    cluster: dict[str, Any],
    tmp_path: Path,
    text: str | None,
) -> None:
    bundle = tmp_path / "bundle.pem"
    if text is not None:
        bundle.write_text(text)
    # Over http nobody else looks at them.
    allas(cluster["s3_endpoint_url"], ca_bundle=str(bundle))
    task = operator(outputs=[bucket.url(f"{top}/y")])

    with pytest.raises(AirflowFailException, match=f"ca_bundle: .*{bundle}"):
        run_task(task)
    assert task._job_id is None


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("given", ["env", "login_setup"])
def test_a_proxy_of_the_environment_is_gone_through(
    bucket: Bucket,
    top: str,
    slurm_connection: SlurmConnection,
    allas: Callable[..., None],
    front: TlsFront,
    scheme: str,
    given: str,
) -> None:
    large = content(LARGE)
    task = operator(
        command="set -e; mkdir tree; cp large tree/large; cp a tree; cp b tree/c; cp large one",
        inputs=[bucket.put(f"{top}/{name}", name.encode()) for name in "ab"]
        + [bucket.put_parts(f"{top}/large", large)],
        outputs=[bucket.url(f"{top}/out/tree/"), bucket.url(f"{top}/out/one")],
    )
    with serve_proxy() as proxy:
        if given == "env":
            task.env = {f"{scheme}_proxy": proxy.url}
        else:
            slurm_connection.set(login_setup=f"export {scheme}_proxy={proxy.url}")
        if scheme == "https":
            allas(front.url, ca_bundle=str(front.certificate))

        run_task(task)

    methods = {method for method, _ in proxy.asked}
    assert methods == ({"GET", "PUT", "POST"} if scheme == "http" else {"CONNECT"})
    assert len(proxy.asked) >= 6
    assert bucket.read(f"{top}/out/one") == bucket.read(f"{top}/out/tree/large") == large
    assert bucket.read(f"{top}/out/tree/c") == b"b"


# Each is megabytes of text where there are many files, or waits for the store.
BLOCKING = [
    (staging, "issue"),
    (staging, "settle"),
    (client_staging, "build_issue"),
    (client_staging, "parse_receipts"),
]


async def beside(heartbeat: Heartbeat, trigger: Any) -> Any:
    async with heartbeat.beating():
        return await first_event(trigger)


def test_a_thousand_files_share_connections_and_keep_no_trigger_waiting(
    bucket: Bucket,
    top: str,
    allas: Callable[..., None],
    proxy: ByteProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Five hundred in, and out again; with a connection for each it took five times as long."""
    names = [f"{number % 9}/{number}" for number in range(500)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: bucket.put(f"{top}/in/{name}", name.encode() * 300), names))
    bucket.put(f"{top}/in/large", content(50 * MIB))
    allas(proxy.url)
    heartbeat = Heartbeat()
    for module, name in BLOCKING:
        monkeypatch.setattr(module, name, heartbeat.beside(name, getattr(module, name)))
    task = operator(
        command="cp -r in out",
        inputs=[bucket.url(f"{top}/in/")],
        outputs=[bucket.url(f"{top}/out/")],
    )
    context = build_context(task)

    event = asyncio.run(beside(heartbeat, submitted(task, context)))

    staged = task.execute_complete(context, json.loads(json.dumps(event)))["staged"]  # type: ignore[arg-type]
    assert staged["fetched"]["files"] == staged["delivered"]["files"] == 501
    assert bucket.etags(f"{top}/out/") == bucket.etags(f"{top}/in/")
    # 32 files each time, both ways; the large one's ten pieces; and what Airflow asks itself.
    assert proxy.accepted < len(names) // 5
    assert heartbeat.missed == set()
    assert heartbeat.met == {name for _, name in BLOCKING}


def test_a_job_of_which_nothing_tells_what_it_delivered_is_no_success(
    bucket: Bucket, top: str
) -> None:
    # What the helper writes after that names no start.
    task = operator(command="echo 1 >one; rm staging.receipts", outputs=[bucket.url(f"{top}/one")])

    with pytest.raises(JobStagingError, match="nothing tells that one was delivered"):
        run_task(task)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("mkdir -p res/deep; echo 1 >res/x; chmod 0 res/deep", "res/: .* cannot be read: .*denied"),
        ("echo 1 >res", "res/: it is no directory"),
    ],
    ids=["closed", "a file"],
)
def test_the_login_node_takes_what_it_cannot_read_for_no_missing_output(
    bucket: Bucket, top: str, slurm_connection: SlurmConnection, command: str, problem: str
) -> None:
    slurm_connection.set(staging="login")
    outputs = [{"url": bucket.url(f"{top}/res/"), "optional": True}, bucket.url(f"{top}/one")]
    task = operator(command=f"echo 1 >one; {command}", outputs=outputs)

    with pytest.raises(JobStagingError, match=problem):
        run_task(task)
    assert bucket.keys(f"{top}/") == [f"{top}/one"]


def test_outputs_that_nobody_delivered_are_no_success(
    bucket: Bucket, top: str, slurm_connection: SlurmConnection
) -> None:
    slurm_connection.set(staging="login")
    task = operator(command="echo 1 >one", outputs=[bucket.url(f"{top}/one")])
    context = build_context(task)
    trigger = submitted(task, context)
    # Its job does not know that it should.
    slurm_connection.set(staging="node")

    event = asyncio.run(first_event(trigger))

    with pytest.raises(JobStagingError, match="nothing tells that its outputs were delivered"):
        task.execute_complete(context, json.loads(json.dumps(event)))  # type: ignore[arg-type]


def test_the_login_node_names_the_output_that_is_missing(
    bucket: Bucket, top: str, slurm_connection: SlurmConnection
) -> None:
    slurm_connection.set(staging="login")
    task = operator(
        command="echo 1 >one", outputs=[bucket.url(f"{top}/one"), bucket.url(f"{top}/two")]
    )

    with pytest.raises(JobStagingError, match="did not write two"):
        run_task(task)
    assert bucket.keys(f"{top}/") == [f"{top}/one"]


def test_a_python_function_finds_its_inputs(bucket: Bucket, top: str) -> None:
    from airflow_provider_csc.decorators.slurm import slurm_task

    bucket.put(f"{top}/x", b"41")

    @slurm_task(
        poll_interval=0.5,
        inputs=[bucket.url(f"{top}/x")],
        outputs=[{"url": bucket.url(f"{top}/y")}],
    )
    def add() -> int:
        from pathlib import Path

        value = int(Path("x").read_text()) + 1
        Path("y").write_text(str(value))
        return value

    assert run_task(add().operator) == 42
    assert bucket.read(f"{top}/y") == b"42"


def test_trees_and_files_travel_between_the_store_and_the_cluster(bucket: Bucket, top: str) -> None:
    large = content(LARGE)
    bucket.put_parts(f"{top}/in/large", large)
    bucket.put(f"{top}/in/a b/ü", b"x")
    bucket.put(f"{top}/in/a b/no.log", b"x")
    place = f"~/staging-{top}"

    there = AllasToSlurmOperator(
        task_id="to", source=bucket.url(f"{top}/in/"), destination=place, exclude=["*.log"]
    ).execute({})  # type: ignore[typeddict-item]
    again = AllasToSlurmOperator(
        task_id="to", source=bucket.url(f"{top}/in/large"), destination=f"{place}/other"
    ).execute({})  # type: ignore[typeddict-item]
    back = SlurmToAllasOperator(
        task_id="back", source=place, destination=bucket.url(f"{top}/out"), exclude=["other"]
    ).execute({})  # type: ignore[typeddict-item]
    one = SlurmToAllasOperator(
        task_id="one", source=f"{place}/other", destination=bucket.url(f"{top}/one/")
    ).execute({})  # type: ignore[typeddict-item]

    assert [each["transferred"] for each in (there, again, back, one)] == [2, 1, 2, 1]
    assert bucket.keys(f"{top}/out/") == [f"{top}/out/a b/ü", f"{top}/out/large"]
    assert bucket.read(f"{top}/one/other") == bucket.read(f"{top}/out/large") == large
    assert bucket.unfinished() == []
    SlurmHook().run(f"rm -r {place}")


def move(direction: str, url: str, place: str, **arguments: Any) -> Any:
    """Return a task that moves a tree to the cluster ("down") or to the store ("up")."""
    if direction == "down":
        return AllasToSlurmOperator(
            task_id="move", source=url, destination=f"{place}/", **arguments
        )
    return SlurmToAllasOperator(task_id="move", source=place, destination=url, **arguments)


@pytest.fixture
def tree(top: str, bucket: Bucket) -> Iterator[Callable[[str], str]]:
    """Make a tree on one side, for the other; return its place on the cluster."""
    place = f"~/staging-{top}"

    def make(direction: str) -> str:
        if direction == "down":
            bucket.put_parts(f"{top}/tree/large", content(40 * MIB))
            bucket.put(f"{top}/tree/a b/small", b"x")
        else:
            large = f"head -c {40 * MIB} /dev/urandom >{place}/large"
            SlurmHook().run(f"mkdir -p {place}/a\\ b && echo x >{place}/a\\ b/small && {large}")
        return place

    yield make
    SlurmHook().run(f"rm -rf {place}")


def check_moved(bucket: Bucket, top: str, place: str) -> None:
    """See that both sides have the same."""
    for name in ("large", "a b/small"):
        there = SlurmHook().run(f"md5sum <{place}/'{name}'").text.split()[0]
        assert hashlib.md5(bucket.read(f"{top}/tree/{name}")).hexdigest() == there
    helpers = f"find {SlurmHook().get_settings().work_dir} -maxdepth 1 -name 'staging.*'"
    assert SlurmHook().run(f"find {place} -name '.airflow-*'; {helpers}").text == ""


@dataclass
class Way:
    """To a store and a site of the test's own: ``server`` is killed, and ``bytes`` are counted."""

    server: OwnServer
    bytes: ByteProxy


@pytest.fixture(params=["sshd", "radosgw"])
def way(
    request: pytest.FixtureRequest,
    cluster: dict[str, Any],
    allas: Callable[..., None],
    slurm_connection: SlurmConnection,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Way]:
    monkeypatch.setattr(attempt, "_SHORTEST_PAUSE", 0.2)
    with (
        OwnGateway(cluster, tmp_path / "gateway") as gateway,
        OwnSshd(cluster, tmp_path / "sshd") as sshd,
        gateway.behind_proxy() as proxy,
    ):
        allas(proxy.url)
        slurm_connection.set(
            port=sshd.port,
            known_hosts=sshd.known_hosts,
            login_setup="export CSC_STAGING_ATTEMPTS=1",
        )
        yield Way(sshd if request.param == "sshd" else gateway, proxy)
        slurm_connection.set()


@pytest.mark.parametrize("deferrable", [True, False], ids=["deferred", "waiting"])
@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_transfer_goes_on_when_what_was_killed_in_its_middle_is_back(
    bucket: Bucket,
    top: str,
    tree: Callable[[str], str],
    way: Way,
    slurm_connection: SlurmConnection,
    task_log: list[str],
    direction: Any,
    deferrable: bool,
) -> None:
    place = tree(direction)
    task = move(direction, bucket.url(f"{top}/tree/"), place, deferrable=deferrable)
    task.poll_interval = 0.5
    context = build_context(task)
    said = "Waiting since"
    way.bytes.at_byte(direction, 12 * MIB, way.server.kill)

    if deferrable:
        first = parked(lambda: task.execute(context))
        way.server.start()
        result = resume(task, context, after(task, context, first))
    else:
        back = as_soon_as(lambda: any(said in line for line in task_log), way.server.start)
        result = task.execute(context)
        back.join()

    assert way.server.starts == 2
    assert result["transferred"] <= 2
    assert [line for line in task_log if said in line and "without using up a retry" in line]
    # Of the interrupted attempt something may still run there.
    slurm_connection.set()
    wait_until(lambda: "stage.sh" not in SlurmHook().run("ps -u $USER -o args").text)
    check_moved(bucket, top, place)
    assert bucket.unfinished() == []


def test_the_connection_is_only_named(slurm_connection: SlurmConnection, bucket: Bucket) -> None:
    task = operator(inputs=[bucket.put("named/x", b"x")])
    trigger = submitted(task)
    try:
        kept = json.dumps(trigger.serialize())
        assert bucket.secret not in kept
        assert '"conn_id": "allas_default"' in kept
    finally:
        asyncio.run(trigger._kill(SlurmHook().get_settings(), 30))
