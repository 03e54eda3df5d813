"""Move files and objects into, out of and within Allas, or any other Ceph object store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.hooks._lineage import assets_of
from airflow_provider_csc.notation import NotationError, is_whole_number

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from airflow.providers.openlineage.extractors import (  # pyright: ignore[reportMissingImports]
        OperatorLineage,
    )
    from airflow.sdk import Context

    from airflow_provider_csc.allas.names import ObjectName
    from airflow_provider_csc.allas.plan import Compare
    from airflow_provider_csc.store.engine import Packed, Progress
    from airflow_provider_csc.store.local_tree import Symlinks
    from airflow_provider_csc.store.transfer import Outcome, Transfer


# Below it, a server would take a connection for dead.
_LEAST_RATE = 100_000


class _AllasTransfer(BaseOperator):
    """
    What all transfers share: how they compare, select, report and end.

    URIs that are no templates become assets, as inlets and outlets, by themselves.
    """

    template_fields: Collection[str] = (
        "source", "destination", "include", "exclude", "allas_conn_id",
    )  # fmt: skip
    ui_color = "#e3f4ea"

    def __init__(  # noqa: PLR0913 - one argument for each thing a user may want to say
        self,
        *,
        source: str,
        destination: str,
        allas_conn_id: str = "allas_default",
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        delete_extra: bool = False,
        compare: Compare = "checksum",
        max_workers: int = 8,
        bytes_per_second: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.destination = destination
        self.allas_conn_id = allas_conn_id
        self.include = include
        self.exclude = exclude
        self.delete_extra = delete_extra
        self.compare = compare
        self.max_workers = max_workers
        self.bytes_per_second = bytes_per_second
        self._transfer: Transfer | None = None
        self._is_killed = False
        self.inlets += assets_of(self.reads())
        self.outlets += assets_of(self.writes())

    def reads(self) -> list[object]:
        """Return the URIs of what is read from a store."""
        return [self.source]

    def writes(self) -> list[object]:
        """Return the URIs of what is written to a store."""
        return [self.destination]

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002
        """Transfer what is not there yet; return figures (see the class)."""
        try:
            outcome = self._run()
        except (NotationError, ConfigError) as error:
            raise AirflowFailException(f"{self.task_id}: {error}") from error
        finally:
            self._transfer = None
        self.log.info("%s", _describe(outcome))
        packed = outcome.packed
        figures = {"packed_files": packed.files, "packed_bytes": packed.bytes} if packed else {}
        return figures | {
            "source": self.source,
            "destination": self.destination,
            "transferred": outcome.transferred,
            "skipped": outcome.skipped,
            "deleted": outcome.deleted,
            "unverified": outcome.unverified,
            "bytes": outcome.bytes_transferred,
            "seconds": round(outcome.seconds, 3),
        }

    def on_kill(self) -> None:
        """End the transfer; no upload in parts is left behind."""
        self._is_killed = True
        if self._transfer is not None:
            self._transfer.cancel()

    def get_openlineage_facets_on_complete(self, _task_instance: object) -> OperatorLineage:
        """Tell OpenLineage what was read and written, templates filled in."""
        from airflow_provider_csc.hooks._lineage import lineage_of  # noqa: PLC0415

        return lineage_of([self.source], [self.destination])

    def _run(self) -> Outcome:
        raise NotImplementedError

    def _begin(self, **manner: Any) -> Transfer:
        from airflow_provider_csc.allas.plan import check_compare  # noqa: PLC0415
        from airflow_provider_csc.allas.selection import (  # noqa: PLC0415
            directory_excluder,
            selector,
        )
        from airflow_provider_csc.hooks.allas import AllasHook  # noqa: PLC0415
        from airflow_provider_csc.store.transfer import Manner, Transfer  # noqa: PLC0415

        self._check_numbers()
        self._transfer = Transfer(
            AllasHook(self.allas_conn_id).get_store(max_connections=self.max_workers),
            Manner(
                compare=check_compare(self.compare),
                delete_extra=self.delete_extra,
                is_selected=selector(self.include, self.exclude),
                is_excluded=directory_excluder(self.exclude),
                workers=self.max_workers,
                bytes_per_second=self.bytes_per_second,
                report=self._report,
                note=self.log.warning,
                **manner,
            ),
        )
        if self._is_killed:
            self._transfer.cancel()
        return self._transfer

    def _check_numbers(self) -> None:
        if not is_whole_number(self.max_workers) or self.max_workers < 1:
            raise ConfigError(
                f"max_workers: {self.max_workers!r} is no number of requests. Give 1 or more.",
                field="max_workers",
            )
        rate = self.bytes_per_second
        if rate is not None and not (isinstance(rate, (int, float)) and rate >= _LEAST_RATE):
            raise ConfigError(
                f"bytes_per_second: {rate!r} is no rate. Give a number from {_LEAST_RATE}, for "
                "example 50e6.",
                field="bytes_per_second",
            )

    def _refuse_size(self, option: str) -> None:
        if self.compare == "size":
            raise ConfigError(
                f"compare: 'size' tells nothing of a tree that is one object ({option}=True). Give "
                "'checksum', 'time' (names, sizes and times of its files) or 'never'.",
                field="compare",
            )

    def _report(self, progress: Progress) -> None:
        self.log.info("%s", describe_progress(progress))


class LocalToAllasOperator(_AllasTransfer):
    """
    Send a file, or all files below a directory, to Allas.

    Objects appear when they are whole and verified: of every part the store's MD5 must be that of
    the bytes that were read. What is there already with the same size and checksum is not sent
    again; an upload that a killed attempt left is continued.

    Returns ``{"source", "destination", "transferred", "skipped", "deleted", "unverified", "bytes",
    "seconds"}``: numbers of files, the last of those of which only the size could be compared, and
    the bytes that were sent.

    :param source: path on the worker, of a file or a directory. (templated)
    :param destination: ``s3://bucket/key``, or ``s3://bucket/prefix/`` for what is below a
        directory; a file gets its own name below a prefix. (templated)
    :param allas_conn_id: connection to the store. (templated)
    :param include: patterns as in .gitignore of the files that are meant, by their path below the
        directory; default: all. (templated)
    :param exclude: patterns of files that are not meant. (templated)
    :param delete_extra: delete objects below the prefix that the directory does not have (and that
        the patterns mean).
    :param compare: how to tell that something is there already: ``checksum``, ``time`` (same size,
        and not older), ``size``; ``never`` transfers everything.
    :param max_workers: how many requests are made at once.
    :param bytes_per_second: go no faster than this.
    :param symlinks: ``follow`` symbolic links (default), ``skip`` them with a warning, or
        ``refuse`` the transfer.
    :param pack: send a directory as one object, ``s3://bucket/name.tar.zst``, made while it is
        sent; a prefix takes it under the directory's name. The object is compared as a whole, by
        its content or with ``time`` by names, sizes and times of its files. The returned dict also
        has "packed_files" and "packed_bytes", what is in it.
    :param extra_args: arguments of boto3's put_object, for example ``{"ContentType": "text/csv"}``.
    """

    def __init__(
        self,
        *,
        symlinks: Symlinks = "follow",
        pack: bool = False,
        extra_args: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.symlinks = symlinks
        self.pack = pack
        self.extra_args = extra_args

    def reads(self) -> list[object]:
        """Return nothing: files of a worker are no asset."""
        return []

    def _run(self) -> Outcome:
        target, source = _parse("destination", self.destination), Path(self.source)
        if not source.is_file() and not source.is_dir():
            raise ConfigError(
                f"source: {self.source!r} is neither a file nor a directory on this worker.",
                field="source",
            )
        from airflow_provider_csc.store.local_tree import check_symlinks  # noqa: PLC0415
        from airflow_provider_csc.store.upload import check_arguments  # noqa: PLC0415

        links, arguments = check_symlinks(self.symlinks), check_arguments(self.extra_args or {})
        if self.pack:
            target = self._check_pack(target, source)
        transfer = self._begin(symlinks=links, arguments=arguments)
        return transfer.pack(source, target) if self.pack else transfer.upload(source, target)

    def _check_pack(self, target: ObjectName, source: Path) -> ObjectName:
        """Return the object that a packed directory becomes, where there can be one."""
        from airflow_provider_csc.allas.packing import packed_name  # noqa: PLC0415

        self._refuse_size("pack")
        if not source.is_dir():
            raise ConfigError(
                f"source: {self.source!r} is a file, and pack=True packs a directory. Leave pack "
                "out.",
                field="source",
            )
        if self.delete_extra:
            raise ConfigError(
                "delete_extra: True means nothing with pack=True: the archive replaces the one "
                "that is there, with all that is in it. Leave it out.",
                field="delete_extra",
            )
        try:
            name = packed_name(target, source.resolve().name)
        except NotationError as error:
            raise ConfigError(f"destination: {error}", field="destination") from error
        self.destination = str(name)
        return name


class AllasToLocalOperator(_AllasTransfer):
    """
    Read an object, or all objects below a prefix, from Allas into files.

    A file appears under its name when it is whole and its checksum is that of the store. What is
    there already with the same content is not read again, and a download that was killed is
    continued. Nothing is written outside of the directory, whatever the names of objects are.

    Returns what `LocalToAllasOperator` returns.

    :param source: ``s3://bucket/key``, or ``s3://bucket/prefix/`` for all below it. (templated)
    :param destination: path of a file or directory on the worker. (templated)
    :param delete_extra: delete files below the directory that are not objects below the prefix.
    :param unpack: write what is in the object, a tar archive, plain or compressed with zstd or
        gzip, below the directory; ``include``, ``exclude`` and ``delete_extra`` mean its members
        then. ``compare`` skips archives that were made with ``pack=True`` and are there unchanged.
    :param verify_checksum: False takes objects whose checksum cannot be computed again, because
        they were uploaded in parts of an odd size: their size alone is compared then.

    Other parameters are as for `LocalToAllasOperator`.
    """

    def __init__(
        self, *, unpack: bool = False, verify_checksum: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.unpack = unpack
        self.verify_checksum = verify_checksum

    def writes(self) -> list[object]:
        """Return nothing: files of a worker are no asset."""
        return []

    def _run(self) -> Outcome:
        source, target = _parse("source", self.source), Path(self.destination)
        if self.unpack:
            self._check_unpack(source, target)
        transfer = self._begin(verify_checksum=self.verify_checksum)
        return transfer.unpack(source, target) if self.unpack else transfer.download(source, target)

    def _check_unpack(self, source: ObjectName, target: Path) -> None:
        self._refuse_size("unpack")
        if source.is_prefix:
            raise ConfigError(
                f"source: {self.source!r} is a prefix, and unpack=True unpacks one object. Give "
                "its whole key, for example s3://bucket/name.tar.zst.",
                field="source",
            )
        if target.exists() and not target.is_dir():
            raise ConfigError(
                f"destination: {self.destination!r} is a file, and unpack=True writes below a "
                "directory. Give another path.",
                field="destination",
            )


class AllasCopyOperator(_AllasTransfer):
    """
    Copy an object, or all objects below a prefix: between buckets, projects, Allas and LUMI-O.

    With one connection the store copies by itself; between two, the bytes go through the worker's
    memory. Copies are cut into parts as their originals, so that their ETags are the same.

    Returns what `LocalToAllasOperator` returns.

    :param source: ``s3://bucket/key``, or ``s3://bucket/prefix/`` for all below it. (templated)
    :param destination: ``s3://bucket/key`` or ``s3://bucket/prefix/``. (templated)
    :param allas_conn_id: connection that reads the source. (templated)
    :param destination_conn_id: connection that writes the destination; default: the same.
        (templated)
    :param delete_extra: delete objects below the destination that are not below the source.
    :param verify_checksum: as for `AllasToLocalOperator`.

    Other parameters are as for `LocalToAllasOperator`.
    """

    template_fields: Collection[str] = (*_AllasTransfer.template_fields, "destination_conn_id")

    def __init__(
        self,
        *,
        destination_conn_id: str | None = None,
        verify_checksum: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.destination_conn_id = destination_conn_id
        self.verify_checksum = verify_checksum

    def _run(self) -> Outcome:
        from airflow_provider_csc.hooks.allas import AllasHook  # noqa: PLC0415

        source = _parse("source", self.source)
        target = _parse("destination", self.destination)
        transfer = self._begin(verify_checksum=self.verify_checksum)
        other = self.destination_conn_id
        if other is None or other == self.allas_conn_id:
            return transfer.copy(source, transfer.store, target)
        store = AllasHook(other).get_store(max_connections=self.max_workers)
        return transfer.copy(source, store, target)


def describe_progress(progress: Progress) -> str:
    """Say in one line how far a transfer is."""
    if progress.packed is not None:
        return _describe_packing(progress, progress.packed)
    files = progress.files_done + progress.files_skipped + len(progress.failures)
    share = progress.bytes_done + progress.bytes_skipped
    percent = 100 * share / progress.bytes_total if progress.bytes_total else 100
    left = (progress.bytes_total - share) / progress.rate if progress.bytes_done else None
    until = f", {_span(left)} left" if left is not None else ""
    return (
        f"{_size(share)} of {_size(progress.bytes_total)} ({percent:.0f} %), "
        f"{_size(progress.rate)}/s, {files:,} of {progress.files_total:,} files{until}"
    )


def _describe_packing(progress: Progress, packed: Packed) -> str:
    carried, rate = progress.bytes_done + progress.bytes_skipped, f"{_size(progress.rate)}/s"
    files, size = f"{packed.files:,} files", _size(packed.bytes)
    # Of what is unpacked the archive's size is known, of what is packed the files.
    if progress.bytes_total:
        percent = 100 * carried / progress.bytes_total
        return (
            f"Unpacked {files}, {size} from {_size(carried)} of {_size(progress.bytes_total)} "
            f"({percent:.0f} %), {rate}"
        )
    percent = 100 * packed.bytes / max(packed.bytes_total, 1)
    return (
        f"Packed {packed.files:,} of {packed.files_total:,} files, {size} of "
        f"{_size(packed.bytes_total)} ({percent:.0f} %) into {_size(carried)}, {rate}"
    )


def _describe(outcome: Outcome) -> str:
    rate = outcome.bytes_transferred / max(outcome.seconds, 1e-6)
    verified = f"{outcome.unverified:,} by size only" if outcome.unverified else "all verified"
    parts = [
        f"{_describe_carried(outcome)} in {_span(outcome.seconds)} ({_size(rate)}/s), {verified}",
    ]
    if outcome.bytes_resumed:
        parts.append(f"{_size(outcome.bytes_resumed)} were there already")
    if outcome.skipped:
        parts.append(f"{outcome.skipped:,} were there unchanged")
    if outcome.deleted:
        parts.append(f"{outcome.deleted:,} were deleted")
    return "; ".join(parts) + "."


def _describe_carried(outcome: Outcome) -> str:
    packed = outcome.packed
    if packed is None or not outcome.transferred:
        return f"Transferred {outcome.transferred:,} files, {_size(outcome.bytes_transferred)}"
    archive = _size(outcome.bytes_transferred + outcome.bytes_resumed)
    files = f"{packed.files:,} files, {_size(packed.bytes)}"
    # What is to be unpacked nobody has counted.
    return (
        f"Packed {files} into {archive}"
        if packed.files_total
        else f"Unpacked {files} from {archive}"
    )


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:  # noqa: PLR2004
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} TiB"


def _span(seconds: float) -> str:
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _parse(name: str, uri: str) -> ObjectName:
    from airflow_provider_csc.allas.names import parse_uri  # noqa: PLC0415

    try:
        return parse_uri(uri)
    except NotationError as error:
        raise ConfigError(f"{name}: {error}", field=name, value=uri) from error
