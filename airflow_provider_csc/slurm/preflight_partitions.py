"""Whether the partitions that a job names are there, take jobs, and give what it asks for."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.findings import (
    Finding,
    name_partitions,
    read_nodes,
    read_text,
    read_time,
)
from airflow_provider_csc.slurm.values import format_time_limit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from airflow_provider_csc.slurm.preflight_facts import PreflightFacts
    from airflow_provider_csc.slurm.site_facts import PartitionFacts

# slurm.conf(5), State of a partition.
_STATES = {
    "DOWN": "Its jobs wait, and none starts before an administrator opens it.",
    "DRAIN": "It takes no new jobs.",
    "INACTIVE": "It takes no new jobs, and starts none.",
}
_REFUSED = "sbatch refuses such a job, or it waits for ever."


def find_partition_problems(
    options: Mapping[str, str | bool], facts: PreflightFacts
) -> Iterator[Finding]:
    """Yield what is wrong with the partitions that a job names; with the default one for none."""
    known = facts.partitions
    if known is None:
        return
    names = name_partitions(options, facts)
    missing = [name for name in names if name not in known]
    for name in missing:
        yield Finding(
            f"There is no partition {name!r} here.",
            "sbatch refuses such a job.",
            _hint(name, known),
        )
    found = [list(_find_in(known[name], options, facts)) for name in names if name in known]
    # Of several Slurm takes whichever can.
    if not missing and all(found):
        is_certain = all(any(each.is_certain for each in findings) for findings in found)
        for findings in found:
            for each in findings:
                yield each if is_certain else replace(each, is_certain=False)


def describe_partitions(options: Mapping[str, str | bool], facts: PreflightFacts) -> str:
    """Say which partitions take jobs, and what those give that a job names."""
    known = facts.partitions or {}
    named = [known[name] for name in name_partitions(options, facts) if name in known]
    told = [
        f"{each.name} is {each.state}, for jobs of at most {format_time_limit(each.max_seconds)}."
        for each in named
    ]
    others = [each.name for each in _list_open(options, facts)]
    told.append(f"Open are: {', '.join(others) or 'none'}.")
    return " ".join(told)


def _list_open(options: Mapping[str, str | bool], facts: PreflightFacts) -> list[PartitionFacts]:
    """Return the partitions that certainly take jobs of the account that is named."""
    account = read_text(options, "account")
    return [
        each
        for each in (facts.partitions or {}).values()
        if each.is_up
        and not each.is_hidden
        and not each.denied
        and (each.accounts is None or (account is not None and _lists(each.accounts, account)))
    ]


def _lists(accounts: Iterable[str], account: str) -> bool:
    """Whether an account is listed itself; what is listed holds for those below, too."""
    return account.casefold() in {each.casefold() for each in accounts}


def _hint(name: str, known: Mapping[str, PartitionFacts]) -> str:
    shown = [each.name for each in known.values() if not each.is_hidden]
    near = difflib.get_close_matches(name, shown, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(shown) or 'none'}."


def _find_in(
    partition: PartitionFacts, options: Mapping[str, str | bool], facts: PreflightFacts
) -> Iterator[Finding]:
    if not partition.is_up:
        yield Finding(
            f"Partition {partition.name!r} is {partition.state}.",
            _STATES.get(partition.state, "Jobs may not start there."),
            "Take another, or wait.",
        )
    account = read_text(options, "account")
    if account and _lists(partition.denied, account):
        yield Finding(
            f"Partition {partition.name!r} is not open to account {account!r}.",
            "sbatch refuses such a job.",
            "Take another.",
        )
    listed = partition.accounts
    if account and listed is not None and not _lists(listed, account):
        yield Finding(
            f"Partition {partition.name!r} lists only the accounts {', '.join(sorted(listed))}.",
            f"Unless account {account!r} is below one of these, sbatch refuses such a job.",
            "Take another, or apply for it.",
            is_certain=False,
        )
    yield from _check_time(partition, options, facts)
    yield from _check_nodes(partition, options)


def _check_time(
    partition: PartitionFacts, options: Mapping[str, str | bool], facts: PreflightFacts
) -> Iterator[Finding]:
    # With --time-min Slurm may shorten a job.
    time = read_time(options, "time-min") or read_time(options, "time")
    most = partition.max_seconds
    if time is None or time.problem or most is None:
        return
    asked = time.seconds
    if asked is not None and asked <= most:
        return
    longer = [
        each.name
        for each in _list_open(options, facts)
        if each.max_seconds is None or (asked is not None and asked <= each.max_seconds)
    ]
    hint = f" So long are jobs in: {', '.join(longer)}." if longer else ""
    yield Finding(
        f"Partition {partition.name!r} gives a job at most {format_time_limit(most)}, and this one "
        f"asks for {format_time_limit(asked)}.",
        _REFUSED,
        f"Ask for less time.{hint}",
    )


def _check_nodes(partition: PartitionFacts, options: Mapping[str, str | bool]) -> Iterator[Finding]:
    asked = read_nodes(options)
    if asked is None:
        return
    least, most = asked
    limits = [each for each in (partition.max_nodes, partition.nodes) if each is not None]
    if limits and least > min(limits):
        yield Finding(
            f"Partition {partition.name!r} gives a job at most {min(limits)} nodes, and this one "
            f"asks for {least}.",
            _REFUSED,
            "Ask for fewer nodes, or for another partition.",
        )
    if most < partition.least_nodes:
        yield Finding(
            f"Partition {partition.name!r} is for jobs of {partition.least_nodes} nodes or more, "
            f"and this one asks for {most}.",
            _REFUSED,
            "Ask for more nodes, or for another partition.",
        )
