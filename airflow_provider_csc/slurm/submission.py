"""Decide what to do about a submission from what the site says of it; submit only when none is."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from airflow_provider_csc.errors import (
    ConfigError,
    SiteUnavailableError,
    SubmitKilledError,
    SubmitRejectedError,
    SubmitUnknownError,
)
from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.slurm.array_parts import ArrayPart, parse_part
from airflow_provider_csc.slurm.array_record import ArrayRecord, parse_note
from airflow_provider_csc.slurm.array_rows import find_completed
from airflow_provider_csc.slurm.arrays import NO_TASKS, ArraySpec
from airflow_provider_csc.slurm.batch import ExitRecord, parse_exit_record
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.identity import Number, build_token, parse_token, split_token
from airflow_provider_csc.slurm.output import (
    AccountingRow,
    Answer,
    QueueRow,
    belongs_to,
    is_submit_verdict,
    is_without_accounting,
    parse_accounting,
    parse_job_id,
    parse_log_paths,
    parse_queue,
)
from airflow_provider_csc.slurm.rejections import explain_rejection, find_remedy, is_temporary
from airflow_provider_csc.slurm.states import STATES
from airflow_provider_csc.slurm.submit_commands import GIVEN_UP
from airflow_provider_csc.slurm.verdict import UNKNOWN, Evidence, judge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_csc.slurm.identity import TaskIdentity
    from airflow_provider_csc.slurm.states import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """
    A job that exists, and where its files are. ``stderr_path`` may equal ``stdout_path``.

    ``asked`` are the options that were asked for, as sbatch's arguments. Of an array ``array`` is
    which tasks this job runs, ``earlier`` what jobs before it completed (see `array_parts`,
    `array_record`), ``whole`` the array as it was asked for; its paths are patterns.
    ``array_token`` names the array of several tasks' jobs that it is an element of: its name ends
    with that.
    """

    job_id: str
    run_dir: str
    stdout_path: str
    stderr_path: str
    is_adopted: bool = False
    asked: tuple[str, ...] = ()
    array: ArrayPart | None = None
    earlier: ArrayRecord = field(default_factory=ArrayRecord)
    whole: ArraySpec | None = None
    array_token: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """The run directory of this very submission exists already, but holds no job id (yet)."""

    run_dir: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """A kill came first: nothing was submitted, or the job was cancelled once it had an id."""

    run_dir: str
    job_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoVerdict:
    """sbatch failed without saying whether the job was accepted."""

    run_dir: str
    message: str


_OK = Frame(0, b"")


def read_submit_answer(
    frames: Mapping[str, Frame], *, work_dir: str | None, base_dir: str, log_name: str
) -> Submission | Claimed | NoVerdict | Killed:
    """
    Read what one submission step did.

    :raises ConfigError: for a directory that cannot be used; nothing was submitted.
    :raises SiteUnavailableError: for one that is full just now; nothing was submitted.
    :raises SubmitRejectedError: when sbatch refused; no job exists, the run directory still does.
    :raises SubmitKilledError: when a later try has given this submission up; no job is left.
    """
    run_dir = frames["run_dir"].text
    check_directories(frames, work_dir=work_dir, base_dir=base_dir)
    if "existing" in frames:
        group = read_group(_text(frames.get("group")))
        found = _read_existing(frames["existing"], run_dir, log_name, group)
        array = _read_part(frames.get("array"))
        return replace(found, array=array) if isinstance(found, Submission) else found
    sbatch = frames.get("sbatch", _OK)
    job_id = parse_job_id(sbatch.text) if sbatch.status == 0 else None
    # A job that a kill could not cancel is one that its task still has to cancel.
    if "killed" in frames and frames["killed"].status == 0:
        return Killed(run_dir=run_dir, job_id=job_id)
    if job_id is None:
        return read_refusal(sbatch, run_dir, _new_base(frames))
    stdout, stderr = parse_log_paths(frames["paths"].text) if "paths" in frames else (None, None)
    default = f"{run_dir}/{log_name}"
    return Submission(
        job_id=job_id,
        run_dir=run_dir,
        stdout_path=stdout or default,
        stderr_path=stderr or stdout or default,
    )


def check_directories(frames: Mapping[str, Frame], *, work_dir: str | None, base_dir: str) -> None:
    """
    Raise what kept a submission from its directories; see `read_submit_answer`.

    :raises SubmitUnknownError: when a job of before could not be cancelled.
    """
    if frames.get("work_dir", _OK).status != 0:
        said = frames["work_dir"].complaint or "you may not write there"
        raise ConfigError(
            f"work_dir: {work_dir!r} cannot be used on the cluster ({said}). Make it, or name one "
            "that is writable. Nothing was submitted.",
            field="work_dir",
            value=work_dir,
        )
    if "existing" in frames or "killed" in frames:
        return
    superseded = frames.get("superseded", _OK)
    if superseded.status != 0:
        raise SubmitUnknownError(
            "A deleted DAG run of the same id left a job in "
            f"{frames['run_dir'].text}, which could not be cancelled: {superseded.complaint}. "
            "Nothing was submitted.",
            run_dir=None,
        )
    if "newer" in frames:
        raise _outdated(frames["newer"].text, frames["run_dir"].text)
    for step in ("aside", "base", "claim", "files"):
        frame = frames.get(step, _OK)
        if frame.status != 0:
            made = {
                "run_dir": frames["run_dir"].text if step == "files" else None,
                "new_base": _new_base(frames),
            }
            raise _unusable(base_dir, frame.complaint, **made)


def _outdated(run_started: str, run_dir: str | None) -> ConfigError:
    return ConfigError(
        f"A DAG run of the same id that began later ({run_started}) has submitted this task "
        "already. Nothing was submitted.",
        field="run_id",
        value=run_dir,
    )


# strerror(3) of ENOSPC, EDQUOT, EIO, ESTALE, EROFS, ESHUTDOWN: what a person or time can mend.
_FULL = re.compile(
    r"No space left on device|quota exceeded|Input/output error|Stale file handle"
    r"|Read-only file system|Cannot send after transport endpoint shutdown"
)


def _unusable(
    base_dir: str, complaint: str, **details: str | None
) -> ConfigError | SiteUnavailableError:
    if _FULL.search(complaint):
        return SiteUnavailableError(
            f"No run directory can be made below {base_dir!r} ({complaint}). Make room there: "
            "look at the quotas of bytes and of files. Nothing was submitted.",
            **details,
        )
    return ConfigError(
        f"work_dir of the connection: run directories cannot be made below {base_dir!r} "
        f"({complaint}). Name a directory that is writable, has room, and is on a file system "
        "shared with the compute nodes. Nothing was submitted.",
        field="work_dir",
        value=base_dir,
        **details,
    )


def _read_existing(
    frame: Frame, run_dir: str, log_name: str, array: GroupElement | None
) -> Submission | Claimed:
    job_id = parse_job_id(frame.text) if frame.status == 0 else None
    if frame.text.startswith(GIVEN_UP):
        raise given_up(frame.text, run_dir)
    if job_id is None:
        return Claimed(run_dir=run_dir)
    found = adopt(job_id, run_dir, recorded=frame.text, log_name=log_name)
    return replace(found, array_token=array.token_of(job_id) if array else None)


def given_up(said: str, run_dir: str) -> SubmitKilledError:
    """Return the error for a submission that a later try has given up."""
    return SubmitKilledError(
        f"A later try of this task went on without this submission ({said}). No job of "
        "it will run.",
        run_dir=run_dir,
        job_id=None,
    )


@dataclass(frozen=True, slots=True)
class GroupElement:
    """Which element of an array of several tasks' jobs the job of a run directory is to be."""

    token: str
    index: int

    def token_of(self, job_id: str) -> str | None:
        """Return what the job's name ends with, if it is this element."""
        return self.token if job_id.endswith(f"_{self.index}") else None


