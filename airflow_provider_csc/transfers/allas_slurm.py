"""Move files between Allas and a cluster's disk, by its log-in node and without a key there."""

from __future__ import annotations

import posixpath
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout, conf

from airflow_provider_csc.errors import AllasError, ConfigError, CscError, TransportError
from airflow_provider_csc.hooks._lineage import assets_of
from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.parking import ParkingOperator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from airflow.providers.openlineage.extractors import (  # pyright: ignore[reportMissingImports]
        OperatorLineage,
    )
    from airflow.sdk import Context

    from airflow_provider_csc.hooks._login_staging import LoginStaging
    from airflow_provider_csc.slurm.attempt import Attempt
    from airflow_provider_csc.staging.receipts import Moved

_TOO_LATE = (
    "execution_timeout is reached, and not all files were moved; see above for what was waited "
    "for. What is whole stays where it is."
)


class _ByLogin(ParkingOperator):
    """What both directions share: a site or a store that is away is waited for."""

    template_fields: Collection[str] = (
        "source", "destination", "include", "exclude", "slurm_conn_id", "allas_conn_id",
    )  # fmt: skip
    ui_color = "#e3f4ea"

    def __init__(
        self,
        *,
        source: str,
        destination: str,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        slurm_conn_id: str = "slurm_default",
        allas_conn_id: str = "allas_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.destination = destination
        self.include = include
        self.exclude = exclude
        self.slurm_conn_id = slurm_conn_id
        self.allas_conn_id = allas_conn_id
        self.deferrable = deferrable
        self.inlets += assets_of([source])
        self.outlets += assets_of([destination])

    def execute(self, context: Context) -> dict[str, Any]:
        """Move the files; return figures (see the class)."""
        return self._run(context, self._begin())

    def _run(self, context: Context, attempt: Attempt) -> dict[str, Any]:
        while True:
            undone = list(attempt.uploads)
            try:
                moved = self._move(attempt, undone)
            except (NotationError, ConfigError) as error:
                raise AirflowFailException(f"{self.task_id}: {error}") from error
            except (TransportError, AllasError) as error:
                if not self._is_away(error):
                    raise
                attempt = replace(attempt, uploads=tuple(undone))
                attempt = self._wait_for_site(context, attempt, error)
            else:
                return {
                    "source": self.source,
                    "destination": self.destination,
                    "transferred": moved.count,
                    "bytes": moved.size,
                    "seconds": moved.seconds,
                }

    def _move(self, attempt: Attempt, undone: list[Mapping[str, str]]) -> Moved:
        import asyncio  # noqa: PLC0415

        from airflow_provider_csc.hooks._login_staging import LoginStaging  # noqa: PLC0415
        from airflow_provider_csc.hooks.allas import AllasHook  # noqa: PLC0415
        from airflow_provider_csc.hooks.slurm import SlurmHook, open_client  # noqa: PLC0415
        from airflow_provider_csc.sync import run_sync  # noqa: PLC0415

        move = self._plan()
        settings = SlurmHook(self.slurm_conn_id).get_settings()
        store = AllasHook(self.allas_conn_id).get_store()

        async def work() -> Moved | None:
            # Airflow gives a task that was deferred all of its execution_timeout once more.
            limit = asyncio.timeout(attempt.seconds_left)
            try:
                async with limit, open_client(settings) as client:
                    staging = LoginStaging(client, store, settings.work_dir, self.log, undone)
                    return await move(staging)
            except TimeoutError:
                if not limit.expired():
                    raise
                return None

        moved = run_sync(work())
        if moved is None:
            raise AirflowTaskTimeout(_TOO_LATE)
        return moved

    def _is_away(self, error: CscError) -> bool:
        """Whether a site or a store is to be waited for; some will not come, however long."""
        return self._may_pass(error) and not error.details.get("is_lasting")

    def _check_waited(self, context: Context, event: dict[str, Any], attempt: Attempt) -> None:  # noqa: ARG002
        if event["status"] == "deadline":
            raise AirflowTaskTimeout(_TOO_LATE)

    def get_openlineage_facets_on_complete(self, _task_instance: object) -> OperatorLineage:
        """Tell OpenLineage what was read and written, templates filled in."""
        from airflow_provider_csc.hooks._lineage import lineage_of  # noqa: PLC0415

        return lineage_of([self.source], [self.destination])

    def _plan(self) -> Callable[[LoginStaging], Awaitable[Moved]]:
        raise NotImplementedError

    def _selector(self) -> Callable[[str], bool]:
        from airflow_provider_csc.allas.selection import selector  # noqa: PLC0415

        return selector(self.include, self.exclude)


class AllasToSlurmOperator(_ByLogin):
    """
    Fetch an object, or all objects below a prefix, from Allas onto a cluster's disk.

    The log-in node reads them by presigned URLs, several at a time; a file appears under its name
    when its checksum is that of the store, and what is there already with the same content is not
    read again. For a job that needs files, `SlurmSubmitOperator`'s ``inputs`` are quicker, and
    spare the log-in node. A site or a store that is away is waited for, which uses up no retry.

    Returns ``{"source", "destination", "transferred", "bytes", "seconds"}`` of what was read; where
    that had to wait in between, since the last time.

    :param source: ``s3://bucket/key``, or ``s3://bucket/prefix/`` for all below it. (templated)
    :param destination: absolute path on the cluster, or one below ``~/``: of a file, or with a
        slash at its end of a directory, which is made. (templated)
    :param include: patterns as in .gitignore of the objects that are meant, by their path below the
        prefix; default: all. (templated)
    :param exclude: patterns of objects that are not meant. (templated)
    :param slurm_conn_id: connection to the cluster. (templated)
    :param allas_conn_id: connection to the store. (templated)
    :param deferrable: wait for what is away in the triggerer (True) or in the worker (False). While
        files move the task is in the worker.
    """

    def _plan(self) -> Callable[[LoginStaging], Awaitable[Moved]]:
        from airflow_provider_csc.allas.names import parse_uri  # noqa: PLC0415
        from airflow_provider_csc.slurm.batch import check_remote_path  # noqa: PLC0415
        from airflow_provider_csc.staging.declarations import read_declared  # noqa: PLC0415

        name, path = parse_uri(self.source), check_remote_path("destination", self.destination)
        is_directory = name.is_prefix or path.endswith("/") or path == "~"
        work = path if is_directory else posixpath.dirname(path)
        own = "./" if is_directory else posixpath.basename(path)
        declared = read_declared("inputs", [{"url": self.source, "path": own}])
        is_selected = self._selector()

        async def move(staging: LoginStaging) -> Moved:
            import asyncio  # noqa: PLC0415

            from airflow_provider_csc.store.staging import plan_inputs  # noqa: PLC0415

            fetches = await asyncio.to_thread(plan_inputs, staging.store, declared, is_selected)
            _refuse_empty(fetches, self.source)
            return await staging.fetch(fetches, work)

        return move


class SlurmToAllasOperator(_ByLogin):
    """
    Deliver a file, or all files below a directory, of a cluster's disk to Allas.

    The log-in node sends them by presigned URLs, several at a time; an object appears when it is
    whole, and its checksum is compared with the file's. Symbolic links are followed. For what a job
    writes, `SlurmSubmitOperator`'s ``outputs`` are quicker, and spare the log-in node. A site or a
    store that is away is waited for, which uses up no retry; all files are sent again then.

    Returns ``{"source", "destination", "transferred", "bytes", "seconds"}`` of what was sent.

    :param source: absolute path on the cluster, or one below ``~/``, of a file or directory.
        (templated)
    :param destination: ``s3://bucket/key``, or ``s3://bucket/prefix/`` for what is below a
        directory; a file gets its own name below a prefix. (templated)
    :param include: patterns as in .gitignore of the files that are meant, by their path below the
        directory; default: all. (templated)
    :param exclude: patterns of files that are not meant. (templated)
    :param slurm_conn_id: connection to the cluster. (templated)
    :param allas_conn_id: connection to the store. (templated)
    :param deferrable: wait for what is away in the triggerer (True) or in the worker (False). While
        files move the task is in the worker.
    """

    def _plan(self) -> Callable[[LoginStaging], Awaitable[Moved]]:
        from airflow_provider_csc.allas.names import (  # noqa: PLC0415
            ObjectName,
            check_key,
            parse_uri,
        )
        from airflow_provider_csc.slurm.batch import check_remote_path  # noqa: PLC0415
        from airflow_provider_csc.staging.declarations import Declared  # noqa: PLC0415

        target, path = parse_uri(self.destination), check_remote_path("source", self.source)
        path = path.rstrip("/") or "/"
        is_selected = self._selector()

        async def move(staging: LoginStaging) -> Moved:
            found = await staging.list_files(path)
            if set(found) == {""}:
                own = posixpath.basename(path)
                key = target.key + own if target.is_prefix else target.key
                name = ObjectName(target.bucket, check_key(key))
                work = posixpath.dirname(path)
                return await staging.deliver([(Declared(name, own), found[""])], work)
            prefix = target.key if target.is_prefix else f"{target.key}/"
            files = [
                (Declared(ObjectName(target.bucket, check_key(prefix + name)), name), size)
                for name, size in sorted(found.items())
                if is_selected(name)
            ]
            _refuse_empty(files, self.source)
            return await staging.deliver(files, path)

        return move


def _refuse_empty(found: Sequence[object], source: str) -> None:
    if not found:
        raise ConfigError(
            f"There is nothing below {source} that is meant. Check the place, include and exclude.",
            field="source",
            value=source,
        )
