"""
Every state, failure and refusal of Slurm, and what the task makes of it.

``python -m tests.support.state_tables`` writes docs/states.md from the code's own tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.slurm.failures import FailureReason, error_for, failure_of
from airflow_provider_csc.slurm.policy import Fail, Resubmit, Retry, SlurmRetryPolicy
from airflow_provider_csc.slurm.rejections import REJECTIONS, Rejection, find_remedy
from airflow_provider_csc.slurm.result import JobResult
from airflow_provider_csc.slurm.states import (
    STATES,
    JobState,
    Phase,
    parse_state,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE = Path(__file__).parents[2] / "docs" / "states.md"

LIVE = {
    Phase.QUEUED: "waits; `queue_timeout` runs",
    Phase.RUNNING: "waits, and shows the log; `timeout` runs",
    Phase.UNKNOWN: "waits until another source tells the end",
}

# One job for each reason, as a site with accounting tells of it.
EXAMPLES: dict[FailureReason, dict[str, Any]] = {
    FailureReason.EXIT_CODE: {"state": "FAILED", "exit_code": 3},
    FailureReason.SIGNAL: {"state": "FAILED", "exit_code": 139, "signal": 11},
    FailureReason.OUT_OF_MEMORY: {
        "state": "OUT_OF_MEMORY",
        "requested_memory": "4G",
        "max_rss_bytes": 4187593113,
        "memory_bytes": 4187593113,
    },
    FailureReason.TIME_LIMIT: {"state": "TIMEOUT", "time_limit_minutes": 60},
    FailureReason.NODE_FAILURE: {"state": "NODE_FAIL"},
    FailureReason.BOOT_FAILURE: {"state": "BOOT_FAIL"},
    FailureReason.PREEMPTED: {"state": "PREEMPTED"},
    FailureReason.CANCELLED: {"state": "CANCELLED", "cancelled_by": "1001"},
    FailureReason.TASK_LIMIT: {"state": "CANCELLED", "limit": "queue_timeout"},
    FailureReason.DEPENDENCY: {"state": "CANCELLED", "limit": "dependency"},
    FailureReason.HELD: {"state": "CANCELLED", "limit": "held", "reason": "JobHeldAdmin"},
    FailureReason.LAUNCH_FAILURE: {"state": "FAILED", "exit_code": 0, "signal": 53},
    FailureReason.DEADLINE: {"state": "DEADLINE"},
    FailureReason.CONTRADICTION: {
        "state": "FAILED",
        "exit_code": 3,
        "contradiction": ("sacct says COMPLETED but the job's own exit record says exit code 3"),
    },
    FailureReason.UNKNOWN: {"state": "UNKNOWN"},
}

# Everything a policy can be asked to do.
POLICY = SlurmRetryPolicy(infrastructure=1, out_of_memory=1, time_limit=1, user_errors="fail")


def example(reason: FailureReason) -> JobResult:
    return JobResult.from_payload(
        {"job_id": "4123", "nodes": "r1c1", "stdout_path": "/…/stdout.log", **EXAMPLES[reason]}
    )


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines) + "\n"


def cell(text: str) -> str:
    return text.replace("|", r"\|")


# ---- states ----


def state_row(state: JobState) -> list[str]:
    since = f" (from {state.since})" if state.since else ""
    kind = "flag" if state.is_flag else "base"
    return [
        f"`{state.name}`{since}",
        state.code,
        kind,
        state.phase.value,
        state.meaning,
        *end(state),
    ]


def end(state: JobState) -> tuple[str, str]:
    """What the task does, and its state in Airflow."""
    if not state.is_final:
        return LIVE[state.phase], "deferred"
    result = JobResult(job_id="4123", state=state.name)
    if failure_of(result) is None:
        return "succeeds, unless the exit record says otherwise", "success"
    return f"fails: `{type(error_for(result)).__name__}`", "up_for_retry, then failed"


FORMS = ["CD", "CANCELLED by 350", "OUT_OF_ME+", "RUNNING,COMPLETING", "PENDING,LAUNCH_FAILED", "?"]


def form_row(text: str) -> list[str]:
    state = parse_state(text)
    return [f"`{text}`", f"`{state.name}`", state.phase.value]


# ---- failures ----


def failure_row(reason: FailureReason) -> list[str]:
    error = error_for(example(reason))
    return [f"`{reason}`", f"`{type(error).__name__}`", str(error), with_policy(reason)]


def with_policy(reason: FailureReason) -> str:
    """What a policy can do, found by asking one that does all it can."""
    options = {"mem": "4G", "time": "60"}
    match POLICY.decide(reason, example(reason), options=options):
        case Resubmit(why=why):
            return f"submit again: “{why}”"
        case Fail(why=why):
            return f"fail at once: “{why}”"
        case Retry():
            return "nothing"


# ---- refusals ----


def rejection_row(entry: Rejection) -> list[str]:
    does = "fails, with retries" if entry.is_temporary else "fails at once, without a retry"
    if entry.is_queue_limit:
        does = "[waits](slurm.md#a-full-queue), if the limit is reached; else fails at once"
    elif entry.is_busy:
        does = "waits"
    return [f"`{entry.pattern}`", does, f"{entry.cause} {entry.remedy}".strip()]


def render() -> str:
    states = table(
        ["state", "code", "kind", "phase", "the job …", "the task …", "Airflow's state"],
        map(state_row, STATES.values()),
    )
    forms = table(["printed", "read as", "phase"], map(form_row, FORMS))
    failures = table(
        ["reason", "exception", "what the task's log says", "what `on_failure` can do"],
        map(failure_row, EXAMPLES),
    )
    refusals = table(
        ["sbatch says", "the task", "what the log adds"], map(rejection_row, REJECTIONS)
    )
    return PROSE.format(
        states=states,
        forms=forms,
        failures=failures,
        refusals=refusals,
        unknown=find_remedy(""),
    )


PROSE = """\
# Every state and every failure

Written from the code's own tables by `python -m tests.support.state_tables`; a test holds the page
to them. What can be done about failures is told in [failures.md](failures.md), why a job waits in
[pending.md](pending.md).

## States

Slurm has base states and flags; squeue, sacct and scontrol print one word. A task ends only with
evidence of the job's end ([how it works](how-it-works.md#evidence)): a state of phase *ended* in
squeue alone makes it ask sacct and the exit record. Without `deferrable` the task is *running*
where the table says *deferred*.

{states}
A word that is in no table is read as itself, of phase *unknown*, and waits:

{forms}
## Failures

Each is an exception below `JobFailedError`, in `airflow_provider_csc.errors`, and carries what is
known as attributes: `job_id`, `state`, `exit_code`, `nodes`, and so on. A task that fails so is
retried as often as its `retries` say (*up_for_retry*, then *failed*), unless a policy says
otherwise. The last column is what
`SlurmRetryPolicy(infrastructure=1, out_of_memory=1, time_limit=1, user_errors="fail")` decides.

{failures}
## What sbatch refuses

Nothing was submitted then. `SubmitRejectedError` has sbatch's own words in `stderr`. The first
pattern that is found counts. For any other message the log adds “{unknown}”, and the task fails at
once.

{refusals}"""


def main() -> None:
    PAGE.write_text(render())


if __name__ == "__main__":
    main()
