"""``airflow csc sites``: which profiles there are, what one says, and whether that is still so."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from airflow.cli.simple_table import AirflowConsole
from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from airflow_provider_csc.deployment import sites_folders
from airflow_provider_csc.errors import ConfigError, CscError
from airflow_provider_csc.sites.load import find_profile, list_profiles, load_profile

if TYPE_CHECKING:
    from argparse import Namespace

    from airflow_provider_csc.sites.compare import Difference
    from airflow_provider_csc.sites.model import SiteProfile
    from airflow_provider_csc.slurm.site_facts import SiteFacts

DIFFERENT, NOT_ASKED = 1, 2
"""Exit codes of ``check``."""


@suppress_logs_and_warning
@providers_configuration_loaded
def list_sites(args: Namespace) -> None:
    """Print a line for each profile."""
    folders = sites_folders()
    rows = [_describe(name, folders) for name in list_profiles(folders)]
    AirflowConsole().print_as(data=rows, output=args.output)


def _describe(name: str, folders: tuple[str, ...]) -> dict[str, Any]:
    source = find_profile(name, folders)
    try:
        profile = load_profile(name, folders)
    except ConfigError as error:
        # One bad file does not hide the others.
        sys.stderr.write(f"{error.message}\n")
        return _row(name, source, title="(cannot be read)")
    retired = profile.retired
    return _row(
        name,
        source,
        title=profile.title,
        host=profile.log_in.host or "",
        architecture=profile.architecture.value if profile.architecture else "",
        partitions=len(profile.partitions),
        retired=f"{retired.since.isoformat()}, see {retired.successor}" if retired else "",
    )


def _row(name: str, source: str, **told: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("title", "host", "architecture", "partitions", "retired"), "")
    return {"name": name, **empty, **told, "source": source}


@suppress_logs_and_warning
@providers_configuration_loaded
def show_site(args: Namespace) -> None:
    """Print a profile; as YAML it is a file that can be read again."""
    values = _load(args.name).model_dump(mode="json", exclude_unset=True)
    if args.output == "table":
        rows = [{"field": field, "value": value} for field, value in _flatten(values)]
        AirflowConsole().print_as(data=rows, output="table")
    elif args.output == "json":
        sys.stdout.write(f"{json.dumps(values, indent=2, ensure_ascii=False)}\n")
    else:
        import yaml

        sys.stdout.write(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100))


def _load(name: str) -> SiteProfile:
    try:
        return load_profile(name, sites_folders())
    except ConfigError as error:
        raise SystemExit(error.message) from error


def _flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            rows += _flatten(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value))
    return rows


@suppress_logs_and_warning
@providers_configuration_loaded
def check_site(args: Namespace) -> None:
    """Print where a profile and its site differ, and end with an exit code that says so."""
    from airflow_provider_csc.sites.compare import compare

    try:
        profile, facts = _ask(args.conn_id)
    except CscError as error:
        _fail(error.message)
    differences = compare(profile, facts)
    if differences:
        AirflowConsole().print_as(data=[_to_row(each) for each in differences], output=args.output)
    for name, reason in facts.unanswered.items():
        sys.stderr.write(f"Not asked: {_QUESTIONS[name]}: {reason}\n")
    if differences:
        sys.exit(DIFFERENT)
    if facts.unanswered:
        sys.exit(NOT_ASKED)
    sys.stderr.write(f"Site profile {profile.name!r} says what the cluster says.\n")


_QUESTIONS = {
    "config": "scontrol show config",
    "partitions": "scontrol show partition",
    "nodes": "scontrol show node",
    "assoc": "sacctmgr show assoc",
    "qos": "sacctmgr show qos",
}


def _ask(conn_id: str) -> tuple[SiteProfile, SiteFacts]:
    from airflow_provider_csc.hooks.slurm import open_client, read_connection
    from airflow_provider_csc.sync import run_sync

    settings = read_connection(_find_connection(conn_id))
    if settings.site is None:
        raise ConfigError(
            f"Connection {conn_id!r} names no site, so there is no profile to compare. Fill in "
            "its field Site.",
            field="site",
        )
    if settings.refusal:
        sys.stderr.write(f"{settings.refusal}\n")

    async def ask() -> SiteFacts:
        async with open_client(settings) as client:
            return await client.site_facts()

    return load_profile(settings.site, sites_folders()), run_sync(ask())


def _find_connection(conn_id: str) -> Any:
    """Look a connection up as Airflow's own commands do; tasks have the API server for that."""
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    from airflow.exceptions import AirflowNotFoundException
    from airflow.models import Connection  # noqa: TID251 - as above

    try:
        return Connection.get_connection_from_secrets(conn_id)
    except AirflowNotFoundException as error:
        raise ConfigError(
            f"Connection {conn_id!r} is not defined. `airflow connections list` names those that "
            "are in the database.",
            field="conn_id",
            value=conn_id,
        ) from error


def _to_row(difference: Difference) -> dict[str, str]:
    return {
        "field": difference.field,
        "profile": difference.profile,
        "live": difference.live,
    }


def _fail(message: str) -> Any:
    sys.stderr.write(f"{message}\n")
    sys.exit(NOT_ASKED)


@suppress_logs_and_warning
def print_schema(args: Namespace) -> None:  # noqa: ARG001 - Airflow's way to call a command
    """Print the JSON schema of a profile's file."""
    from airflow_provider_csc.sites.schema import render_schema

    sys.stdout.write(render_schema())
