"""
Our exception hierarchy.

CscError
  ConfigError              the request or the connection is wrong; no retry can mend it
  TransportError           the site was not reached or stopped answering; nothing is known
    ConnectFailedError     no connection could be opened (DNS, refused, host key, login)
    ConnectionLostError    the connection ended before the answer was complete
    CommandTimeoutError    no complete answer within the time allowed
  SlurmError               Slurm answered, but not with what was asked
    SubmitRejectedError    sbatch was refused; no job exists
    SubmitUnknownError     sbatch gave no verdict; a job may or may not exist
    SubmitKilledError      a kill came while the job was being submitted
    SiteUnavailableError   nothing can be submitted now (a full disk); nothing was
    UpstreamFailedError    what the job depends on ended otherwise; nothing was submitted
    UnreadableOutputError  an answer did not have the documented form
  JobFailedError           the job ended, and not with success; in which way, its subclasses tell
    JobExitCodeError       its script ended with an exit code other than 0
      JobFunctionError     the Python function it ran raised, or gave no result
      JobStagingError      its inputs could not be fetched, or its outputs not delivered
    JobSignalError         a signal killed its script
    JobOutOfMemoryError    it used more memory than it asked for
    JobTimeLimitError      it reached its time limit
    JobNodeFailureError    it lost a node
    JobBootFailureError    a node did not boot, or could not be configured, for it
    JobPreemptedError      it made way for another job
    JobCancelledError      a person, or Slurm itself, cancelled it
    JobTaskLimitError      a limit of this task cancelled it
    JobDependencyError     its dependency can never be satisfied
    JobHeldError           it was held, and was given up
    JobLaunchFailureError  it could not be started on its node
    JobDeadlineError       it could not meet its own deadline
    JobContradictionError  Slurm and the job itself say different things of its end
      JobNoResultError     it completed, but its Python function left no result
    JobUnknownError        no source knows what became of it
  AllasError               the object store refused or failed
    MissingInputError      what a job is to read is not there
    SwiftSegmentsError     the object is in segments of Swift's, which S3 cannot verify
    RecordError            a record (an object that several programs change) was not read or changed
      RecordConflictError  others changed it each time, until attempts or time ran out
      RecordUnknownError   the answer to a write was lost; it may or may not be stored
      RecordInvalidError   what is stored, or was to be, is not what a record can hold
      RecordUnguardedError the object store ignores the conditions that guard a record
    LeaseError             "only one of us does this" does not hold
      LeaseHeldError       somebody else holds the lease
      LeaseLostError       it was held, and no longer is
    StoreAwayError         it was not reached, or said to come later; nothing is known
    StoreRefusedError      it answered, and asking again cannot help (key, rights, bucket)
    ObjectChangedError     the object is not, or no longer, the one that was meant
    FileChangedError       a file was changed while it was sent
    ChecksumError          what arrived is not what was there
    TransferCancelledError a transfer was cancelled before its end
    CursorTakenError       somebody else goes on with a watcher's cursor

Every error carries what a reader needs as keyword attributes, survives pickling, and says what
happened, to what, and what to do about it. None ever carries a secret.
"""

from __future__ import annotations

