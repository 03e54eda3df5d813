"""A job's resources become options beside those of its author, its script and its connection."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.sites.load import load_profile
from airflow_provider_csc.sites.placement import place
from airflow_provider_csc.slurm.plan import JobSpec

SCRIPT = "#!/bin/bash\ntrue\n"


def placed(
    site: str,
    *,
    script: str = SCRIPT,
    options: dict[str, Any] | None = None,
    defaults: dict[str, str | None] | None = None,
    **resources: Any,
) -> dict[str, object]:
    spec = JobSpec(script=script, options=options or {}, resources=resources)
    made, _ = place(spec, script, load_profile(site), defaults or {})
    assert made.resources is None
    return dict(made.options)


def test_a_job_that_says_nothing_is_left_as_it_is() -> None:
    spec = JobSpec(command="true", options={"mem": "1G"})

    assert place(spec, SCRIPT, load_profile("roihu-cpu"), {"time": "10"}) == (spec, ())


def test_the_connections_time_counts_and_its_partition_only_where_there_is_no_choice() -> None:
    defaults: dict[str, str | None] = {"time": "4-00:00:00", "partition": "mine", "account": None}

    assert placed("roihu-cpu", defaults=defaults)["partition"] == "longrun"
    assert placed("generic", defaults=defaults)["partition"] == "mine"


def test_a_partition_in_the_script_is_taken_and_not_said_again() -> None:
    script = "#!/bin/bash\n#SBATCH --partition=medium\n#SBATCH -t 10\ntrue\n"

    options = placed("roihu-cpu", script=script, nodes=2)

    assert options["nodes"] == "2"
    assert not {"partition", "time"} & options.keys()


def test_what_the_script_says_as_well_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"options\.nodes"):
        placed("roihu-cpu", script="#!/bin/bash\n#SBATCH -N 2\ntrue\n", nodes=2)


def test_what_a_partition_has_to_be_told_gives_way_to_the_user() -> None:
    assert placed("lumi", nodes=16)["mem"] == "0"
    assert "mem" not in placed("lumi", options={"mem-per-cpu": "1G"}, nodes=16)


def test_options_are_kept_as_they_were_written() -> None:
    options = placed("roihu-cpu", options={"ntasks_per_node": None, "account": "project_2001234"})

    assert options["account"] == "project_2001234"
    assert (options["partition"], options["ntasks-per-node"]) == ("small", "1")
    assert "ntasks_per_node" not in options
