"""
What a fault of a transfer leaves behind: looked at in the tests, and shown as a table.

``python -m tests.support.fault_table`` runs tests/cluster/test_allas_faults.py with FAULT_ROWS set,
so that each test writes down what it saw, and puts the table onto docs/faults.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tests.support.rgw import unfinished
from tests.support.transfers import hidden, read

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CHECKOUT = Path(__file__).parents[2]
PAGE = CHECKOUT / "docs" / "faults.md"
ROWS = CHECKOUT / "build" / "faults.jsonl"
TESTS = "tests/cluster/test_allas_faults.py"
Kept = Literal["nothing", "upload", "files", "some", "directory"]
# Uploads; hidden files and directories.
_KEPT: dict[Kept, list[tuple[int, int]]] = {
    "nothing": [(0, 0)],
    "upload": [(1, 0)],
    "files": [(0, 2)],
    "some": [(0, 0), (0, 2)],
    "directory": [(0, 1)],
}
HEADS = (
    "what was injected",
    "what the user is told",
    "under the name",
    "unfinished uploads",
    "temporary files",
    "what the retry did",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    One fault: what was said, what was there right after it, and what came of a retry.

    Of ``objects`` targets ``whole`` were there with their full content, and none otherwise.
    ``carried`` of ``size`` bytes went over the network once more.
    """

    fault: str
    told: str
    objects: int
    whole: int
    uploads: int
    parts: int
    files: int
    size: int
    carried: int | None
    is_survived: bool = False

    @property
    def cells(self) -> list[str]:
        return [
            self.fault,
            self.told or "nothing: the task succeeds",
            self._names,
            f"1, of {self.parts} parts" if self.uploads else "0",
            str(self.files),
            self._retry,
        ]

    @property
    def _names(self) -> str:
        if self.objects == 1:
            return "the whole" if self.whole else "nothing"
        return f"{self.whole} of {self.objects}, whole" if self.whole else "nothing"

    @property
    def _retry(self) -> str:
        size = f"{self.size / 1e6:.1f} MB"
        if self.is_survived:
            twice = "" if self.carried is None else f"; {self.carried / 1e6:.1f} of {size} twice"
            return f"none was needed{twice}; checksum right"
        there = self.size - (self.carried or 0)
        went_on = f"went on from {there / 1e6:.1f} of {size}" if there else f"carried {size}"
        return f"{went_on}; checksum right"


@dataclass(slots=True)
class Sight:
    """What is there at one moment; ``names`` are objects and files with what tells a change."""

    names: dict[str, object]
    uploads: int
    parts: int
    files: int


