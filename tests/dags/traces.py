"""Where a secret could have been left: processes of a user, and all that an Airflow keeps."""

from __future__ import annotations

import os
import pwd
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_PAUSE_SECONDS = 0.02


@dataclass
class ProcessWatch:
    """The arguments and environments of a user's processes, as often as can be looked."""

    user: str
    seen: set[bytes] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        uid = pwd.getpwnam(self.user).pw_uid
        while not self._over.wait(_PAUSE_SECONDS):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):  # it has ended meanwhile
                    if process.stat().st_uid == uid:
                        self.seen.add((process / "cmdline").read_bytes())
                        self.seen.add((process / "environ").read_bytes())


def files_below(directory: Path) -> Iterator[tuple[str, bytes]]:
    for path in directory.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()


def dump_database(settings: dict[str, str]) -> bytes:
    """Return all of Airflow's database as text; its files may hold values compressed."""
    (program,) = list(Path("/usr/lib/postgresql").glob("*/bin/pg_dump"))[-1:]
    command = [program, "-h", "127.0.0.1", "-p", settings["AIRFLOW_DATABASE_PORT"]]
    password = (Path(settings["DEMO_DIR"]) / "secrets/postgresql").read_text().strip()
    return subprocess.run(
        [*command, "-U", "airflow", "postgres"],
        env={**os.environ, "PGPASSWORD": password},
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
