"""Bring objects and files, single ones and trees, from one side to the other."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.allas.names import ObjectName, check_key, check_tree, path_for
from airflow_provider_csc.allas.packing import packed_bytes
from airflow_provider_csc.allas.parts import choose_packed_part_size, parse_etag
from airflow_provider_csc.allas.plan import Action, Compare, Item, Step, make_plan
from airflow_provider_csc.errors import AllasError, ConfigError
from airflow_provider_csc.store.copy import ServerCopy, StreamCopy
from airflow_provider_csc.store.download import Download
from airflow_provider_csc.store.engine import Engine, Packed
from airflow_provider_csc.store.local_tree import LocalTree
from airflow_provider_csc.store.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
    from pathlib import Path

    from airflow_provider_csc.store.engine import Carriage, Progress
    from airflow_provider_csc.store.local_tree import Symlinks
    from airflow_provider_csc.store.store import Store

_DELETE_KEYS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How things are transferred; what the operators share."""

    compare: Compare = "checksum"
    delete_extra: bool = False
    is_selected: Callable[[str], bool] = lambda _: True
    is_excluded: Callable[[str], bool] = lambda _: False
    workers: int = 8
    bytes_per_second: float | None = None
    report: Callable[[Progress], None] = lambda _: None
    note: Callable[[str], None] = lambda _: None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    symlinks: Symlinks = "follow"
    verify_checksum: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What was done; numbers of files, bytes, and seconds.

    An archive is one file; ``packed`` tells what is in it.
    """

    transferred: int
    skipped: int
    deleted: int
    unverified: int
    bytes_transferred: int
    bytes_resumed: int
    seconds: float
    packed: Packed | None = None


class Transfer:
    """One transfer, which can be cancelled from elsewhere."""

    def __init__(self, store: Store, manner: Manner) -> None:
        self.store = store
        self._manner = manner
        self._engine = Engine(
            store.settings,
            workers=manner.workers,
            bytes_per_second=manner.bytes_per_second,
            report=manner.report,
        )

    def cancel(self) -> None:
        """Have it end soon, from any thread or signal handler."""
        self._engine.cancel()

    def upload(self, source: Path, target: ObjectName) -> Outcome:
        """
        Send a file, or all files below a directory, each to the key of its relative path.

        A target that is a prefix takes a single file under its own name.
        """
        if source.is_dir():
            return self._upload_tree(source, _as_prefix(target))
        status = source.stat()
        key = target.key + source.name if target.is_prefix else target.key
        item = Item(check_key(key), status.st_size, status.st_mtime)
        known = self.store.head(target.bucket, key) if self._manner.compare != "never" else None
        steps = make_plan([item], {key: known} if known else {}, compare=self._manner.compare)
        return self._send(steps, target.bucket, lambda _: source)

    def download(self, source: ObjectName, target: Path) -> Outcome:
        """
        Read an object to a file, or all objects below a prefix to files below a directory.

        A target that is a directory takes a single object under the last part of its key.
        """
        if source.is_prefix:
            return self._download_tree(source, target)
        item = self._head(source)
        path = target / source.key.rpartition("/")[2] if target.is_dir() else target
        return self._fetch(source.bucket, [(item, path)])

    def pack(self, source: Path, target: ObjectName) -> Outcome:
        """Send all files below a directory as one object: a tar of them, compressed with zstd."""
        from airflow_provider_csc.store.pack import PackedUpload  # noqa: PLC0415 - zstd, tarfile

        manner = self._manner
        figures = Packed()
        most = self._count(source, figures)
        key = check_key(target.key)
        carriage = PackedUpload(
            self.store,
            lambda: self._packed_tree(source, manner.symlinks),
            target,
            part_size=choose_packed_part_size(most),
            figures=figures,
            manner=manner,
            existing=self.store.head(target.bucket, key) if manner.compare != "never" else None,
        )
        return self._carry_archive(carriage, figures)

    def unpack(self, source: ObjectName, root: Path) -> Outcome:
        """Write what is in an archive below a directory."""
        from airflow_provider_csc.store.unpack import PackedDownload  # noqa: PLC0415 - zstd, tarfile

        item, figures = self._head(source), Packed()
        carriage = PackedDownload(
            self.store,
            source.bucket,
            item,
            root,
            make_tree=lambda: self._packed_tree(root, "skip"),
            figures=figures,
            manner=self._manner,
        )
        self._engine.progress.bytes_total = item.size
        outcome = self._carry_archive(carriage, figures)
        return replace(outcome, deleted=carriage.deleted)

    def copy(self, source: ObjectName, target_store: Store, target: ObjectName) -> Outcome:
        """
        Copy an object, or all objects below a prefix, into a bucket of this store or of another.

        One store copies by itself; between two the bytes go through this machine.
        """
        if source.is_prefix:
            target = _as_prefix(target)
            if target_store is self.store:
                self._refuse_overlap(source, target)
            # An object for the prefix itself would have no name at the top of a bucket.
            found = {
                target.key + rest: item
                for item in self._listed(self.store, source)
                if (rest := item.path.removeprefix(source.key))
            }
            self._refuse_empty(found, source)
            there = {item.path: item for item in self._listed(target_store, target)}
        else:
            name = source.key.rpartition("/")[2]
            key = target.key + name if target.is_prefix else target.key
            found = {key: self._head(source)}
            known = target_store.head(target.bucket, key)
            there = {key: known} if known else {}
        steps = make_plan(
            (replace(item, path=check_key(key)) for key, item in found.items()),
            there,
            compare=self._manner.compare,
            delete_extra=self._manner.delete_extra and source.is_prefix,
        )
        # What two stores say of an object is known already.
        steps = [_settle_comparison(step) for step in steps]
        kind = ServerCopy if target_store is self.store else StreamCopy
        carriages = (
            kind(
                self.store,
                source.bucket,
                found[step.item.path],
                target_store,
                ObjectName(target.bucket, step.item.path),
                verify_checksum=self._manner.verify_checksum,
            )
            for step in _carried(steps)
        )
        progress = self._carry(carriages, steps)
        return _outcome(progress, self._delete_objects(target_store, target.bucket, steps))

    def _listed(self, store: Store, top: ObjectName) -> Iterator[Item]:
        """Yield what is meant below a prefix."""
        for item in store.list_objects(top.bucket, top.key):
            self._engine.check()
            if self._manner.is_selected(item.path.removeprefix(top.key)):
                yield item

    def _head(self, source: ObjectName) -> Item:
        item = self.store.head(source.bucket, source.key)
        if item is None:
            raise AllasError(
                f"{source} does not exist. Look for its key with the store's browser, or give a "
                "prefix that ends with a slash to mean all below it.",
                uri=str(source),
            )
        return item

    def _refuse_empty(self, found: Sized, source: object) -> None:
        if found:
            return
        effect = ", and delete_extra would delete all" if self._manner.delete_extra else ""
        raise AllasError(
            f"There is nothing below {source} that is meant{effect}. Check the place, include and "
            "exclude.",
            uri=str(source),
        )

    def _refuse_overlap(self, source: ObjectName, target: ObjectName) -> None:
        is_same = source.bucket == target.bucket
        if is_same and (source.key.startswith(target.key) or target.key.startswith(source.key)):
            raise ConfigError(
                f"destination: {target} and the source, {source}, lie one within the other. Choose "
                "another prefix.",
                field="destination",
            )

    def _upload_tree(self, root: Path, target: ObjectName) -> Outcome:
        manner = self._manner
        tree = LocalTree(root, manner.is_selected, manner.symlinks, manner.is_excluded)
        source = []
        for item in tree:
            self._engine.check()
            source.append(replace(item, path=check_key(target.key + item.path)))
        for note in tree.notes:
            manner.note(note)
        self._refuse_empty(source, root)
        skipped = tuple(target.key + path for path in tree.skipped)
        there = {
            item.path: item
            for item in self._listed(self.store, target)
            # What was skipped here is not gone here.
            if not _is_among(item.path, skipped)
        }
        steps = make_plan(source, there, compare=manner.compare, delete_extra=manner.delete_extra)
        cut = len(target.key)
        return self._send(steps, target.bucket, lambda key: root / key[cut:])

    def _packed_tree(self, root: Path, symlinks: Symlinks) -> LocalTree:
        manner = self._manner
        return LocalTree(root, manner.is_selected, symlinks, manner.is_excluded, keeps_empty=True)

    def _count(self, root: Path, figures: Packed) -> int:
        """
        Count what is to be packed; return how many bytes it takes at the most.

        What cannot be packed is met here, before anything is sent.
        """
        tree = self._packed_tree(root, self._manner.symlinks)
        most = 0
        for item in tree:
            self._engine.check()
            most += packed_bytes(item)
            if not item.path.endswith("/"):
                figures.files_total += 1
                figures.bytes_total += item.size
        for note in tree.notes:
            self._manner.note(note)
        self._refuse_empty(range(figures.files_total), root)
        return most

    def _carry_archive(self, carriage: Carriage, figures: Packed) -> Outcome:
        progress = self._engine.progress
        progress.files_total, progress.packed = 1, figures
        try:
            return replace(_outcome(self._engine.run([carriage]), []), packed=figures)
        finally:
            for note in progress.unverified:
                self._manner.note(note)

    def _send(self, steps: Sequence[Step], bucket: str, path_of: Callable[[str], Path]) -> Outcome:
        carriages = (
            Upload(
                self.store,
                str(path_of(step.item.path)),
                ObjectName(bucket, step.item.path),
                arguments=self._manner.arguments,
                existing=step.existing if step.action is Action.COMPARE else None,
            )
            for step in _carried(steps)
        )
        progress = self._carry(carriages, steps)
        return _outcome(progress, self._delete_objects(self.store, bucket, steps))

    def _download_tree(self, source: ObjectName, root: Path) -> Outcome:
        found = [
            item
            for item in self._listed(self.store, source)
            # Some programs make an empty object for a directory.
            if not (item.path.endswith("/") and not item.size)
        ]
        self._refuse_empty(found, source)
        paths = [path_for(item.path, source.key) for item in found]
        check_tree(paths)
        pairs = [(item, root / path) for item, path in zip(found, paths, strict=True)]
        for _, path in pairs:
            _check_inside(path, root)
        outcome = self._fetch(source.bucket, pairs)
        if not self._manner.delete_extra:
            return outcome
        return replace(outcome, deleted=self._delete_files(root, set(paths)))

    def _fetch(self, bucket: str, pairs: Sequence[tuple[Item, Path]]) -> Outcome:
        compare, there = self._manner.compare, {}
        for item, path in pairs:
            self._engine.check()
            if path.is_file():
                status = path.stat()
                there[item.path] = Item(item.path, status.st_size, status.st_mtime)
        paths = {item.path: path for item, path in pairs}
        steps = make_plan((item for item, _ in pairs), there, compare=compare)
        carriages = (
            Download(
                self.store,
                bucket,
                step.item,
                paths[step.item.path],
                compare_first=step.action is Action.COMPARE,
                verify_checksum=self._manner.verify_checksum,
                # Or what was read would always be older than its object.
                keep_time=compare != "time",
            )
            for step in _carried(steps)
        )
        return _outcome(self._carry(carriages, steps), [])

    def _delete_files(self, root: Path, wanted: set[str]) -> int:
        tree = LocalTree(root, self._manner.is_selected, "skip", self._manner.is_excluded)
        gone = [item.path for item in tree if item.path not in wanted]
        for path in gone:
            self._engine.check()
            _check_inside(root / path, root)
            (root / path).unlink()
        return len(gone)

    def _delete_objects(self, store: Store, bucket: str, steps: Sequence[Step]) -> list[str]:
        gone = [step.item.path for step in steps if step.action is Action.DELETE]
        for first in range(0, len(gone), _DELETE_KEYS):
            self._engine.check()
            store.delete(bucket, gone[first : first + _DELETE_KEYS])
        return gone

    def _carry(self, carriages: Iterable[Carriage], steps: Sequence[Step]) -> Progress:
        progress = self._engine.progress
        wanted = list(_carried(steps))
        progress.files_skipped = sum(step.action is Action.SKIP for step in steps)
        progress.files_total = len(wanted) + progress.files_skipped
        progress.bytes_total = sum(step.item.size for step in wanted)
        try:
            return self._engine.run(carriages)
        finally:
            for note in progress.unverified:
                self._manner.note(note)


def _as_prefix(name: ObjectName) -> ObjectName:
    return name if name.is_prefix else replace(name, key=f"{name.key}/")


def _carried(steps: Iterable[Step]) -> Iterator[Step]:
    return (step for step in steps if step.action in (Action.COPY, Action.COMPARE))


def _settle_comparison(step: Step) -> Step:
    """Decide by the ETags of two objects whether one has to be copied."""
    if step.action is not Action.COMPARE:
        return step
    existing, item = step.existing, step.item
    is_same = existing is not None and existing.etag == item.etag and parse_etag(item.etag)
    return replace(step, action=Action.SKIP if is_same else Action.COPY)


def _is_among(path: str, skipped: Sequence[str]) -> bool:
    return any(path == each or (each.endswith("/") and path.startswith(each)) for each in skipped)


def _check_inside(path: Path, root: Path) -> None:
    """Refuse a path that a symbolic link on its way leads out of the directory."""
    parent = os.path.realpath(path.parent)
    top = os.path.realpath(root)
    if parent != top and not parent.startswith(top.rstrip("/") + "/"):
        raise AllasError(
            f"{path} would be written to {parent}, outside of {root}: a symbolic link leads there. "
            "Remove the link, or choose another directory.",
            path=str(path),
        )


def _outcome(progress: Progress, gone: Sequence[str]) -> Outcome:
    return Outcome(
        transferred=progress.files_done,
        skipped=progress.files_skipped,
        deleted=len(gone),
        unverified=len(progress.unverified),
        bytes_transferred=progress.bytes_done,
        bytes_resumed=progress.bytes_skipped,
        seconds=progress.seconds,
    )
