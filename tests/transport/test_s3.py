"""What a failed request says, each against a real socket that fails in that way."""

from __future__ import annotations

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from airflow_provider_csc.transport.s3 import describe_failure
from tests.support.tls import serve_tls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "s3cr3t-never-shown"


def fail(url: str, **client: Any) -> str:
    """List buckets at a URL that cannot answer well; return what is said about it."""
    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=2,
        read_timeout=1,
        s3={"addressing_style": "path"},
    )
    keys = {"aws_access_key_id": "AKEY", "aws_secret_access_key": SECRET}
    s3 = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", config=config, **(keys | client)
    )
    with contextlib.closing(s3), pytest.raises((BotoCoreError, ClientError)) as caught:
        s3.list_buckets()
    said = describe_failure(caught.value, url)
    assert SECRET not in said
    return said


@contextlib.contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """Serve one answer to everything, as a broken or foreign server would."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: object) -> None:
            """Stay silent."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def s3_error(code: str) -> str:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>words</Message></Error>"


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """An address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


def test_an_unknown_name_is_a_matter_of_dns() -> None:
    said = fail("https://no-such-store.invalid")
    assert said.startswith("The name of no-such-store.invalid is not known (DNS: ")


def test_a_closed_port_is_a_refused_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert fail(f"http://127.0.0.1:{port}").startswith(f"127.0.0.1:{port} refused the connection.")


def test_a_silent_server_is_a_timeout(silent: tuple[str, int]) -> None:
    url = f"http://127.0.0.1:{silent[1]}"
    assert fail(url).startswith(f"{url} took the connection but gave no answer in time.")


def test_a_full_backlog_is_a_timeout_of_the_connection() -> None:
    """192.0.2.0/24 is reserved for documentation and never answers (RFC 5737)."""
    said = fail("http://192.0.2.1:9")
    assert "192.0.2.1:9" in said
    assert any(words in said for words in ("in time", "failed", "refused"))


def test_a_certificate_nobody_vouches_for_is_named(tmp_path: Path, silent: Any) -> None:
    with serve_tls(tmp_path, silent) as front:
        said = fail(front.url)
    assert "is not trusted (self-signed certificate)" in said
    assert "CA bundle" in said


def test_a_certificate_for_another_name_is_named(tmp_path: Path, silent: Any) -> None:
    with serve_tls(tmp_path, silent) as front:
        url = front.url.replace("127.0.0.1", "localhost")
        said = fail(url, verify=str(front.certificate))
    assert "'localhost' doesn't match '127.0.0.1'" in said
    assert "Correct the host name" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent.pem", "The CA bundle cannot be read here (No such file or directory)."),
        ("", "The CA bundle cannot be read here (Is a directory)."),
        ("prose.pem", "The CA bundle holds no certificate (NO_CERTIFICATE_OR_CRL_FOUND)."),
    ],
)
def test_a_ca_bundle_that_is_none_is_named(
    tmp_path: Path, silent: Any, name: str, said: str
) -> None:
    (tmp_path / "prose.pem").write_text("no certificate")
    with serve_tls(tmp_path, silent) as front:
        assert fail(front.url, verify=str(tmp_path / name)).startswith(said)


def test_https_to_a_server_without_tls_suggests_http() -> None:
    with answering(200, "") as url:
        said = fail(url.replace("http://", "https://"))
    assert "does not speak TLS" in said
    assert "http://" in said


def test_a_server_that_hangs_up_is_a_failed_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        said = fail(url)
        thread.join()
    assert said.startswith(f"{url}: Connection was closed before we received a valid response")
    assert "Try again" in said


def test_missing_keys_are_said_to_be_missing() -> None:
    said = fail("http://127.0.0.1:9", aws_access_key_id=None, aws_secret_access_key=None)
    assert said.startswith("No access key and secret key were found.")


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (403, s3_error("InvalidAccessKeyId"), "InvalidAccessKeyId: the object store does not know"),
        (403, s3_error("SignatureDoesNotMatch"), "SignatureDoesNotMatch: the secret key"),
        (403, s3_error("RequestTimeTooSkewed"), "RequestTimeTooSkewed: the clocks"),
        (403, s3_error("AccessDenied"), "AccessDenied: the object store refuses"),
        (500, s3_error("InternalError"), "InternalError: the object store failed within itself."),
        (400, s3_error("MalformedXML"), "MalformedXML: words"),
        (404, "<html><body>Not here</body></html>", "no answer of an S3 service"),
        (502, "", "no answer of an S3 service"),
    ],
)
def test_an_error_answer_is_explained(status: int, body: str, said: str) -> None:
    with answering(status, body) as url:
        assert said in fail(url)
        assert fail(url).startswith(f"{url} answered ")


def test_a_page_with_status_200_is_no_list_of_buckets() -> None:
    """botocore turns it into a status 500, as S3 may send an error under status 200."""
    with answering(200, "<html>Welcome") as url:
        assert "no answer of an S3 service" in fail(url)
