"""A poller's figures arrive where Airflow's own do, and none of them ends a wait."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_csc.hooks import _stats
from airflow_provider_csc.hooks._stats import AirflowMeter

TAGS = {"site": "roihu.csc.fi"}


class Stats:
    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    def __getattr__(self, kind: str) -> Any:
        return lambda *values, **options: self.said.append((kind, *values, options))


def test_figures_go_to_airflows_stats(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = Stats()
    monkeypatch.setattr(_stats, "_find_stats", lambda: stats)
    meter = AirflowMeter()
    meter.gauge("jobs", 3, TAGS)
    meter.incr("bytes", 42, TAGS)
    meter.timing("query", 0.25, TAGS)
    assert stats.said == [
        ("gauge", "jobs", 3, {"tags": TAGS}),
        ("incr", "bytes", 42, {"tags": TAGS}),
        ("timing", "query", timedelta(seconds=0.25), {"tags": TAGS}),
    ]


def test_a_figure_that_cannot_be_sent_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise OSError("no such host")

    monkeypatch.setattr(_stats, "_find_stats", fail)
    with caplog.at_level("DEBUG", logger=_stats.__name__):
        AirflowMeter().gauge("jobs", 3, TAGS)
    assert "jobs could not be sent." in caplog.text


# As Airflow sets its metrics up: 3.1 when they are first used, 3.3 where a process begins. The
# triggerer sets up those of the core, a task's process those of the SDK.
_PROCESS = """
import json, sys
said = []
class Recorder:
    def __getattr__(self, kind):
        return lambda name, *values, **options: said.append([kind, name])
if sys.argv[1] == "triggerer":
    import airflow.jobs.triggerer_job_runner
try:
    if sys.argv[1] == "triggerer":
        from airflow.observability import stats
    else:
        from airflow.sdk.observability import stats
    stats.initialize(factory=Recorder, export_legacy_names=True)
except ImportError:
    from airflow.stats import Stats
    type(Stats).instance = Recorder()
    Stats.instance = Recorder()
from airflow_provider_csc.hooks._stats import AirflowMeter
AirflowMeter().gauge("slurm.poller.parked", 1, {"site": "s"})
AirflowMeter().timing("slurm.poller.query_duration", 1, {"site": "s"})
print(json.dumps([each for each in said if each[1].startswith("slurm")]))
"""


@pytest.mark.parametrize("process", ["triggerer", "task"])
def test_figures_are_sent_by_what_a_process_has_set_up(process: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PROCESS, process],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [
        ["gauge", "slurm.poller.parked"],
        ["timing", "slurm.poller.query_duration"],
    ]
