"""A forward proxy: CONNECT for https, whole addresses for http; it notes what it is asked for."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(kw_only=True)
class ForwardProxy:
    """Where it listens, and the methods and addresses (host and port) of its requests."""

    url: str
    asked: list[tuple[str, str]] = field(default_factory=list)


@contextlib.contextmanager
def serve_proxy() -> Iterator[ForwardProxy]:
    """Pass on what is asked for, for as long as the context lasts."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    proxy = ForwardProxy(url=f"http://127.0.0.1:{listener.getsockname()[1]}")
    thread = threading.Thread(target=_accept, args=(listener, proxy), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def _accept(listener: socket.socket, proxy: ForwardProxy) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(client, proxy), daemon=True).start()


def _serve(client: socket.socket, proxy: ForwardProxy) -> None:
    with contextlib.suppress(OSError), client:
        head, body = _read_head(client)
        line, _, headers = head.partition(b"\r\n")
        method, target, version = line.split(b" ", 2)
        url = urlsplit(b"//" + target if method == b"CONNECT" else target)
        proxy.asked.append((method.decode(), url.netloc.decode()))
        with socket.create_connection((url.hostname or b"", url.port or 80)) as server:
            if method == b"CONNECT":
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = target[target.index(url.netloc) + len(url.netloc) :]
                # One request for each connection: nothing that follows has to be understood.
                first = b" ".join((method, path, version)) + b"\r\nConnection: close\r\n"
                server.sendall(first + headers + b"\r\n\r\n" + body)
            answers = threading.Thread(target=_pump, args=(server, client), daemon=True)
            answers.start()
            _pump(client, server)
            answers.join()


def _read_head(client: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        if not more:
            raise ConnectionError("it was closed within the head of a request")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
