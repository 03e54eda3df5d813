"""How archives are read, without any store."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.store import unpack

if TYPE_CHECKING:
    from collections.abc import Callable


class Lane:
    def check(self) -> None:
        """Nobody has cancelled it."""


class Counting:
    """Writes nothing, and notes how many members the archive has in memory."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.most_held = 0

    def write(
        self, member: tarfile.TarInfo, tar: tarfile.TarFile, check: Callable[[], None]
    ) -> None:
        self.names.append(member.name)
        self.most_held = max(self.most_held, len(vars(tar)["members"]))


def test_members_that_were_written_are_not_kept_in_memory() -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for number in range(1000):
            tar.addfile(tarfile.TarInfo(str(number)))
    made.seek(0)
    writer: Any = Counting()
    lane: Any = Lane()
    unpack._write_members(made, writer, lane)
    assert writer.names == [str(number) for number in range(1000)]
    assert writer.most_held <= 1
