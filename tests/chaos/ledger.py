"""
What really happened, told by the jobs themselves, and the judge of what the tasks said.

A job appends lines to the ledger file of its task instance: ``EVENT JOB RESTARTS UPTIME VALUE``.
UPTIME is /proc/uptime, one clock for the whole machine that no fault moves. ``start`` is the first
line of an incarnation, ``beat`` comes twice a second, ``term`` when it is asked to end, ``done``
last, with the exit code. The lines are not synced to the disk: no fault here takes the kernel down.

Pure: no I/O, no Airflow, and nothing of the provider.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Beats come twice a second, on a machine that is busy; a cancelled job has KillWait to end.
BEAT_SECONDS = 0.5
CANCEL_SECONDS = 10.0
KILL_SECONDS = 30.0  # from a user's click to the end of the job

_JOB = r"""
exec 9<> <(:)
say() {
  local now rest
  read -r now rest </proc/uptime
  printf '%s %s %s %s %s\n' "$1" "$SLURM_JOB_ID" "${SLURM_RESTART_COUNT:-0}" "$now" "$2" >>LEDGER
}
end() { say done "$1"; exit "$1"; }
trap 'say term; exit 143' TERM
failed=$(grep -c '^done .* 3$' LEDGER 2>/dev/null)
say start "$SLURMD_NODENAME"
echo "output of job $SLURM_JOB_ID"
for ((beat = 0; beat < BEATS; beat++)); do
  read -rt 0.5 -u 9
  say beat
done
[ "${failed:-0}" -ge FAILS ] || end 3
end 0
"""


def build_job(ledger: str, *, beats: int | str, fails: int | str) -> str:
    """
    Return a job's command, for bash.

    It lasts for so many beats, and exits with 3 as long as fewer than ``fails`` have done so.
    """
    words = {"LEDGER": ledger, "BEATS": str(beats), "FAILS": str(fails)}
    command = _JOB
    for name, value in words.items():
        command = command.replace(name, value)
    return command


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job as it wrote of itself. Times are uptimes in seconds."""

    job_id: str
    started: float
    last: float
    exit_code: int | None = None
    was_terminated: bool = False

    @property
    def succeeded(self) -> bool:
        return self.exit_code == 0


def parse_ledger(text: str) -> list[Job]:
    """Return the jobs of a ledger file in the order of their first lines."""
    lines: dict[str, list[tuple[str, float, str]]] = {}
    for line in text.splitlines():
        event, job_id, _restarts, uptime, *value = line.split()
        lines.setdefault(job_id, []).append((event, float(uptime), "".join(value)))
    return [_job(job_id, events) for job_id, events in lines.items()]


def _job(job_id: str, events: Sequence[tuple[str, float, str]]) -> Job:
    # Of a job that was requeued only the last incarnation counts for how it ended.
    begins = [number for number, (event, _, _) in enumerate(events) if event == "start"]
    latest = events[begins[-1] :] if begins else events
    codes = [int(value) for event, _, value in latest if event == "done"]
    return Job(
        job_id=job_id,
        started=events[0][1],
        last=max(uptime for _, uptime, _ in events),
        exit_code=codes[-1] if codes else None,
        was_terminated=any(event == "term" for event, _, _ in latest),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try of a task as Airflow would record it."""

    number: int
    began: float
    ended: float
    outcome: str  # success, failed, lost (its process was killed), killed (by a user)
    job_id: str | None = None
    error: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A task instance from its first try to its end, and what the cluster's books say of it."""

    name: str
    attempts: tuple[Attempt, ...]
    final: str | None  # success, failed, killed; None: it never came to an end
    clears: tuple[float, ...] = ()
    kills: tuple[float, ...] = ()
    jobs: tuple[Job, ...] = ()
    accepted: frozenset[str] = frozenset()  # job ids in the books
    live: frozenset[str] = frozenset()  # job ids in squeue at the end, after the time of grace
    # Of those whose task was ended while neither a worker nor a trigger had it, the ones that the
    # reaper has cancelled.
    reaped: frozenset[str] = frozenset()
    expects: str = "success"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a scenario's faults excuse."""

    jobs_may_die: bool = False  # a node is killed, a controller forgets
    may_fail_before_submission: bool = False  # a full disk is no outage that heals by itself


@dataclass(slots=True)
class Verdict:
    """Findings about one story, in words, by kind."""

    duplicates: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    false_successes: list[str] = field(default_factory=list)
    false_failures: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)

    @property
    def all(self) -> dict[str, list[str]]:
        """The findings by the names they have in the table."""
        return {
            "duplicates": self.duplicates,
            "lost jobs": self.lost,
            "false successes": self.false_successes,
            "false failures": self.false_failures,
            "orphans": self.orphans,
        }

    def extend(self, other: Verdict) -> None:
        """Take another verdict's findings in."""
        for name, findings in other.all.items():
            self.all[name].extend(findings)


