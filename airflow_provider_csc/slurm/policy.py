"""
What follows from a failed job: fail at once, fail as usual, or submit again with more of something.

A policy is data and its decision a pure function of it. Whoever runs the job carries it out.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Literal, TypedDict

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.notation import NotationError, is_whole_number, shown
from airflow_provider_csc.slurm.accounting import format_bytes
from airflow_provider_csc.slurm.failures import FailureReason
from airflow_provider_csc.slurm.values import (
    format_memory,
    format_time_limit,
    parse_memory,
    parse_size,
    parse_time_limit,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import timedelta

    from airflow_provider_csc.slurm.result import JobResult

INFRASTRUCTURE = frozenset(
    {
        FailureReason.NODE_FAILURE,
        FailureReason.BOOT_FAILURE,
        FailureReason.LAUNCH_FAILURE,
        FailureReason.PREEMPTED,
    }
)
"""What is no fault of the job."""

_USER_ERRORS = frozenset({FailureReason.EXIT_CODE, FailureReason.SIGNAL})
_FROM_OUTSIDE = (9, 15)  # SIGKILL and SIGTERM come from somebody else than the script itself
_MEMORY_OPTIONS = ("mem", "mem-per-cpu", "mem-per-gpu")
_MOST_RESUBMISSIONS = 100
_SMALLEST_FACTOR = 1.01
_LARGEST_FACTOR = 100
_MIB = 2**20
_LARGEST_BYTES = 2**62
_LONGEST_SECONDS = (2**31 - 1) // 60 * 60


class PastSubmission(TypedDict):
    """One failed submission of this try; ``changed`` is what its resubmission asked otherwise."""

    job_id: str
    state: str
    reason: str
    nodes: str | None
    changed: dict[str, str]
    why: str


@dataclass(frozen=True, slots=True)
class Fail:
    """Fail, and use no retry of Airflow's: running it again cannot help."""

    why: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Fail as usual; Airflow's retries, where there are any left, run it again."""

    why: str


@dataclass(frozen=True, slots=True)
class Resubmit:
    """
    Submit again at once, as part of the same try of Airflow's.

    ``options`` override the user's own; they hold every change of this try, not the last one only.
    ``history`` is to be given to the next decision.
    """

    why: str
    options: dict[str, str]
    history: list[PastSubmission]


