"""A little S3 server in this process, for what the real one cannot be made to do."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import threading
from dataclasses import dataclass, field
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_csc.transport.s3 import S3Client


@dataclass
class Stored:
    body: bytes
    metadata: dict[str, str]
    modified: dt.datetime

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.body).hexdigest()}"'


@dataclass(kw_only=True)
class LittleStore:
    """
    Its ways: which form of If-Match it honours, and where.

    ``interrupt(method, key)`` may return a status that is answered in place of the request;
    ``afterwards`` one that is answered after it was carried out.
    """

    wants: str | None = "quoted"  # bare, any, none (refuses all); None ignores conditions
    guards_creation: bool = True
    guards_delete: bool = False
    tells_time: bool = True
    stands_at: dt.datetime | None = None  # a clock that stands still; else it is the machine's
    ahead: dt.timedelta = dt.timedelta()
    objects: dict[str, Stored] = field(default_factory=dict)
    log: list[tuple[str, str, str]] = field(default_factory=list)
    interrupt: Callable[[str, str], int | None] = lambda _method, _key: None
    afterwards: Callable[[str, str], int | None] = lambda _method, _key: None
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def now(self) -> dt.datetime:
        return (self.stands_at or dt.datetime.now(dt.UTC)) + self.ahead

    def begin_anew(self) -> None:
        """Be as at first, at the same address."""
        vars(self).update(vars(LittleStore(url=self.url)))

    def client(self, attempts: int = 1, **config: Any) -> S3Client:
        client: S3Client = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="AKEY",
            aws_secret_access_key="SECRET",
            config=Config(
                signature_version="s3v4",
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={"mode": "standard", "total_max_attempts": attempts},
                s3={"addressing_style": "path"},
                **config,
            ),
        )
        return client

    def may_write(self, key: str, headers: Any, *, is_delete: bool = False) -> bool:
        present = self.objects.get(key)
        if is_delete and not self.guards_delete:
            return True
        if headers["If-None-Match"] == "*" and present is not None and self.guards_creation:
            return False
        match = headers["If-Match"]
        if match is None or self.wants is None:
            return True
        if present is None or self.wants == "none":
            return False
        bare = present.etag.strip('"')
        forms = {"quoted": {present.etag}, "bare": {bare}, "any": {present.etag, bare}}
        return match in forms[self.wants]

    def count(self, method: str, key: str) -> int:
        return sum(row[:2] == (method, key) for row in self.log)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer is several small writes: each would wait for the client to acknowledge the last.
    disable_nagle_algorithm = True
    store: LittleStore

    def log_message(self, *args: object) -> None:
        """Stay silent."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        return format_datetime(self.store.now(), usegmt=True)

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Date" or self.store.tells_time:
            super().send_header(keyword, value)

    def do_GET(self) -> None:
        self._handle("GET", lambda key, _body: self._get(key))

    def do_PUT(self) -> None:
        self._handle("PUT", self._put)

    def do_DELETE(self) -> None:
        self._handle("DELETE", lambda key, _body: self._delete(key))

    def _handle(self, method: str, work: Callable[[str, bytes], tuple[int, bytes, Any]]) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        key = unquote(url.path).split("/", 2)[2] if url.path.count("/") > 1 else ""
        store = self.store
        with store.lock:
            status = store.interrupt(method, key)
            if status is None:
                answer = self._list(parse_qs(url.query)) if not key else work(key, body)
                status = store.afterwards(method, key)
                if status is None:
                    store.log.append((method, key, str(answer[0])))
                    self._answer(*answer)
                    return
        store.log.append((method, key, str(status)))
        self._answer(status, _error("Interrupted"), {})

    def _get(self, key: str) -> tuple[int, bytes, Any]:
        found = self.store.objects.get(key)
        if found is None:
            return 404, _error("NoSuchKey"), {}
        headers = {f"x-amz-meta-{name}": value for name, value in found.metadata.items()}
        modified = format_datetime(found.modified, usegmt=True)
        return 200, found.body, {**headers, "ETag": found.etag, "Last-Modified": modified}

    def _put(self, key: str, body: bytes) -> tuple[int, bytes, Any]:
        if not self.store.may_write(key, self.headers):
            return 412, _error("PreconditionFailed"), {}
        metadata = {
            name.lower().removeprefix("x-amz-meta-"): value
            for name, value in self.headers.items()
            if name.lower().startswith("x-amz-meta-")
        }
        stored = Stored(body, metadata, self.store.now())
        self.store.objects[key] = stored
        return 200, b"", {"ETag": stored.etag}

    def _delete(self, key: str) -> tuple[int, bytes, Any]:
        if not self.store.may_write(key, self.headers, is_delete=True):
            return 412, _error("PreconditionFailed"), {}
        self.store.objects.pop(key, None)
        return 204, b"", {}

    def _list(self, query: dict[str, list[str]]) -> tuple[int, bytes, Any]:
        prefix, token = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        keys = [key for key in sorted(self.store.objects) if key.startswith(prefix) and key > token]
        page = keys[:3]  # short ones, so that there are several
        rows = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in page)
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{page[-1]}</NextContinuationToken>"
        rest = more if len(keys) > len(page) else "<IsTruncated>false</IsTruncated>"
        return 200, f"<ListBucketResult>{rows}{rest}</ListBucketResult>".encode(), {}

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)


def _error(code: str) -> bytes:
    return (
        f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>words</Message></Error>".encode()
    )


@contextlib.contextmanager
def serve_store(**ways: Any) -> Iterator[LittleStore]:
    store = LittleStore(**ways)
    handler = type("Handler", (_Handler,), {"store": store})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        store.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield store
        finally:
            server.shutdown()
            thread.join()
