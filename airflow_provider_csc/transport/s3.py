"""The one place that reads botocore's exceptions."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

from botocore import exceptions as boto  # noqa: TID253 - this file exists to know botocore
from botocore.parsers import ResponseParserError  # noqa: TID253 - likewise

from airflow_provider_csc.allas.faults import explain
from airflow_provider_csc.errors import (
    AllasError,
    ConfigError,
    ObjectChangedError,
    StoreAwayError,
    StoreRefusedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Answered = TypeVar("Answered")


class S3Client(Protocol):
    """What is used of a boto3 client."""

    meta: Any

    def put_object(self, **parameters: object) -> dict[str, Any]:
        """Store an object."""
        ...

    def get_object(self, **parameters: object) -> dict[str, Any]:
        """Read an object; ``Body`` is a stream."""
        ...

    def delete_object(self, **parameters: object) -> dict[str, Any]:
        """Delete an object."""
        ...

    def list_objects_v2(self, **parameters: object) -> dict[str, Any]:
        """List objects, a thousand at a time."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """
    An answer that is an error: its S3 code, its HTTP status, and what both mean.

    With ``was_repeated`` botocore had sent the request before, without an answer that it kept.
    ``date`` is the server's time.
    """

    code: str
    status: int
    was_repeated: bool
    said: str
    date: dt.datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Silence:
    """No complete answer came; the request may have been carried out."""

    said: str


def ask(client: S3Client, call: Callable[[], Answered]) -> Answered | Refusal | Silence:
    """
    Make a request, and return what came of it.

    Raises ConfigError where nothing can be sent at all.
    """
    try:
        return call()
    except boto.ClientError as error:
        answer = error.response
        about = answer.get("ResponseMetadata", {})
        return Refusal(
            code=answer.get("Error", {}).get("Code", "Unknown"),
            status=about.get("HTTPStatusCode", 0),
            was_repeated=about.get("RetryAttempts", 0) > 0,
            said=describe_failure(error, client.meta.endpoint_url),
            date=read_date(answer),
        )
    except (boto.NoCredentialsError, boto.PartialCredentialsError) as error:
        raise ConfigError(describe_failure(error, client.meta.endpoint_url)) from error
    except boto.ParamValidationError as error:
        raise ConfigError(str(error)) from error
    except (boto.BotoCoreError, ResponseParserError) as error:
        return Silence(said=describe_failure(error, client.meta.endpoint_url))


def read_date(answer: Mapping[str, Any]) -> dt.datetime | None:
    """Return the server's time when it answered, to the second; None where it did not say."""
    headers: Mapping[str, str] = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        said = parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError):
        return None
    return said.replace(tzinfo=said.tzinfo or dt.UTC)


_TRY_AGAIN: Final = (
    "Try again; where it happens each time, look at what lies between (a firewall, a proxy)."
)
_COME_LATER: Final = ("SlowDown", "RequestTimeout", "ServiceUnavailable", "InternalError")
_IS_ANOTHER: Final = ("PreconditionFailed", "ConditionalRequestConflict")
_SERVER_ERRORS: Final = 500
_TOO_MANY_REQUESTS: Final = 429


@contextmanager
def told(endpoint_url: str) -> Iterator[None]:
    """Raise what botocore raises as an error of ours, which says whether to come again."""
    try:
        yield
    except (boto.BotoCoreError, boto.ClientError, ResponseParserError) as error:
        kind = _classify(error)
        raise kind(describe_failure(error, endpoint_url), code=code_of(error)) from error


def code_of(error: Exception) -> str | None:
    """Return the code of an S3 error answer; None for what is none."""
    if not isinstance(error, boto.ClientError):
        return None
    return str(error.response.get("Error", {}).get("Code", "Unknown"))


def _classify(error: Exception) -> type[AllasError]:
    match error:
        case boto.ClientError():
            code = code_of(error)
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code in _IS_ANOTHER or status in (409, 412):
                return ObjectChangedError
            is_late = code in _COME_LATER or status >= _SERVER_ERRORS
            return StoreAwayError if is_late or status == _TOO_MANY_REQUESTS else StoreRefusedError
        case boto.HTTPClientError() | boto.ConnectionError() | boto.ResponseStreamingError():
            return StoreAwayError
        case boto.IncompleteReadError() | ResponseParserError():
            return StoreAwayError
        case _:
            return StoreRefusedError