from types import NoneType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class CscError(Exception):
    """
    Base of everything this package raises on purpose.

    ``message`` is what a person reads; ``details`` are the facts behind it, also readable as
    attributes (``error.job_id``), so that code never parses the message.
    """

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __getattr__(self, name: str) -> object:
        """Read a detail; only called for names that are not ordinary attributes."""
        details: dict[str, object] = self.__dict__.get("details", {})
        try:
            return details[name]
        except KeyError:
            raise AttributeError(name) from None

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the process boundaries that Airflow sends exceptions across."""
        return _rebuild, (type(self), self.message, self.details)

    def to_payload(self) -> dict[str, Any]:
        """Return plain JSON values that `from_payload` reads; of other details their text."""
        details = {
            name: value if isinstance(value, (str, int, float, bool, NoneType)) else str(value)
            for name, value in self.details.items()
        }
        return {"type": type(self).__name__, "message": self.message, "details": details}


def from_payload(payload: Mapping[str, Any]) -> CscError:
    """Return an error that came from another process as plain JSON."""
    kind: object = globals().get(payload["type"])
    if not (isinstance(kind, type) and issubclass(kind, CscError)):
        kind = CscError
    return kind(payload["message"], **payload["details"])


def _rebuild(cls: type[CscError], message: str, details: dict[str, object]) -> CscError:
    return cls(message, **details)


class ConfigError(CscError):
    """The request or the connection is wrong; repeating it cannot help."""


class TransportError(CscError):
    """The site was not reached or stopped answering, so nothing is known about the job."""


class ConnectFailedError(TransportError):
    """No connection could be opened: DNS, refused, host key, log-in."""


class ConnectionLostError(TransportError):
    """The connection ended before the answer was complete."""


class CommandTimeoutError(TransportError):
    """No complete answer within the time allowed."""


class SlurmError(CscError):
    """Slurm answered, but not with what was asked."""


class SubmitRejectedError(SlurmError):
    """``sbatch`` was refused; no job exists."""


class SubmitUnknownError(SlurmError):
    """``sbatch`` gave no verdict; a job may or may not exist."""


class SubmitKilledError(SlurmError):
    """A kill came while the job was being submitted; none exists, or it was cancelled."""


class SiteUnavailableError(SlurmError):
    """The site can take no submission now (a full disk); no job exists, and waiting helps."""


class UpstreamFailedError(SlurmError):
    """
    What a job was to depend on ended otherwise than was asked; nothing was submitted.

    ``is_lasting``: no task that could try again stands behind it.
    """


class UnreadableOutputError(SlurmError):
    """An answer did not have the documented form."""


class JobFailedError(CscError):
    """
    The job ended, and not with success.

    What every such error knows; None where no source told. Times are ISO 8601 in UTC, ``reason`` is
    Slurm's own word, ``failure`` a value of `slurm.failures.FailureReason`.
    """

    failure: str
    job_id: str
    name: str | None
    cluster: str | None
    state: str
    exit_code: int | None
    signal: int | None
    reason: str | None
    partition: str | None
    nodes: str | None
    submit_time: str | None
    start_time: str | None
    end_time: str | None
    elapsed_seconds: int | None
    cpu_efficiency: float | None
    max_rss_bytes: int | None
    run_dir: str | None
    stdout_path: str | None
    stderr_path: str | None
    limit: str | None
    restarts: int | None


class JobExitCodeError(JobFailedError):
    """The script ended with another exit code than 0: ``exit_code``."""


class JobFunctionError(JobExitCodeError):
    """
    The Python function of the job raised, could not be run, or returned what is no result.

    ``exception_type`` is the name of what it raised, None where it was not run or its result not
    taken; ``exception_message`` says why; ``traceback`` is text. With ``is_lasting`` another run
    would end the same way.
    """

    exception_type: str | None
    exception_message: str
    traceback: str
    is_lasting: bool


class JobStagingError(JobExitCodeError):
    """
    The job's inputs could not be fetched, or its outputs not be delivered or verified.

    ``problem`` says why, ``phase`` is ``in`` or ``out``. A job whose outputs only Airflow found
    wanting may have ended COMPLETED.
    """

    problem: str
    phase: str


class JobSignalError(JobFailedError):
    """A signal killed the script: ``signal``, its number."""


class JobOutOfMemoryError(JobFailedError):
    """
    The job used more memory than it asked for.

    ``requested_memory`` as sacct prints it; ``max_rss_bytes`` the peak that was measured of one
    task, ``memory_bytes`` of all tasks of its largest step. Both are samples: the peak was higher.
    """

    requested_memory: str | None
    memory_bytes: int | None


class JobTimeLimitError(JobFailedError):
    """The job reached its time limit: ``time_limit_minutes``."""

    time_limit_minutes: int | None


class JobNodeFailureError(JobFailedError):
    """One of ``nodes`` failed."""


class JobBootFailureError(JobFailedError):
    """One of ``nodes`` did not boot, or could not be configured."""


class JobPreemptedError(JobFailedError):
    """The job made way for one of higher priority."""


class JobCancelledError(JobFailedError):
    """The job was cancelled, not by this task: ``cancelled_by`` is a user id, 0 for root."""

    cancelled_by: str | None


class JobTaskLimitError(JobFailedError):
    """This task cancelled the job because ``limit`` was reached, as ``queue_timeout``."""


class JobDependencyError(JobFailedError):
    """The job's dependency can never be satisfied, so it could never start."""


