"""What is on its way to a store or from it when a fault meets it: a file, or a tree as one object."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, ClassVar

from boto3.s3.transfer import TransferConfig

from airflow_provider_csc.transfers.allas import AllasToLocalOperator, LocalToAllasOperator
from tests.support.run_transfer import start_transfer
from tests.support.transfers import MIB, PART, content, hidden, noise, pack, read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.fault_table import FaultWatch, Kept

SIZE = 60 * MIB


class Journey:
    """
    Something that goes to the store ("up") or comes from it ("down"), and is watched.

    :param fault: the fault in words; of these ``{it}`` is "a file" or "a tree", and ``{said}`` what
        is being done: sent, read, packed, unpacked. None where it is watched by who makes it.
    :param target: where what comes from the store goes; default: beside the source.
    """

    it: ClassVar[str]
    said: ClassVar[dict[str, str]]
    # What it leaves where the store cannot be reached any more, and where its process is killed.
    kept: ClassVar[dict[str, Kept]]
    kept_by_killed: ClassVar[dict[str, Kept]]
    # Whether it appears as a whole or not at all, however many files it is.
    is_one: ClassVar[bool]
    arguments: ClassVar[dict[str, dict[str, Any]]] = {"up": {}, "down": {}}

    def __init__(
        self,
        direction: str,
        watch: FaultWatch,
        fault: str | None,
        size: int = SIZE,
        *,
        target: Path | None = None,
    ) -> None:
        self.direction = direction
        self.is_up = direction == "up"
        self.source = watch.directory / "source"
        self.target = target or watch.directory / "target"
        self.directory, self.client, self.bucket = watch.directory, watch.client, watch.bucket
        self.key = self._make(size)
        self.uri = f"s3://{watch.bucket}/{self.key}"
        self.size, self.whole = self._expect()
        if fault is not None:
            told = fault.format(it=self.it, said=self.said[direction])
            watch.watch(told, self.whole, size=self.size, is_one=self.is_one)

    def task(self, **arguments: Any) -> LocalToAllasOperator | AllasToLocalOperator:
        """Return the task that makes it."""
        kind = LocalToAllasOperator if self.is_up else AllasToLocalOperator
        source, destination = self._places
        given = {**self.arguments[self.direction], **arguments}
        return kind(task_id="journey", source=source, destination=destination, **given)

    def go(self, **arguments: Any) -> dict[str, Any]:
        """Make it in this process."""
        return self.task(**arguments).execute({})  # type: ignore[typeddict-item]

    @contextlib.contextmanager
    def to_be_killed(self, **arguments: Any) -> Iterator[None]:
        """Make it in a process of its own, which is killed at the end of the context."""
        given = {**self.arguments[self.direction], **arguments}
        child = start_transfer(self.direction, *self._places, part_bytes=PART, **given)
        try:
            yield
        finally:
            child.kill()
            child.join()

    @property
    def _places(self) -> tuple[str, str]:
        places = str(self.source), self.uri
        return places if self.is_up else (self.uri, str(self.target))

    def is_midway(self, watch: FaultWatch) -> bool:
        """Whether something is there, on whichever side, of which no name is seen."""
        return watch.look().parts >= 2 if self.is_up else self._is_begun()

    def continues(self) -> bool:
        """Whether a retry goes on from where it was, once much was there."""
        raise NotImplementedError

    def _is_begun(self) -> bool:
        raise NotImplementedError

    def _make(self, size: int) -> str:
        """Make the source; return the object's key."""
        raise NotImplementedError

    def _expect(self) -> tuple[int, dict[str, bytes]]:
        """Return how many bytes go, and what is to be there in the end, by its names."""
        raise NotImplementedError


class FileJourney(Journey):
    """One file, in parts where it is large."""

    it = "a file"
    said: ClassVar = {"up": "sent", "down": "read"}
    kept: ClassVar = {"up": "upload", "down": "files"}
    kept_by_killed: ClassVar = kept
    is_one = False

    def continues(self) -> bool:
        return True

    def _is_begun(self) -> bool:
        return any(path.stat().st_size > 60 for path in self.directory.glob(".airflow-*.done"))

    def _make(self, size: int) -> str:
        self.data = content(size)
        self.source.write_bytes(self.data)
        if not self.is_up:
            parts = TransferConfig(multipart_threshold=PART + 1, multipart_chunksize=PART)
            self.client.upload_file(str(self.source), self.bucket, "k", Config=parts)
        return "k"

    def _expect(self) -> tuple[int, dict[str, bytes]]:
        return len(self.data), {self.uri if self.is_up else str(self.target): self.data}


class TreeJourney(Journey):
    """A directory that is packed on its way to the store, and unpacked on its way from it."""

    it = "a tree"
    said: ClassVar = {"up": "packed", "down": "unpacked"}
    kept: ClassVar = {"up": "upload", "down": "nothing"}
    kept_by_killed: ClassVar = {"up": "upload", "down": "directory"}
    is_one = True
    arguments: ClassVar = {"up": {"pack": True}, "down": {"unpack": True}}

    def continues(self) -> bool:
        return self.is_up

    def write(self, name: str, data: bytes) -> None:
        """Have a file hold this, at a time that stands still: it is in the archive, too."""
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (1_600_000_000, 1_600_000_000))

    def _is_begun(self) -> bool:
        return any(path.is_file() for top in hidden(self.directory) for path in top.rglob("*"))

    def _make(self, size: int) -> str:
        half = size // 2
        # None of it can be compressed, so that as many bytes go as there are.
        self.files = {"a": noise(half), "b/c": noise(size - half, 2), "d": b"last"}
        for name, data in self.files.items():
            self.write(name, data)
        return "k.tar.zst"

    def _expect(self) -> tuple[int, dict[str, bytes]]:
        # An archive is the same whenever its tree is.
        pack(self.source, self.uri, allas_conn_id="direct")
        archive = read(self.client, self.bucket, self.key)
        if not self.is_up:
            return len(archive), {str(self.target / name): self.files[name] for name in self.files}
        self.client.delete_object(Bucket=self.bucket, Key=self.key)
        return len(archive), {self.uri: archive}
