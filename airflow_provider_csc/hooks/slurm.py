"""Reach a Slurm site through an Airflow connection."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.connection import (
    get_async_connection,
    get_async_extra_dejson,
)
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_csc.deployment import preflight_seconds
from airflow_provider_csc.errors import ConfigError, CscError
from airflow_provider_csc.hooks._forms import build_field_behaviour, build_form_widgets
from airflow_provider_csc.slurm.array_record import ArrayRecord
from airflow_provider_csc.slurm.batch import check_remote_path
from airflow_provider_csc.slurm.plan import build_request, read_source
from airflow_provider_csc.sync import run_sync
from airflow_provider_csc.transport.connection import ConnectionFields, parse_connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence

    from airflow.sdk import Connection

    from airflow_provider_csc.client.slurm import Probe, SlurmClient
    from airflow_provider_csc.slurm.coalescing import Member
    from airflow_provider_csc.slurm.dependencies import Needs
    from airflow_provider_csc.slurm.framing import Frame
    from airflow_provider_csc.slurm.identity import TaskIdentity
    from airflow_provider_csc.slurm.plan import JobSpec
    from airflow_provider_csc.slurm.policy import PartitionLimits
    from airflow_provider_csc.slurm.preflight import Forecast
    from airflow_provider_csc.slurm.queue_limits import QueueLimit, QueueScope
    from airflow_provider_csc.slurm.result import JobResult
    from airflow_provider_csc.slurm.submission import Submission
    from airflow_provider_csc.slurm.submit_commands import SubmitRequest
    from airflow_provider_csc.transport.base import SiteSettings

Value = TypeVar("Value")

_ASK_AGAIN_SECONDS = 10


@asynccontextmanager
async def open_client(settings: SiteSettings) -> AsyncIterator[SlurmClient]:
    """Yield a client of a site; it connects when first asked something, and closes at the end."""
    client = _open(settings)
    try:
        yield client
    finally:
        await client.close()


def _open(settings: SiteSettings) -> SlurmClient:
    from airflow_provider_csc.client.slurm import SlurmClient
    from airflow_provider_csc.transport.ssh import SshTransport

    return SlurmClient(SshTransport(settings.ssh), login_setup=settings.login_setup)


class SlurmHook(BaseHook):
    """
    Ask a Slurm site: submit, query, cancel, read and write small files, run a short command.

    Each method opens a connection of its own. To ask several things over one, or from async code,
    use ``async with open_client(await hook.aget_settings()) as client``.

    :param slurm_conn_id: a connection of type ``slurm``, or a plain ``ssh`` one.
    """

    conn_name_attr = "slurm_conn_id"
    default_conn_name = "slurm_default"
    conn_type = "slurm"
    hook_name = "Slurm"

    def __init__(self, slurm_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.slurm_conn_id = slurm_conn_id

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form's extra fields (Airflow 3.1; later versions read the provider info)."""
        return build_form_widgets(cls.conn_type)

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return hidden, renamed and explained fields (Airflow 3.1)."""
        return build_field_behaviour(cls.conn_type)

    def get_settings(self) -> SiteSettings:
        """
        Return the site as the connection describes it.

        :raises ConfigError: for a connection of another type, or a field that cannot be.
        """
        try:
            connection = self.get_connection(self.slurm_conn_id)
        except AirflowNotFoundException as error:
            raise self._undefined() from error
        return parse_connection(_fields(connection, connection.extra_dejson))

    async def aget_settings(self) -> SiteSettings:
        """Do the same as `get_settings` on an event loop."""
        try:
            connection = await get_async_connection(self.slurm_conn_id)
        except AirflowNotFoundException as error:
            raise self._undefined() from error
        return parse_connection(_fields(connection, await get_async_extra_dejson(connection)))

    def _undefined(self) -> ConfigError:
        # Airflow says the same where its API server or database did not answer (seen in 3.3.2).
        return ConfigError(
            f"slurm_conn_id: connection {self.slurm_conn_id!r} is not defined. Make one of type "
            "'slurm' under Admin > Connections, or name another.",
            field="slurm_conn_id",
            value=self.slurm_conn_id,
            is_temporary=True,
        )

    def get_conn(self) -> SlurmClient:
        """Return an async client of the site; whoever takes it closes it."""
        return _open(self.get_settings())

    def submit(  # noqa: PLR0913 - what a submission may depend on
        self,
        spec: JobSpec,
        identity: TaskIdentity,
        *,
        since: int,
        report: Callable[[str], None],
        is_fresh: bool = False,
        is_resumed: bool = False,
        needs: Needs | None = None,
        ended: ArrayRecord | None = None,
        before: Callable[[SlurmClient], Awaitable[None]] | None = None,
        preflight: bool = False,
    ) -> Submission:
        """
        Submit a job exactly once for this task instance; see `Submitter` and `ArraySubmitter`.

        ``needs`` is what it is to wait for inside Slurm (see `client.dependencies`). ``before`` is
        done once it is known that the request can be, and that no job was submitted before; where
        it raises, nothing is submitted.

        ``is_resumed`` is for a submission that has waited already: where its fate is still open, it
        is soon left alone again. With ``preflight``, what is known to be in its way is reported
        first. ``ended`` are the tasks of an array that ended in this try.

        :raises ConfigError: for a request that cannot be; nothing was submitted.
        """
        from airflow_provider_csc.client.array_submitter import ArraySubmitter  # noqa: PLC0415
        from airflow_provider_csc.client.dependencies import Linker  # noqa: PLC0415
        from airflow_provider_csc.client.submitter import (  # noqa: PLC0415
            BRIEF_DELAYS,
            RESOLVE_DELAYS,
            Submitter,
        )

        settings = self.get_settings()

        async def work(client: SlurmClient) -> Submission:
            placed, script, reasons = await _place(client, settings, spec)
            plan = _prepare(settings, placed, identity, script)
            request, label = plan()
            linker = (
                Linker(client=client, needs=needs, label=label, report=report) if needs else None
            )
            submitter = Submitter(
                client=client,
                request=request,
                identity=identity,
                label=label,
                since=since,
                report=report,
                is_fresh=is_fresh,
                delays=BRIEF_DELAYS if is_resumed else RESOLVE_DELAYS,
                prepare=_after(
                    before,
                    client,
                    linker.prepare if linker else None,
                    tell=partial(_tell, client, settings, reasons, report, preflight=preflight),
                ),
            )
            if request.array:
                submission = await ArraySubmitter(
                    submitter=submitter,
                    plan=lambda part: plan(part=part)[0],
                    ended=ended or ArrayRecord(),
                    waits=identity.waits,
                    keeps_ids=needs is not None and needs.is_by_element,
                ).submit()
            else:
                submission = await submitter.submit()
            if linker:
                await linker.keep_alone(submission)
            return submission

        return self._with_client(work, settings)

    def test_only(
        self, spec: JobSpec, identity: TaskIdentity, *, report: Callable[[str], None]
    ) -> tuple[Forecast, tuple[str, ...]]:
        """
        Say of a job what is in its way and when it would start; submit nothing.

        Returns that, and the options it would have.

        :raises ConfigError: for a request that cannot be.
        :raises SubmitRejectedError: for what sbatch would refuse.
        """
        from airflow_provider_csc.slurm.preflight import describe_forecast  # noqa: PLC0415

        settings = self.get_settings()

        async def work(client: SlurmClient) -> tuple[Forecast, tuple[str, ...]]:
            placed, script, reasons = await _place(client, settings, spec)
            request, _ = _prepare(settings, placed, identity, script)()
            await _tell(client, settings, reasons, report, request, preflight=True)
            found = await client.test_only(request)
            report(describe_forecast(found))
            return found, request.asked

        return self._with_client(work, settings)

    def plan_shared(
        self, spec: JobSpec, identity: TaskIdentity, *, since: int, is_fresh: bool = False
    ) -> Member:
        """
        Return what `Gatherer.submit` takes; nothing is asked of the site, nor submitted.

        :raises ConfigError: for a request that cannot be.
        """
        from airflow_provider_csc.slurm.coalescing import Member  # noqa: PLC0415

        settings = self.get_settings()
        placed, script, _ = _place_on(settings, spec, None)
        request, label = _prepare(settings, placed, identity, script)(is_shared=True)
        return Member(
            request=request, identity=identity, label=label, since=since, is_fresh=is_fresh
        )

    def query(self, job_ids: Sequence[str], *, patience: float = 0) -> dict[str, JobResult]:
        """
        Return what squeue and sacct say of jobs now; see `SlurmClient.query`.

        ``patience`` is for how many seconds a job that neither knows is asked for again.
        """

        async def work(client: SlurmClient) -> dict[str, JobResult]:
            found = await client.query(job_ids)
            for _ in range(int(patience / _ASK_AGAIN_SECONDS)):
                if len(found) == len(set(job_ids)):
                    break
                await asyncio.sleep(_ASK_AGAIN_SECONDS)
                found = await client.query(job_ids)
            return found

        return self._with_client(work)

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Cancel jobs with scancel; see `SlurmClient.cancel`."""
        self._with_client(lambda client: client.cancel(job_ids))

    def partition_limits(self, name: str) -> PartitionLimits:
        """Return what a partition allows."""
        return self._with_client(lambda client: client.partition_limits(name))

    def queue_limits(self, scope: QueueScope) -> tuple[QueueLimit, ...]:
        """Return the limits on jobs in the queue that hold for a submission, and what is queued."""
        from airflow_provider_csc.client.queue_watch import ask_limits  # noqa: PLC0415

        return self._with_client(lambda client: ask_limits(client, scope))

    def read_bytes(self, path: str, *, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """Return a part of a file on the cluster; see `SlurmClient.read_bytes`."""
        return self._with_client(lambda client: client.read_bytes(path, offset=offset, limit=limit))

    def write_file(self, path: str, text: str, *, mode: int = 0o600) -> None:
        """Write a small text file on the cluster; see `SlurmClient.write_file`."""
        self._with_client(lambda client: client.write_file(path, text, mode=mode))

    def run(self, command: str, *, timeout: float = 60.0) -> Frame:
        """Run a short shell command on the log-in node; returns its status and output."""
        return self._with_client(lambda client: client.run(command, timeout=timeout))

    def _with_client(
        self,
        work: Callable[[SlurmClient], Coroutine[Any, Any, Value]],
        settings: SiteSettings | None = None,
    ) -> Value:
        """Do async work over a connection of its own, from code that is not async."""
        known = settings or self.get_settings()

        async def do() -> Value:
            async with open_client(known) as client:
                return await work(client)

        return run_sync(do())

    def test_connection(self) -> tuple[bool, str]:
        """Log in, and say whom we are and which Slurm answers; or precisely what failed."""
        try:
            return _describe_probe(self._with_client(lambda client: client.probe()))
        except CscError as error:
            return False, error.message


def _fields(connection: Connection, extra: dict[str, Any]) -> ConnectionFields:
    return ConnectionFields(
        conn_id=connection.conn_id,
        conn_type=connection.conn_type or "",
        host=connection.host,
        port=connection.port,
        login=connection.login,
        password=connection.password,
        extra=extra,
    )


async def _place(
    client: SlurmClient, settings: SiteSettings, spec: JobSpec
) -> tuple[JobSpec, str, tuple[str, ...]]:
    """Do the same as `_place_on` for a script that may lie on the cluster."""
    text = None
    if spec.remote_script is not None:
        path, text = await client.read_script("remote_script", spec.remote_script)
        spec = replace(spec, remote_script=path)
    return _place_on(settings, spec, text)


def _place_on(
    settings: SiteSettings, spec: JobSpec, text: str | None
) -> tuple[JobSpec, str, tuple[str, ...]]:
    """Return the job with options of the site for what it needs, its script, and why so."""
    script = read_source(spec, text)
    if spec.resources is None:
        return spec, script, ()
    from airflow_provider_csc.sites.load import load_profile  # noqa: PLC0415 - needs pydantic
    from airflow_provider_csc.sites.placement import place  # noqa: PLC0415

    profile = load_profile("generic")
    placed, reasons = place(spec, script, profile, _defaults(settings))
    return placed, script, reasons


async def _tell(
    client: SlurmClient,
    settings: SiteSettings,
    reasons: Sequence[str],
    report: Callable[[str], None],
    request: SubmitRequest,
    *,
    preflight: bool,
) -> None:
    """Say what became of a request, and what is in its way."""
    for reason in reasons:
        report(reason)
    if preflight:
        from airflow_provider_csc.hooks._preflight import report_problems  # noqa: PLC0415

        max_age = preflight_seconds()
        await report_problems(client, settings, request, report, max_age=max_age)


def _after(
    before: Callable[[SlurmClient], Awaitable[None]] | None,
    client: SlurmClient,
    prepare: Callable[[SubmitRequest], Awaitable[SubmitRequest]] | None,
    *,
    tell: Callable[[SubmitRequest], Awaitable[None]],
) -> Callable[[SubmitRequest], Awaitable[SubmitRequest]]:
    """Return what completes a request when something else is said and done."""

    async def do(request: SubmitRequest) -> SubmitRequest:
        await tell(request)
        if before is not None:
            await before(client)
        return await prepare(request) if prepare else request

    return do


def _prepare(
    settings: SiteSettings, spec: JobSpec, identity: TaskIdentity, script: str
) -> Callable[..., tuple[SubmitRequest, str]]:
    """Return `build_request`, to which only ``part`` or ``is_shared`` is still to be given."""
    return partial(
        build_request,
        spec,
        identity,
        script=script,
        defaults=_defaults(settings),
        base_dir=check_remote_path("work_dir of the connection", settings.work_dir),
    )


def _defaults(settings: SiteSettings) -> dict[str, str | None]:
    return {
        "account": settings.account,
        "partition": settings.partition,
        "time": settings.time,
    }


def _describe_probe(probe: Probe) -> tuple[bool, str]:
    reached = f"Logged in as {probe.user} on {probe.host}"
    if probe.version is None:
        return False, (
            f"{reached}, but there is no sbatch in a non-interactive shell there "
            f"(PATH={probe.path}). Give the lines that find it in Log-in set-up, for example "
            "'export PATH=/opt/slurm/bin:$PATH' or 'source /etc/profile'."
        )
    if probe.cluster is None:
        said = probe.problem or "no reason given"
        return False, f"{reached}; Slurm {probe.version} is there, but gives no answer: {said}"
    return True, f"{reached}; Slurm {probe.version}, cluster {probe.cluster}."