Action = Fail | Retry | Resubmit


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLimits:
    """What the partition of a job allows; None is no limit, or one that is not known."""

    max_minutes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmRetryPolicy:
    """
    What to do about a failed job, by the reason it failed for. By default: nothing special.

    The first number of each pair is how often, in one try of Airflow's, a job may be submitted
    again for that reason; 0 leaves it to Airflow's retries. A resubmission costs what the job
    costs.

    :param infrastructure: after a node failure, a node that did not boot, a failed launch or
        preemption, submit the same request again.
    :param exclude_failed_nodes: and keep off the node that failed, where it is known which it was.
    :param out_of_memory: after OUT_OF_MEMORY, submit again with more memory.
    :param memory_factor: so many times what was asked, or was measured if that is more.
    :param memory_cap: never more than that, in the option that is raised: ``mem`` (per node),
        ``mem-per-cpu`` or ``mem-per-gpu``. At the cap the task fails for good.
    :param time_limit: after TIMEOUT, submit again with more time. Only for scripts that go on where
        they stopped, or whose limit was a guess.
    :param time_factor: so many times what was asked.
    :param time_cap: never more than that; the partition's own limit holds too.
    :param user_errors: ``"fail"`` spends no retry on a script that ended with an exit code, or was
        killed by its own fault (a signal other than SIGKILL and SIGTERM); ``"retry"`` does.
    """

    infrastructure: int = 0
    exclude_failed_nodes: bool = True
    out_of_memory: int = 0
    memory_factor: float = 1.5
    memory_cap: str | int | None = None
    time_limit: int = 0
    time_factor: float = 2.0
    time_cap: str | int | timedelta | None = None
    user_errors: Literal["retry", "fail"] = "retry"

    def __post_init__(self) -> None:
        """Check every field, and bring the caps into one notation."""
        for name in ("infrastructure", "out_of_memory", "time_limit"):
            _check_count(name, getattr(self, name))
        for name in ("memory_factor", "time_factor"):
            _check_factor(name, getattr(self, name))
        if not isinstance(self.exclude_failed_nodes, bool):
            raise _error("exclude_failed_nodes", self.exclude_failed_nodes, "Write True or False.")
        if self.user_errors not in ("retry", "fail"):
            raise _error("user_errors", self.user_errors, "Write 'retry' or 'fail'.")
        object.__setattr__(self, "memory_cap", _read_memory_cap(self.memory_cap))
        object.__setattr__(self, "time_cap", _read_time_cap(self.time_cap))

    def to_dict(self) -> dict[str, str | int | float | bool | None]:
        """Return plain JSON values, from which `from_dict` makes an equal policy."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> SlurmRetryPolicy:
        """
        Read what `to_dict` made, or what a user wrote so.

        :raises ConfigError: for a name that is no field, and for a value that a field cannot have.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise _error(str(name), values[name], f"It is no field; {', '.join(known)} are.")
        return cls(**values)  # type: ignore[arg-type]  # __post_init__ checks each value

    def decide(
        self,
        reason: FailureReason,
        result: JobResult,
        history: Sequence[PastSubmission] = (),
        *,
        options: Mapping[str, str],
        partition_limits: PartitionLimits | None = None,
    ) -> Action:
        """
        Decide what follows from one failed job.

        ``history`` has the earlier submissions of this try, ``options`` are those the job was
        submitted with, all of them, by their long names.
        """
        asked = {name.replace("_", "-"): str(value) for name, value in options.items()}
        if reason in INFRASTRUCTURE:
            found = self._after_infrastructure(reason, result, history, asked)
        elif reason is FailureReason.OUT_OF_MEMORY:
            found = self._after_out_of_memory(result, history, asked)
        elif reason is FailureReason.TIME_LIMIT:
            found = self._after_time_limit(result, history, asked, partition_limits)
        elif reason is FailureReason.REJECTED:
            return Fail("Slurm refused the request; it would refuse it again.")
        else:
            return self._after_other(reason, result)
        if not isinstance(found, _Change):
            return found
        return _resubmit(reason, result, history, found)

    def _after_other(self, reason: FailureReason, result: JobResult) -> Action:
        is_known = bool(result.exit_code or result.signal) and result.signal not in _FROM_OUTSIDE
        if reason in _USER_ERRORS and is_known and self.user_errors == "fail":
            return Fail("user_errors='fail': the script itself failed, so no retry is spent on it.")
        return Retry(f"The policy has nothing for {reason}; Airflow's retries decide.")

    def _after_infrastructure(
        self,
        reason: FailureReason,
        result: JobResult,
        history: Sequence[PastSubmission],
        asked: Mapping[str, str],
    ) -> Fail | Retry | _Change:
        count = _count(history, INFRASTRUCTURE)
        if count >= self.infrastructure:
            return _used_up("infrastructure", self.infrastructure)
        times = f"{reason}, resubmission {count + 1} of {self.infrastructure}"
        why = f"{times}: the same request is submitted again"
        if not self.exclude_failed_nodes or reason is FailureReason.PREEMPTED:
            return _Change(f"{why}.", {})
        node, problem = _failed_node(result, asked)
        if node is None:
            return _Change(f"{why}; no node is excluded, because {problem}.", {})
        excluded = _join_nodes(asked.get("exclude", ""), node)
        return _Change(f"{why}, without node {node}.", {"exclude": excluded})

    def _after_out_of_memory(
        self, result: JobResult, history: Sequence[PastSubmission], asked: Mapping[str, str]
    ) -> Fail | Retry | _Change:
        count = _count(history, {FailureReason.OUT_OF_MEMORY})
        if not self.out_of_memory:
            return _used_up("out_of_memory", 0)
        if count >= self.out_of_memory:
            return Fail(
                f"out_of_memory={self.out_of_memory} resubmissions with more memory did not "
                "suffice. Find out what the script needs, and ask for that."
            )
        request = _memory_request(result, asked)
        if request is None:
            return Retry("How much memory was asked for is not known, so it cannot be raised.")
        if not request.asked_bytes:
            return Retry(f"{request.option}=0 asked for all memory of a node; there is no more.")
        peak = max(request.peak_bytes, request.asked_bytes)
        wanted = _round_up(peak * self.memory_factor, _MIB)
        cap = _LARGEST_BYTES if self.memory_cap is None else parse_memory(self.memory_cap)
        granted = min(wanted, cap)
        if granted <= request.asked_bytes:
            return Fail(
                f"{request.option}={format_memory(request.asked_bytes)} is at "
                f"memory_cap={self.memory_cap} already. Raise the cap, or make the script use less."
            )
        value = format_memory(granted)
        seen = f", measured {format_bytes(request.peak_bytes)}" if request.peak_bytes else ""
        capped = f", up to memory_cap={self.memory_cap}" if granted < wanted else ""
        return _Change(
            f"out_of_memory, resubmission {count + 1} of {self.out_of_memory}: {request.option} is "
            f"raised from {format_memory(request.asked_bytes)} to {value} "
            f"(memory_factor={self.memory_factor:g}{seen}{capped}).",
            {request.option: value},
        )

    def _after_time_limit(
        self,
        result: JobResult,
        history: Sequence[PastSubmission],
        asked: Mapping[str, str],
        partition_limits: PartitionLimits | None,
    ) -> Fail | Retry | _Change:
        count = _count(history, {FailureReason.TIME_LIMIT})
        if count >= self.time_limit:
            return _used_up("time_limit", self.time_limit)
        had = _asked_seconds(result, asked)
        if had is None:
            return Retry("The time limit that was reached is not known, so it cannot be raised.")
        wanted = _round_up(had * self.time_factor, 60)
        granted, by = min([(wanted, ""), *self._time_caps(partition_limits)])
        if granted <= had:
            return Retry(f"The time limit, {format_time_limit(had)}, is at {by} already.")
        value = format_time_limit(granted)
        capped = f", up to {by}" if by else ""
        return _Change(
            f"time_limit, resubmission {count + 1} of {self.time_limit}: time is raised from "
            f"{format_time_limit(had)} to {value} (time_factor={self.time_factor:g}{capped}).",
            {"time": value},
        )

    def _time_caps(self, partition_limits: PartitionLimits | None) -> list[tuple[int, str]]:
        """Return what bounds a time limit: seconds, and what that is called."""
        caps = [(_LONGEST_SECONDS, "the longest time Slurm can count")]
        if self.time_cap is not None:
            caps.append((parse_time_limit(self.time_cap) or 0, f"time_cap={self.time_cap}"))
        if partition_limits and partition_limits.max_minutes is not None:
            caps.append((partition_limits.max_minutes * 60, "the partition's own limit"))
        return caps


