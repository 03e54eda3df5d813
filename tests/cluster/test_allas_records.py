"""Records against a real Ceph RGW (16.2), with writers in processes of their own."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
import random
import re
import signal
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError
from pydantic import BaseModel

from airflow_provider_csc.errors import RecordInvalidError, RecordUnguardedError
from airflow_provider_csc.hooks.allas import AllasHook
from airflow_provider_csc.hooks.allas_record import DELETE, AllasRecord
from airflow_provider_csc.store import conditions
from tests.support.cutting import CuttingProxy, Fault
from tests.support.record_writers import Plan, Writers, verdict

if TYPE_CHECKING:
    import contextlib

pytestmark = pytest.mark.cluster


class Ledger(BaseModel):
    total: int = 0
    names: list[str] = []


@pytest.fixture
def hook(allas_hook: AllasHook) -> AllasHook:
    return allas_hook


@pytest.fixture
def bucket(hook: AllasHook) -> str:
    return str(hook.service_config["bucket_name"])


@pytest.fixture
def key() -> str:
    return f"records/{uuid.uuid4().hex[:8]}.json"


@pytest.fixture
def plan(cluster: dict[str, Any], bucket: str, key: str, tmp_path: Path) -> Plan:
    return Plan(
        directory=str(tmp_path),
        bucket=bucket,
        key=key,
        endpoint_url=cluster["s3_endpoint_url"],
        access_key=cluster["s3_access_key"],
        secret_key=cluster["s3_secret_key"],
    )


# What the server does


def test_this_server_takes_etags_without_quotes_and_deletes_blindly(
    hook: AllasHook, bucket: str
) -> None:
    """What is found out by trying is what the server does."""
    client = hook.get_conn()
    place = {"Bucket": bucket, "Key": "by-hand"}
    etag = client.put_object(**place, Body=b"1")["ETag"]
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(**place, Body=b"2", IfMatch=etag)
    client.put_object(**place, Body=b"2", IfMatch=etag.strip('"'))
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(**place, Body=b"3", IfMatch=etag.strip('"'))
    form = conditions.find_form(client, bucket, "by-hand")
    assert form is conditions.EtagForm.BARE
    assert conditions.honours_delete(client, bucket, "by-hand", form) is False
    assert hook.list_keys(prefix="by-hand") == ["by-hand"]


def test_a_bucket_with_versions_guards_nothing_and_is_refused(hook: AllasHook) -> None:
    """Ceph 16.2 creates an object there as often as one likes, whatever If-None-Match says."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    hook.create_bucket(name)
    client = hook.get_conn()
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    try:
        with pytest.raises(RecordUnguardedError, match="a bucket without versioning"):
            hook.update_object("n", lambda _: 1, name)
    finally:
        found = client.list_object_versions(Bucket=name)
        for row in [*found.get("Versions", []), *found.get("DeleteMarkers", [])]:
            client.delete_object(Bucket=name, Key=row["Key"], VersionId=row["VersionId"])
        hook.delete_bucket(name)


# One program


def test_an_object_is_changed_and_stays_plain_json(hook: AllasHook, bucket: str, key: str) -> None:
    first = hook.update_object(key, lambda value: {"runs": [*(value or {}).get("runs", []), 1]})
    again = hook.update_object(
        f"s3://{bucket}/{key}", lambda value: {"runs": [*value["runs"], 2]}, writer="käyttäjä/1"
    )
    assert (first.version, again.version) == (1, 2)
    assert json.loads(hook.read_key(key)) == {"runs": [1, 2]}
    head = hook.head_object(key)
    assert head["Metadata"]["csc-version"] == "2"
    assert head["ContentType"] == "application/json"
    assert hook.update_object(key, lambda _: None).writer == "käyttäjä/1"
    assert hook.list_keys(prefix=key) == [key]


def test_the_running_task_is_the_writer(
    hook: AllasHook, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("DAG_ID", "train"), ("DAG_RUN_ID", "r1"), ("TASK_ID", "fit")):
        monkeypatch.setenv(f"AIRFLOW_CTX_{name}", value)
    assert hook.update_object(key, lambda _: 1).writer == "train/r1/fit"


def test_a_record_is_a_model_with_history(hook: AllasHook, key: str) -> None:
    record = AllasRecord(Ledger, key, hook=hook, history_prefix=f"{key}.old/", history_keep=2)
    assert record.read() is None
    for number in range(4):

        def add(ledger: Ledger | None, number: int = number) -> Ledger:
            ledger = ledger or Ledger()
            ledger.total += number
            ledger.names.append(f"n{number}")
            return ledger

        stored = record.update(add)
    assert stored == record.read() == Ledger(total=6, names=["n0", "n1", "n2", "n3"])
    assert [each.version for each in record.read_history()] == [2, 3]
    assert record.delete() is True
    assert record.read() is None
    assert record.delete() is False
    assert record.update(lambda ledger: ledger or Ledger(total=1)) == Ledger(total=1)
    assert record.read_snapshot().version == 6
    assert record.update(lambda _: DELETE) is None


