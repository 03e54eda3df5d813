"""A limit refuses before submission, and says what would fit."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.sites.billing import Allocation, Billing
from airflow_provider_csc.sites.budget import Spent, check_run, check_task, describe_what_fits
from airflow_provider_csc.sites.estimate import Estimate, Unknown

GIB = 2**30
ROIHU = Billing.model_validate(
    {
        "unit": "CPU BU",
        "highest_of": [{"of": "cores", "factor": 0.75}, {"of": "memory_gib", "factor": 0.375}],
        "plus": [{"of": "local_disk_gib", "factor": 0.02}],
    }
)
LUMI_G = Billing.model_validate(
    {
        "unit": "GPU-hours",
        "factor": 0.5,
        "highest_of": [
            {"of": "cores", "per": 8, "round_up": True},
            {"of": "memory_gib", "per": 64, "round_up": True},
            {"of": "gpus"},
        ],
    }
)


def estimate(billing: Billing = ROIHU, hours: float = 2, tasks: int = 1, **given: int) -> Estimate:
    allocation = Allocation(**given)
    return Estimate(billing=billing, allocation=allocation, seconds=int(hours * 3600), tasks=tasks)


def refused(*arguments: Any, check: Any = check_task) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        check(*arguments)
    return caught.value


# 16 cores, 64 GiB, 2 h: max(12, 24) * 2 = 48.
JOB = estimate(cores=16, memory_bytes=64 * GIB)


def test_what_just_fits_is_allowed() -> None:
    check_task(48, JOB, Spent())
    check_task(48, JOB, Spent(units=0.0))
    check_task(0.3, estimate(cores=1, hours=0.4), Spent())
    # 0.1 + 0.2 is a little more than 0.3.
    tenth = estimate(Billing(unit="h", highest_of=ROIHU.highest_of), cores=4, hours=1 / 30)
    check_task(0.3, tenth, Spent(units=0.2))


def test_what_is_spent_counts() -> None:
    check_task(50, JOB, Spent(units=2))
    error = refused(50, JOB, Spent(units=2.1))
    assert "this try has spent 2.1 CPU BU already, and this job costs at most 48" in error.message
    assert (error.details["field"], error.details["value"]) == ("max_billing_units", 50)


def test_unknown_jobs_of_the_try_refuse() -> None:
    assert "what job 7, 8 of this try has cost is not known" in (
        refused(50, JOB, Spent(unknown=("7", "8"))).message
    )


def test_a_cost_that_is_not_known_refuses_with_the_reason() -> None:
    error = refused(50, Unknown("no partition is named"), Spent())
    assert "is not known: no partition is named." in error.message


@pytest.mark.parametrize(
    ("job", "left", "text"),
    [
        # 24 an hour: 10 units are 25 minutes. 5 an hour: 6 cores at 0.75, 13 GiB at 0.375.
        (JOB, 10, "options['time'] of at most 00:25:00 or at most 6 cores and 13 GiB of memory"),
        # 30 units: 15 an hour. 12 for the cores fits, 40 GiB cost 15.
        (JOB, 30, "options['time'] of at most 01:15:00 or at most 40 GiB of memory"),
        # Too little for a core; 0.6 of an hour's 24 are a minute and a half.
        (JOB, 0.6, "options['time'] of at most 00:01:00"),
        (JOB, 0.1, "fit with less"),
        # 4 such tasks: 192; 100 are 2 of them.
        (
            estimate(cores=16, memory_bytes=64 * GIB, tasks=4),
            100,
            "01:02:00 or at most 33 GiB of memory or an array of at most 2 tasks",
        ),
        # The disk's 2 an hour stay: 4 - 2 = 2 an hour are 2 cores.
        (
            estimate(cores=4, local_disk_bytes=100 * GIB),
            8,
            "01:36:00 or at most 2 cores",
        ),
        # 3 blocks of 8 cores are 24.
        (
            estimate(LUMI_G, hours=1, cores=56, memory_bytes=GIB, gpus=1),
            1.6,
            "at most 24 cores",
        ),
        (estimate(LUMI_G, hours=1, cores=1, gpus=8), 0.5, "at most 1 GPU;"),
    ],
)
def test_what_would_fit_is_worked_out(job: Estimate, left: float, text: str) -> None:
    assert text in describe_what_fits(job, left)


def test_where_nothing_is_left_nothing_fits() -> None:
    assert describe_what_fits(JOB, 0) == "Nothing is left: raise the limit."


@pytest.mark.parametrize("limit", [100, {"CPU BU": 100}])
def test_a_run_adds_up_what_has_the_same_unit(limit: Any) -> None:
    check_run(limit, JOB, {"CPU BU": Spent(units=52), "GPU BU": Spent(units=500)})
    error = refused(limit, JOB, {"CPU BU": Spent(units=52.5)}, check=check_run)
    assert "take up to 52.5 CPU BU, and this job" in error.message
    assert not error.details["is_temporary"]


def test_a_unit_that_the_limit_does_not_name_has_none() -> None:
    check_run({"GPU BU": 1}, JOB, {"CPU BU": Spent(units=5000)})


def test_what_running_jobs_may_yet_cost_is_no_final_refusal() -> None:
    error = refused(60, JOB, {"CPU BU": Spent(units=50, expected=38)}, check=check_run)
    assert error.details["is_temporary"]
    assert "(38 CPU BU of it by jobs that still run)" in error.message
    error = refused(60, JOB, {"CPU BU": Spent(units=50, expected=37)}, check=check_run)
    assert not error.details["is_temporary"]


@pytest.mark.parametrize("unit", ["CPU BU", ""])
def test_a_run_with_a_job_of_unknown_cost_refuses(unit: str) -> None:
    error = refused(60, JOB, {unit: Spent(unknown=("other",))}, check=check_run)
    assert "what other costs is not known" in error.message