def read_group(text: str) -> GroupElement | None:
    """Read ``<token> <index>``, as an identity tells it; None where it names no array."""
    token, _, index = text.partition(" ")
    if parse_token(token) != token or not index.isdecimal():
        return None
    return GroupElement(token, int(index))


def _read_part(frame: Frame | None) -> ArrayPart | None:
    """Return which tasks of an array a submission runs, as its identity file says."""
    try:
        return parse_part(frame.text) if frame and frame.text else None
    except NotationError:
        return None


def adopt(job_id: str, run_dir: str, *, recorded: str, log_name: str) -> Submission:
    """Return an earlier submission from what its run directory recorded."""
    stdout, stderr = parse_log_paths(recorded)
    # Of a job that was found by its name alone no file is known.
    default = f"{run_dir}/{log_name}" if run_dir else ""
    return Submission(
        job_id=job_id,
        run_dir=run_dir,
        stdout_path=stdout or default,
        stderr_path=stderr or default,
        is_adopted=True,
    )


def _new_base(frames: Mapping[str, Frame]) -> str:
    """Return the topmost directory that this submission made above its run directory, or ''."""
    return frames.get("new_base", _OK).data.decode(errors="replace")


def read_refusal(sbatch: Frame, run_dir: str, new_base: str) -> NoVerdict:
    """
    Read what an sbatch that gave no id said.

    :raises SubmitRejectedError: when it is known that nothing was submitted.
    :raises SiteUnavailableError: when the controller takes nothing now; nothing was submitted.
    """
    if sbatch.status == 0 or not is_submit_verdict(sbatch):
        return NoVerdict(run_dir=run_dir, message=sbatch.text)
    said = "\n".join(line for line in sbatch.text.splitlines()[-5:])
    known = explain_rejection(sbatch.text)
    if known and known.is_busy:
        raise SiteUnavailableError(
            f"Slurm takes no more jobs just now ({said}). Nothing was submitted.",
            run_dir=run_dir,
            new_base=new_base,
            stderr=sbatch.text,
        )
    raise SubmitRejectedError(
        f"Slurm refused the job: {said}\n{find_remedy(sbatch.text)} Nothing was submitted.",
        is_temporary=is_temporary(sbatch.text),
        is_queue_limit=known is not None and known.is_queue_limit,
        run_dir=run_dir,
        new_base=new_base,
        stderr=sbatch.text,
        exit_status=sbatch.status,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Previous:
    """
    One earlier submission of the same task instance, as the site remembers it.

    ``age_seconds`` is how long ago it was made, ``no_verdict_age`` how long ago its sbatch ended
    without a verdict, if it did so; both by the cluster's clock. ``noted`` is the state that its
    task took note of, if it did; ``is_killed`` tells that a kill left its mark. Of an array
    ``array`` is which tasks it was to run, and ``completed`` which of them did complete.
    ``group`` is where its job was to be an element of an array of several tasks.
    """

    number: Number
    job_id: str | None
    run_dir: str | None
    state: JobState
    run_started: str = ""
    age_seconds: int | None = None
    no_verdict_age: int | None = None
    recorded: str = ""
    noted: str = ""
    is_killed: bool = False
    array: ArrayPart | None = None
    completed: ArraySpec = NO_TASKS
    group: GroupElement | None = None

    @property
    def is_given_up(self) -> bool:
        """Whether a later submission went on without it; whatever comes of it ends by itself."""
        return self.recorded.startswith(GIVEN_UP)

    @property
    def is_live(self) -> bool:
        """
        Whether it may still run: everything that is not known to have ended, if it exists.

        A job that no source knows any more is not waited for again when its task has taken note of
        its failure (where there is no accounting, squeue forgets that soon), or has given it up as
        UNKNOWN; what follows means to run anew. Of an array also a success is over: what it
        completed is not run again.
        """
        noted = STATES.get(self.noted, UNKNOWN)
        is_over = noted.is_final and (self.array is not None or not noted.is_success)
        is_noted = self.state is UNKNOWN and (is_over or self.noted == UNKNOWN.name)
        return self.job_id is not None and not self.state.is_final and not is_noted

    def is_of_another_run(self, run_started: str, run_seconds: float) -> bool:
        """
        Whether a deleted DAG run of the same id submitted it.

        Its run directory says when its run began. Of a job without one only the age is known, to a
        minute or so; it must not be older than the run.
        """
        if self.run_started and run_started:
            return self.run_started != run_started
        return self.run_dir is None and _is_older(self.age_seconds, run_seconds)

    @property
    def may_be_submitting(self) -> bool:
        """
        Whether a job may yet come of it: a claim without an id that is not old.

        One whose sbatch ended without a verdict is only given the time that slurmctld may need to
        read what lies in its socket. A clock that was put back must not make it wait for ever.
        """
        is_unwanted = self.is_given_up or self.is_killed
        if self.job_id is not None or self.run_dir is None or is_unwanted:
            return False
        if self.no_verdict_age is not None:
            return abs(self.no_verdict_age) <= _UNREAD_SECONDS
        return abs(self.age_seconds or 0) <= _STALE_CLAIM_SECONDS


def _is_older(age_seconds: int | None, run_seconds: float) -> bool:
    return age_seconds is not None and age_seconds > run_seconds + 60


# How long after the end of an sbatch without a verdict its job may still come into being.
_UNREAD_SECONDS = 15
# A run directory without a job id and older than this was left by a step that was broken off.
_STALE_CLAIM_SECONDS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUp:
    """Everything the site knows of a task instance, the newest submission last."""

    previous: tuple[Previous, ...]
    is_complete: bool
    problem: str = ""

    def find(self, number: Number) -> Previous | None:
        """Return one submission of the task instance, if the site knows it."""
        return next((one for one in self.previous if one.number == number), None)


def read_look_up(frames: Mapping[str, Frame], key: str, *, run_seconds: float) -> LookUp:
    """
    Read run directories, squeue and sacct into one list of submissions.

    The DAG run began ``run_seconds`` ago. A job that was found by its name alone and is older than
    that is not the one of a run directory without an id.
    """
    return _read_one(frames, key, _read_books(frames), run_seconds=run_seconds)


def read_look_ups(frames: Mapping[str, Frame], keys: Mapping[str, float]) -> dict[str, LookUp]:
    """
    Read the same of many task instances: ``keys`` with the seconds since their DAG runs began.

    The frames of a run directory are called ``<name>.<key>.<suffix>`` here.
    """
    books = _read_books(frames)
    parts: dict[str, dict[str, Frame]] = {key: {"clock": frames["clock"]} for key in keys}
    for full_name, frame in frames.items():
        name, _, rest = full_name.partition(".")
        key, _, suffix = rest.partition(".")
        if suffix and key in parts:
            parts[key][f"{name}.{suffix}"] = frame
    return {
        key: _read_one(parts[key], key, books, run_seconds=run_seconds)
        for key, run_seconds in keys.items()
    }


@dataclass(frozen=True, slots=True)
class _Books:
    """What squeue and sacct say, by the token of a job's name, and why one of them said nothing."""

    clock: int
    queued: Mapping[str, list[QueueRow]]
    accounted: Mapping[str, list[AccountingRow]]
    tokens: Mapping[str, list[str]]
    is_complete: bool
    problem: str


def _read_books(frames: Mapping[str, Frame]) -> _Books:
    queue, accounting = parse_queue(frames["squeue"]), parse_accounting(frames["sacct"])
    queued = _by_token(queue.rows if isinstance(queue, Answer) else ())
    accounted = _by_token(accounting.rows if isinstance(accounting, Answer) else ())
    tokens: dict[str, list[str]] = {}
    for token in {*queued, *accounted}:
        tokens.setdefault(token.partition(".")[0], []).append(token)
    problems = [answer.reason for answer in (queue, accounting) if not isinstance(answer, Answer)]
    return _Books(
        clock=int(frames["clock"].text),
        queued=queued,
        accounted=accounted,
        tokens=tokens,
        is_complete=isinstance(queue, Answer)
        and (isinstance(accounting, Answer) or is_without_accounting(accounting)),
        problem="; ".join(problems),
    )


def _read_one(
    frames: Mapping[str, Frame], key: str, books: _Books, *, run_seconds: float
) -> LookUp:
    known = {_number_of(token) for token in books.tokens.get(key, ())}
    numbers = sorted({*known, *_directory_numbers(frames, key)})
    return LookUp(
        previous=tuple(
            _previous(build_token(key, number), frames, books, run_seconds=run_seconds)
            for number in numbers
        ),
        is_complete=books.is_complete,
        problem=books.problem,
    )


Row = TypeVar("Row", QueueRow, AccountingRow)


def _by_token(rows: tuple[Row, ...]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if token := parse_token(row.name):
            found.setdefault(token, []).append(row)
    return found


def _number_of(token: str) -> Number:
    _key, try_number, resubmission = split_token(token)
    return try_number, resubmission


def _directory_numbers(frames: Mapping[str, Frame], key: str) -> list[Number]:
    tokens = [f"{key}.{name.removeprefix('dir.')}" for name in frames if name.startswith("dir.")]
    return [_number_of(token) for token in tokens if parse_token(token) == token]


def _elements(rows: Sequence[Row], array: GroupElement | None) -> list[Row]:
    """Return the rows of one element of an array, under its own id; there may be two arrays."""
    found = []
    for row in rows if array else ():
        element = f"{row.job_id.partition('_')[0]}_{array.index}" if array else ""
        if belongs_to(row.job_id, element):
            found.append(replace(row, job_id=element))
    return found


def _previous(
    token: str, frames: Mapping[str, Frame], books: _Books, *, run_seconds: float
) -> Previous:
    number = _number_of(token)
    files = _files_of(number, frames)
    clock = books.clock
    directory, job_frame = files.get("dir"), files.get("job_id")
    group = read_group(_text(files.get("group")))
    queued, accounted = books.queued.get(token, []), books.accounted.get(token, [])
    if group:
        queued = [*queued, *_elements(books.queued.get(group.token, []), group)]
        accounted = [*accounted, *_elements(books.accounted.get(group.token, []), group)]
    job_id = parse_job_id(job_frame.text) if job_frame and job_frame.status == 0 else None
    is_given_up = job_frame is not None and job_frame.text.startswith(GIVEN_UP)
    if job_id is None:
        if directory is not None:
            # A run of the same id that was deleted may have had a job of the same name.
            queued = [row for row in queued if not _is_older(_age(clock, None, [row]), run_seconds)]
            accounted = [
                row for row in accounted if not _is_older(_age(clock, None, [row]), run_seconds)
            ]
        found = _pick(queued, accounted)
        # The elements of an array are one job, but for one of several tasks' jobs.
        job_id = found if group or found is None else found.partition("_")[0]
    if job_id is None and group and not is_given_up:
        array_id = parse_job_id(_text(files.get("group_id")))
        job_id = f"{array_id}_{group.index}" if array_id else None
    if job_id is not None:
        queued = [row for row in queued if belongs_to(row.job_id, job_id)]
        accounted = [row for row in accounted if belongs_to(row.job_id, job_id)]
    exit_frame = files.get("exit")
    record: ExitRecord | None = parse_exit_record(exit_frame.data) if exit_frame else None
    own = record if record and record.job_id == job_id else None
    evidence = Evidence(
        queue=Answer(tuple(queued)), accounting=Answer(tuple(accounted)), exit_record=own
    )
    verdict = _text(files.get("verdict"))
    array = _read_part(files.get("array"))
    completed = None
    if array is not None and job_id is not None:
        completed = parse_note(verdict.partition("\n")[2].strip()) if verdict else None
        if completed is None:
            records = files.get("exits", _OK).data
            completed = find_completed(job_id, array, queued, accounted, records)
    return Previous(
        number=number,
        job_id=job_id,
        array=array,
        completed=completed or NO_TASKS,
        run_dir=directory.text if directory else None,
        state=judge(evidence).state if job_id else UNKNOWN,
        run_started=_text(files.get("run")),
        age_seconds=_age(clock, files.get("made"), [*queued, *accounted]),
        no_verdict_age=_age(clock, files.get("no_verdict"), []),
        recorded=job_frame.text if job_frame else "",
        # Of an array a second line follows.
        noted=verdict.partition("\n")[0].strip(),
        is_killed="cancel" in files,
        group=group,
    )


def _pick(queued: Sequence[QueueRow], accounted: Sequence[AccountingRow]) -> str | None:
    """
    Return the id among jobs of one name that counts: one that lives, else one that succeeded.

    There is more than one when a submission was made twice; all but one of them end by themselves.
    """
    known: list[QueueRow | AccountingRow] = [*queued, *accounted]
    ended = {row.job_id for row in queued if row.state.is_final}

    def rank(row: QueueRow | AccountingRow) -> int:
        is_live = not row.state.is_final and row.job_id not in ended
        return 0 if is_live else 1 if row.state.is_success else 2

    return min(known, key=rank).job_id if known else None


def _files_of(number: Number, frames: Mapping[str, Frame]) -> dict[str, Frame]:
    try_number, resubmission = number
    suffix = f".{try_number}" + (f".{resubmission}" if resubmission else "")
    names = (
        *("dir", "made", "run", "job_id", "exit", "verdict", "no_verdict", "cancel"),
        *("array", "exits", "group", "group_id"),
    )
    return {name: frames[name + suffix] for name in names if name + suffix in frames}


def _text(frame: Frame | None) -> str:
    return frame.text if frame and frame.status == 0 else ""


def _age(clock: int, made: Frame | None, rows: Sequence[QueueRow | AccountingRow]) -> int | None:
    """Return the age of a submission by the cluster's clock, from a file's time or its rows."""
    times = [int(made.text)] if made and made.text.isdecimal() else []
    times += [row.submitted for row in rows if row.submitted]
    return clock - times[0] if times else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """
    What to do: adopt one job, or cancel some and submit anew; ``why`` goes to the log.

    Before either, ``give_up`` are the claims without an id of which no job may come any more.
    ``mine`` are the submissions of this generation, the newest last.
    """

    adopt: Previous | None = None
    cancel: tuple[Previous, ...] = ()
    give_up: tuple[Previous, ...] = ()
    mine: tuple[Previous, ...] = ()
    why: str


def decide(look_up: LookUp, identity: TaskIdentity, *, run_seconds: float) -> Decision:
    """
    Decide about the submissions that came before one.

    A retry of the same generation adopts a job that still runs, or that succeeded without anybody
    having taken note (its worker was lost). In a new generation (a user cleared the task) whatever
    still runs is unwanted; so is what a deleted DAG run of the same id left, which began
    ``run_seconds`` ago or earlier; and of two jobs that live, the older.

    :raises ConfigError: when it is this run that was deleted, and a later one has submitted.
    """
    for each in look_up.previous:
        if identity.run_started and each.run_started > identity.run_started:
            raise _outdated(each.run_started, each.run_dir)
    others = [
        each
        for each in look_up.previous
        if each.is_of_another_run(identity.run_started, run_seconds)
    ]
    before = [each for each in look_up.previous if each.number < identity.number or each in others]
    given_up = tuple(
        each
        for each in before
        if each.number < identity.number
        and each.run_dir
        and not each.job_id
        and not each.is_given_up
    )
    earlier = [each for each in before if each.job_id]
    mine = [
        each
        for each in earlier
        if each.number[0] >= identity.first_try and not each.is_given_up and each not in others
    ]
    # Of an array that is over, what completed is kept and the rest is run: see `array_submitter`.
    wanted = [
        each for each in mine if each.is_live or (each.state.is_success and each.array is None)
    ]
    newest = wanted[-1] if wanted else None
    # What squeue does not show needs no cancelling, and its id may be another job's by now.
    shown = [each for each in earlier if each.is_live and each.state is not UNKNOWN]
    old = tuple(each for each in shown if each is not newest)
    if newest:
        why = _describe_adoption(newest)
    elif old:
        names = ", ".join(f"{each.job_id} ({each.state.name})" for each in old)
        why = (
            f"The task was cleared, or its run made anew: job {names} of before is cancelled, "
            "then a new one is submitted."
        )
    else:
        why = _describe_anew(earlier, mine, identity)
    return Decision(adopt=newest, cancel=old, give_up=given_up, mine=tuple(mine), why=why)


def _describe_adoption(previous: Previous) -> str:
    is_over = previous.state.is_final
    reason = "which ended without the task having taken note" if is_over else "which is still there"
    return (
        f"Try {previous.number[0]} of this task submitted job {previous.job_id}, {reason} "
        f"({previous.state.name}); it is adopted, nothing is submitted again."
    )


def _describe_anew(
    earlier: Sequence[Previous], mine: Sequence[Previous], identity: TaskIdentity
) -> str:
    if not earlier:
        return "No earlier try of this task has submitted a job; submitting one."
    ended = ", ".join(f"{each.job_id} ({each.state.name})" for each in earlier)
    if any(each.completed for each in mine):
        return f"The earlier job {ended} is over: what it did not complete is submitted."
    if any(each.number[0] == identity.try_number for each in mine):
        why = "the retry policy asks for another"
    else:
        why = "this is a retry" if mine else "the task was cleared"
    return f"The earlier job {ended} is over and {why}: submitting a new one."
