"""
Every reason for which Slurm lets a job wait, and what the task's log says of it.

``python -m tests.support.pending_tables`` writes docs/pending.md from the code's own tables.
"""

from __future__ import annotations

from pathlib import Path

from airflow_provider_csc.slurm.pending import PendingReason, explain_reason
from tests.support.state_tables import table

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "pending.md"
CODES = ROOT / "tests" / "outputs" / "pending-reasons.txt"
OLDEST, NEWEST = "22.05", "26.05"

KINDS = {
    "waits": "starts by itself",
    "site": "starts when the site or the account changes",
    "stuck": "does not start as it stands; a warning",
    "held": "starts when it is released; a warning",
    "never": "never starts: it is cancelled, and the task fails (`JobDependencyError`)",
}
# One for each text that Slurm prints in place of a code.
EXAMPLES = [
    "ReqNodeNotAvail, Reserved for maintenance",
    "ReqNodeNotAvail, May be reserved for other job",
    "ReqNodeNotAvail, UnavailableNodes:r1c[1-3]",
    "ReqNodeNotAvail",
    "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
    "launch failure limit exceeded requeued held",
    "launch failed requeued held",
    "user env retrieval failed requeued held",
    "job requeued in held state",
    "License request 'abc:1' is no longer valid, holding job",
    "Reservation course was deleted",
    "Reservation course is invalid",
    "uid 1001 not in group permitted to use this partition (x). groups allowed: y",
    "Job's QOS not permitted to use this partition (x allows y not z)",
    "Job's account not permitted to use this partition (x allows y not z)",
    "burst_buffer/lua: Stage-out in progress",
    "RaisedSignal:9(Killed)",
]


def read_codes() -> list[tuple[str, str, str]]:
    """Each code with the first and the last release that has it."""
    lines = CODES.read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    return [(code, first, last) for code, first, last in rows]


def is_limit(code: str) -> bool:
    return "shows the limit" in explain_reason(code).remedy


def row(code: str, first: str = OLDEST, last: str = NEWEST) -> list[str]:
    found = explain_reason(code)
    since = f" (from {first})" if first != OLDEST else ""
    until = f" (to {last})" if last != NEWEST else ""
    return [f"`{code}`{since}{until}", KINDS[found.kind], _sentences(found)]


def _sentences(found: PendingReason) -> str:
    return found.describe("<id>").replace("Job <id> ", "The job ", 1)


def render() -> str:
    codes = read_codes()
    heads = ["reason", "the job", "what the log says of it"]
    order = list(KINDS)
    plain = sorted(
        (each for each in codes if not is_limit(each[0])),
        key=lambda each: (order.index(explain_reason(each[0]).kind), each[0]),
    )
    return PROSE.format(
        codes=table(heads, (row(*each) for each in plain)),
        texts=table(heads, map(row, EXAMPLES)),
        limits=table(heads, (row(*each) for each in codes if is_limit(each[0]))),
        number=len(codes),
        unknown=explain_reason("SomethingNew").explain("<id>"),
    )


PROSE = """\
# Why a job waits

Written from the code's own tables by `python -m tests.support.pending_tables`; a test holds the
page to them. States are in [states.md](states.md).

While a job is in the queue, the task's log says why in words, and when Slurm expects it to start:

```text
Job 4123 is PENDING (Priority) in medium: it waits while jobs of higher priority are served. A shorter `time`, or less of what it asks for, may let it start sooner, in a gap.
Slurm expects job 4123 to start at 2026-11-22 10:15 UTC (in 2 h 10 min).
Job 4123 is PENDING (Resources) in medium: it waits for what it asks for to become free. A shorter `time`, or less of what it asks for, may let it start sooner, in a gap.
Slurm now expects job 4123 to start at 2026-11-22 08:45 UTC (in 31 min 4 s).
```

- A reason is told once, and again when it has changed. Nodes that Slurm lists with it are named, but
  a list that changes is no news.
- What does not start as it is, is a warning. A job that can never start is cancelled; one that is
  held waits, unless the task has `cancel_held`.
- Of an array there is one line for each reason, with the number of tasks, not one for each task.
- The estimate is told when there is one (Slurm makes one for jobs its backfill scheduler has looked
  at), and again when it has moved by at least five minutes and by more than a tenth of the time that
  was left. It is in UTC. Slurm's estimates assume that all jobs take their whole time limit and that
  nobody submits anything more urgent: most jobs start earlier, some later.
- There is **no position in the queue**. Slurm has none: it orders by priority, and a job of low
  priority may start before others, in a gap. A rank could only be counted from the priorities of
  everybody's jobs; the provider asks squeue for the user's own, once per interval for all tasks,
  and a priority by itself, which changes by the minute, says nothing. `squeue --start --jobs=ID`
  and `sprio --jobs=ID` on the log-in node show what Slurm knows.

All of it comes with the one question that squeue is asked anyway.

The task's result has `pending_reasons`: what the job was seen to wait for, and for how many seconds.
It is as exact as squeue is asked often (`poll_interval`), begins anew with a restart of the triggerer,
and is empty for a job that nobody saw waiting. Of an array it says for how many seconds any of its
tasks waited for each reason. The error of a task that gave its job up, as after `queue_timeout`, says
it as well.

```python
{{"job_id": "4123", "state": "COMPLETED", "pending_reasons": [{{"reason": "Priority", "seconds": 5412}}, {{"reason": "Resources", "seconds": 610}}], ...}}
```

## Reasons

Of the {number} texts that Slurm 22.05 to 26.05 has for its codes, those that are no limits:

{codes}
These stand in the place of a code, and are only examples of it:

{texts}
Another reason than these is said to be one: “{unknown}”

## Limits

Of a quality of service (`QOS…`, `Max…`) or of an association, which is an account, or a user in one
(`Assoc…`). They are read by what they are made of: who, `Grp` for all together, `Max` for one job or
user, `Min` for the least; what; `Minutes` for what is used up for good, `RunMinutes` for what those
that run may still use.

{limits}"""


def main() -> None:
    PAGE.write_text(render())


if __name__ == "__main__":
    main()
