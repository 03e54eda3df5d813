"""What the benchmark makes of what it measured, without measuring."""

from __future__ import annotations

import os
import struct
import time
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

from benchmarks.conditions import describe_noise
from benchmarks.figures import Row, Table, figure, short, show
from benchmarks.page import render_table, replace_block
from benchmarks.plot import line_chart
from benchmarks.processes import Ended, ProcessAccounting, descendants, own_seconds
from benchmarks.running import Results
from benchmarks.site import parse_sdiag
from benchmarks.waiting import IDLE, OURS, SSH, against, at_most

if TYPE_CHECKING:
    from pathlib import Path

SDIAG = """
Main schedule statistics (microseconds):
\tLast cycle:   61

Remote Procedure Call statistics by message type
\tREQUEST_JOB_INFO                        ( 2003) count:21     ave_time:412    total_time:8652
\tREQUEST_SUBMIT_BATCH_JOB                ( 4003) count:7      ave_time:519    total_time:3637
\tMESSAGE_NODE_REGISTRATION_STATUS        ( 1002) count:8      ave_time:267    total_time:2136

Remote Procedure Call statistics by user
\troot            (       0) count:32     ave_time:404    total_time:12945
\talice           (    1001) count:5      ave_time:404    total_time:2020

Pending RPC statistics
\tNo pending RPCs
"""


def test_the_users_requests_are_told_from_those_of_daemons_and_others() -> None:
    found = parse_sdiag(SDIAG, "alice")
    assert found == {"user": 5, "REQUEST_JOB_INFO": 21, "REQUEST_SUBMIT_BATCH_JOB": 7}
    assert parse_sdiag(SDIAG, "bob")["user"] == 0


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    row = Row(
        case="ours, 10 jobs",
        subject="ours",
        n=10,
        figures={"cpu": figure([1.0, 3.0, 2.0], "% of a core")},
        notes=["seen"],
    )
    written = Results("waiting", {"seed": 1}, [row], is_complete=True)
    written.write(tmp_path / "waiting.json")
    assert Results.read(tmp_path / "waiting.json") == written
    assert Results.read(tmp_path / "other.json") is None


def test_a_row_that_broke_has_no_part_in_the_tables() -> None:
    rows = [Row(case="a", subject="ours", is_broken=True), Row(case="b", subject="ours")]
    rows[1].figures["cpu"] = figure(1.0)
    assert Results("waiting", {}, rows).measured == rows[1:]


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        ([2.0], "2"),
        ([1.0, 2.0, 30.0], "2 (1-30)"),
        ([5.0, 5.0001, 5.0], "5"),
        ([0.0, 0.0], "0"),
        ([1234.5], "1,234"),
    ],
)
def test_a_figure_is_its_median_and_from_where_to_where_its_samples_go(
    samples: list[float], text: str
) -> None:
    assert show(figure(samples)) == text


def test_quantiles_never_lie_beyond_the_samples() -> None:
    one = figure([float(number) for number in range(1, 101)])
    assert (one.quantile(0.5), one.quantile(0.99), one.quantile(1.0)) == (51, 100, 100)


def test_a_block_is_replaced_and_what_is_around_it_kept() -> None:
    text = "before\n<!-- a: begin -->\nold\n<!-- a: end -->\nafter <!-- b: begin --><!-- b: end -->"
    new = replace_block(text, "a", "new")
    assert new == text.replace("old", "new")
    with pytest.raises(ValueError, match="no marks"):
        replace_block(text, "c", "new")


def test_the_columns_of_a_table_are_aligned() -> None:
    lines = render_table(Table(("name", "n"), [["x", "1,000"]])).split("\n")
    assert lines == ["| name | n     |", "|------|-------|", "| x    | 1,000 |"]


def test_a_chart_shows_every_point_that_logarithmic_axes_can() -> None:
    drawn = line_chart("a < b", "x", "y", {"ours": [(10, 1), (100, 0), (1000, 20)], "none": []})
    tags = [element.tag.rpartition("}")[2] for element in ET.fromstring(drawn).iter()]
    assert tags.count("circle") == 2
    assert tags.count("polyline") == 1
    assert line_chart("empty", "x", "y", {"none": [(1, 0)]}) == ""


def test_processes_are_counted_over_parents_that_ended_themselves() -> None:
    ended = [Ended(5, 4, "squeue"), Ended(4, 3, "bash"), Ended(9, 1, "cron"), Ended(7, 8, "a")]
    ended.append(Ended(8, 7, "b"))  # ids that were given out again
    assert [each.command for each in descendants(ended, {3})] == ["squeue", "bash"]


def test_a_record_of_the_kernel_is_read_by_its_ids_and_its_command(tmp_path: Path) -> None:
    record = struct.pack("<BBHIIIIIIf16x16s", 0, 3, 0, 0, 1001, 1001, 77, 76, 0, 1.0, b"squeue")
    (tmp_path / "ended").write_bytes(record * 2 + record[:10])
    found = ProcessAccounting(tmp_path / "ended").read(64)
    assert found == [Ended(77, 76, "squeue")]


def test_the_time_of_a_process_is_that_of_its_own_clock() -> None:
    assert own_seconds(os.getpid()) == pytest.approx(time.process_time(), abs=0.5)


def test_noise_is_the_longest_over_the_shortest_loop() -> None:
    noise = {"before": {"loop_seconds": [0.1, 0.11]}, "after": {"loop_seconds": [0.2]}}
    assert "2.00 x" in describe_noise([noise])
    assert describe_noise([]) == "not known"


def waits(subject: str, n: int, **figures: float) -> Row:
    known = {name: figure(value) for name, value in figures.items()}
    return Row(case=f"{subject} {n}", subject=subject, n=n, figures=known, detail={"interval": 10})


def test_targets_are_met_or_missed_by_the_ratio_at_the_same_number() -> None:
    rows = [
        waits(OURS, 300, cpu=0.2, processes=30),
        waits(SSH, 300, cpu=12.0, processes=2000),
        waits(SSH, 10, cpu=1.0, processes=70),
    ]
    found = {line.what: (line.ratio, line.is_met) for line in against(rows, SSH)}
    assert found == {
        "300 waits: processor of our side, % of a core": ("60 x", True),
        "300 waits: remote processes a minute": ("66.7 x", False),
    }
    assert against(rows[1:], SSH) == []


def test_the_largest_number_is_held_to_what_is_allowed_of_it() -> None:
    most = waits(OURS, 5000, cpu=6.0, connections=1, commands=6, traced=12_000)
    rows = [most, waits(OURS, 1000, cpu=1.0), waits(IDLE, 1000, traced=9000)]
    assert [line.is_met for line in at_most(rows, most)] == [True, True, True, False]
    assert short(12_000 - 9000) in at_most(rows, most)[2].ours
