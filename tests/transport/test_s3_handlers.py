"""What clients of a prepared session do around their requests, against a server of our own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError, ParamValidationError
from botocore.hooks import HierarchicalEmitter

from airflow_provider_csc.allas.credentials import Keys
from airflow_provider_csc.errors import ConfigError, SwiftSegmentsError
from airflow_provider_csc.transport.s3 import describe_failure
from airflow_provider_csc.transport.s3_handlers import (
    attach_handlers,
    attach_keys,
    attach_watch,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = "s3cr3t-never-shown"
DENIED = "<?xml version='1.0'?><Error><Code>{}</Code>{}</Error>"


@dataclass
class Store:
    """A server that gives the same answer to everything and remembers what came."""

    url: str = ""
    answers: list[tuple[int, dict[str, str], str]] = field(default_factory=list)
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def answer(self, status: int = 200, body: str = "", **headers: str) -> None:
        """Give this answer next, and then to all that follow."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append((status, headers, body))

    def keys(self) -> list[str]:
        """Return the access keys the requests were signed with, in order."""
        signatures = [headers["Authorization"] for _, _, headers in self.seen]
        return [text.partition("Credential=")[2].partition("/")[0] for text in signatures]


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def serve(self) -> None:
            store.seen.append((self.command, self.path, dict(self.headers)))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answers = store.answers
            status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response_only(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body.encode())

        do_GET = do_HEAD = do_PUT = do_POST = serve  # noqa: N815 - the names http.server looks for

        def log_message(self, *args: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        store.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield store
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def client(
    url: str, attach: Callable[[Any], None] = lambda events: None, attempts: int = 1
) -> Iterator[Any]:
    session = boto3.Session("AKEY", SECRET, region_name="us-east-1")
    attach_handlers(session.events)
    attach(session.events)
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        retries={"mode": "standard", "total_max_attempts": attempts},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    with contextlib.closing(session.client("s3", endpoint_url=url, config=config)) as s3:
        yield s3


def test_an_error_says_cause_remedy_and_target_and_stays_what_it_was(store: Store) -> None:
    store.answer(404, DENIED.format("NoSuchKey", ""))
    with client(store.url) as s3, pytest.raises(s3.exceptions.NoSuchKey) as caught:
        s3.get_object(Bucket="data", Key="a b/ü")
    assert isinstance(caught.value, ClientError)
    assert caught.value.response["Error"]["Code"] == "NoSuchKey"
    text = str(caught.value)
    assert text.startswith("An error occurred (NoSuchKey) when calling the GetObject operation")
    assert ": the bucket holds no object of that name" in text
    assert text.endswith(f"({store.url}/data/a b/ü)")
    assert describe_failure(caught.value, store.url).startswith(
        f"{store.url} answered NoSuchKey: the bucket holds no object of that name."
    )


def test_the_servers_own_words_are_kept(store: Store) -> None:
    store.answer(403, DENIED.format("AccessDenied", "<Message>not you</Message>"))
    with client(store.url) as s3, pytest.raises(ClientError) as caught:
        s3.list_buckets()
    assert "Check that the keys belong to this endpoint" in str(caught.value)
    assert " It said: not you " in str(caught.value)


def test_what_nothing_is_known_of_is_left_alone(store: Store) -> None:
    store.answer(400, DENIED.format("Strange", "<Message>words</Message>"))
    with client(store.url) as s3, pytest.raises(ClientError) as caught:
        s3.list_buckets()
    assert caught.value.response["Error"]["Message"] == "words"


@pytest.mark.parametrize(
    ("date", "said"),
    [
        ("Sat, 21 Nov 2020 10:00:00 GMT", "ahead of the object store's"),
        ("Sat, 21 Nov 2099 10:00:00 GMT", "behind the object store's"),
        ("no date", "belongs to another project"),
    ],
)
def test_a_clock_is_compared_where_the_answer_says_nothing(
    store: Store, date: str, said: str
) -> None:
    store.answer(403, Date=date)
    with client(store.url) as s3, pytest.raises(ClientError) as caught:
        s3.head_bucket(Bucket="data")
    assert said in str(caught.value)
    assert caught.value.response["Error"]["Code"] == "403"


def test_a_missing_object_can_still_be_told_by_its_code(store: Store) -> None:
    store.answer(404)
    with client(store.url) as s3, pytest.raises(ClientError) as caught:
        s3.head_object(Bucket="data", Key="k")
    assert caught.value.response["Error"]["Code"] == "404"
    assert "there is no object of that name, or no such bucket." in str(caught.value)


def test_a_request_without_an_answer_says_why_and_what_to_do() -> None:
    with client("http://127.0.0.1:9") as s3, pytest.raises(EndpointConnectionError) as caught:
        s3.list_buckets()
    text = str(caught.value)
    assert text.startswith('Could not connect to the endpoint URL: "http://127.0.0.1:9/"')
    assert text.endswith(
        "127.0.0.1:9 refused the connection. Check host and port, and that it runs."
    )
    assert describe_failure(caught.value, "http://127.0.0.1:9") == (
        "127.0.0.1:9 refused the connection. Check host and port, and that it runs."
    )


@pytest.mark.parametrize(
    "headers",
    [{"X_Object_Manifest": "data_segments/seg"}, {"X_Object_Meta_Static_Large_Object": "True"}],
)
def test_an_object_in_swifts_segments_is_not_read(store: Store, headers: dict[str, str]) -> None:
    store.answer(200, "content", **headers)
    with client(store.url) as s3:
        with pytest.raises(SwiftSegmentsError, match=r"s3://data/k was written through Swift"):
            s3.get_object(Bucket="data", Key="k")
        with pytest.raises(SwiftSegmentsError):
            s3.download_fileobj("data", "k", io.BytesIO())
        assert s3.head_object(Bucket="data", Key="k")["ContentLength"] == 7


class FiveGibibytesAndOne(io.RawIOBase):
    """A body that is too large, without being it."""

    def __len__(self) -> int:
        return 5 * 1024**3 + 1


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("put_object", {"Body": FiveGibibytesAndOne()}),
        ("put_object", {"Body": b"", "ContentLength": 5 * 1024**3 + 1}),
        ("upload_part", {"Body": FiveGibibytesAndOne(), "UploadId": "u", "PartNumber": 1}),
    ],
)
def test_what_no_request_can_carry_is_not_sent(
    store: Store, operation: str, arguments: dict[str, Any]
) -> None:
    store.answer()
    with client(store.url) as s3:
        with pytest.raises(ConfigError, match=r"5,368,709,121 bytes, and 5 GiB is the most"):
            getattr(s3, operation)(Bucket="data", Key="k", **arguments)
        assert store.seen == []
        s3.put_object(Bucket="data", Key="k", Body=io.BytesIO(b"small"))
        s3.put_object(Bucket="data", Key="k")
    assert len(store.seen) == 2


