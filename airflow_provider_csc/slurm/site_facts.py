"""
What a site says of itself: its cluster, partitions, nodes, and the limits of whoever asks.

Sources: scontrol(1) and sacctmgr(1); the forms are what 22.05 printed (tests/outputs). Of nodes
scontrol is asked and not sinfo, which tells neither their architecture nor what of their cores and
memory is kept from jobs; of thousands only the kinds there are travel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_csc.errors import UnreadableOutputError
from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.slurm.shell import SLURM
from airflow_provider_csc.slurm.values import parse_size, parse_time_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_csc.slurm.framing import Frame

_MEBI = 2**20
# scontrol writes for what is not limited, and for what is not said.
_NOTHING = ("", "(null)", "N/A", "UNLIMITED", "INFINITE", "NONE")

# Words of a node that are asked for. Its comments hold words of other people's, which would have to
# look like these to be taken for them.
_NODE_WORDS = (
    *("NodeName", "Arch", "CoresPerSocket", "CPUEfctv", "CPUTot", "Gres", "RealMemory"),
    *("MemSpecLimit", "Sockets", "ThreadsPerCore", "Partitions"),
)
_QUESTIONS = rf"""
kinds_of_nodes() {{
  slurm timeout 30 scontrol --all --oneliner show node | tr -s ' ' '\n' |
    grep -E '^({"|".join(_NODE_WORDS)})=' | tr '\n' '|' | sed 's/NodeName=[^|]*|/\n/g' | sort -u
  return "${{PIPESTATUS[0]}}"
}}
manage() {{ slurm timeout 30 sacctmgr --parsable2 --noheader show "$@"; }}
ask config slurm timeout 30 scontrol show config
ask partitions slurm timeout 30 scontrol --all --oneliner show partition
ask nodes kinds_of_nodes
ask assoc manage assoc where user="$(id -un)" format=Cluster,Account,Partition,MaxJobs,MaxSubmit
ask qos manage qos format=Name,MaxJobsPU,MaxSubmitPU,MaxTRES,MaxTRESPerNode
"""
# What sacctmgr says where no slurmdbd is: that is an answer, and there are no limits.
NO_ACCOUNTING = "not running a supported accounting_storage plugin"
UNREADABLE = (UnreadableOutputError, NotationError, KeyError, ValueError)
"""What reading an answer of another form than the documented one raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKind:
    """Nodes that are alike; what is kept from jobs is not counted."""

    partitions: frozenset[str]
    architecture: str | None
    cores: int | None
    memory_bytes: int | None
    gpus: tuple[tuple[str | None, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionFacts:
    """
    What slurmctld says of a partition, which has so many ``nodes``; None is no limit.

    Its jobs are those of ``accounts``, and of none that is ``denied``, or of accounts below these.
    ``state`` is its own word; jobs that name no partition go to the one that ``is_default``.
    """

    name: str
    is_up: bool
    is_hidden: bool
    hands_out_nodes: bool
    max_seconds: int | None = None
    least_nodes: int = 1
    max_nodes: int | None = None
    nodes: int | None = None
    memory_bytes: int | None = None
    accounts: frozenset[str] | None = None
    denied: frozenset[str] = frozenset()
    quality: str | None = None
    state: str = "UP"
    is_default: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimits:
    """How many jobs of a user may run and be in the queue; None where there is no limit."""

    max_running: int | None = None
    max_submitted: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityLimits:
    """What a quality of service allows: to a user, and to a job in all and on one node."""

    jobs: JobLimits
    of_job: Mapping[str, int]
    of_node: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFacts:
    """
    What a site said; None is what it did not say, for which ``unanswered`` has the reason.

    ``associations`` are the limits by account and partition, which is empty for all.
    """

    cluster: str | None = None
    max_array_size: int | None = None
    partitions: Mapping[str, PartitionFacts] | None = None
    nodes: tuple[NodeKind, ...] | None = None
    associations: Mapping[tuple[str, str], JobLimits] | None = None
    qualities: Mapping[str, QualityLimits] | None = None
    unanswered: Mapping[str, str] = field(default_factory=dict)


def build_site_facts() -> str:
    """Ask a site everything that a profile can be compared with."""
    return f"{SLURM}{_QUESTIONS}"


def parse_site_facts(frames: Mapping[str, Frame]) -> SiteFacts:
    """Read the answer; a command that failed, or said something else, told nothing."""
    told: dict[str, object] = {}
    unanswered: dict[str, str] = {}
    for name, read in _READERS.items():
        frame = frames[name]
        is_without = name in ("assoc", "qos") and NO_ACCOUNTING in frame.text
        if frame.status and not is_without:
            unanswered[name] = frame.complaint or f"status {frame.status}"
            continue
        try:
            told |= read("" if is_without else frame.text, str(told.get("cluster", "")))
        except UNREADABLE as error:
            unanswered[name] = f"the answer cannot be read ({error})"
    return SiteFacts(unanswered=unanswered, **told)  # type: ignore[arg-type] # by their names


def _read_config(text: str, _: str) -> dict[str, object]:
    found = dict(re.findall(r"^(ClusterName|MaxArraySize)\s*=\s*(\S+)$", text, re.MULTILINE))
    return {"cluster": found["ClusterName"], "max_array_size": int(found["MaxArraySize"])}


def _read_partitions(text: str, _: str) -> dict[str, object]:
    return {"partitions": parse_partitions(text)}


def parse_partitions(text: str) -> dict[str, PartitionFacts]:
    """
    Read what ``scontrol --oneliner show partition`` prints.

    :raises UnreadableOutputError: or another of `UNREADABLE`, for anything else.
    """
    rows = [_words(line) for line in text.splitlines() if line.startswith("PartitionName=")]
    if not rows and text.strip() != "No partitions in the system":
        raise UnreadableOutputError("it names no partition")
    return {row["PartitionName"]: _read_partition(row) for row in rows}


def _read_partition(row: Mapping[str, str]) -> PartitionFacts:
    memory, accounts = _number(row.get("MaxMemPerNode")), _text(row.get("AllowAccounts"))
    return PartitionFacts(
        name=row["PartitionName"],
        is_up=row["State"] == "UP",
        is_hidden=row.get("Hidden") == "YES",
        hands_out_nodes=row.get("OverSubscribe") == "EXCLUSIVE",
        max_seconds=parse_time_limit(row["MaxTime"]),
        least_nodes=max(1, _number(row.get("MinNodes")) or 1),
        max_nodes=_number(row.get("MaxNodes")),
        nodes=_number(row.get("TotalNodes")),
        memory_bytes=memory * _MEBI if memory else None,
        accounts=frozenset(accounts.split(",")) if accounts and accounts != "ALL" else None,
        denied=frozenset((_text(row.get("DenyAccounts")) or "").split(",")) - {""},
        quality=_text(row.get("QoS")),
        state=row["State"],
        is_default=row.get("Default") == "YES",
    )


def _read_nodes(text: str, _: str) -> dict[str, object]:
    rows = [dict(_pairs(line.split("|"))) for line in text.splitlines() if "=" in line]
    if not rows:
        raise UnreadableOutputError("it names no node")
    return {"nodes": tuple(_read_kind(row) for row in rows)}


def _read_kind(row: Mapping[str, str]) -> NodeKind:
    threads = int(row.get("ThreadsPerCore", 1))
    # CPUEfctv came with 22.05, and leaves out the cores that are the system's.
    cpus = _number(row.get("CPUEfctv")) or _number(row.get("CPUTot"))
    memory, kept = _number(row.get("RealMemory")), _number(row.get("MemSpecLimit")) or 0
    return NodeKind(
        partitions=frozenset((_text(row.get("Partitions")) or "").split(",")) - {""},
        architecture=_text(row.get("Arch")),
        cores=cpus // threads if cpus else None,
        memory_bytes=(memory - kept) * _MEBI if memory else None,
        gpus=tuple(_read_gpus(_text(row.get("Gres")) or "")),
    )


_GPU = re.compile(r"gpu(?::(?P<type>[^:,()]+))?:(?P<count>[0-9]+)(?:\([^)]*\))?(?=,|$)")


def _read_gpus(text: str) -> list[tuple[str | None, int]]:
    """Read the GPUs of ``gpu:gh200:4(S:0-1),nvme:3500``: what they are called, and how many."""
    return [(each["type"], int(each["count"])) for each in _GPU.finditer(text)]


def _read_associations(text: str, cluster: str) -> dict[str, object]:
    rows = [line.split("|") for line in text.splitlines() if "|" in line]
    mine = [row for row in rows if row[0].lower() == cluster.lower()]
    return {
        "associations": {
            (account, partition): _limits(running, submitted)
            for _, account, partition, running, submitted in mine
        }
    }


def _read_qualities(text: str, _: str) -> dict[str, object]:
    rows = [line.split("|") for line in text.splitlines() if "|" in line]
    return {
        "qualities": {
            name: QualityLimits(
                jobs=_limits(running, submitted),
                of_job=_read_resources(of_job),
                of_node=_read_resources(of_node),
            )
            for name, running, submitted, of_job, of_node in rows
        }
    }


def _limits(running: str, submitted: str) -> JobLimits:
    return JobLimits(max_running=_number(running), max_submitted=_number(submitted))


def _read_resources(text: str) -> dict[str, int]:
    """Read ``cpu=32,gres/gpu=2,mem=64G``; memory in bytes."""
    return {
        name: _bytes_of(value) if name == "mem" else int(value)
        for name, value in _pairs(text.split(","))
    }


def _bytes_of(value: str) -> int:
    """Read a size of which a bare number is in MiB."""
    return parse_size(value if value[-1:].isalpha() else f"{value}M") or 0


def _words(line: str) -> dict[str, str]:
    return dict(_pairs(line.split()))


def _pairs(words: list[str]) -> list[tuple[str, str]]:
    pairs = (word.partition("=") for word in words)
    return [(name, value) for name, equals, value in pairs if equals]


def _text(value: str | None) -> str | None:
    return None if value is None or value in _NOTHING else value


def _number(value: str | None) -> int | None:
    return int(value) if value and value.isdecimal() else None


_READERS: dict[str, Callable[[str, str], dict[str, object]]] = {
    "config": _read_config,
    "partitions": _read_partitions,
    "nodes": _read_nodes,
    "assoc": _read_associations,
    "qos": _read_qualities,
}