@dataclass(frozen=True, slots=True)
class _Change:
    """A resubmission in the making: the options to ask otherwise, and why."""

    why: str
    options: dict[str, str]


def _resubmit(
    reason: FailureReason, result: JobResult, history: Sequence[PastSubmission], change: _Change
) -> Resubmit:
    options: dict[str, str] = {}
    for earlier in history:
        options |= earlier["changed"]
    entry = PastSubmission(
        job_id=result.job_id,
        state=result.state,
        reason=str(reason),
        nodes=result.nodes,
        changed=change.options,
        why=change.why,
    )
    return Resubmit(change.why, options | change.options, [*history, entry])


def _count(history: Sequence[PastSubmission], reasons: Iterable[str]) -> int:
    return sum(each["reason"] in set(reasons) for each in history)


def _used_up(name: str, allowed: int) -> Retry:
    if not allowed:
        return Retry(f"{name}=0: the policy leaves this to Airflow's retries.")
    return Retry(f"{name}={allowed} resubmissions are used up; Airflow's retries decide.")


_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _failed_node(result: JobResult, asked: Mapping[str, str]) -> tuple[str | None, str]:
    """Return the node that failed, or None and why it cannot be excluded."""
    nodes = result.nodes or ""
    if "nodelist" in asked or "nodefile" in asked:
        return None, "the request itself names the nodes"
    if "," in nodes or "[" in nodes:
        return None, f"it is not known which of {nodes} failed"
    if not _NODE.fullmatch(nodes):
        return None, "it is not known which one failed"
    return nodes, ""


