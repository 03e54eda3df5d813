"""Say all that is known of an end: what the controller told, and what was seen last."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.output import Answer, QueueRow

if TYPE_CHECKING:
    from airflow_provider_csc.slurm.result import JobResult
    from airflow_provider_csc.slurm.verdict import Evidence


def complete_result(
    result: JobResult, evidence: Evidence, last_seen: tuple[QueueRow, int] | None
) -> JobResult:
    """Fill in what no source tells any more, or only scontrol does."""
    row = last_seen[0] if last_seen else None
    told = evidence.controller.rows if isinstance(evidence.controller, Answer) else ()
    controller = told[0] if len(told) == 1 else None
    if row is not None:
        result = replace(
            result,
            name=result.name or row.name,
            partition=result.partition or row.partition,
            nodes=result.nodes or row.nodes or None,
            submit_time=result.submit_time or _iso(row.submitted),
            # Of a job that waits squeue tells when it is expected to start.
            start_time=result.start_time or (_iso(row.started) if row.nodes else None),
        )
    if controller is not None:
        limit = result.time_limit_minutes
        result = replace(
            result,
            restarts=controller.restarts if result.restarts is None else result.restarts,
            time_limit_minutes=controller.time_limit_minutes if limit is None else limit,
            node_count=result.node_count or controller.node_count,
            cpus=result.cpus or controller.cpus,
        )
    return result


def _iso(seconds: int | None) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds else None


def describe_forgotten(
    job_id: str,
    evidence: Evidence,
    last_seen: tuple[QueueRow, int] | None,
    seconds: int,
) -> str:
    """Say everything known of a job that nobody knows any more."""
    rows = evidence.accounting.rows if isinstance(evidence.accounting, Answer) else ()
    accounted = next((row for row in rows if row.step is None), None)
    sacct = f"sacct says {accounted.state.name}" if accounted else "sacct does not know it"
    if not isinstance(evidence.accounting, Answer):
        sacct = "the site keeps no accounting"
    if last_seen is None:
        seen = "It was never seen in the queue"
    else:
        row, clock = last_seen
        where = f" on {row.nodes}" if row.nodes else ""
        seen = (
            f"It was last seen {row.state.name}{where} in {row.partition} at {_iso(clock)} "
            f"(submitted {_iso(row.submitted) or 'at an unknown time'})"
        )
    return (
        f"Job {job_id} is in no queue since {seconds} s, {sacct}, and there is no exit record of "
        f"it. {seen}. What became of it is not known."
    )
