"""What Airflow sees of transfers, without any store."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import DAG, Asset

from airflow_provider_csc.store.engine import Packed, Progress
from airflow_provider_csc.store.transfer import Outcome
from airflow_provider_csc.transfers import allas
from airflow_provider_csc.transfers.allas import (
    AllasCopyOperator,
    AllasToLocalOperator,
    LocalToAllasOperator,
    describe_progress,
)

# Airflow leaves the last slash of a URI out.
URI = "s3://2001234-data/in"


@pytest.mark.parametrize(
    ("kind", "source", "destination", "inlets", "outlets"),
    [
        (LocalToAllasOperator, "/data", URI, [], [URI]),
        (AllasToLocalOperator, URI, "/data", [URI], []),
        (AllasCopyOperator, URI, "s3://b-2/out", [URI], ["s3://b-2/out"]),
        (AllasCopyOperator, URI, "s3://b-2/{{ run_id }}/", [URI], []),
    ],
)
def test_uris_become_assets(
    kind: Any, source: str, destination: str, inlets: list[str], outlets: list[str]
) -> None:
    task = kind(task_id="t", source=source, destination=destination)
    assert [each.uri for each in task.inlets] == inlets
    assert [each.uri for each in task.outlets] == outlets


def test_assets_of_the_author_stay() -> None:
    mine = Asset("s3://mine/x")
    task = LocalToAllasOperator(task_id="t", source="/d", destination=URI, outlets=[mine])
    assert [each.uri for each in task.outlets] == ["s3://mine/x", URI]


def test_all_that_may_be_templates_are_rendered() -> None:
    with DAG("d", schedule=None):
        task = AllasCopyOperator(
            task_id="t",
            source="s3://a-1/{{ x }}",
            destination="s3://b-2/{{ x }}",
            include=["{{ x }}"],
            allas_conn_id="{{ x }}",
            destination_conn_id="{{ x }}_2",
        )
    task.render_template_fields({"x": "v"})  # type: ignore[typeddict-item]
    assert (task.source, task.destination) == ("s3://a-1/v", "s3://b-2/v")
    assert (task.include, task.allas_conn_id, task.destination_conn_id) == (["v"], "v", "v_2")


def test_a_source_of_another_task_can_be_mapped_over() -> None:
    with DAG("d", schedule=None):
        mapped = LocalToAllasOperator.partial(task_id="t", destination=URI).expand(
            source=["/a", "/b"]
        )
    assert mapped.task_id == "t"


def test_progress_is_one_line() -> None:
    progress = Progress(
        bytes_total=4 * 2**30, bytes_done=2**30, files_total=2000, files_done=499, files_skipped=1
    )
    line = describe_progress(progress)
    assert line.startswith("1.0 GiB of 4.0 GiB (25 %), ")
    assert ", 500 of 2,000 files, " in line
    assert describe_progress(Progress()) == "0 B of 0 B (100 %), 0 B/s, 0 of 0 files"


def test_progress_of_packing_tells_of_the_files() -> None:
    packed = Packed(files=1200, bytes=2**30, files_total=4800, bytes_total=2**32)
    line = describe_progress(Progress(bytes_done=2**28, bytes_skipped=2**28, packed=packed))
    assert line.startswith(
        "Packed 1,200 of 4,800 files, 1.0 GiB of 4.0 GiB (25 %) into 512.0 MiB, "
    )


def test_progress_of_unpacking_tells_of_the_archive() -> None:
    packed = Packed(files=1200, bytes=2**30)
    line = describe_progress(Progress(bytes_total=2**30, bytes_done=2**28, packed=packed))
    assert line.startswith("Unpacked 1,200 files, 1.0 GiB from 256.0 MiB of 1.0 GiB (25 %), ")


@pytest.mark.parametrize(
    ("transferred", "files_total", "begin"),
    [
        (1, 12345, "Packed 12,345 files, 1.2 GiB into 430.0 MiB in 2.0 s (215.0 MiB/s), all veri"),
        (1, 0, "Unpacked 12,345 files, 1.2 GiB from 430.0 MiB in 2.0 s (215.0 MiB/s), all verif"),
        (0, 12345, "Transferred 0 files, 430.0 MiB in 2.0 s"),
    ],
)
def test_what_was_packed_is_told_at_the_end(transferred: int, files_total: int, begin: str) -> None:
    outcome = Outcome(
        transferred=transferred,
        skipped=1 - transferred,
        deleted=0,
        unverified=0,
        bytes_transferred=430 * 2**20,
        bytes_resumed=0,
        seconds=2.0,
        packed=Packed(12345, int(1.2 * 2**30), files_total, 0),
    )
    assert allas._describe(outcome).startswith(begin)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (61, "1 min 1 s"), (7300, "2 h 1 min")],
)
def test_times_are_for_people(seconds: float, text: str) -> None:
    assert allas._span(seconds) == text