def describe_failure(error: Exception, endpoint_url: str) -> str:
    """Say in one line what failed between us and the object store, and what to do about it."""
    match error:
        case boto.ClientError():
            return f"{endpoint_url} answered {_read_answer(error)}"
        case boto.NoCredentialsError() | boto.PartialCredentialsError():
            return "No access key and secret key were found. Enter both in the connection."
        case _:
            if known := _find_cause(error, endpoint_url):
                return known
            is_network = isinstance(error, (boto.HTTPClientError, boto.ConnectionError))
            remedy = f" {_TRY_AGAIN}" if is_network else ""
            return f"{endpoint_url}: {_own_words(error)}{remedy}"


def explain_failure(error: Exception) -> str | None:
    """Say what is behind a request without an answer; None where its own words say it all."""
    kwargs: dict[str, object] = getattr(error, "kwargs", {})
    parts = urlsplit(str(kwargs.get("endpoint_url") or ""))
    return _find_cause(error, f"{parts.scheme}://{parts.netloc}") if parts.netloc else None


def describe_break(error: Exception, endpoint_url: str) -> str:
    """Say in one line what the network did to a request of our own, and what to do about it."""
    host = endpoint_url.partition("://")[2]
    match error:
        case ssl.SSLEOFError():
            said = None
        case TimeoutError():
            said = f"{endpoint_url} gave no answer in time. Try later."
        case _:
            said = _describe_cause(error, host)
    broke = f"{endpoint_url}: the connection broke off ({error or type(error).__name__})."
    return said or f"{broke} {_TRY_AGAIN}"


def _read_answer(error: boto.ClientError) -> str:
    answer: dict[str, Any] = {**error.response.get("Error", {})}
    code = answer.get("Code", "Unknown")
    if known := answer.get("Explanation"):  # s3_handlers.py knew more
        return f"{code}: {known}"
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return explain(code, answer.get("Message", ""), status)


def _own_words(error: Exception) -> str:
    """Return botocore's text without what s3_handlers.py added to it."""
    return error.fmt.format(**error.kwargs) if isinstance(error, boto.BotoCoreError) else str(error)


def _find_cause(error: Exception, endpoint_url: str) -> str | None:
    host = endpoint_url.partition("://")[2]
    match error:
        case boto.ConnectTimeoutError():
            return f"No connection to {host} in time. A firewall may drop it; check host and port."
        case boto.ReadTimeoutError():
            return f"{endpoint_url} took the connection but gave no answer in time. Try later."
        case boto.ProxyConnectionError():
            return f"The proxy on the way to {host} refused. Check HTTPS_PROXY and NO_PROXY."
        case boto.HTTPClientError() | boto.ConnectionError():
            said = (_describe_cause(cause, host) for cause in _walk_causes(error))
            return next(filter(None, said), None)
        case _:
            return None


def _describe_cause(cause: BaseException, host: str) -> str | None:
    match cause:
        case socket.gaierror():
            return f"The name of {host} is not known (DNS: {cause.strerror}). Check the URL."
        case ConnectionRefusedError():
            return f"{host} refused the connection. Check host and port, and that it runs."
        case ssl.SSLError() | boto.SSLError():
            return _describe_tls(cause, host)
        case FileNotFoundError() | PermissionError() | IsADirectoryError():
            return f"The CA bundle cannot be read here ({cause.strerror}). Check its path."
        case _:
            return None


def _describe_tls(error: ssl.SSLError | boto.SSLError, host: str) -> str | None:
    match error:
        case ssl.SSLCertVerificationError():
            return (
                f"The certificate of {host} is not trusted ({error.verify_message}). "
                "Enter the CA that signed it as CA bundle, or correct the host name."
            )
        case ssl.SSLError() if error.library in ("PEM", "X509"):
            return f"The CA bundle holds no certificate ({error.reason}). Check the file."
        case ssl.SSLError():
            return f"{host} does not speak TLS ({error.reason}). Should the URL begin with http://?"
        case boto.SSLError() if "doesn't match" in str(error.kwargs.get("error")):
            # urllib3 compares names itself and has no public type for the outcome.
            return f"{_own_words(error)}. Correct the host name in the endpoint URL."
        case _:
            return None


def _walk_causes(error: BaseException) -> Iterator[BaseException]:
    """
    Walk to the system's own error, which tells DNS from refusal from TLS.

    botocore keeps urllib3's exception as ``kwargs["error"]``, urllib3 the system's as cause,
    ``reason`` or argument.
    """
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        current = waiting.pop(0)
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        kwargs = getattr(current, "kwargs", None)
        waiting += [current.__cause__, current.__context__, getattr(current, "reason", None)]
        waiting += [kwargs.get("error")] if isinstance(kwargs, dict) else []
        waiting += current.args
