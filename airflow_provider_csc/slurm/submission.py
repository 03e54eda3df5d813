"""Decide what to do about a submission from what the site says of it; submit only when none is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from airflow_provider_csc.errors import ConfigError, SubmitRejectedError, SubmitUnknownError
from airflow_provider_csc.slurm.batch import ExitRecord, parse_exit_record
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.identity import parse_token
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
from airflow_provider_csc.slurm.rejections import find_remedy, is_temporary
from airflow_provider_csc.slurm.verdict import UNKNOWN, Evidence, judge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_csc.slurm.states import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A job that exists, and where its files are. ``stderr_path`` may equal ``stdout_path``."""

    job_id: str
    run_dir: str
    stdout_path: str
    stderr_path: str
    is_adopted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """The run directory of this very try exists already, but holds no job id (yet)."""

    run_dir: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoVerdict:
    """sbatch failed without saying whether the job was accepted."""

    run_dir: str
    message: str


_OK = Frame(0, b"")


def read_submit_answer(
    frames: Mapping[str, Frame], *, work_dir: str | None, base_dir: str, log_name: str
) -> Submission | Claimed | NoVerdict:
    """
    Read what one submission step did.

    :raises ConfigError: for a directory that cannot be used; nothing was submitted.
    :raises SubmitRejectedError: when sbatch refused; no job exists, the run directory still does.
    """
    run_dir = frames["run_dir"].text
    _check_directories(frames, work_dir=work_dir, base_dir=base_dir)
    if "existing" in frames:
        return _read_existing(frames["existing"], run_dir, log_name)
    sbatch = frames["sbatch"]
    job_id = parse_job_id(sbatch.text) if sbatch.status == 0 else None
    if job_id is None:
        return _read_refusal(sbatch, run_dir, _new_base(frames))
    stdout, stderr = parse_log_paths(frames["paths"].text) if "paths" in frames else (None, None)
    default = f"{run_dir}/{log_name}"
    return Submission(
        job_id=job_id,
        run_dir=run_dir,
        stdout_path=stdout or default,
        stderr_path=stderr or stdout or default,
    )


def _check_directories(frames: Mapping[str, Frame], *, work_dir: str | None, base_dir: str) -> None:
    if frames.get("work_dir", _OK).status != 0:
        said = frames["work_dir"].complaint or "you may not write there"
        raise ConfigError(
            f"work_dir: {work_dir!r} cannot be used on the cluster ({said}). Make it, or name one "
            "that is writable. Nothing was submitted.",
            field="work_dir",
            value=work_dir,
        )
    if "existing" in frames:
        return
    superseded = frames.get("superseded", _OK)
    if superseded.status != 0:
        raise SubmitUnknownError(
            "A deleted DAG run of the same id left a job in "
            f"{frames['run_dir'].text}, which could not be cancelled: {superseded.complaint}. "
            "Nothing was submitted.",
            run_dir=None,
        )
    for step in ("base", "claim", "files"):
        frame = frames.get(step, _OK)
        if frame.status != 0:
            raise ConfigError(
                f"work_dir of the connection: run directories cannot be made below {base_dir!r} "
                f"({frame.complaint}). Name a directory that is writable, has room, and is on a "
                "file system shared with the compute nodes. Nothing was submitted.",
                field="work_dir",
                value=base_dir,
                run_dir=frames["run_dir"].text if step == "files" else None,
                new_base=_new_base(frames),
            )


def _read_existing(frame: Frame, run_dir: str, log_name: str) -> Submission | Claimed:
    job_id = parse_job_id(frame.text) if frame.status == 0 else None
    if job_id is None:
        return Claimed(run_dir=run_dir)
    return adopt(job_id, run_dir, recorded=frame.text, log_name=log_name)


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


