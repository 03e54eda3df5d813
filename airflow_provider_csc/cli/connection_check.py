"""``airflow csc check``: whether a connection is fit for jobs, before a DAG is written for it."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from airflow.cli.simple_table import AirflowConsole
from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from airflow_provider_csc.cli._lookup import look_up
from airflow_provider_csc.errors import ConfigError, CscError, SubmitRejectedError
from airflow_provider_csc.hooks._preflight import load_site, read_limit, wants_certificate
from airflow_provider_csc.hooks.slurm import open_client, plan_alone, read_connection
from airflow_provider_csc.sites.preflight import build_questions
from airflow_provider_csc.sites.remarks import Remark, Result, remark_on
from airflow_provider_csc.slurm.identity import TaskIdentity
from airflow_provider_csc.slurm.options import read_arguments
from airflow_provider_csc.slurm.plan import JobSpec, check_spec
from airflow_provider_csc.slurm.preflight import describe_forecast
from airflow_provider_csc.sync import run_sync

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import AsyncIterator, Mapping, Sequence

    from airflow_provider_csc.client.slurm import Probe, SlurmClient
    from airflow_provider_csc.sites.model import SiteProfile
    from airflow_provider_csc.slurm.submit_commands import SubmitRequest
    from airflow_provider_csc.transport.base import SiteSettings

FOUND, NOT_ASKED = 1, 2
"""Exit codes."""

# Of no task; nothing is submitted.
_NOBODY = TaskIdentity(
    dag_id="csc", run_id="check", task_id="check", map_index=-1, try_number=1, first_try=1
)


@suppress_logs_and_warning
@providers_configuration_loaded
def check_connection(args: Namespace) -> None:
    """Print what there is to say of a connection, and end with an exit code that sums it up."""
    try:
        spec = JobSpec(command="true", options=read_options(args.option or ()))
        check_spec(spec)
        connection = look_up(args.conn_id)
    except ConfigError as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(NOT_ASKED)
    try:
        settings = read_connection(connection)
        remarks = run_sync(_check(settings, spec))
    except ConfigError as error:
        remarks = [Remark("connection", Result.WARNING, error.message)]
    AirflowConsole().print_as(data=[each.to_row() for each in remarks], output=args.output)
    results = {each.result for each in remarks}
    if Result.WARNING in results:
        sys.exit(FOUND)
    if Result.UNKNOWN in results:
        sys.exit(NOT_ASKED)


def read_options(texts: Sequence[str]) -> dict[str, str | bool]:
    """Read options of sbatch, each ``name=value``, or a name that stands alone."""
    pairs = (text.removeprefix("--").partition("=") for text in texts)
    return {name: value if equals else True for name, equals, value in pairs}


async def _check(settings: SiteSettings, spec: JobSpec) -> list[Remark]:
    async with open_client(settings) as client:
        return [each async for each in _look(client, settings, spec)]


async def _look(
    client: SlurmClient, settings: SiteSettings, spec: JobSpec
) -> AsyncIterator[Remark]:
    """Yield a remark on one thing after the other; without a log-in there is none on the rest."""
    profile = load_site(settings)
    if profile is not None:
        what = settings.refusal or f"{profile.title}, by the profile {profile.name!r}."
        yield Remark("site", Result.WARNING if settings.refusal else Result.OK, what)
    # A retired site takes no job, so that none is planned for it.
    request = None if settings.refusal else (await plan_alone(client, settings, spec, _NOBODY))[0]
    options = read_arguments(request.asked) if request else {}
    async for remark in _look_at_certificate(settings, options, profile):
        yield remark
    try:
        probe = await client.probe()
    except CscError as error:
        yield Remark("log-in", _result_of(error), error.message)
        return
    yield Remark("log-in", Result.OK, f"As {probe.user} on {probe.host}.")
    yield _remark_on_slurm(probe)
    if probe.cluster is None or request is None:
        return
    async for remark in _look_at_site(client, request, profile):
        yield remark
    if spec.options:
        yield await _test(client, request)


async def _look_at_certificate(
    settings: SiteSettings, options: Mapping[str, str | bool], profile: SiteProfile | None
) -> AsyncIterator[Remark]:
    from airflow_provider_csc.transport.certificates import read_certificate  # noqa: PLC0415

    certificate = await read_certificate(settings.ssh)
    if certificate is None:
        return
    now = time.time()
    finding = certificate.find_expiry(now, read_limit(options))
    is_well = finding is None and certificate.valid_after <= now
    if profile is not None and not is_well and not wants_certificate(profile):
        yield Remark("certificate", Result.OK, f"None is needed, by the profile {profile.name!r}.")
    elif finding is not None:
        yield Remark("certificate", Result.WARNING, finding.what, finding.why, finding.remedy)
    else:
        result = Result.OK if is_well else Result.WARNING
        yield Remark("certificate", result, certificate.describe(now))


def _result_of(error: CscError) -> Result:
    """Tell a log-in that is refused from a site that is away, which may be back by itself."""
    is_found = error.details.get("is_lasting") or error.details.get("is_refused")
    return Result.WARNING if is_found or isinstance(error, ConfigError) else Result.UNKNOWN


def _remark_on_slurm(probe: Probe) -> Remark:
    if probe.version is None:
        return Remark(
            "slurm",
            Result.WARNING,
            f"There is no sbatch in a non-interactive shell (PATH={probe.path}).",
            "Nothing can be submitted.",
            "Give the lines that find it in Log-in set-up, for example 'source /etc/profile'.",
        )
    if probe.cluster is None:
        return Remark("slurm", Result.UNKNOWN, f"It gives no answer: {probe.problem or 'none'}")
    return Remark("slurm", Result.OK, f"Slurm {probe.version}, cluster {probe.cluster}.")


async def _look_at_site(
    client: SlurmClient, request: SubmitRequest, profile: SiteProfile | None
) -> AsyncIterator[Remark]:
    options = read_arguments(request.asked)
    further = build_questions(profile, options) if profile else ""
    try:
        facts = await client.preflight_facts(request.base_dir, further)
    except CscError as error:
        yield Remark("preflight", Result.UNKNOWN, error.message)
        return
    for remark in remark_on(options, facts, profile):
        yield remark


async def _test(client: SlurmClient, request: SubmitRequest) -> Remark:
    """Ask sbatch what would become of a job of these options."""
    try:
        return Remark("job", Result.OK, describe_forecast(await client.test_only(request)))
    except SubmitRejectedError as error:
        return Remark("job", Result.WARNING, error.message)
    except CscError as error:
        return Remark("job", Result.UNKNOWN, error.message)