def test_a_record_is_not_removed_by_a_server_that_deletes_blindly(
    hook: AllasHook, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = AllasRecord(Ledger, key, hook=hook)
    record.update(lambda _: Ledger())
    record.delete()
    monkeypatch.setattr("airflow_provider_csc.store.purge.REST", dt.timedelta(0))
    with pytest.raises(RecordUnguardedError, match="deletes without looking at If-Match"):
        record.purge()
    assert hook.check_for_key(key)


def test_what_does_not_fit_the_model_is_told_with_version_and_writer(
    hook: AllasHook, key: str
) -> None:
    hook.update_object(key, lambda _: {"total": "many"}, writer="someone")
    record = AllasRecord(Ledger, key, hook=hook)
    with pytest.raises(RecordInvalidError, match=r"version 1, written by someone.*total: "):
        record.read()
    with pytest.raises(RecordInvalidError, match="total"):
        record.update(lambda _: Ledger())


def test_the_page_of_records_is_true(hook: AllasHook, bucket: str) -> None:
    """Its examples are run, one after the other, with this module's bucket in place of theirs."""
    page = (Path(__file__).parents[2] / "docs" / "records.md").read_text()
    names: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for block in blocks:
        exec(block.replace("2001234-results", bucket), names)
    assert len(blocks) == 3
    assert names["stored"].value == {"runs": ["run-7"]}
    assert names["old"] == []
    assert [each.value for each in names["record"].read_history()] == [{"done": ["part-1"]}]
    assert names["record"].read() is None


# Many writers


def test_sixteen_writers_lose_nothing(hook: AllasHook, plan: Plan) -> None:
    plan.updates = 4
    writers = Writers(plan).begin()
    assert writers.wait() == [0] * 16
    found = hook.update_object(plan.key, lambda _: None)
    assert verdict(found.value, writers) == {
        "done": 64,
        "stored": 64,
        "lost": [],
        "twice": [],
        "foreign": [],
    }
    assert found.version == 64


def test_writers_that_are_killed_lose_and_double_nothing(hook: AllasHook, plan: Plan) -> None:
    """Each is killed at a random instant of its work; what it had said to be done is stored."""
    plan.updates, plan.writers = 10_000, 8
    draw = random.Random(5)
    writers = Writers(plan).begin()
    for pid in writers.pids:
        done = len(writers.tags("done"))
        while len(writers.tags("done")) < done + 3:
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 0.05))
        os.kill(pid, signal.SIGKILL)
    assert writers.wait() == [-signal.SIGKILL] * 8
    found = hook.update_object(plan.key, lambda _: None)
    judged = verdict(found.value, writers)
    assert (judged["lost"], judged["twice"], judged["foreign"]) == ([], [], [])
    # One write of each may have been stored of which it did not hear.
    assert judged["done"] <= judged["stored"] <= judged["done"] + 8
    assert found.version == judged["stored"]
    assert hook.update_object(plan.key, lambda value: value | {"after": 1}).is_changed


def disturb(
    cluster: dict[str, Any], key: str, every: int, *faults: Fault
) -> contextlib.AbstractContextManager[CuttingProxy]:
    """A proxy that disturbs one in so many writes of a record; of another object none."""
    numbers, chosen = itertools.count(), itertools.cycle(faults)

    def choose(method: str, path: str) -> Fault:
        is_one = method == "PUT" and path.endswith(key) and next(numbers) % every == 0
        return next(chosen) if is_one else Fault.NONE

    address = urlsplit(cluster["s3_endpoint_url"])
    return CuttingProxy((str(address.hostname), address.port or 80), choose)


def test_writers_whose_connections_are_cut_lose_and_double_nothing(
    cluster: dict[str, Any], hook: AllasHook, plan: Plan
) -> None:
    faults = (Fault.LOSE_ANSWER, Fault.LOSE_REQUEST, Fault.LATE)
    with disturb(cluster, plan.key, 3, *faults) as proxy:
        plan.writers, plan.updates, plan.endpoint_url = 6, 8, proxy.url
        writers = Writers(plan).begin()
        late = []
        while len(writers.tags("done")) < 48:
            late += proxy.deliver()
            time.sleep(0.1)
        assert writers.wait() == [0] * 6
        late += proxy.deliver()
        cuts = {fault: proxy.count(fault) for fault in faults}
    found = hook.update_object(plan.key, lambda _: None)
    judged = verdict(found.value, writers)
    assert judged == {"done": 48, "stored": 48, "lost": [], "twice": [], "foreign": []}
    assert found.version == 48
    assert min(cuts.values()) > 5, cuts
    assert len(late) == cuts[Fault.LATE]


def test_an_update_whose_answer_is_lost_is_made_once(
    cluster: dict[str, Any], hook: AllasHook, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the hook, with every other answer or request lost."""
    with disturb(cluster, key, 2, Fault.LOSE_ANSWER, Fault.LOSE_REQUEST, Fault.LATE) as proxy:
        described = json.loads(os.environ["AIRFLOW_CONN_ALLAS_DEFAULT"])
        described["extra"]["endpoint_url"] = proxy.url
        monkeypatch.setenv("AIRFLOW_CONN_CUT", json.dumps(described))
        cut = AllasHook("cut")
        for _ in range(9):
            cut.update_object(key, lambda value: (value or 0) + 1)
            proxy.deliver()
        cuts = [proxy.count(each) for each in (Fault.LOSE_ANSWER, Fault.LOSE_REQUEST, Fault.LATE)]
    assert hook.update_object(key, lambda _: None).value == 9
    assert min(cuts) >= 2, cuts