class JobHeldError(JobFailedError):
    """The job was held, which only a person can undo, and this task cancelled it: ``reason``."""


class JobLaunchFailureError(JobFailedError):
    """Slurm could not start the job on ``nodes``."""


class JobDeadlineError(JobFailedError):
    """The job could not meet the deadline it was submitted with."""


class JobContradictionError(JobFailedError):
    """Slurm and the job's own exit record say different things: ``contradiction``, a sentence."""

    contradiction: str


class JobNoResultError(JobContradictionError):
    """The job completed, but the Python function it ran left no result, or half of one."""


class JobUnknownError(JobFailedError):
    """No source knows what became of the job."""


class AllasError(CscError):
    """The object store refused or failed."""


class MissingInputError(AllasError):
    """There is no object, or nothing below a prefix, that a job is to read: ``uri``."""

    uri: str


class SwiftSegmentsError(AllasError):
    """The object was written through Swift in segments: ``bucket``, ``key``, and where they are."""

    bucket: str
    key: str
    segments: str | None


class RecordError(AllasError):
    """A record was not read or changed; unless a subclass says otherwise nothing was written."""

    bucket: str
    key: str
    attempts: int


class RecordConflictError(RecordError):
    """Others changed the record each time, until attempts or time ran out; nothing was written."""


class RecordUnknownError(RecordError):
    """
    The answer to a write was lost, and what is stored now does not tell whether it took place.

    ``writer`` and ``write_id`` are those the write carries in its metadata, should it be found.
    """

    writer: str
    write_id: str


class RecordInvalidError(RecordError):
    """What is stored, or was to be, is too large, no strict JSON, or not of the record's model."""


class RecordUnguardedError(RecordError):
    """
    The object store ignores conditions, or answers them in no known way.

    Writers would overwrite each other there without a word, so nothing was written.
    """


class LeaseError(AllasError):
    """A lease could not be had or kept: ``bucket``, ``key``, and ``owner``, who asked for it."""

    bucket: str
    key: str
    owner: str


class LeaseHeldError(LeaseError):
    """Somebody else holds the lease: ``holder``, until ``expires`` (ISO 8601, store's clock)."""

    holder: str
    expires: str


class LeaseLostError(LeaseError):
    """
    The lease was held with the fencing number ``token``, and no longer is: ``reason``.

    What was done since then may have met what the next holder does.
    """

    token: int
    reason: str


class StoreAwayError(AllasError):
    """The object store was not reached, or said to come later; nothing is known."""


class StoreRefusedError(AllasError):
    """The object store answered, and asking again cannot help: key, rights, bucket."""


class ObjectChangedError(AllasError):
    """The object is not, or no longer, the one that was meant; nothing was written."""


class FileChangedError(AllasError):
    """A file was changed while it was sent."""


class ChecksumError(AllasError):
    """What arrived is not what the store says the object is."""


class TransferCancelledError(AllasError):
    """The transfer was cancelled before its end."""


class CursorTakenError(AllasError):
    """Somebody else goes on with a watcher's cursor; who finds this has to stop."""
