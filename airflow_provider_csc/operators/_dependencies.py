"""What `depends_on` names: tasks of the same DAG, without making Airflow's edges to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.notation import shown
from airflow_provider_csc.slurm.option_names import override_options

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_provider_csc.slurm.dependencies import Link


def name_tasks(value: object) -> Any:
    """
    Return ``depends_on`` with the ids of the tasks in place of tasks and of their outputs.

    An output in a templated field would be an edge of Airflow's.
    """
    if isinstance(value, Mapping):
        return {kind: name_tasks(each) for kind, each in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [name_tasks(each) for each in value]
    task = getattr(value, "operator", value)
    return getattr(task, "task_id", value)


def check_depends_on(depends_on: object, options: object, task_id: str, dag: DAG | None) -> None:
    """
    Check what is known of ``depends_on`` while the DAG is parsed.

    :raises ConfigError: for what can be no dependency, or one that comes back to this task.
    """
    if depends_on is None:
        return
    if isinstance(options, Mapping) and len(override_options(options, {"dependency": ""})) == len(
        options
    ):
        raise ConfigError(
            "depends_on: options['dependency'] is given as well. Leave one of them out; job ids "
            "may stand in depends_on too.",
            field="depends_on",
            value=shown(depends_on),
        )
    from airflow_provider_csc.slurm.dependencies import read_depends_on  # noqa: PLC0415

    links = [link for link in read_depends_on(_without_templates(depends_on)) if link.task_id]
    _check_cycle(task_id, {link.task_id for link in links}, dag)


def _without_templates(value: Any) -> Any:
    """Return what needs no rendering."""
    if isinstance(value, Mapping):
        return {kind: _without_templates(each) for kind, each in value.items()}
    if isinstance(value, list):
        return [each for each in value if not _is_template(each)]
    return [] if _is_template(value) else value


def _is_template(value: object) -> bool:
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def plan_links(
    depends_on: object, task_id: str, conn_id: str, dag: DAG | None, slurm_task: type
) -> tuple[tuple[dict[str, str], ...], list[tuple[str, str]]]:
    """
    Return what is known at once (see `dependencies.Upstream`), and kind and id of the tasks.

    :raises ConfigError: before anything is waited for; see `check_tasks`.
    """
    from airflow_provider_csc.slurm.dependencies import Upstream, read_depends_on  # noqa: PLC0415

    links = read_depends_on(depends_on)
    check_tasks(links, task_id, conn_id, dag, slurm_task)
    known = [
        Upstream(kind=link.kind, name="", job_id=link.job_id) for link in links if not link.task_id
    ]
    tasks = [(link.kind, link.task_id) for link in links if link.task_id]
    return tuple(each.to_payload() for each in known), tasks


def check_tasks(
    links: tuple[Link, ...], task_id: str, conn_id: str, dag: DAG | None, slurm_task: type
) -> None:
    """
    Check, before anything is waited for, that the tasks are there and can be waited for.

    :raises ConfigError: for a task that does not exist, or is none of Slurm's or of another
        cluster's, and for tasks that wait for each other.
    """
    if dag is None:
        return
    for link in links:
        if link.task_id:
            _check_task(link.task_id, conn_id, dag, slurm_task)
    _check_cycle(task_id, {link.task_id for link in links if link.task_id}, dag)


def _check_task(name: str, conn_id: str, dag: DAG, slurm_task: type) -> None:
    task = dag.task_dict.get(name)
    if task is None:
        from difflib import get_close_matches  # noqa: PLC0415 - only for a name that is wrong

        near = get_close_matches(name, dag.task_ids, n=2)
        meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise _error(name, f"the DAG has no task {name!r}.{meant} Within a group, write its id too")
    # A mapped task names the class of its instances.
    kind = getattr(task, "operator_class", type(task))
    if not (isinstance(kind, type) and issubclass(kind, slurm_task)):
        raise _error(name, f"task {name!r} submits no Slurm job; make an edge to it instead")
    theirs = _argument(task, "slurm_conn_id") or "slurm_default"
    if isinstance(theirs, str) and not _is_template(theirs) and theirs != conn_id:
        raise _error(
            name,
            f"task {name!r} submits through the connection {theirs!r}, this one through "
            f"{conn_id!r}; a job can only wait for jobs of its own cluster",
        )


def _check_cycle(task_id: str, wanted: set[str], dag: DAG | None) -> None:
    from airflow_provider_csc.slurm.dependencies import find_cycle  # noqa: PLC0415

    def before(name: str) -> set[str]:
        task = dag.task_dict.get(name) if dag else None
        known = set(task.upstream_task_ids) | _named_by(task) if task else set[str]()
        return known | wanted if name == task_id else known

    way = find_cycle(task_id, before)
    if way:
        raise _error(
            task_id,
            f"the tasks wait for each other ({' waits for '.join(map(repr, way))}); none of them "
            "could ever begin",
        )


def _named_by(task: Any) -> set[str]:
    from airflow_provider_csc.slurm.dependencies import read_depends_on  # noqa: PLC0415

    value = _without_templates(_argument(task, "depends_on"))
    try:
        return {link.task_id for link in read_depends_on(value) if link.task_id}
    except ConfigError:
        return set()  # Its own task says so.


def _argument(task: Any, name: str) -> Any:
    """Return an argument of a task, be it mapped or not."""
    partial = getattr(task, "partial_kwargs", None)
    return getattr(task, name, None) if partial is None else partial.get(name)


def _error(value: str, problem: str) -> ConfigError:
    return ConfigError(f"depends_on: {problem}.", field="depends_on", value=value)
