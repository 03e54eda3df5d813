"""Records and leases by their hooks, on a little store: where they are, and who writes them."""

from __future__ import annotations

import getpass
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, Field

from airflow_provider_csc.errors import ConfigError, RecordInvalidError
from airflow_provider_csc.hooks.allas import AllasHook
from airflow_provider_csc.hooks.allas_record import AllasLease, AllasRecord
from airflow_provider_csc.notation import NotationError
from tests.support.little_store import LittleStore, Stored, serve_store

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "state/one.json"


class Point(BaseModel):
    x: float = 0
    label: str = Field(default="", alias="name", max_length=5)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[LittleStore]:
    """A store that ``allas_default`` leads to, whose default bucket is "main"."""
    with serve_store(wants="bare") as served:
        described = {
            "conn_type": "allas",
            "login": "AKEY",
            "password": "SECRET",
            "extra": {"endpoint_url": served.url, "bucket_name": "main"},
        }
        monkeypatch.setenv("AIRFLOW_CONN_ALLAS_DEFAULT", json.dumps(described))
        for name in [name for name in os.environ if name.startswith("AIRFLOW_CTX_")]:
            monkeypatch.delenv(name)
        yield served


def test_the_bucket_is_the_arguments_the_urls_or_the_connections(store: LittleStore) -> None:
    hook = AllasHook()
    assert hook.get_record(KEY).bucket == "main"
    assert hook.get_record(KEY, "other").bucket == "other"
    named = hook.get_record("s3://third/a/b.json")
    assert (named.bucket, named.key) == ("third", "a/b.json")
    assert str(named) == "s3://third/a/b.json"


def test_without_a_bucket_the_error_says_where_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    described = {"conn_type": "allas", "login": "A", "password": "B"}
    monkeypatch.setenv("AIRFLOW_CONN_NO_BUCKET", json.dumps(described))
    with pytest.raises(ConfigError, match="No bucket is named for 'k'"):
        AllasHook("no_bucket").update_object("k", lambda _: 1)


def test_names_that_no_object_has_are_refused(store: LittleStore) -> None:
    with pytest.raises(NotationError, match="2000 bytes"):
        AllasHook().update_object("k" * 2000, lambda _: 1)
    with pytest.raises(NotationError, match="no name of a bucket"):
        AllasHook().update_object("k", lambda _: 1, "no/bucket")


def test_botocore_repeats_no_write_of_a_record(store: LittleStore) -> None:
    config = AllasHook().get_record(KEY).client.meta.config
    assert config.retries["total_max_attempts"] == 1
    assert config.signature_version == "s3v4"


def test_outside_a_task_the_writer_is_the_process(store: LittleStore) -> None:
    found = AllasHook().update_object(KEY, lambda _: 1)
    assert found.writer is not None
    assert found.writer.startswith(f"{getpass.getuser()}@")
    assert found.writer.endswith(f":{os.getpid()}")


def test_options_are_those_of_records(store: LittleStore) -> None:
    with pytest.raises(RecordInvalidError, match="10 at most"):
        AllasHook().update_object(KEY, lambda _: "x" * 100, max_bytes=10)
    with pytest.raises(TypeError, match="patience"):
        AllasHook().update_object(KEY, lambda _: 1, patience=3)


def test_making_a_record_or_a_lease_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_ALLAS_DEFAULT", raising=False)
    AllasRecord(Point, KEY)
    AllasLease(KEY)


def test_a_model_is_stored_by_its_aliases_and_read_back(store: LittleStore) -> None:
    record = AllasRecord(Point, KEY)
    assert record.update(lambda _: Point(x=1.5, name="a")) == Point(x=1.5, name="a")
    assert json.loads(store.objects[KEY].body) == {"x": 1.5, "name": "a"}
    assert record.read() == Point(x=1.5, name="a")
    assert record.read_snapshot().version == 1
    assert list(record.read_history()) == []


def test_an_equal_model_writes_nothing_though_the_text_differs(store: LittleStore) -> None:
    store.objects[KEY] = Stored(b'{"x": 1}', {}, store.now())
    assert AllasRecord(Point, KEY).update(lambda point: point) == Point(x=1)
    assert store.objects[KEY].body == b'{"x": 1}'


def test_a_model_that_was_changed_in_place_is_stored_when_it_is_returned(
    store: LittleStore,
) -> None:
    record = AllasRecord(Point, KEY)
    record.update(lambda _: Point())

    def move(point: Point | None) -> Point | None:
        assert point is not None
        point.x = 9
        return point

    assert record.update(move) == Point(x=9)

    def forget(point: Point | None) -> None:
        move(point)
        point.x = 10  # type: ignore[union-attr]

    with pytest.raises(RecordInvalidError, match="changed its argument and returned None"):
        record.update(forget)
    assert record.read() == Point(x=9)


@pytest.mark.parametrize(
    "value",
    [
        Point.model_construct(x=float("nan")),
        Point.model_construct(label="far too long"),
        {"x": 1},
    ],
    ids=["nan", "not valid", "no model"],
)
def test_what_could_not_be_read_again_is_not_stored(store: LittleStore, value: Any) -> None:
    with pytest.raises(RecordInvalidError, match="was not changed"):
        AllasRecord(Point, KEY).update(lambda _: value)
    assert KEY not in store.objects


def test_what_is_not_of_the_model_is_left_alone(store: LittleStore) -> None:
    store.objects[KEY] = Stored(b'{"x": "far"}', {}, store.now())
    with pytest.raises(RecordInvalidError, match=r"written by another program.*x: "):
        AllasRecord(Point, KEY).update(lambda _: Point())
    assert store.objects[KEY].body == b'{"x": "far"}'


def test_a_lease_is_held_by_its_owners_name(store: LittleStore) -> None:
    with AllasLease(KEY, owner="me") as lease:
        assert lease.token == 1
        assert json.loads(store.objects[KEY].body)["owner"] == "me"
    with AllasLease(KEY):
        assert json.loads(store.objects[KEY].body)["owner"].endswith(f":{os.getpid()}")