def test_a_bucket_of_another_project_is_asked_for_by_its_name(store: Store) -> None:
    store.answer()
    with client(store.url) as s3:
        s3.head_object(Bucket="465000001:data", Key="a/b")
        s3.copy_object(Bucket="mine", Key="c", CopySource={"Bucket": "465000001:data", "Key": "a"})
        url = s3.generate_presigned_url("get_object", {"Bucket": "465000001:data", "Key": "a"})
    assert store.seen[0][1] == "/465000001%3Adata/a/b"
    assert store.seen[1][2]["x-amz-copy-source"] == "465000001%3Adata/a"
    assert url.startswith(f"{store.url}/465000001%3Adata/a?X-Amz-")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ({"Bucket": "465000001:data", "Key": "k"}, "data"),
        ("465000001:data/k", "data"),
        ("465000001:data/k", "465000002:data"),
    ],
)
def test_a_copy_that_would_land_in_the_other_project_is_not_made(
    store: Store, source: Any, target: str
) -> None:
    store.answer()
    with client(store.url) as s3:
        with pytest.raises(ConfigError, match=r"465000001:data cannot be copied to .*data within"):
            s3.copy_object(Bucket=target, Key="k", CopySource=source)
        assert store.seen == []
        s3.copy_object(Bucket="465000001:data", Key="k2", CopySource="465000001:data/k")
        s3.copy_object(Bucket="data", Key="k2", CopySource="data/k")
        s3.copy_object(Bucket="data-2", Key="k2", CopySource=source)
    assert len(store.seen) == 3


@pytest.mark.parametrize("bucket", ["a/b", "465:a/b", "465:", ":abc", "å"])
def test_other_names_are_botocores_matter(store: Store, bucket: str) -> None:
    with client(store.url) as s3, pytest.raises(ParamValidationError, match="Invalid bucket name"):
        s3.head_bucket(Bucket=bucket)


def test_each_request_is_signed_with_the_keys_of_that_moment(store: Store) -> None:
    """Retries are signed anew as well, and so are links."""
    store.answer(200)
    store.answer(503)
    store.answer(200)
    numbers = iter(range(1, 10))

    def read() -> Keys:
        return Keys(profile="p", access_key=f"KEY{next(numbers)}", secret_key=SECRET)

    with client(
        store.url, lambda events: attach_keys(events, read, is_async=False), attempts=2
    ) as s3:
        s3.head_bucket(Bucket="data")
        s3.head_bucket(Bucket="data")
        url = s3.generate_presigned_url("get_object", {"Bucket": "data", "Key": "k"})
    assert store.keys() == ["KEY1", "KEY2", "KEY3"]
    assert "X-Amz-Credential=KEY4%2F" in url