def _read_refusal(sbatch: Frame, run_dir: str, new_base: str) -> NoVerdict:
    if sbatch.status == 0 or not is_submit_verdict(sbatch):
        return NoVerdict(run_dir=run_dir, message=sbatch.text)
    said = "\n".join(line for line in sbatch.text.splitlines()[-5:])
    raise SubmitRejectedError(
        f"Slurm refused the job: {said}\n{find_remedy(sbatch.text)} Nothing was submitted.",
        is_temporary=is_temporary(sbatch.text),
        run_dir=run_dir,
        new_base=new_base,
        stderr=sbatch.text,
        exit_status=sbatch.status,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Previous:
    """One earlier submission of the same task instance, as the site remembers it."""

    try_number: int
    job_id: str | None
    run_dir: str | None
    state: JobState
    age_seconds: int | None = None
    recorded: str = ""

    @property
    def is_live(self) -> bool:
        """Whether it may still run: everything that is not known to have ended, if it exists."""
        return self.job_id is not None and not self.state.is_final

    def is_older_than(self, seconds: float) -> bool:
        """Whether it was made longer ago than that, with a minute for what rounding costs."""
        return self.age_seconds is not None and self.age_seconds > seconds + 60

    def may_be_submitting(self, stale_seconds: int) -> bool:
        """Whether its remote step may still be at work: a run directory, no job id, not old."""
        is_claim = self.job_id is None and self.run_dir is not None
        return is_claim and (self.age_seconds or 0) <= stale_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUp:
    """Everything the site knows of a task instance, the newest submission last."""

    previous: tuple[Previous, ...]
    is_complete: bool
    problem: str = ""


def read_look_up(frames: Mapping[str, Frame], key: str) -> LookUp:
    """Read run directories, squeue and sacct into one list of submissions."""
    queue, accounting = parse_queue(frames["squeue"]), parse_accounting(frames["sacct"])
    rows = queue.rows if isinstance(queue, Answer) else ()
    jobs = accounting.rows if isinstance(accounting, Answer) else ()
    by_try = _by_try(rows, key)
    accounted = _by_try(jobs, key)
    tries = sorted({*by_try, *accounted, *_directory_tries(frames)})
    problems = [answer.reason for answer in (queue, accounting) if not isinstance(answer, Answer)]
    return LookUp(
        previous=tuple(
            _previous(number, frames, by_try.get(number, []), accounted.get(number, []))
            for number in tries
        ),
        is_complete=isinstance(queue, Answer)
        and (isinstance(accounting, Answer) or is_without_accounting(accounting)),
        problem="; ".join(problems),
    )


Row = TypeVar("Row", QueueRow, AccountingRow)


def _by_try(rows: tuple[Row, ...], key: str) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in rows:
        token = parse_token(row.name)
        if token and token.startswith(f"{key}."):
            found.setdefault(int(token.rpartition(".")[2]), []).append(row)
    return found


def _directory_tries(frames: Mapping[str, Frame]) -> list[int]:
    numbers = [name.removeprefix("dir.") for name in frames if name.startswith("dir.")]
    return [int(number) for number in numbers if number.isdecimal()]


def _previous(
    number: int,
    frames: Mapping[str, Frame],
    queued: list[QueueRow],
    accounted: list[AccountingRow],
) -> Previous:
    directory, job_frame = frames.get(f"dir.{number}"), frames.get(f"job_id.{number}")
    job_id = parse_job_id(job_frame.text) if job_frame and job_frame.status == 0 else None
    if job_id is None:
        job_id = next(
            iter([row.job_id for row in queued] + [row.job_id for row in accounted]), None
        )
    else:
        # A run of the same id that was deleted may have had a job of the same name.
        queued = [row for row in queued if belongs_to(row.job_id, job_id)]
        accounted = [row for row in accounted if belongs_to(row.job_id, job_id)]
    exit_frame = frames.get(f"exit.{number}")
    record: ExitRecord | None = parse_exit_record(exit_frame.data) if exit_frame else None
    own = record if record and record.job_id == job_id else None
    evidence = Evidence(
        queue=Answer(tuple(queued)), accounting=Answer(tuple(accounted)), exit_record=own
    )
    return Previous(
        try_number=number,
        job_id=job_id,
        run_dir=directory.text if directory else None,
        state=judge(evidence).state if job_id else UNKNOWN,
        age_seconds=_age(frames, number, [*queued, *accounted]),
        recorded=job_frame.text if job_frame else "",
    )


def _age(
    frames: Mapping[str, Frame], number: int, rows: Sequence[QueueRow | AccountingRow]
) -> int | None:
    """Return the age of a submission by the cluster's clock, from its directory or its rows."""
    made = frames.get(f"made.{number}")
    times = [int(made.text)] if made and made.text.isdecimal() else []
    times += [row.submitted for row in rows if row.submitted]
    return int(frames["clock"].text) - times[0] if times else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do: adopt one job, or cancel some and submit anew; ``why`` goes to the log."""

    adopt: Previous | None = None
    cancel: tuple[Previous, ...] = ()
    why: str


def decide(
    look_up: LookUp, *, try_number: int, first_try: int, run_seconds: float = math.inf
) -> Decision:
    """
    Decide about the submissions of earlier tries.

    A retry of the same generation adopts a job that still runs, or that succeeded without anybody
    having taken note (its worker was lost). In a new generation (a user cleared the task) whatever
    still runs is unwanted; so is what is older than the DAG run (``run_seconds``), which a deleted
    run of the same id left.
    """
    earlier = [each for each in look_up.previous if each.try_number < try_number and each.job_id]
    mine = [
        each
        for each in earlier
        if each.try_number >= first_try and not each.is_older_than(run_seconds)
    ]
    old = tuple(each for each in earlier if each.is_live and each not in mine)
    wanted = [each for each in mine if each.is_live or each.state.is_success]
    if wanted:
        newest = wanted[-1]
        return Decision(
            adopt=newest,
            cancel=old,
            why=(
                f"Try {newest.try_number} of this task submitted job {newest.job_id}, which is "
                f"{newest.state.name}; it is adopted, nothing is submitted again."
            ),
        )
    if old:
        names = ", ".join(f"{each.job_id} ({each.state.name})" for each in old)
        return Decision(
            cancel=old,
            why=f"The task was cleared, or its run made anew; job {names} is cancelled first.",
        )
    return Decision(why=f"{len(earlier)} earlier job(s) of this task have ended.")
