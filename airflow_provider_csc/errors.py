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
    SiteUnavailableError   nothing can be submitted now (a full disk); nothing was
    UnreadableOutputError  an answer did not have the documented form
  JobFailedError           the job ended, and not with success
  AllasError               the object store refused or failed

Every error carries what a reader needs as keyword attributes, survives pickling, and says what
happened, to what, and what to do about it. None ever carries a secret.
"""

from __future__ import annotations


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


class SiteUnavailableError(SlurmError):
    """The site can take no submission now, as with a full disk; no job exists, and waiting helps."""


class UnreadableOutputError(SlurmError):
    """An answer did not have the documented form."""


class JobFailedError(CscError):
    """The job ended, and not with success."""


class AllasError(CscError):
    """The object store refused or failed."""
