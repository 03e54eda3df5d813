"""``airflow csc sites check``: whether what a profile says is still so."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from airflow.cli.simple_table import AirflowConsole
from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from airflow_provider_csc.cli._lookup import look_up
from airflow_provider_csc.deployment import sites_folders
from airflow_provider_csc.errors import ConfigError, CscError
from airflow_provider_csc.hooks.slurm import open_client, read_connection
from airflow_provider_csc.sites.compare import compare
from airflow_provider_csc.sites.load import load_profile
from airflow_provider_csc.sync import run_sync

if TYPE_CHECKING:
    from argparse import Namespace

    from airflow_provider_csc.sites.compare import Difference
    from airflow_provider_csc.slurm.site_facts import SiteFacts
    from airflow_provider_csc.transport.base import SiteSettings

DIFFERENT, NOT_ASKED = 1, 2
"""Exit codes."""

_COMMANDS = {
    "config": "scontrol show config",
    "partitions": "scontrol show partition",
    "nodes": "scontrol show node",
    "assoc": "sacctmgr show assoc",
    "qos": "sacctmgr show qos",
}


@suppress_logs_and_warning
@providers_configuration_loaded
def check_site(args: Namespace) -> None:
    """Print where a profile and its site differ, and end with an exit code that says so."""
    try:
        name, settings = _read_settings(args.conn_id)
        profile = load_profile(name, sites_folders())
        facts = run_sync(_ask(settings))
    except CscError as error:
        _say(error.message)
        sys.exit(NOT_ASKED)
    differences = compare(profile, facts)
    _report(differences, facts, args.output)
    if differences:
        sys.exit(DIFFERENT)
    if facts.unanswered:
        sys.exit(NOT_ASKED)
    _say(f"The cluster says nothing else than the profile {name!r}.")


def _read_settings(conn_id: str) -> tuple[str, SiteSettings]:
    """Return the name of a connection's site, and how to reach it."""
    settings = read_connection(look_up(conn_id))
    if settings.site is None:
        raise ConfigError(
            f"Connection {conn_id!r} names no site, so there is no profile to compare. Fill in "
            "its field Site.",
            field="site",
        )
    if settings.refusal:
        _say(settings.refusal)
    return settings.site, settings


async def _ask(settings: SiteSettings) -> SiteFacts:
    async with open_client(settings) as client:
        return await client.site_facts()


def _report(differences: list[Difference], facts: SiteFacts, output: str) -> None:
    rows = [
        {"field": each.field, "profile": each.profile, "live": each.live} for each in differences
    ]
    if rows or output in ("json", "yaml"):
        AirflowConsole().print_as(data=rows, output=output)
    # What was not answered is no difference.
    for name, reason in facts.unanswered.items():
        _say(f"No answer from {_COMMANDS[name]}: {reason}")


def _say(text: str) -> None:
    """Tell a person; standard output has the differences alone."""
    sys.stderr.write(f"{text}\n")
