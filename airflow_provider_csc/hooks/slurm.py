"""Reach a Slurm site through an Airflow connection."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.connection import (
    get_async_connection,
    get_async_extra_dejson,
)
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_csc.deployment import preflight_seconds, sites_folders
from airflow_provider_csc.errors import ConfigError, CscError
from airflow_provider_csc.hooks._forms import build_field_behaviour, build_form_widgets
from airflow_provider_csc.slurm.array_record import ArrayRecord
from airflow_provider_csc.slurm.batch import check_remote_path
from airflow_provider_csc.slurm.options import parse_options
from airflow_provider_csc.slurm.plan import add_site_environment, build_request, read_source
from airflow_provider_csc.sync import run_sync
from airflow_provider_csc.transport.connection import (
    ConnectionFields,
    names_a_site,
    parse_connection,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence

    from airflow.sdk import Connection

    from airflow_provider_csc.client.slurm import Probe, SlurmClient
    from airflow_provider_csc.sites.balance import Balance
    from airflow_provider_csc.sites.model import BalanceCommand
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
    from airflow_provider_csc.slurm.tres import Share
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
        return read_connection(connection)

    async def aget_settings(self) -> SiteSettings:
        """Do the same as `get_settings` on an event loop."""
        try:
            connection = await get_async_connection(self.slurm_conn_id)
        except AirflowNotFoundException as error:
            raise self._undefined() from error
        fields = _fields(connection, await get_async_extra_dejson(connection))
        return await asyncio.to_thread(_read, fields) if names_a_site(fields) else _read(fields)

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
        check: Callable[[SubmitRequest], None] | None = None,
    ) -> Submission:
        """
        Submit a job exactly once for this task instance; see `Submitter` and `ArraySubmitter`.

        ``needs`` is what it is to wait for inside Slurm (see `client.dependencies`). ``before`` is
        done once it is known that the request can be, and that no job was submitted before; where
        it raises, nothing is submitted. So it is with ``check``, which comes first, may block, and
        is given the request.

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
        settings.check_takes_jobs()

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
                    check,
                    before,
                    client,
                    linker.prepare if linker else None,
                    tell=partial(
                        _tell,
                        client,
                        settings,
                        reasons,
                        report,
                        preflight=preflight,
                        waits=identity.waits,
                    ),
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
            request, reasons = await plan_alone(client, settings, spec, identity)
            await _tell(client, settings, reasons, report, request, preflight=True, waits=False)
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

    def shares(self, job_id: str) -> list[Share]:
        """
        Return what each run of a job was given and for how long, by the site's accounting.

        :raises UnreadableOutputError: where accounting does not say.
        """
        return self._with_client(lambda client: client.shares(job_id))

    def balance(self, project: str | None = None) -> Balance:
        """
        Return what a project may still use, by default the connection's own.

        :raises ConfigError: at a site that has no program for that.
        :raises UnreadableOutputError: where its answer cannot be read.
        """
        from airflow_provider_csc.sites.balance import (  # noqa: PLC0415 - needs pydantic
            build_ask_balance,
            read_balance,
        )

        settings = self.get_settings()
        command, name = _choose_balance(settings, project)

        async def work(client: SlurmClient) -> Balance:
            frames = await client.ask(build_ask_balance(command, name))
            return read_balance(frames["balance"], command, name)

        return self._with_client(work, settings)

    def choose_architecture(self, spec: JobSpec, asked: str | None = None) -> str | None:
        """
        Return what programs have to be built for, to run on the nodes of a job.

        That is what is asked for, else what the site's profile says of the job's partition; None
        where neither says it. The site itself is not asked.

        :raises ConfigError: where what is asked for contradicts the profile.
        """
        settings = self.get_settings()
        if settings.site is None:
            return asked
        from airflow_provider_csc.sites.architecture import (  # noqa: PLC0415 - needs pydantic
            choose_architecture,
        )
        from airflow_provider_csc.sites.load import load_profile  # noqa: PLC0415 - likewise
        from airflow_provider_csc.sites.placement import place  # noqa: PLC0415 - likewise

        profile, defaults = load_profile(settings.site, sites_folders()), _defaults(settings)
        placed, _ = place(spec, spec.script or "", profile, defaults)
        partition = parse_options(placed.options).get("partition") or defaults.get("partition")
        return choose_architecture(asked, profile, str(partition) if partition else None)

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
            settings = self.get_settings()
            probe = self._with_client(lambda client: client.probe(), settings)
            rest = run_sync(_describe_certificate(settings))
        except CscError as error:
            return False, error.message
        is_well, text = _describe_probe(probe)
        return is_well, " ".join(filter(None, (text, rest, settings.refusal)))