def test_a_session_token_travels_with_its_keys(store: Store) -> None:
    store.answer()
    keys = Keys(profile="p", access_key="KEY", secret_key=SECRET, session_token="T")
    with client(store.url, lambda events: attach_keys(events, lambda: keys, is_async=False)) as s3:
        s3.head_bucket(Bucket="data")
    assert store.seen[0][2]["X-Amz-Security-Token"] == "T"


def test_an_asynchronous_signer_can_await_the_keys() -> None:
    """aiobotocore awaits what botocore calls."""
    keys = Keys(profile="p", access_key="KEY", secret_key=SECRET)
    events = HierarchicalEmitter()
    attach_keys(events, lambda: keys, is_async=True)
    request = AWSRequest()
    events.emit("before-sign.s3.GetObject", request=request)
    chosen = request.context["signing"]["request_credentials"]
    assert asyncio.run(chosen.get_frozen_credentials()).access_key == "KEY"


def test_buckets_are_watched_that_were_written_to(store: Store) -> None:
    watched: list[str] = []
    store.answer()
    with client(store.url, lambda events: attach_watch(events, watched.append)) as s3:
        s3.head_object(Bucket="read", Key="k")
        s3.put_object(Bucket="put", Key="k", Body=b"x")
        s3.copy_object(Bucket="copied", Key="k", CopySource="read/k")
        store.answer(403, DENIED.format("AccessDenied", ""))
        store.answers.pop(0)
        with pytest.raises(ClientError):
            s3.put_object(Bucket="refused", Key="k", Body=b"x")
    assert watched == ["put", "copied"]


def test_handlers_are_there_once_however_often_they_are_attached(store: Store) -> None:
    store.answer(403, DENIED.format("AccessDenied", ""))
    with client(store.url, attach_handlers) as s3, pytest.raises(ClientError) as caught:
        s3.list_buckets()
    assert str(caught.value).count("Check that the keys belong") == 1


def test_a_busy_store_is_asked_again_after_a_random_pause(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """botocore's standard mode: up to 1, 2, 4 … 20 s, each times a random number below 1."""
    pauses: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time.sleep", pauses.append)
    store.answer(503, DENIED.format("SlowDown", ""))
    with client(store.url, attempts=5) as s3, pytest.raises(ClientError, match="fewer at once"):
        s3.list_buckets()
    assert len(store.seen) == 5
    assert len(set(pauses)) == 4, "no jitter"
    assert all(0 <= pause <= 2**number for number, pause in enumerate(pauses))


LISTED = (
    "<ListBucketResult><IsTruncated>{}</IsTruncated>"
    "<NextContinuationToken>n</NextContinuationToken>"
    "<Contents><Key>{}</Key></Contents></ListBucketResult>"
)


ENDLESS = "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"


@pytest.mark.parametrize("body", ["", "<html><body>Welcome</body></html>", ENDLESS])
def test_an_answer_that_is_no_listing_is_no_empty_one(
    body: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _seconds: None)
    store.answer(200, LISTED.format("true", "a"))
    store.answer(200, body)
    store.answer(200, LISTED.format("false", "b"))
    with client(store.url, attempts=2) as s3:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket="b")
        assert [row["Key"] for page in pages for row in page["Contents"]] == ["a", "b"]
        store.answers[:] = [(200, {}, body)]
        for ask in (
            lambda: s3.list_objects_v2(Bucket="b"),
            lambda: s3.list_parts(Bucket="b", Key="k", UploadId="u"),
            lambda: s3.list_multipart_uploads(Bucket="b"),
        ):
            with pytest.raises(ClientError):
                ask()


def test_an_answer_without_its_document_is_none(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _seconds: None)
    store.answer(200, "")
    with client(store.url, attempts=2) as s3:
        with pytest.raises(ClientError):
            s3.create_multipart_upload(Bucket="b", Key="k")
        with pytest.raises(ClientError):
            s3.delete_objects(Bucket="b", Delete={"Objects": [{"Key": "k"}]})
        assert len(store.seen) == 4
        # Whose answer is in its headers.
        s3.put_object(Bucket="b", Key="k", Body=b"x")
        s3.head_object(Bucket="b", Key="k")
        assert s3.get_object(Bucket="b", Key="k")["Body"].read() == b""
