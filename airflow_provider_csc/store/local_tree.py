"""The files of a local directory."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from airflow_provider_csc.allas.plan import Item
from airflow_provider_csc.errors import AllasError, ConfigError
from airflow_provider_csc.notation import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Symlinks = Literal["follow", "skip", "refuse"]

# Hidden files of downloads that were not finished.
LEFTOVER_PREFIX = ".airflow-"
LEFTOVER_SUFFIXES = (".part", ".done")


@dataclass(slots=True)
class LocalTree:
    """
    What lies below a directory, in order; ``notes`` are filled while it is listed.

    Symbolic links are followed, as files and as directories, unless that would go in a circle or
    they lead nowhere; or skipped, with a note; or refused. What is neither file nor directory
    (sockets, devices) is skipped with a note. ``is_excluded`` is asked for directories, into which
    nobody looks then. ``skipped`` are the paths that are there and not listed, but meant. With
    ``keeps_empty`` empty directories are listed too, with a slash at their end.
    """

    root: Path
    is_selected: Callable[[str], bool] = lambda _: True
    symlinks: Symlinks = "follow"
    is_excluded: Callable[[str], bool] = lambda _: False
    keeps_empty: bool = False
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Item]:
        """Yield each file by its path below the root, with slashes."""
        yield from self._walk(self.root, "", frozenset())

    def _walk(
        self, directory: Path, prefix: str, above: frozenset[tuple[int, int]]
    ) -> Iterator[Item]:
        status = directory.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            raise AllasError(
                f"{directory} is a symbolic link to a directory it lies in, so that the tree has "
                "no end. Remove it, exclude it, or give symlinks='skip'.",
                path=str(directory),
            )
        with os.scandir(directory) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        if self.keeps_empty and prefix and not entries and self.is_selected(prefix):
            yield Item(prefix, 0)
        for entry in entries:
            path = prefix + _check_name(entry.name, directory)
            if _is_leftover(entry.name):
                continue
            is_directory = _is_directory(entry)
            if is_directory and self.is_excluded(f"{path}/"):
                continue
            if entry.is_symlink() and not self._takes_link(entry, path, is_directory=is_directory):
                continue
            if is_directory:
                yield from self._walk(Path(entry.path), f"{path}/", above | {here})
            elif self.is_selected(path):
                yield from self._file(entry, path)

    def _takes_link(self, entry: os.DirEntry[str], path: str, *, is_directory: bool) -> bool:
        if self.symlinks == "follow":
            return True
        # What lies below a directory may be meant.
        if not is_directory and not self.is_selected(path):
            return False
        if self.symlinks == "skip":
            self._skip(
                path, f"{entry.path} is a symbolic link; it is skipped", is_directory=is_directory
            )
            return False
        raise AllasError(
            f"{entry.path} is a symbolic link, and symlinks='refuse'. Exclude it, or follow links.",
            path=entry.path,
        )

    def _skip(self, path: str, note: str, *, is_directory: bool = False) -> None:
        self.skipped.append(f"{path}/" if is_directory else path)
        self.notes.append(note)

    def _file(self, entry: os.DirEntry[str], path: str) -> Iterator[Item]:
        try:
            status = entry.stat()
        except OSError as error:
            if not entry.is_symlink():
                if not isinstance(error, FileNotFoundError):
                    raise
                # It was removed while the directory was listed.
                self.notes.append(f"{entry.path} is gone; it is skipped")
                return
            raise AllasError(
                f"{entry.path} is a symbolic link that leads nowhere. Remove it, exclude it, or "
                "give symlinks='skip'.",
                path=entry.path,
            ) from error
        if stat.S_ISREG(status.st_mode):
            yield Item(path, status.st_size, status.st_mtime)
        else:
            self._skip(path, f"{entry.path} is neither file nor directory; it is skipped")


def check_symlinks(value: object) -> Symlinks:
    """Return what is done about symbolic links."""
    if value not in get_args(Symlinks):
        raise ConfigError(
            f"symlinks: {shown(value)} is not known. There are 'follow', 'skip' and 'refuse'.",
            field="symlinks",
        )
    return value  # type: ignore[return-value]


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        if not entry.is_symlink():
            raise
        # It leads in a circle, or where nobody may look: what is done about it is the caller's.
        return False


def _is_leftover(name: str) -> bool:
    return name.startswith(LEFTOVER_PREFIX) and name.endswith(LEFTOVER_SUFFIXES)


def _check_name(name: str, directory: Path) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise AllasError(
            f"The file {os.fsencode(name)!r} in {directory} has a name that is not UTF-8, as names "
            "of objects have to be. Rename or exclude it.",
            path=str(directory),
        ) from None
    return name
