"""What a job needs, said without knowing the site."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from typing import Any

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.notation import NotationError, shown
from airflow_provider_csc.slurm.values import (
    format_memory,
    format_time_limit,
    parse_count,
    parse_memory,
    parse_time_limit,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """
    What a job needs; the site's profile makes options of sbatch of it.

    All but ``time`` count per node. A value may be a template, as ``"{{ params.nodes }}"``.

    :param nodes: how many nodes.
    :param tasks_per_node: processes that srun starts on each.
    :param cpus_per_task: cores for each of these.
    :param memory_per_cpu: as ``"4G"``; or ``memory_per_node``. Without either, what the partition
        gives.
    :param memory_per_node: as ``"64G"``.
    :param gpus_per_node: GPUs as Slurm counts them: on LUMI the halves of an MI250X (GCDs).
    :param gpu_type: as the site calls it, where any will not do.
    :param local_disk: space on a disk of the node, as ``"100G"``.
    :param time: the longest it may run, as sbatch's ``--time``, or a timedelta.
    :raises ConfigError: names the field, the value and the remedy.
    """

    nodes: int | str = 1
    tasks_per_node: int | str = 1
    cpus_per_task: int | str = 1
    memory_per_cpu: int | str | None = None
    memory_per_node: int | str | None = None
    gpus_per_node: int | str = 0
    gpu_type: str | None = None
    local_disk: int | str | None = None
    time: int | str | timedelta | None = None

    def __post_init__(self) -> None:
        """Check what is no template."""
        values = asdict(self)
        if not any(_is_template(value) for value in values.values()):
            read_resources(values)

    def to_dict(self) -> dict[str, object]:
        """Return what was said, which `read_resources` reads."""
        defaults = {each.name: each.default for each in fields(self)}
        return {name: value for name, value in asdict(self).items() if value != defaults[name]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Checked `Resources`: sizes in bytes, time in seconds, None where nothing was said."""

    nodes: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int = 1
    memory_per_cpu: int | None = None
    memory_per_node: int | None = None
    gpus_per_node: int = 0
    gpu_type: str | None = None
    local_disk: int | None = None
    time: int | None = None

    @property
    def cores(self) -> int:
        """How many cores of each node it needs."""
        return self.tasks_per_node * self.cpus_per_task

    @property
    def memory(self) -> int | None:
        """How much memory of each node it needs (bytes), where that was said."""
        if self.memory_per_cpu is not None:
            return self.memory_per_cpu * self.cores
        return self.memory_per_node

    def describe(self) -> str:
        """Return it as a user would write it."""
        default = Request()
        said = {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if getattr(self, each.name) != getattr(default, each.name)
        }
        return f"Resources({', '.join(f'{name}={show(name, said[name])}' for name in said)})"


def show(name: str, value: object) -> str:
    """Return the value of a field as a user would write it."""
    if isinstance(value, int) and name in _MEMORY:
        return repr(format_memory(value))
    if isinstance(value, int) and name == "time":
        return repr(format_time_limit(value))
    return repr(value)


def plain(name: str, value: object) -> str:
    """Return the value of a field as it stands in a sentence."""
    return show(name, value).strip("'")


_COUNTS = {"nodes": 1, "tasks_per_node": 1, "cpus_per_task": 1, "gpus_per_node": 0}
_MEMORY = ("memory_per_cpu", "memory_per_node", "local_disk")
_NAMES = tuple(each.name for each in fields(Request))


def read_resources(values: Mapping[str, object] | Resources) -> Request:
    """
    Read what a DAG author wrote, templates filled in.

    :raises ConfigError: names the field, the value and the remedy.
    """
    if isinstance(values, Resources):
        values = asdict(values)
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"resources: {shown(values)} is no mapping. Write Resources(nodes=2, time='02:00:00').",
            field="resources",
            value=values,
        )
    for name in values:
        if name not in _NAMES:
            raise _unknown(name, values[name])
    given = {name: value for name, value in values.items() if value not in (None, "")}
    read: dict[str, Any] = {name: _read(name, value) for name, value in given.items()}
    request = Request(**read)
    if request.memory_per_cpu is not None and request.memory_per_node is not None:
        raise _error(
            "memory_per_cpu", values["memory_per_cpu"], "memory_per_node is given, too", "Give one."
        )
    if request.gpu_type is not None and not request.gpus_per_node:
        raise _error(
            "gpu_type", request.gpu_type, "no GPUs are asked for", "Give gpus_per_node as well."
        )
    return request


def _read(name: str, value: object) -> object:
    try:
        if name == "gpu_type":
            return _read_name(value)
        return _read_number(name, value)
    except NotationError as error:
        raise _error(name, value, error.problem, error.remedy) from error


def _read_number(name: str, value: object) -> int | None:
    if name == "time" and isinstance(value, timedelta):
        return parse_time_limit(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise NotationError(f"it is a {type(value).__name__}", "Give a number or text.")
    if name == "time":
        return parse_time_limit(value)
    return parse_count(value, least=_COUNTS[name]) if name in _COUNTS else _read_memory(value)


def _read_memory(value: str | int) -> int:
    size = parse_memory(value)
    if not size:
        raise NotationError("nothing would be given", "Leave it out, or give a size.")
    return size


def _read_name(value: object) -> str:
    text = str(value)
    if not isinstance(value, str) or not text.replace("_", "").replace(".", "").isalnum():
        raise NotationError("it is no name of a GPU", "Write it as the site does: 'gh200'.")
    return text


def _is_template(value: object) -> bool:
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def _unknown(name: object, value: object) -> ConfigError:
    near = difflib.get_close_matches(str(name), _NAMES, n=1)
    remedy = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(_NAMES)}."
    return _error(str(name), value, "there is no such field", remedy)


def _error(name: str, value: object, problem: str, remedy: str) -> ConfigError:
    return ConfigError(
        f"resources.{name}: {shown(value)}: {problem}. {remedy}",
        field=f"resources.{name}",
        value=value,
    )
