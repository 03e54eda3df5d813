"""Fetch and deliver files by the log-in node, with the helper that jobs have."""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from airflow_provider_csc.allas.names import ObjectName, check_key
from airflow_provider_csc.errors import (
    AllasError,
    ConfigError,
    SlurmError,
    UnreadableOutputError,
)
from airflow_provider_csc.slurm.batch import at_home
from airflow_provider_csc.staging.commands import (
    build_list,
    build_login_run,
    read_file,
    read_list,
)
from airflow_provider_csc.staging.declarations import Declared
from airflow_provider_csc.staging.helper import helper_text
from airflow_provider_csc.staging.receipts import Moved, Receipts, parse_receipts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from airflow_provider_csc.client.kill import KillLog
    from airflow_provider_csc.client.slurm import SlurmClient
    from airflow_provider_csc.staging.plan import Fetch
    from airflow_provider_csc.store.store import Store

Value = TypeVar("Value")
Sized = TypeVar("Sized")

# What one remote command does, so that none lasts long, and the log tells how far it is.
_FILES_AT_ONCE = 500
_BYTES_AT_ONCE = 50 * 1024**3
# No faster than 10 MB/s is waited for, in a queue of an hour.
_RUN_SECONDS = 2 * 3600.0
_URL_SECONDS = 3 * 3600