@dataclass(slots=True, kw_only=True)
class FaultWatch:
    """
    Looks at a bucket and a directory before a fault, after it, and after a retry.

    It asks the store by a connection of its own, and fails where something is left that no retry
    can use.
    """

    client: Any
    bucket: str
    directory: Path
    rows: Path | None
    words: dict[str, str] = field(default_factory=dict)
    _row: dict[str, Any] = field(default_factory=dict)
    _whole: Mapping[str, bytes] = field(default_factory=dict)
    _is_one: bool = False
    _before: Sight | None = None

    def watch(
        self,
        fault: str,
        whole: Mapping[str, bytes],
        *,
        size: int | None = None,
        is_one: bool = False,
    ) -> None:
        """
        Begin; ``whole`` has by their names (``s3://…``, paths) what the targets are to hold.

        ``size`` is what goes over the network, where that is something else; with ``is_one`` all of
        them appear at once, or none.
        """
        known = sum(map(len, whole.values())) if size is None else size
        self._row = {"fault": fault, "objects": len(whole), "size": known}
        self._whole, self._is_one, self._before = whole, is_one, self.look()

    def fails(
        self,
        transfer: Callable[[], object],
        kind: type[Exception],
        *words: str,
        keeps: Kept = "nothing",
    ) -> str:
        """
        See a transfer fail with ``words`` in its message, in their order: a cause, then a remedy.

        It leaves the names as they were, but for whole ones of several; and ``keeps`` nothing, or
        what the retry continues: its one "upload", or its two hidden "files" (or, where both may
        be, "some"); what is unpacked lies in a hidden "directory".
        """
        told = ""
        try:
            transfer()
        except kind as error:
            told = str(error)
        assert re.search(".*".join(map(re.escape, words)), told, re.DOTALL), told or "no error"
        self.ends(told, keeps=keeps)
        return told

    def ends(self, told: str, *, keeps: Kept = "nothing") -> None:
        """See what a transfer has left that has ended, in whatever way."""
        sight = self.look()
        new = self._new(sight)
        for name in new:
            assert self._content(name) == self._whole.get(name), f"{name} is not whole"
        most = 0 if self._is_one else len(self._whole) - 1
        assert len(new) <= most, "it has failed, but all is there"
        assert (sight.uploads, sight.files) in _KEPT[keeps]
        self._row |= {"told": self._stable(told), "whole": len(new), "uploads": sight.uploads}
        self._row |= {"parts": sight.parts, "files": sight.files}

    def retries(
        self, transfer: Callable[[], dict[str, Any]], *, continues: bool | None = False
    ) -> dict[str, Any]:
        """
        See a retry succeed, leave nothing behind, and carry only what is not there.

        ``continues`` is None where chance decides whether there is anything to go on from.
        """
        done = transfer()
        self._check_end()
        if continues is not None:
            assert (done["bytes"] < self._row["size"]) is continues, done
        self._write(carried=done["bytes"])
        return done

    def survives(
        self, transfer: Callable[[], object], passed: Callable[[], int] | None = None
    ) -> None:
        """See a transfer succeed in spite of the fault; ``passed`` counts bytes on the wire."""
        before = passed() if passed else 0
        transfer()
        twice = max(passed() - before - self._row["size"], 0) if passed else None
        self._check_end()
        self._row |= {"told": "", "whole": len(self._whole), "uploads": 0, "parts": 0, "files": 0}
        self._write(carried=twice, is_survived=True)

    def look(self) -> Sight:
        """Ask the store and the file system."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        names: dict[str, object] = {
            f"s3://{self.bucket}/{each['Key']}": each["ETag"]
            for page in pages
            for each in page.get("Contents", ())
        }
        files = [path for path in self.directory.rglob("*") if path.is_file()]
        left = hidden(self.directory)
        names |= {
            str(path): (status.st_size, status.st_mtime_ns)
            for path in files
            if not {path, *path.parents}.intersection(left)
            for status in [path.stat()]
        }
        uploads = unfinished(self.client, self.bucket)
        parts = sum(
            len(self.client.list_parts(Bucket=self.bucket, **place).get("Parts", ()))
            for each in uploads
            for place in [{"Key": each["Key"], "UploadId": each["UploadId"]}]
        )
        return Sight(names, len(uploads), parts, len(left))

    def check_nothing_is_left(self) -> None:
        """Fail where an upload or a temporary file is there."""
        assert unfinished(self.client, self.bucket) == []
        assert hidden(self.directory) == []

    def _check_end(self) -> None:
        self.check_nothing_is_left()
        for name, expected in self._whole.items():
            found = hashlib.sha256(self._content(name) or b"").digest()
            assert found == hashlib.sha256(expected).digest(), name

    def _new(self, sight: Sight) -> list[str]:
        assert self._before is not None
        old, now = self._before.names, sight.names
        assert old.keys() <= now.keys(), "something is gone"
        # What was there and is no target, the test itself may have changed.
        return [
            name
            for name in now
            if now[name] != old.get(name) and (name in self._whole or name not in old)
        ]

    def _content(self, name: str) -> bytes | None:
        if name.startswith("s3://"):
            return read(self.client, *name.removeprefix("s3://").split("/", 1))
        return Path(name).read_bytes() if Path(name).is_file() else None

    def _stable(self, told: str) -> str:
        """Return a message without what differs from run to run."""
        for found, word in {
            **self.words, self.bucket: "BUCKET", str(self.directory): "DIR",
        }.items():  # fmt: skip
            told = told.replace(found, word)
        told = re.sub(r"127\.0\.0\.1:\d+", "STORE", told)
        return re.sub(r"\b[0-9a-f]{32}\b", "MD5", told).replace("\n", " ")

    def _write(self, **more: Any) -> None:
        row = Row(**self._row, **more)
        if self.rows is not None:
            with self.rows.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")


def conditions() -> str:
    """Say with what the faults were met."""
    said = subprocess.run(["radosgw", "--version"], capture_output=True, text=True, check=True)
    ceph = said.stdout.split()[2]
    package, airflow = (
        metadata.version(name) for name in ("airflow-provider-csc", "apache-airflow")
    )
    return (
        f"Conditions: Ceph RGW {ceph}, airflow-provider-csc {package}, Airflow {airflow}, "
        f"date {time.strftime('%F')}."
    )


def main() -> int:
    from benchmarks.page import replace_block
    from tests.support.state_tables import table

    ROWS.parent.mkdir(exist_ok=True)
    ROWS.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", TESTS]
    done = subprocess.run(command, env={**os.environ, "FAULT_ROWS": str(ROWS)}, check=False)
    if done.returncode:
        return done.returncode
    rows = [Row(**json.loads(line)) for line in ROWS.read_text().splitlines()]
    block = f"{conditions()}\n\n{table(HEADS, (row.cells for row in rows))}".rstrip()
    PAGE.write_text(replace_block(PAGE.read_text(), "table", block))
    return 0


if __name__ == "__main__":
    sys.exit(main())
