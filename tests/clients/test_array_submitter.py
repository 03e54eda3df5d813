"""An array is submitted exactly once as well, over a fake site and over the real cluster alike."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.client.array_submitter import ArraySubmitter
from airflow_provider_csc.client.submitter import Submitter
from airflow_provider_csc.errors import ConfigError, SlurmError
from airflow_provider_csc.slurm.array_parts import format_part
from airflow_provider_csc.slurm.array_record import ArrayRecord, TaskEnd
from airflow_provider_csc.slurm.plan import JobSpec, build_request, read_source
from tests.support.fake_site import FakeSite

if TYPE_CHECKING:
    from airflow_provider_csc.slurm.array_parts import ArrayPart
    from airflow_provider_csc.slurm.submission import Submission
    from airflow_provider_csc.slurm.submit_commands import SubmitRequest
    from tests.support.bench import Bench, FaultyBench

pytestmark = pytest.mark.asyncio


async def submit(
    bench: Bench, array: str, *, try_number: int = 1, waits: bool = True, **done: Any
) -> Submission:
    """Submit an array that is held, as `SlurmHook.submit` does."""
    if isinstance(bench.site, FakeSite):
        bench.site.switch("array_is_one_row")
    identity = bench.identity(try_number)
    wanted = JobSpec(command="true", options={"array": array, "hold": True})

    def plan(part: ArrayPart | None = None) -> tuple[SubmitRequest, str]:
        return build_request(
            wanted,
            identity,
            script=read_source(wanted, None),
            defaults={"account": bench.site.account},
            base_dir=str(bench.base_dir),
            part=part,
        )

    request, label = plan()
    submitter = Submitter(
        client=bench.client,
        request=request,
        identity=identity,
        label=label,
        since=int(time.time()),
        report=bench.said.append,
        delays=bench.delays,
    )
    found = await ArraySubmitter(
        submitter=submitter,
        plan=lambda part: plan(part)[0],
        ended=ArrayRecord(**done),
        waits=waits,
    ).submit()
    bench.job_ids.add(found.job_id)
    return found


async def test_an_array_that_waits_is_one_row(bench: Bench) -> None:
    found = await submit(bench, "0-9%2")
    answer = await bench.client.run(
        f"squeue --noheader --states=all --format=%i --jobs={found.job_id},{found.job_id}"
    )
    assert answer.text == f"{found.job_id}_[0-9%2]"
    assert found.array is not None
    assert format_part(found.array) == "0-9%2"
    assert found.stdout_path == f"{found.run_dir}/stdout.%a.log"


async def test_the_same_array_submitted_twice_is_one_job(bench: Bench) -> None:
    first = await submit(bench, "1,5-7")
    second = await submit(bench, "1,5-7")
    assert (second.job_id, second.array, second.is_adopted) == (first.job_id, first.array, True)


async def test_a_retry_adopts_an_array_and_knows_its_tasks(bench: Bench) -> None:
    first = await submit(bench, "0-9%2")
    second = await submit(bench, "0-19", try_number=2)
    assert (second.job_id, second.array) == (first.job_id, first.array)
    assert len(second.whole or ()) == 20


async def test_ids_beyond_a_sites_limit_are_shifted(faulty_bench: FaultyBench) -> None:
    config = faulty_bench.site.root / "bin" / "scontrol"  # type: ignore[union-attr]
    config.write_text('#!/bin/bash\necho "MaxArraySize            = 10"\n')
    found = await submit(faulty_bench, "20-39%3")
    assert found.array is not None
    assert format_part(found.array) == "20-29%3 shifted by 20"
    assert faulty_bench.site.jobs[found.job_id]["row"] == "_[0-9%3]"  # type: ignore[union-attr]
    assert "MaxArraySize=10" in faulty_bench.said[-1]
    assert "lower by 20" in faulty_bench.said[-1]


async def test_the_limits_are_those_that_a_refusal_is_judged_by(faulty_bench: FaultyBench) -> None:
    """Of another cluster's, another account's, and of the quality of service."""
    manager = faulty_bench.site.root / "bin" / "sacctmgr"  # type: ignore[union-attr]
    manager.write_text(
        "#!/bin/bash\n"
        'case "$*" in\n'
        "  *DefaultAccount) echo project ;;\n"
        "  *'user= '*) echo 'fake|project|' ;;\n"
        "  *' assoc '*) printf '%s\\n' 'other|project||2|' 'fake|else||3|' 'fake|project||50|' ;;\n"
        "  *' qos '*) echo 'normal|8||' ;;\n"
        "esac\n"
    )
    found = await submit(faulty_bench, "0-19")
    assert found.array is not None
    assert format_part(found.array) == "0-7"


async def test_a_part_is_refused_where_nobody_waits(faulty_bench: FaultyBench) -> None:
    config = faulty_bench.site.root / "bin" / "scontrol"  # type: ignore[union-attr]
    config.write_text('#!/bin/bash\necho "MaxArraySize            = 10"\n')
    with pytest.raises(ConfigError, match="wait_for_completion"):
        await submit(faulty_bench, "0-39", waits=False)
    assert faulty_bench.jobs() == []


async def test_an_array_that_has_ended_and_left_no_trace_is_not_concluded_with(
    faulty_bench: FaultyBench,
) -> None:
    ends = dict.fromkeys(range(3), TaskEnd(job_id="7", state="CANCELLED"))
    with pytest.raises(SlurmError, match="the site knows of none of its jobs"):
        await submit(faulty_bench, "0-2", ends=ends)
    assert faulty_bench.jobs() == []
