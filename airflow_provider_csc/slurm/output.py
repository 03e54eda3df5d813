"""
Read what squeue, sacct, sbatch and scontrol print.

A failed command, an answer without the job and a row are three different things: `NoAnswer`, an
`Answer` without it, and a row.
"""

from __future__ import annotations

import re
from base64 import b64decode
from dataclasses import dataclass
from sys import intern
from typing import TYPE_CHECKING, Generic, TypeVar

from airflow_provider_csc.slurm.states import JobState, parse_cancelled_by, parse_state
from airflow_provider_csc.slurm.values import parse_elapsed, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from airflow_provider_csc.slurm.framing import Frame

# What the answer says in place of the bytes of a log for which there was no room this time.
PUT_OFF = "-"
_PUT_OFF = PUT_OFF.encode()

# A character that no name, reason or path holds in practice.
SEPARATOR = "\x1f"

# squeue(1), -o. The name is last, because it alone is free text.
_QUEUE_FIELDS = ("%i", "%T", "%r", "%P", "%N", "%V", "%S", "%e", "%u", "%j")
QUEUE_FORMAT = SEPARATOR.join(_QUEUE_FIELDS)

# sacct(1), --format; every one of these exists from Slurm 20.11 on.
ACCOUNTING_FORMAT = (
    "JobID",
    "State",
    "ExitCode",
    "Reason",
    "Partition",
    "NodeList",
    "Submit",
    "Start",
    "End",
    "ElapsedRaw",
    "TotalCPU",
    "AllocCPUS",
    "NTasks",
    "MaxRSS",
    "TRESUsageInTot",
    "ReqMem",
    "AllocTRES",
    "NNodes",
    "TimelimitRaw",
    "Cluster",
    "User",
    "JobName",
)

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Answer(Generic[Row]):
    """A command answered; a job that has no row here is not known to it."""

    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """A command failed, so nothing is known; ``reason`` is what it said."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRow:
    """
    One job or array element as squeue shows it. Times: seconds since 1970, None if not set.

    Of one that waits ``started`` is when Slurm expects it to start, None where it does not say.
    ``ends_by`` is when one that runs, or is expected to, reaches its time limit.
    """

    job_id: str
    state: JobState
    reason: str
    partition: str
    nodes: str
    submitted: int | None
    started: int | None
    ended: int | None
    ends_by: int | None
    user: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountingRow:
    """One job (``123``), array element (``123_4``) or step (``123.batch``) as sacct shows it."""

    job_id: str
    state: JobState
    cancelled_by: str | None
    exit_code: int | None
    signal: int | None
    reason: str
    partition: str
    nodes: str
    submitted: int | None
    started: int | None
    ended: int | None
    elapsed_seconds: int | None
    cpu_seconds: float | None
    cpus: int | None
    tasks: int | None
    max_rss_bytes: int | None
    total_rss_bytes: int | None
    requested_memory: str
    granted: str
    node_count: int | None
    time_limit_minutes: int | None
    cluster: str
    user: str
    name: str

    @property
    def step(self) -> str | None:
        """The step's name (``batch``, ``extern``, ``0``), or None for the job itself."""
        _, dot, step = self.job_id.partition(".")
        return step if dot else None

    @property
    def is_provisional(self) -> bool:
        """
        Whether slurmdbd has the end of the job but not its beginning yet.

        Seen on 22.05 for jobs of a second or less: name ``allocation``, ReqMem ``16?``.
        """
        return self.name == "allocation" and self.requested_memory.endswith("?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerRow:
    """One job as ``scontrol show job`` shows it; for sites whose accounting is off."""

    job_id: str
    state: JobState
    exit_code: int | None
    signal: int | None
    restarts: int | None
    time_limit_minutes: int | None
    cpus: int | None
    node_count: int | None


class RowMemo:
    """
    Squeue's rows by their lines, from one answer to the next.

    What has not changed is not read again, and is the same object as ``before``; ``now`` are the
    rows of the present answer.
    """

    def __init__(self, before: Mapping[str, QueueRow] | None = None) -> None:
        self.before = before or {}
        self.now: dict[str, QueueRow] = {}


def parse_queue(frame: Frame, memo: RowMemo | None = None) -> Answer[QueueRow] | NoAnswer:
    """Read squeue's answer."""
    if frame.status != 0:
        # With a single id, squeue says so of one it does not know; that is an answer.
        if "Invalid job id specified" in frame.text:
            return Answer(())
        return NoAnswer(_last_line(frame, "squeue"))
    rows = _rows(frame, len(_QUEUE_FIELDS), _parse_queue_row, memo.before if memo else {})
    if memo is None:
        return Answer(tuple(row for _, row in rows))
    found = list(rows)
    memo.now.update(found)
    return Answer(tuple(row for _, row in found))


def parse_accounting(frame: Frame) -> Answer[AccountingRow] | NoAnswer:
    """Read sacct's answer, jobs and steps."""
    if frame.status != 0:
        return NoAnswer(_last_line(frame, "sacct"))
    rows = _rows(frame, len(ACCOUNTING_FORMAT), _parse_accounting_row, {})
    return Answer(tuple(row for _, row in rows))


def parse_controller(frame: Frame) -> Answer[ControllerRow] | NoAnswer:
    """Read the answer of ``scontrol --oneliner show job`` about one job, or about an array."""
    if frame.status != 0:
        if "Invalid job id specified" in frame.text:
            return Answer(())
        return NoAnswer(_last_line(frame, "scontrol"))
    lines = frame.data.decode(errors="replace").split("\n")
    found = [_parse_controller_row(line) for line in lines if line.startswith("JobId=")]
    return Answer(tuple(row for row in found if row is not None))


# What a user chose (the name before it, comment and paths behind it) may look like any field.
_CONTROLLER_ROW = re.compile(
    r"JobId=(?P<id>\d+) (ArrayJobId=(?P<array>\d+) ArrayTaskId=(?P<task>\S+) )?.*? "
    r"JobState=(?P<state>\S+) .*? Restarts=(?P<restarts>\d+) .*? ExitCode=(?P<exit>\d+:\d+) "
    r".*? TimeLimit=(?P<limit>\S+) .*? NumNodes=(?P<nodes>\d+)\S* NumCPUs=(?P<cpus>\d+)"
)


def _parse_controller_row(line: str) -> ControllerRow | None:
    match = _CONTROLLER_ROW.match(line)
    if match is None:
        return None
    exit_code, signal = _parse_exit_code(match["exit"])
    limit = _optional(parse_elapsed, match["limit"])
    return ControllerRow(
        job_id=f"{match['array']}_{match['task']}" if match["array"] else match["id"],
        state=parse_state(match["state"]),
        exit_code=exit_code,
        signal=signal,
        restarts=_integer(match["restarts"]),
        time_limit_minutes=None if limit is None else int(limit // 60),
        cpus=_integer(match["cpus"]),
        node_count=_integer(match["nodes"]),
    )


def is_without_accounting(answer: object) -> bool:
    """Whether the site keeps no accounting at all, so that waiting for it is in vain."""
    return isinstance(answer, NoAnswer) and "accounting storage is disabled" in answer.reason


def _rows(
    frame: Frame, width: int, parse: Callable[[list[str]], Row], known: Mapping[str, Row]
) -> Iterator[tuple[str, Row]]:
    """Yield each line of the form wanted, and its row; ``known`` lines are not read again."""
    for line in frame.data.decode(errors="replace").split("\n"):
        row = known.get(line)
        if row is None:
            fields = line.split(SEPARATOR, width - 1)
            # Lines that do not have the form are what other programs say on standard error.
            if len(fields) != width or not _JOB_ID.match(fields[0]):
                continue
            row = parse(fields)
        yield line, row


_JOB_ID = re.compile(r"\d+([_+.].*)?$")


def _parse_queue_row(fields: list[str]) -> QueueRow:
    job_id, state_text, reason, partition, nodes, submitted, started, ended, user, name = fields
    state = parse_state(state_text)
    return QueueRow(
        job_id=job_id,
        state=state,
        reason="" if reason == "None" else intern(reason),
        partition=intern(partition),
        nodes=nodes,
        submitted=_integer(submitted),
        started=_integer(started),
        # Until the end it is when the time limit would be reached.
        ended=_integer(ended) if state.is_final else None,
        ends_by=None if state.is_final else _integer(ended),
        user=intern(user),
        name=name,
    )


def _parse_accounting_row(fields: list[str]) -> AccountingRow:
    row = dict(zip(ACCOUNTING_FORMAT, fields, strict=True))
    exit_code, signal = _parse_exit_code(row["ExitCode"])
    return AccountingRow(
        job_id=row["JobID"],
        state=parse_state(row["State"]),
        cancelled_by=parse_cancelled_by(row["State"]),
        exit_code=exit_code,
        signal=signal,
        reason="" if row["Reason"] == "None" else row["Reason"],
        partition=row["Partition"],
        nodes="" if row["NodeList"] == "None assigned" else row["NodeList"],
        submitted=_integer(row["Submit"]),
        started=_integer(row["Start"]),
        ended=_integer(row["End"]),
        elapsed_seconds=_integer(row["ElapsedRaw"]),
        cpu_seconds=_optional(parse_elapsed, row["TotalCPU"]),
        cpus=_integer(row["AllocCPUS"]),
        tasks=_integer(row["NTasks"]),
        max_rss_bytes=_optional(parse_size, row["MaxRSS"]),
        total_rss_bytes=_optional(parse_size, _tres(row["TRESUsageInTot"], "mem")),
        requested_memory=row["ReqMem"],
        granted=row["AllocTRES"],
        node_count=_integer(row["NNodes"]),
        time_limit_minutes=_integer(row["TimelimitRaw"]),
        cluster=row["Cluster"],
        user=row["User"],
        name=row["JobName"],
    )


def _integer(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


Value = TypeVar("Value")


def _optional(parse: Callable[[str], Value], text: str) -> Value | None:
    try:
        return parse(text) if text else None
    except ValueError:
        return None


def _tres(text: str, name: str) -> str:
    pairs = dict(item.split("=", 1) for item in text.split(",") if "=" in item)
    return pairs.get(name, "")


def _parse_exit_code(text: str) -> tuple[int | None, int | None]:
    """Read sacct's ``ExitCode``, ``code:signal``."""
    code, _, signal = text.partition(":")
    return _integer(code), _integer(signal) or None


def _last_line(frame: Frame, command: str) -> str:
    lines = [line for line in frame.text.splitlines() if line.strip()]
    return lines[-1] if lines else f"{command} failed with status {frame.status} and said nothing"


def belongs_to(row_id: str, job_id: str) -> bool:
    """
    Whether a row is (an element, a step, a component of) the job asked for.

    ``123_4`` also matches the row of its still pending array, ``123_[0-9%2]``.
    """
    if row_id == job_id or (row_id.startswith(job_id) and row_id[len(job_id)] in "_+."):
        return True
    base, _, index = job_id.partition("_")
    pending = parse_pending(row_id)
    if pending is None or pending[0] != base or not index.isdecimal():
        return False
    return any(int(index) in ids for ids in pending[1])


_BASE_ID = re.compile(r"\d+")
_PENDING_ID = re.compile(r"(\d+)_\[(.*?)(%\d+)?\]")


def base_of(job_id: str) -> str:
    """Return the id of the array, or of the job, that an element, step or component is part of."""
    found = _BASE_ID.match(job_id)
    return found.group() if found else job_id


def parse_pending(row_id: str) -> tuple[str, list[range]] | None:
    """Return base id and elements of ``123_[0-9%2]``, a pending array; None for another id."""
    pending = _PENDING_ID.fullmatch(row_id)
    return (pending.group(1), list(_ranges(pending.group(2)))) if pending else None


def _ranges(spec: str) -> Iterator[range]:
    for part in spec.split(","):
        bounds, _, step = part.partition(":")
        first, _, last = bounds.partition("-")
        if all(each.isdecimal() for each in (first, last or first, step or "1")):
            yield range(int(first), int(last or first) + 1, int(step or 1) or 1)


_SUBMITTED = re.compile(r"^(\d+(?:_\d+)?)(?:;(\S+))?$", re.MULTILINE)


def parse_job_id(text: str) -> str | None:
    """
    Read ``sbatch --parsable``'s answer (``123`` or ``123;cluster``) among any warnings.

    In a run directory it may also be one element of an array, ``123_4``.
    """
    found = _SUBMITTED.findall(text)
    return found[-1][0] if found else None


# What sbatch says when it cannot know whether the controller took the job (slurm_errno.c,
# SLURM_COMMUNICATIONS_* and SLURM_PROTOCOL_*; the socket's own errors besides).
_NO_VERDICT = re.compile(
    r"timed out|Unable to contact slurm controller|Communication (connection|send|receive|shutdown)"
    r"|Zero Bytes were transmitted|Unexpected message received|Connection (refused|reset)"
    r"|Transport endpoint|Message receive failure|Protocol version|standby mode|Broken pipe"
    r"|Protocol authentication error|Insane message length|Header lengths are longer"
    r"|Message send failure|Unspecified error|Resource temporarily unavailable|temporarily unable",
    re.IGNORECASE,
)


def is_submit_verdict(frame: Frame) -> bool:
    """Whether a failed sbatch is known to have submitted nothing."""
    # Not more: 255 is what sbatch ends with when it does not understand its arguments.
    killed = 128 < frame.status <= 128 + 64  # noqa: PLR2004
    timed_out = frame.status == 124  # noqa: PLR2004 - of timeout(1)
    return not killed and not timed_out and bool(frame.text) and not _NO_VERDICT.search(frame.text)


def parse_log_paths(text: str) -> tuple[str | None, str | None]:
    """Read StdOut and StdErr of ``scontrol --oneliner show job``."""
    found = dict(re.findall(r" (StdOut|StdErr|StdIn)=(.*?)(?= \w+=|\s*$)", text))
    stdout = found.get("StdOut") or None
    return stdout, found.get("StdErr") or stdout


def parse_log(frame: Frame) -> tuple[int, int, bytes] | None:
    """Return size, offset and bytes of a log that was read; None where there is no such file."""
    if frame.status != 0:
        return None
    size, offset, data = frame.data.split(b" ", 2)
    return int(size), int(offset), b"" if data == _PUT_OFF else b64decode(data)


def is_put_off(frame: Frame) -> bool:
    """Whether there was no room for any bytes of a log, though there are some."""
    return frame.status == 0 and frame.data.endswith(b" " + _PUT_OFF)