def judge(story: Story, rules: Rules) -> Verdict:
    """Compare what the tasks said with what the jobs did."""
    return Verdict(
        duplicates=list(_duplicates(story, rules)),
        lost=list(_lost(story, rules)),
        false_successes=list(_false_successes(story)),
        false_failures=list(_false_failures(story, rules)),
        orphans=list(_orphans(story)),
    )


def _duplicates(story: Story, rules: Rules) -> Iterable[str]:
    """Find jobs that began although an earlier one ran, or had done the work."""
    for before, after in pairwise(sorted(story.jobs, key=lambda job: job.started)):
        # A clear during the try that submitted the one job means the other.
        since = max((one.began for one in story.attempts if one.began <= before.started), default=0)
        is_meant = any(since <= at <= after.started for at in story.clears)
        overlap = before.last - after.started
        if overlap > (CANCEL_SECONDS if is_meant else 0):
            yield f"{story.name}: jobs {before.job_id} and {after.job_id} ran at once"
        elif before.succeeded and not is_meant:
            yield f"{story.name}: job {after.job_id} ran after {before.job_id} had succeeded"
    # A job that never ran was cancelled in the queue: by a kill, or because its task was cleared.
    idle = story.accepted - {job.job_id for job in story.jobs}
    excused = len(story.clears) + len(story.kills)
    if len(idle) > excused and not rules.jobs_may_die:
        yield f"{story.name}: {len(idle)} accepted job(s) never ran: {', '.join(sorted(idle))}"


def _lost(story: Story, rules: Rules) -> Iterable[str]:
    if story.final is None:
        jobs = ", ".join(job.job_id for job in story.jobs) or "none"
        yield f"{story.name}: no end within the time allowed; its jobs: {jobs}"
    for attempt in story.attempts:
        if "UNKNOWN" in attempt.message and not rules.jobs_may_die:
            yield f"{story.name} try {attempt.number}: {attempt.message}"


def _false_successes(story: Story) -> Iterable[str]:
    jobs = {job.job_id: job for job in story.jobs}
    for attempt in story.attempts:
        if attempt.outcome != "success":
            continue
        job = jobs.get(attempt.job_id or "")
        if job is None or not job.succeeded or job.last > attempt.ended:
            yield f"{story.name} try {attempt.number}: success, but of job {attempt.job_id}: {job}"


def _false_failures(story: Story, rules: Rules) -> Iterable[str]:
    for attempt in story.attempts:
        if attempt.outcome == "failed" and (why := _why_false(attempt, story, rules)):
            said = f"{attempt.error}: {attempt.message}".replace("\n", " ")[:300]
            yield f"{story.name} try {attempt.number}: {why}; it said: {said}"
    if story.expects == "success" and story.final == "failed":
        yield f"{story.name}: failed in the end"


def _orphans(story: Story) -> Iterable[str]:
    for job_id in sorted(story.live):
        yield f"{story.name}: job {job_id} still lives"
    for job in story.jobs:
        late = job.last - max(story.kills, default=job.last)
        if late > KILL_SECONDS and job.job_id not in story.live | story.reaped:
            yield f"{story.name}: job {job.job_id} lived {late:.0f} s longer than its task"


def _why_false(attempt: Attempt, story: Story, rules: Rules) -> str:
    """Return what is false about a failed try, or '' where it was right to fail."""
    during = [
        job for job in story.jobs if job.started <= attempt.ended and not _is_over(job, attempt)
    ]
    if attempt.job_id is None:
        if rules.may_fail_before_submission and not during:
            return ""
        return "failed without a job that failed"
    job = next((one for one in story.jobs if one.job_id == attempt.job_id), None)
    if job is None:
        is_excused = rules.jobs_may_die or story.kills or story.clears
        return "" if is_excused else f"job {attempt.job_id} never ran"
    is_excused = job.exit_code is not None or rules.jobs_may_die or story.kills or story.clears
    findings = {
        "succeeded": job.succeeded,
        "still ran": job.last > attempt.ended + BEAT_SECONDS,
        "was ended by nobody we know": not is_excused,
    }
    return next((f"job {job.job_id} {what}" for what, is_so in findings.items() if is_so), "")


def _is_over(job: Job, attempt: Attempt) -> bool:
    return job.last < attempt.began
