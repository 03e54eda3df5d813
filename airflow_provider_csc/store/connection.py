"""
Requests to an S3 service whose bodies go straight from and to buffers.

boto3 asks and answers everything else; what carries the bytes of objects is here. botocore signs.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from base64 import b64encode
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, quote, unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass
from xml.sax.saxutils import unescape

from airflow_provider_csc.allas.faults import explain
from airflow_provider_csc.errors import AllasError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from botocore.credentials import ReadOnlyCredentials

# As much is read, hashed, and written or sent in one go.
BUFFER_BYTES = 1024 * 1024
# S3's own errors are short; a proxy's page need not be read whole.
_ERROR_BYTES = 64 * 1024
_OK = (200, 204, 206)
_HOST_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
# Statuses and codes of S3 after which the same request may succeed ("Error responses", S3 API
# reference; a clock is not among them).
_PASSING_STATUSES = (408, 429, 500, 502, 503, 504)
_PASSING_CODES = ("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "BadDigest")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoreSettings:
    """
    Where a store is and who asks.

    ``verify`` is as in boto3: False, True, or the path of a CA bundle. Times are in seconds.
    ``credentials`` returns the present ones: those from a file may change. ``proxies`` are URLs by
    scheme; None means those of the environment.
    """

    endpoint_url: str
    region_name: str
    credentials: Callable[[], ReadOnlyCredentials] = field(repr=False)
    verify: bool | str = True
    is_virtual: bool = False
    proxies: Mapping[str, str] | None = None
    connect_timeout: float = 10
    read_timeout: float = 60


class RequestError(AllasError):
    """
    A request failed.

    ``code`` is S3's, ``status`` HTTP's, both None where no answer came; ``is_passing`` whether the
    same request may succeed later.
    """

    code: str | None
    status: int | None
    is_passing: bool


class Answer:
    """The beginning of an answer; `read_into` reads its body."""

    def __init__(self, connection: StoreConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = {
            name.lower(): value for name, value in response.getheaders()
        }

    @property
    def etag(self) -> str:
        """The object's or the part's ETag, without quotes."""
        return self.headers.get("etag", "").strip('"')

    def read_into(self, buffer: memoryview) -> int:
        """
        Read some bytes; 0 at the end of the body.

        Raises a RequestError where the body breaks off.
        """
        with self._connection.guarded():
            return self._response.readinto(buffer)

    def drain(self, buffer: memoryview) -> bool:
        """Read the rest of the body, which should be short; return whether there was any."""
        is_there = False
        while self.read_into(buffer):
            is_there = True
        return is_there


class StoreConnection:
    """A kept connection to one endpoint; for one thread at a time."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._url = urlsplit(settings.endpoint_url)
        self._http: http.client.HTTPConnection | None = None
        self._host = ""
        self._proxy: SplitResult | None = None

    @property
    def was_used(self) -> bool:
        """Whether it is open from an earlier request."""
        return self._http is not None

    def request(
        self,
        method: str,
        bucket: str,
        key: str,
        *,
        query: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        size: int = 0,
        body: Iterable[memoryview | bytes] = (),
    ) -> Answer:
        """
        Send a request, with a body of ``size`` bytes.

        The caller reads the answer's body to its end, or calls `close`. What ``body`` raises comes
        up as it is; all that the network does is a RequestError.
        """
        host, path = self._locate(bucket, key, query or {})
        signed = self._sign(method, host, path, {**(headers or {}), "Content-Length": str(size)})
        if host != self._host or (self._http is not None and self._http.sock is None):
            self.close()
        self._host = host
        with self.guarded():
            self._begin(method, path, signed)
        response = self._send(body)
        answer = Answer(self, response)
        if response.status not in _OK:
            raise self._refused(answer, bucket, key)
        if not answer.etag:
            # Every object and part has one; http.client takes headers that break off for whole.
            with self.guarded():
                raise http.client.IncompleteRead(b"")
        return answer

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        http_connection, self._http = self._http, None
        if http_connection is not None:
            http_connection.close()

    def interrupt(self) -> None:
        """Have a request that is under way in another thread end at once."""
        connection = self._http
        sock = connection.sock if connection is not None else None
        if sock is not None:
            with suppress(OSError):
                # Not TLS's own method: it makes the socket a plain one first, which others use.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Make of what the network does a RequestError, and close the connection."""
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._unanswered(error) from error
        except BaseException:
            self.close()
            raise

    def _begin(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        connection = self._http = self._http or self._open()
        if self._proxy is not None and self._url.scheme == "http":
            path = f"http://{self._host}{path}"
            headers = {**headers, **_proxy_headers(self._proxy)}
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()

    def _send(self, body: Iterable[memoryview | bytes]) -> http.client.HTTPResponse:
        connection = self._http
        if connection is None:
            raise RuntimeError("no request was begun")
        pieces = iter(body)
        while (piece := self._next(pieces)) is not None:
            try:
                connection.send(piece)
            except OSError as error:
                # Who refuses a body need not read it: the answer may be there.
                return self._early_answer(connection, error)
        with self.guarded():
            _acknowledge_at_once(connection.sock)
            return connection.getresponse()

    def _next(self, pieces: Iterator[memoryview | bytes]) -> memoryview | bytes | None:
        try:
            return next(pieces, None)
        except BaseException:
            # Half a request was sent.
            self.close()
            raise

    def _early_answer(
        self, connection: http.client.HTTPConnection, cause: OSError
    ) -> http.client.HTTPResponse:
        with self.guarded():
            try:
                response = connection.getresponse()
            except (OSError, http.client.HTTPException):
                raise cause from None
            if response.status in _OK:
                raise cause
            return response

    def _open(self) -> http.client.HTTPConnection:
        settings, url = self._settings, urlsplit(f"{self._url.scheme}://{self._host}")
        proxy = self._proxy = _find_proxy(url.scheme, url.netloc, settings.proxies)
        host = (proxy or url).hostname or ""
        port = (proxy.port or 80) if proxy else url.port
        connection: http.client.HTTPConnection
        if url.scheme == "https":
            connection = http.client.HTTPSConnection(
                host,
                port or 443,
                timeout=settings.connect_timeout,
                context=_tls_context(settings.verify),
                blocksize=BUFFER_BYTES,
            )
            if proxy:
                headers = _proxy_headers(proxy)
                connection.set_tunnel(url.hostname or "", url.port or 443, headers)
        else:
            connection = http.client.HTTPConnection(
                host, port or 80, timeout=settings.connect_timeout, blocksize=BUFFER_BYTES
            )
        connection.connect()
        connection.sock.settimeout(settings.read_timeout)
        return connection

    def _locate(self, bucket: str, key: str, query: Mapping[str, str | int]) -> tuple[str, str]:
        """Return the host and the path with query of an object, each character of it escaped."""
        # S3 escapes everything but RFC 3986's unreserved characters, and keeps slashes.
        parts = "&".join(
            f"{quote(name, safe='')}={quote(str(value), safe='')}" for name, value in query.items()
        )
        place = quote(key, safe="/~")
        prefix = self._url.path.rstrip("/")
        if self._settings.is_virtual and self._can_be_host(bucket):
            host, path = f"{bucket}.{self._url.netloc}", f"{prefix}/{place}"
        else:
            host, path = self._url.netloc, f"{prefix}/{quote(bucket, safe='')}/{place}"
        return host, f"{path}?{parts}" if parts else path

    def _can_be_host(self, bucket: str) -> bool:
        """Whether boto3 too would make the bucket part of the host's name."""
        is_name = _HOST_NAME.fullmatch(bucket) is not None
        return is_name and ("." not in bucket or self._url.scheme == "http")

    def _sign(
        self, method: str, host: str, path: str, headers: Mapping[str, str]
    ) -> Mapping[str, str]:
        from botocore.awsrequest import AWSRequest

        url = f"{self._url.scheme}://{host}{path}"
        request: Any = AWSRequest(method, url, headers={"Host": host, **headers})
        _make_auth(self._settings.credentials(), self._settings.region_name).add_auth(request)
        return dict(request.headers)

    def _refused(self, answer: Answer, bucket: str, key: str) -> RequestError:
        body = _read_some(answer)
        # The rest of a long one is nobody's.
        if len(body) >= _ERROR_BYTES:
            self.close()
        code, message = _read_error(body)
        known = code or ("NoSuchKey" if answer.status == 404 else "")  # noqa: PLR2004
        return RequestError(
            f"s3://{bucket}/{key}: {self._settings.endpoint_url} answered "
            f"{explain(known or str(answer.status), message, answer.status)}",
            code=known,
            status=answer.status,
            is_passing=answer.status in _PASSING_STATUSES or code in _PASSING_CODES,
            server_time=answer.headers.get("date"),
        )

    def _unanswered(self, error: Exception) -> RequestError:
        from airflow_provider_csc.transport.s3 import describe_break  # noqa: PLC0415 - botocore

        is_mendable = not isinstance(error, (ssl.SSLCertVerificationError, FileNotFoundError))
        return RequestError(
            describe_break(error, self._settings.endpoint_url),
            code=None,
            status=None,
            is_passing=is_mendable,
        )


def _acknowledge_at_once(sock: socket.socket) -> None:
    """
    Have the beginning of an answer acknowledged without delay.

    Ceph sends the head of an answer by itself, and the body when that is acknowledged (Nagle's
    algorithm, RFC 896); Linux may wait 40 ms for something to send with it (tcp(7)).
    """
    option = getattr(socket, "TCP_QUICKACK", None)
    if option is not None:
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, option, 1)


