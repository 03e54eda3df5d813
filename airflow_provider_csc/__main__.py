"""``python -m airflow_provider_csc``: ``airflow csc``, also where Airflow is older than 3.2."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from airflow.cli.cli_config import ActionCommand

from airflow_provider_csc.cli.definition import get_cli_commands

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from airflow.cli.cli_config import CLICommand


def build_parser() -> argparse.ArgumentParser:
    """Make a parser of what Airflow would make one of."""
    parser = argparse.ArgumentParser(prog="python -m airflow_provider_csc")
    for group in get_cli_commands():
        _add_commands(parser, group.subcommands)  # type: ignore[union-attr] # each is a group
    return parser


def _add_commands(parser: argparse.ArgumentParser, commands: Iterable[CLICommand]) -> None:
    parsers = parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
    for command in commands:
        told: dict[str, Any] = {"help": command.help}
        one = parsers.add_parser(
            command.name, description=command.description or command.help, **told
        )
        if isinstance(command, ActionCommand):
            for argument in command.args:
                argument.add_to_parser(one)
            one.set_defaults(func=command.func)
        else:
            _add_commands(one, command.subcommands)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command."""
    args = build_parser().parse_args(arguments)
    args.func(args)


if __name__ == "__main__":
    main(sys.argv[1:])
