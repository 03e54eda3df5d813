"""An HTTP proxy before an object store that loses requests or answers, or delivers requests late."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect: *100-continue", re.IGNORECASE)


class Fault(Enum):
    NONE = auto()
    LOSE_ANSWER = auto()  # the request was carried out, and the connection is cut then
    LOSE_REQUEST = auto()  # the connection is cut, and the store never hears of it
    LATE = auto()  # the connection is cut, and the store gets the request when `deliver` is called
    SILENT = auto()  # the request was carried out; the connection stays open, without an answer


@dataclass(eq=False)
class CuttingProxy:
    """
    Takes each request as a whole, and asks ``choose(method, path)`` what is to become of it.

    Signatures stay good: the name of the host is the proxy's own, in both halves.
    """

    target: tuple[str, int]
    choose: Callable[[str, str], Fault]
    done: list[tuple[str, Fault]] = field(default_factory=list)
    _late: list[bytes] = field(default_factory=list)
    _silent: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for each in self._silent:
            each.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def count(self, fault: Fault) -> int:
        return sum(each is fault for _, each in self.done)

    def deliver(self) -> list[bytes]:
        """Send on what was held back; return the status lines of the answers nobody reads."""
        held, self._late = self._late, []
        return [self._forward(request).split(b"\r\n", 1)[0] for request in held]

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            request = _read_request(client)
            if request:
                self._treat(client, request)
                return
        client.close()

    def _treat(self, client: socket.socket, request: bytes) -> None:
        method, path = request.split(b" ", 2)[:2]
        fault = self.choose(method.decode(), path.decode())
        answer = b""
        if fault in (Fault.NONE, Fault.LOSE_ANSWER, Fault.SILENT):
            answer = self._forward(request)
        self.done.append((method.decode(), fault))
        match fault:
            case Fault.NONE:
                # Else a client that is quick sends its next request into a connection that ends.
                client.sendall(answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
                client.close()
            case Fault.SILENT:
                self._silent.append(client)
            case Fault.LATE:
                self._late.append(request)
                _reset(client)
            case Fault.LOSE_ANSWER | Fault.LOSE_REQUEST:
                _reset(client)

    def _forward(self, request: bytes) -> bytes:
        head, _, body = request.partition(b"\r\n\r\n")
        head = _EXPECT.sub(b"", head) + b"\r\nConnection: close"
        with socket.create_connection(self.target) as store:
            store.sendall(head + b"\r\n\r\n" + body)
            return b"".join(iter(lambda: store.recv(1 << 16), b""))


def _read_request(client: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(1 << 16)
        if not more:
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    if _EXPECT.search(head):
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    missing = (int(length[1]) if length else 0) - len(body)
    while missing > 0:
        more = client.recv(missing)
        if not more:
            return b""
        data += more
        missing -= len(more)
    return data


def _reset(client: socket.socket) -> None:
    """Close without a good-bye."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