def read_connection(connection: Connection) -> SiteSettings:
    """
    Return the settings of a connection that Airflow has looked up.

    :raises ConfigError: as `SlurmHook.get_settings`.
    """
    return _read(_fields(connection, connection.extra_dejson))


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


def _read(fields: ConnectionFields) -> SiteSettings:
    if not names_a_site(fields):
        return parse_connection(fields)
    return parse_connection(fields, folders=sites_folders())


async def plan_alone(
    client: SlurmClient, settings: SiteSettings, spec: JobSpec, identity: TaskIdentity
) -> tuple[SubmitRequest, tuple[str, ...]]:
    """
    Return what would be submitted for a job, and why so.

    :raises ConfigError: for a request that cannot be.
    """
    placed, script, reasons = await _place(client, settings, spec)
    return _prepare(settings, placed, identity, script)()[0], reasons


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

    profile = load_profile(settings.site or "generic", sites_folders())
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
    waits: bool,
) -> None:
    """Say what became of a request, and what is in its way."""
    for reason in reasons:
        report(reason)
    if preflight:
        await look_ahead(client, settings, request, report, waits=waits)


async def look_ahead(
    client: SlurmClient,
    settings: SiteSettings,
    request: SubmitRequest,
    report: Callable[[str], None],
    *,
    waits: bool = True,
) -> None:
    """Say what is known to be in a job's way; see `report_problems`."""
    from airflow_provider_csc.hooks._preflight import report_problems  # noqa: PLC0415

    try:
        max_age = preflight_seconds()
    except ConfigError as error:
        report(f"Preflight: not known. {error.message}")
        return
    await report_problems(client, settings, request, report, max_age=max_age, waits=waits)


def _after(
    check: Callable[[SubmitRequest], None] | None,
    before: Callable[[SlurmClient], Awaitable[None]] | None,
    client: SlurmClient,
    prepare: Callable[[SubmitRequest], Awaitable[SubmitRequest]] | None,
    *,
    tell: Callable[[SubmitRequest], Awaitable[None]],
) -> Callable[[SubmitRequest], Awaitable[SubmitRequest]]:
    """Return what completes a request when something else is said and done."""

    async def do(request: SubmitRequest) -> SubmitRequest:
        if check is not None:
            await asyncio.to_thread(check, request)
        await tell(request)
        if before is not None:
            await before(client)
        return await prepare(request) if prepare else request

    return do


def _prepare(
    settings: SiteSettings, spec: JobSpec, identity: TaskIdentity, script: str
) -> Callable[..., tuple[SubmitRequest, str]]:
    """Return `build_request`, to which only ``part`` or ``is_shared`` is still to be given."""
    settings.check_takes_jobs()
    return partial(
        build_request,
        add_site_environment(spec, env=dict(settings.env), module_paths=settings.module_paths),
        identity,
        script=script,
        defaults=_defaults(settings),
        base_dir=check_remote_path("work_dir of the connection", settings.work_dir),
    )


def _defaults(settings: SiteSettings) -> dict[str, str]:
    own = {
        name: value
        for name in ("account", "partition", "time")
        if (value := getattr(settings, name))
    }
    return {**dict(settings.options), **own}


async def _describe_certificate(settings: SiteSettings) -> str:
    """Say until when the certificate lets us in; empty where there is none."""
    from airflow_provider_csc.transport.certificates import read_certificate  # noqa: PLC0415

    certificate = await read_certificate(settings.ssh)
    return certificate.describe_rest(time.time()) if certificate else ""


def _choose_balance(settings: SiteSettings, project: str | None) -> tuple[BalanceCommand, str]:
    from airflow_provider_csc.sites.load import load_profile  # noqa: PLC0415 - needs pydantic

    name = project or settings.account
    profile = load_profile(settings.site, sites_folders()) if settings.site else None
    if profile is None or profile.commands.balance is None:
        raise ConfigError(
            "site: the connection names no site with a program that tells balances. Name one in "
            "its field Site, for example 'roihu-cpu' or 'lumi'.",
            field="site",
            value=settings.site,
        )
    if not name:
        raise ConfigError(
            "account: whose balance is meant is not said. Name the project, or put one into the "
            "connection's field Account.",
            field="account",
        )
    return profile.commands.balance, name


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