def _make_auth(credentials: ReadOnlyCredentials, region_name: str) -> Any:
    from botocore.auth import UNSIGNED_PAYLOAD, S3SigV4Auth

    class UnsignedPayloadAuth(S3SigV4Auth):  # type: ignore[misc] # untyped in botocore
        """Content is verified by its MD5, which also goes over plain http; no second digest."""

        def payload(self, request: object) -> str:  # noqa: ARG002
            unsigned: str = UNSIGNED_PAYLOAD
            return unsigned

    return UnsignedPayloadAuth(credentials, "s3", region_name)


def _tls_context(verify: bool | str) -> ssl.SSLContext:  # noqa: FBT001 - as boto3 has it
    from botocore.httpsession import where

    bundle = where() if verify is True else verify or None
    context = ssl.create_default_context(cafile=bundle)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _find_proxy(scheme: str, host: str, proxies: Mapping[str, str] | None) -> SplitResult | None:
    """Return the proxy that boto3 uses: of the client's settings, else of the environment."""
    known = proxies
    if known is None:
        known = getproxies_environment()
        if proxy_bypass(host):
            return None
    url = known.get(scheme)
    if not url:
        return None
    return urlsplit(url if "://" in url else f"http://{url}")


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    secret = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(secret.encode()).decode()}"}


def _read_some(answer: Answer) -> bytes:
    buffer = bytearray(_ERROR_BYTES)
    view, size = memoryview(buffer), 0
    while size < len(buffer) and (read := answer.read_into(view[size:])):
        size += read
    return bytes(buffer[:size])


def _read_error(body: bytes) -> tuple[str, str]:
    """Return code and message of an S3 error (XML); empty where the body is none."""
    text = body.decode("utf-8", "replace")
    code, message = _CODE.search(text), _MESSAGE.search(text)
    return (code[1] if code else ""), (unescape(message[1]) if message else "")
