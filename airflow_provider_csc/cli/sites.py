"""``airflow csc sites``: which profiles there are, and what one says."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from airflow.cli.simple_table import AirflowConsole
from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from airflow_provider_csc.deployment import sites_folders
from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.sites.load import find_profile, list_profiles, load_profile
from airflow_provider_csc.sites.schema import render_schema

if TYPE_CHECKING:
    from argparse import Namespace

    from airflow_provider_csc.sites.model import SiteProfile


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
        architecture=", ".join(_architectures(profile)),
        partitions=len(profile.partitions),
        retired=f"{retired.since.isoformat()}, see {retired.successor}" if retired else "",
    )


def _architectures(profile: SiteProfile) -> list[str]:
    """Return that of the site, and those of partitions that have another."""
    every = [profile.architecture, *(each.architecture for each in profile.partitions.values())]
    return list(dict.fromkeys(each.value for each in every if each))


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
def print_schema(args: Namespace) -> None:  # noqa: ARG001 - Airflow's way to call a command
    """Print the JSON schema of a profile's file."""
    sys.stdout.write(render_schema())
