"""A TCP proxy that cuts, corrupts or holds connections at chosen bytes."""

from __future__ import annotations

import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Callable

Direction = Literal["up", "down"]
Kind = Literal["cut", "corrupt", "hold"]


@dataclass(slots=True)
class Fault:
    """
    What is done to bytes that pass in one direction, ``times`` times.

    Bytes are counted over all connections from when the fault was added: the one that carries byte
    ``at`` is cut before it, has it changed, or passes nothing on any more.
    """

    kind: Kind
    direction: Direction
    at: int
    times: int = 1
    seen: int = 0


@dataclass(eq=False)
class ByteProxy:
    """
    Listens on a port of its own and passes bytes on; the host's name is then the proxy's.

    It counts bytes by their direction, and connections: those it ``accepted``, and those it
    ``refused`` while it ``is_refusing``.
    """

    target: tuple[str, int]
    faults: list[Fault] = field(default_factory=list)
    on_bytes: Callable[[Direction, int], None] | None = None
    is_refusing: bool = False
    passed: dict[str, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    accepted: int = 0
    refused: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: set[socket.socket] = field(default_factory=set)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def add(self, kind: Kind, direction: Direction, at: int, times: int = 1) -> Fault:
        fault = Fault(kind, direction, at, times)
        with self._lock:
            self.faults.append(fault)
        return fault

    def at_byte(self, direction: str, at: int, act: Callable[[], object]) -> None:
        """Do something once, when the byte ``at`` of those to come is about to pass; all wait."""
        lock, begun = threading.Lock(), threading.Event()
        began = self.passed[direction]

        def look(going: str, size: int) -> None:
            with lock:
                is_there = going == direction and self.passed[direction] - began + size > at
                if is_there and not begun.is_set():
                    begun.set()
                    act()

        self.on_bytes = look

    def go_away(self) -> None:
        """Cut all connections, also that of who calls, and take no new ones."""
        self.is_refusing = True
        threading.Thread(target=self.cut_all).start()

    def come_back(self) -> None:
        """Let everything pass again."""
        self.faults.clear()
        self.on_bytes, self.is_refusing = None, False

    def cut_all(self) -> None:
        """Reset every connection there is."""
        with self._lock:
            connections, self._open = self._open, set()
        for connection in connections:
            _reset(connection)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.is_refusing:
                self.refused += 1
                _reset(client)
                continue
            self.accepted += 1
            try:
                server = socket.create_connection(self.target)
            except OSError:
                _reset(client)
                continue
            with self._lock:
                self._open |= {client, server}
            for source, sink, direction in ((client, server, "up"), (server, client, "down")):
                threading.Thread(
                    target=self._pump, args=(source, sink, direction), daemon=True
                ).start()

    def _pump(self, source: socket.socket, sink: socket.socket, direction: Direction) -> None:
        try:
            while data := source.recv(1 << 16):
                treated, kind = self._treat(data, direction)
                sink.sendall(treated)
                if kind == "cut":
                    raise ConnectionResetError
                if kind == "hold":
                    # Until the other side has had enough.
                    while source.recv(1 << 16):
                        pass
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            _reset(source)
            _reset(sink)

    def _treat(self, data: bytes, direction: Direction) -> tuple[bytes, Kind | None]:
        if self.on_bytes is not None:
            self.on_bytes(direction, len(data))
        with self._lock:
            self.passed[direction] += len(data)
            for fault in self.faults:
                if fault.direction != direction or not fault.times:
                    continue
                index = fault.at - fault.seen
                fault.seen += len(data)
                if not 0 <= index < len(data):
                    continue
                fault.times -= 1
                fault.seen = 0
                if fault.kind != "corrupt":
                    return data[:index], fault.kind
                data = data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]
        return data, None


def _reset(connection: socket.socket) -> None:
    """End a connection without a good-bye, also where another thread waits for its bytes."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()
