"""
What ``airflow csc`` can do; Airflow 3.2 and later read it at each of their commands.

The commands themselves are loaded when they are called.
"""

from __future__ import annotations

from airflow.cli.cli_config import (
    ARG_OUTPUT,
    ARG_VERBOSE,
    ActionCommand,
    Arg,
    CLICommand,
    GroupCommand,
    lazy_load_command,
)

_SITES = "airflow_provider_csc.cli.sites"
_SHOW_OUTPUT = Arg(
    ("-o", "--output"),
    help="Output format. Allowed values: yaml, json, table (default: yaml)",
    metavar="(yaml, json, table)",
    choices=("yaml", "json", "table"),
    default="yaml",
)

_SITES_COMMANDS = (
    ActionCommand(
        name="list",
        help="List the site profiles there are, shipped ones and your own",
        func=lazy_load_command(f"{_SITES}.list_sites"),
        args=(ARG_OUTPUT, ARG_VERBOSE),
    ),
    ActionCommand(
        name="show",
        help="Show a site profile, with what it extends",
        func=lazy_load_command(f"{_SITES}.show_site"),
        args=(Arg(("name",), help="Name of the profile"), _SHOW_OUTPUT, ARG_VERBOSE),
    ),
    ActionCommand(
        name="check",
        help="Compare the profile of a connection's site with the cluster itself",
        description=(
            "Log in by a connection, ask the cluster for its partitions, nodes and limits, and "
            "print where its site's profile says otherwise. Exit code 0: no difference; 1: "
            "differences; 2: the cluster, or some of it, could not be asked."
        ),
        func=lazy_load_command("airflow_provider_csc.cli.check.check_site"),
        args=(Arg(("conn_id",), help="Id of a connection with a site"), ARG_OUTPUT, ARG_VERBOSE),
    ),
    ActionCommand(
        name="schema",
        help="Print the JSON schema of a site profile, for editors",
        func=lazy_load_command(f"{_SITES}.print_schema"),
        args=(ARG_VERBOSE,),
    ),
)


_CHECK = ActionCommand(
    name="check",
    help="Check whether a connection is fit for jobs",
    description=(
        "Log in by a connection and look for what would be in the way of its jobs: certificate, "
        "accounts, balance, maintenances, partitions, room and quota of the work directory. With "
        "options of sbatch, ask it also when such a job would start; nothing is submitted. Exit "
        "code 0: nothing was found; 1: something was; 2: nothing, but not all could be asked."
    ),
    func=lazy_load_command("airflow_provider_csc.cli.connection_check.check_connection"),
    args=(
        Arg(("conn_id",), help="Id of a connection to a Slurm site"),
        Arg(
            ("--option",),
            help="An option of sbatch that a job would have, as partition=small; can be repeated",
            metavar="NAME=VALUE",
            action="append",
        ),
        ARG_OUTPUT,
        ARG_VERBOSE,
    ),
)


def get_cli_commands() -> list[CLICommand]:
    """Return the commands of this provider."""
    sites = GroupCommand(name="sites", help="Look at site profiles", subcommands=_SITES_COMMANDS)
    return [
        GroupCommand(
            name="csc",
            help="Look after Slurm sites (CSC provider)",
            subcommands=(_CHECK, sites),
        )
    ]
