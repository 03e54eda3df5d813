"""A TCP proxy before sshd that cuts, refuses, swallows or never answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable


class Mode(Enum):
    """How new connections are treated."""

    PASS = "pass"
    REFUSE = "refuse"  # reset as soon as it is there
    SILENT = "silent"  # accepted, then nothing


@dataclass(slots=True, eq=False)
class _Link:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    left: float  # bytes until it is cut
    passed: int = 0

    def cut(self) -> None:
        for writer in (self.client, self.server):
            _reset(writer)


@dataclass(kw_only=True)
class Proxy:
    """Forwards to ``target`` on this machine, as it is told."""

    target: int
    # Bytes, both ways together, after which a new connection is cut; None: never.
    cut_after: Callable[[], int | None] = lambda: None
    mode: Mode = Mode.PASS
    port: int = 0
    cuts: int = 0
    turned_away: int = 0
    swallowed: int = 0
    _links: set[_Link] = field(default_factory=set)
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _handlers: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Server | None = None
    _asleep: set[asyncio.StreamWriter] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._open.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        handlers = list(self._handlers)
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await asyncio.sleep(0.1)  # the transports close one round of the loop later

    @property
    def own_ports(self) -> frozenset[int]:
        """The ports from which it is connected to its target."""
        names = (link.server.get_extra_info("sockname") for link in self._links)
        return frozenset(name[1] for name in names if name)

    def cut_all(self) -> int:
        """Cut what is open; return how many connections that were."""
        links = list(self._links)
        for link in links:
            link.cut()
        self.cuts += len(links)
        return len(links)

    def swallow(self) -> None:
        """From now on nothing passes, and nothing is closed: a black hole."""
        self._open.clear()

    def pass_on(self) -> None:
        """End a black hole; what had vanished in it stays lost, as its connections do."""
        for writer in self._asleep:
            _reset(writer)
        self._asleep.clear()
        if not self._open.is_set():
            for link in list(self._links):
                link.cut()
        self._open.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.create_task(self._handle(reader, writer))
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        finally:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode is Mode.REFUSE:
            self.turned_away += 1
            _reset(writer)
            return
        if self.mode is Mode.SILENT or not self._open.is_set():
            self.turned_away += 1
            self._asleep.add(writer)
            await reader.read()
            self._asleep.discard(writer)
            return
        try:
            back_reader, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            _reset(writer)
            return
        after = self.cut_after()
        link = _Link(writer, back, float("inf") if after is None else after)
        self._links.add(link)
        try:
            await asyncio.gather(
                self._pump(link, reader, back), self._pump(link, back_reader, writer)
            )
        finally:
            self._links.discard(link)
            back.transport.abort()

    async def _pump(
        self, link: _Link, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                if not self._open.is_set():
                    self.swallowed += 1
                    continue
                part = data[: int(min(link.left, len(data)))]
                link.left -= len(data)
                target.write(part)
                await target.drain()
                if link.left <= 0:
                    if not target.transport.is_closing():
                        self.cuts += 1
                    link.cut()
                    return
            target.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close without a good-bye, as a firewall or a crash does."""
    handle = writer.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