def _join_nodes(earlier: str, node: str) -> str:
    """Return a host list with one node more."""
    nodes = [each for each in (earlier.strip(","), node) if each]
    return earlier if node in earlier.split(",") else ",".join(nodes)


@dataclass(frozen=True, slots=True)
class _MemoryRequest:
    """What was asked for with one of sbatch's memory options, and measured in the same unit."""

    option: str
    asked_bytes: int
    peak_bytes: int


def _memory_request(result: JobResult, asked: Mapping[str, str]) -> _MemoryRequest | None:
    """Return what was asked for, by the request or else by the partition; None if not known."""
    option = next((name for name in _MEMORY_OPTIONS if name in asked), None)
    try:
        if option is not None:
            return _MemoryRequest(option, parse_memory(asked[option]), _peak(result, option))
        return _accounted_request(result)
    except NotationError:
        return None


def _accounted_request(result: JobResult) -> _MemoryRequest | None:
    """Read sacct's ReqMem: of the whole job, or before 21.08 per node ``n`` or per core ``c``."""
    text = result.requested_memory or ""
    size_bytes = parse_size(text)
    if not size_bytes:
        return None
    if text.endswith("c"):
        return _MemoryRequest("mem-per-cpu", size_bytes, _peak(result, "mem-per-cpu"))
    nodes = 1 if text.endswith("n") else result.node_count or 1
    return _MemoryRequest("mem", -(-size_bytes // nodes), _peak(result, "mem"))


def _peak(result: JobResult, option: str) -> int:
    """Return the measured bytes per node or core; sampled, so never more than the true peak."""
    shares = {"mem": result.node_count or 1, "mem-per-cpu": result.cpus}
    share = shares.get(option)
    measured = result.memory_bytes or (result.max_rss_bytes if option == "mem" else 0)
    return -(-measured // share) if measured and share else 0


def _asked_seconds(result: JobResult, asked: Mapping[str, str]) -> int | None:
    """Return the time limit the job had, None for none and for one that is not known."""
    try:
        seconds = parse_time_limit(asked["time"]) if "time" in asked else None
    except NotationError:
        seconds = None
    minutes = result.time_limit_minutes
    return seconds or (minutes * 60 if minutes else None)


def _round_up(amount: float, step: int) -> int:
    return math.ceil(amount / step) * step


def _check_count(name: str, value: object) -> None:
    if not is_whole_number(value) or not 0 <= value <= _MOST_RESUBMISSIONS:
        remedy = f"Write how often to submit again, 0 to {_MOST_RESUBMISSIONS}, for example 2."
        raise _error(name, value, remedy)


def _check_factor(name: str, value: object) -> None:
    number = value if isinstance(value, float) or is_whole_number(value) else 0
    if not _SMALLEST_FACTOR <= number <= _LARGEST_FACTOR:
        remedy = f"Write a number from {_SMALLEST_FACTOR} to {_LARGEST_FACTOR}, for example 1.5."
        raise _error(name, value, remedy)


def _read_memory_cap(value: str | int | None) -> str | None:
    """Return a cap in whole mebibytes, rounded down."""
    if value is None:
        return None
    try:
        size_bytes = parse_memory(value) // _MIB * _MIB
    except NotationError as error:
        raise _error("memory_cap", value, error.remedy) from error
    if not size_bytes:
        raise _error("memory_cap", value, "Write at least 1M, or None for no cap.")
    return format_memory(size_bytes)


def _read_time_cap(value: str | int | timedelta | None) -> str | None:
    """Return a cap in whole minutes, in which Slurm counts, rounded down; None for no cap."""
    if value is None:
        return None
    try:
        seconds = parse_time_limit(value)
    except NotationError as error:
        raise _error("time_cap", value, error.remedy) from error
    if seconds is not None and seconds < 60:  # noqa: PLR2004 - a minute
        raise _error("time_cap", value, "Write at least one minute, or None for no cap.")
    return None if seconds is None else format_time_limit(seconds // 60 * 60)


def _error(field: str, value: object, remedy: str) -> ConfigError:
    message = f"on_failure: {field} is {shown(value)}. {remedy}"
    return ConfigError(message, field=f"on_failure.{field}", value=shown(value), remedy=remedy)