@dataclass(frozen=True, slots=True)
class LoginStaging:
    """
    Files between a store and a directory that the log-in node sees.

    ``base`` is where the helper may have a directory while it runs. ``undone`` are uploads that
    could not be aborted because the store was away; who delivers once more begins with them.
    """

    client: SlurmClient
    store: Store
    base: str
    log: KillLog
    undone: list[Mapping[str, str]] = field(default_factory=list)

    async def fetch(self, fetches: Sequence[Fetch], work: str) -> Moved:
        """Fetch objects into files below a directory, which is made; each appears verified."""
        from airflow_provider_csc.store.staging import issue_gets, manner_of  # noqa: PLC0415

        moved = Moved(0, 0, 0)
        if not fetches:
            await self._make(work)
        for some in _portions(fetches, lambda each: each.size):
            epoch = secrets.token_hex(8)
            manner = manner_of(self.store)
            manifest = await asyncio.to_thread(
                issue_gets, self.store, some, epoch, _URL_SECONDS, manner
            )
            receipts = await self._run("in", work, manifest, epoch)
            moved = _sum(moved, receipts.fetched)
        return moved

    async def deliver(self, files: Sequence[tuple[Declared, int]], work: str) -> Moved:
        """Deliver files below a directory, of which the sizes are known, to objects."""
        from airflow_provider_csc.store.staging import (  # noqa: PLC0415
            issue_puts,
            manner_of,
            settle,
        )

        await self._undo()
        moved = Moved(0, 0, 0)
        for some in _portions(files, lambda each: each[1]):
            epoch = secrets.token_hex(8)
            outputs = [declared for declared, _ in some]
            manner = manner_of(self.store)
            issued = await asyncio.to_thread(
                issue_puts, self.store, some, epoch, _URL_SECONDS, manner
            )
            try:
                receipts = await self._run("out", work, issued.manifest, epoch)
                absent = await asyncio.to_thread(
                    settle, self.store, outputs, receipts, issued.record, is_wanted=True
                )
            finally:
                await self._withdraw(outputs, issued.record)
            if absent:
                raise AllasError(f"{absent[0]} was not delivered: it is gone.", paths=absent)
            moved = _sum(moved, receipts.delivered)
        return moved

    async def _undo(self) -> None:
        """Abort what could not be aborted before."""
        from airflow_provider_csc.store.staging import abort_uploads  # noqa: PLC0415

        await asyncio.to_thread(abort_uploads, self.store, self.undone)
        self.undone.clear()

    async def _withdraw(self, outputs: Sequence[Declared], record: Mapping[str, Any]) -> None:
        """Abort what is left of uploads in parts; where the store is away, note it."""
        from airflow_provider_csc.store.staging import begun_for  # noqa: PLC0415

        self.undone.extend(begun_for(outputs, record))
        try:
            await self._undo()
        except AllasError as error:
            # Why it came to that is told by whoever is at it, and no less important.
            self.log.log(
                logging.WARNING,
                "Uploads that were begun could not be aborted: %s If no other attempt follows, "
                "AllasAbortUploadsOperator removes them.", error.message,
            )  # fmt: skip

    async def deliver_outputs(self, outputs: Sequence[Declared], work: str) -> dict[str, Any]:
        """Deliver what is there of a job's outputs; return what became of it, as plain JSON."""
        files: list[tuple[Declared, int]] = []
        absent, lost, problems = [], [], []
        for each in outputs:
            own = each.path or "./"
            path = f"{work.rstrip('/')}/{each.path}".rstrip("/")
            try:
                found = await self._list(path)
            except UnreadableOutputError:
                raise
            except SlurmError as error:
                problems.append(f"{own}: {error.message.rstrip('.')}")
                continue
            if not found:
                absent.append(own)
                if not each.optional:
                    lost.append(own)
                continue
            if (set(found) == {""}) == each.is_tree:
                problems.append(f"{own}: it is {'no' if each.is_tree else 'a'} directory")
                continue
            for name, size in sorted(found.items()):
                place = ObjectName(each.name.bucket, check_key(f"{each.name.key}{name}"))
                files.append((Declared(place, f"{each.path}{name}"), size))
        moved = await self.deliver(files, work)
        outcome: dict[str, Any] = {
            "delivered": {"files": moved.count, "bytes": moved.size, "seconds": moved.seconds},
            "absent": absent,
        }
        if lost:
            problems.append(f"the job did not write {', '.join(lost)}")
        if problems:
            outcome |= {"problem": "; ".join(problems), "phase": "out"}
        return outcome

    async def put_aside(self, work: str) -> None:
        """
        Move a directory out of the way, whose files are those of a DAG run that was deleted.

        An output that the job does not write would be theirs.
        """
        place = at_home(work)
        program = f'[ ! -e {place} ] || mv -T -- {place} {place}"~$(date +%s)"'
        moved = await self.client.run(program)
        if moved.status != 0:
            raise SlurmError(f"{work} cannot be moved aside: {moved.complaint}", path=work)

    async def _make(self, work: str) -> None:
        made = await self.client.run(f"mkdir -p -- {at_home(work)}")
        if made.status != 0:
            raise SlurmError(f"{work} cannot be made: {made.complaint}", path=work)

    async def list_files(self, path: str) -> dict[str, int]:
        """
        Return the sizes of the files below a directory; of a file alone the path is empty.

        :raises ConfigError: when there is no such path.
        :raises SlurmError: when it cannot be read.
        """
        found = await self._list(path)
        if found is None:
            raise ConfigError(f"There is no {path!r} on the cluster.", value=path)
        return found

    async def _list(self, path: str) -> dict[str, int] | None:
        frame = (await self.client.ask(build_list(path), timeout=_RUN_SECONDS))["list"]
        try:
            is_there = read_file(frame) is not None
        except SlurmError as error:
            raise SlurmError(f"{path!r} cannot be read: {frame.complaint}", path=path) from error
        return read_list(frame) if is_there else None

    async def _run(
        self, phase: Literal["in", "out"], work: str, manifest: str, epoch: str
    ) -> Receipts:
        program = build_login_run(
            phase,
            base=self.base,
            work=work,
            helper=helper_text(),
            manifest=manifest,
            epoch=epoch,
        )
        frames = await self.client.ask(program, timeout=_RUN_SECONDS)
        if frames["prepare"].status != 0:
            raise SlurmError(f"{self.base} cannot be written: {frames['prepare'].complaint}")
        for line in frames["stage"].text.splitlines():
            self.log.info("%s", line)
        receipts = parse_receipts(frames["receipts"].data + b"\n")
        if frames["stage"].status != 0:
            problem = receipts.problem or frames["stage"].complaint or "the helper was killed"
            raise AllasError(
                f"By the log-in node: {problem.rstrip('.')}.",
                phase=phase,
                is_passing=receipts.is_passing,
            )
        return receipts


def _portions(items: Sequence[Sized], size_of: Callable[[Sized], int]) -> Iterator[list[Sized]]:
    some: list[Sized] = []
    size = 0
    for item in items:
        if some and (len(some) >= _FILES_AT_ONCE or size + size_of(item) > _BYTES_AT_ONCE):
            yield some
            some, size = [], 0
        some.append(item)
        size += size_of(item)
    if some:
        yield some


def _sum(moved: Moved, more: Moved | None) -> Moved:
    if more is None:
        return moved
    return Moved(moved.count + more.count, moved.size + more.size, moved.seconds + more.seconds)
