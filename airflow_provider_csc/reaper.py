"""
Find jobs that nobody waits for any more, and run directories that nobody needs; dry run by default.

`build_reaper_dag` makes a DAG of it; `find_orphans`, `reap` and `prune` can be called anywhere.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_csc.deployment import deployment_name
from airflow_provider_csc.errors import CscError, SlurmError
from airflow_provider_csc.slurm.batch import check_remote_path
from airflow_provider_csc.slurm.inventory import (
    Inventory,
    RunDirectory,
    build_accounts,
    build_inventory,
    build_reaping,
    build_removal,
    parse_ended,
    parse_inventory,
    parse_reaping,
    parse_removal,
)
from airflow_provider_csc.slurm.output import NoAnswer
from airflow_provider_csc.slurm.reaping import (
    DAY,
    Keep,
    NoTask,
    NotTold,
    States,
    TaskKey,
    TaskState,
    has_succeeded,
    is_proven_over,
    judge_directories,
    judge_jobs,
    list_live,
    list_owned,
    list_tasks,
    read_state,
)
from airflow_provider_csc.slurm.reports import PruneReport, ReaperReport

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from airflow.sdk import DAG

    from airflow_provider_csc.client.slurm import SlurmClient

    StatesOfTask = Callable[[str, str, Sequence[str]], Mapping[str, Mapping[str, str | None]]]

Report = TypeVar("Report")

_LOG = logging.getLogger(__name__)

MIN_AGE_SECONDS = 600.0
_LIST_SECONDS = 300.0
_REMOVE_SECONDS = 300.0
_REMOVE_AT_ONCE = 200
_CANCEL_AT_ONCE = 100
# KillWait is 30 s by default: so long may a job take to end after SIGTERM.
_CONFIRM_DELAYS = (1, 1, 2, 3, 5, 8, 10, 10, 10, 10)
# Run ids go into the address of a request, of which a server takes 16 KiB or so.
_MAX_RUN_ID_CHARACTERS = 2_000


class StatesUnknownError(CscError):
    """The states of task instances could not be asked; nothing may be concluded from that."""


def airflow_states(
    dag_id: str, task_id: str, run_ids: Sequence[str]
) -> Mapping[str, Mapping[str, str | None]]:
    """
    Ask the Airflow that runs this code, which must be a task, for the states of task instances.

    Returns, by run id, ``task_id`` (or ``task_id_<map index>``) and its state.

    :raises StatesUnknownError: when Airflow refuses, or this is no task.
    """
    from airflow.sdk import get_current_context  # noqa: PLC0415 - only where it is called
    from airflow.sdk.exceptions import AirflowRuntimeError  # noqa: PLC0415

    try:
        ti = get_current_context()["ti"]
    except RuntimeError as error:
        raise StatesUnknownError(
            "Airflow's task instances can be asked for inside a task only. Elsewhere, give a "
            "function of your own as get_states."
        ) from error
    try:
        found: dict[str, dict[str, str | None]] = ti.get_task_states(
            dag_id=dag_id, task_ids=[task_id], run_ids=list(run_ids)
        )
    except AirflowRuntimeError as error:
        raise StatesUnknownError(
            f"Airflow told no states of {dag_id}.{task_id}: {error}"
        ) from error
    return found


def find_orphans(
    slurm_conn_id: str = "slurm_default",
    *,
    get_states: StatesOfTask = airflow_states,
    min_age: float = MIN_AGE_SECONDS,
    deployment: str | None = None,
) -> ReaperReport:
    """
    Judge this user's live jobs on a site; cancel nothing.

    ``get_states(dag_id, task_id, run_ids)`` answers as `airflow_states` does, and raises a
    `CscError` where it cannot; then those jobs are UNKNOWN. ``min_age`` is in seconds by the
    site's clock. ``deployment`` defaults to what the operators of this Airflow use.
    """
    return reap(
        slurm_conn_id, get_states=get_states, min_age=min_age, deployment=deployment, dry_run=True
    )


def reap(
    slurm_conn_id: str = "slurm_default",
    *,
    get_states: StatesOfTask = airflow_states,
    min_age: float = MIN_AGE_SECONDS,
    deployment: str | None = None,
    dry_run: bool = True,
) -> ReaperReport:
    """
    Judge this user's live jobs on a site, and cancel the orphans unless it is a dry run.

    :raises TransportError: when the site cannot be reached.
    """
    name = deployment_name() if deployment is None else deployment

    async def work(client: SlurmClient, work_dir: str) -> ReaperReport:
        inventory = await _list(client, work_dir, limit=0, with_sizes=False)
        tasks = list_tasks(name, list_owned(inventory))
        states = await asyncio.to_thread(_ask_states, tasks, get_states)
        jobs = judge_jobs(inventory, deployment=name, states=states, min_age=min_age)
        report = ReaperReport(
            slurm_conn_id=slurm_conn_id,
            base=inventory.base or f"{work_dir} ({inventory.problem})",
            dry_run=dry_run,
            jobs=tuple(jobs),
            other_jobs=sum(job.token is None for job in list_live(inventory)),
            problem=_problem(inventory),
            not_cancelled={},
        )
        return report if dry_run else await _cancel(client, report, work_dir)

    return _on_site(slurm_conn_id, work)


def prune(
    slurm_conn_id: str = "slurm_default",
    *,
    keep_days: float = 7,
    keep_failed_days: float = 30,
    max_directories: int = 5_000,
    ask_accounting: bool = False,
    get_states: StatesOfTask = airflow_states,
    deployment: str | None = None,
    dry_run: bool = True,
) -> PruneReport:
    """
    Judge the run directories on a site, and remove those nobody needs unless it is a dry run.

    ``keep_days`` is for jobs that succeeded, ``keep_failed_days`` for everything else. At most
    ``max_directories`` are looked at, the oldest. With ``ask_accounting`` a directory that says
    nothing of its job's end is removed only when sacct says that the job has ended.

    :raises TransportError: when the site cannot be reached.
    """
    name = deployment_name() if deployment is None else deployment
    keep = Keep(succeeded=keep_days, otherwise=keep_failed_days)

    async def work(client: SlurmClient, work_dir: str) -> PruneReport:
        inventory = await _list(client, work_dir, limit=max_directories, with_sizes=True)
        old = [one for one in inventory.directories if _is_old(inventory, one, keep)]
        states = await asyncio.to_thread(_ask_states, list_tasks(name, old), get_states)
        ended = await _ask_ended(client, old) if ask_accounting else None
        verdicts = judge_directories(
            inventory, deployment=name, states=states, keep=keep, ended=ended
        )
        report = PruneReport(
            slurm_conn_id=slurm_conn_id,
            base=inventory.base or f"{work_dir} ({inventory.problem})",
            dry_run=dry_run,
            total=inventory.total,
            directories=tuple(verdicts),
            problem=_problem(inventory),
            not_removed={},
        )
        return report if dry_run else await _remove(client, report)

    return _on_site(slurm_conn_id, work)


def build_reaper_dag(  # noqa: PLR0913 - one argument for each thing a site may want otherwise
    dag_id: str = "slurm_reaper",
    *,
    slurm_conn_ids: Sequence[str] = ("slurm_default",),
    schedule: Any = "@hourly",
    dry_run: bool = True,
    min_age: float = MIN_AGE_SECONDS,
    keep_days: float = 7,
    keep_failed_days: float = 30,
    max_directories: int = 5_000,
    ask_accounting: bool = False,
    **dag_arguments: Any,
) -> DAG:
    """
    Return a DAG that reaps and prunes: for each site one task for each of the two.

    Assign what it returns to a variable of the DAG file. Nothing is cancelled or removed before
    ``dry_run=False`` is said; ``max_directories=0`` leaves the pruning out.
    ``dag_arguments`` go to Airflow's ``DAG``.
    """
    from airflow.sdk import DAG, task  # noqa: PLC0415 - other uses of this module need no DAG

    arguments: dict[str, Any] = {
        "catchup": False,
        "max_active_runs": 1,
        "tags": ["slurm"],
        "doc_md": __doc__,
        "dagrun_timeout": timedelta(hours=1),
        **dag_arguments,
    }

    def reap_site(slurm_conn_id: str) -> dict[str, Any]:
        report = reap(slurm_conn_id, min_age=min_age, dry_run=dry_run)
        return _show(report, report.not_cancelled)

    def prune_site(slurm_conn_id: str) -> dict[str, Any]:
        report = prune(
            slurm_conn_id,
            keep_days=keep_days,
            keep_failed_days=keep_failed_days,
            max_directories=max_directories,
            ask_accounting=ask_accounting,
            dry_run=dry_run,
        )
        return _show(report, report.not_removed)

    with DAG(dag_id, schedule=schedule, **arguments) as dag:
        for conn_id in slurm_conn_ids:
            name = re.sub(r"[^\w.-]", "_", conn_id)
            task(task_id=f"reap_{name}")(reap_site)(conn_id)
            if max_directories:
                task(task_id=f"prune_{name}")(prune_site)(conn_id)
    return dag


def _show(report: ReaperReport | PruneReport, failures: Mapping[str, str]) -> dict[str, Any]:
    """Put a report into the task's log and return it; fail where something was not done."""
    _LOG.info("In detail:\n%s", report.table())
    _LOG.info("%s", report.summary)
    if report.problem or failures:
        raise SlurmError(report.summary, failures=dict(failures), problem=report.problem)
    return report.to_xcom()


def _on_site(
    slurm_conn_id: str, work: Callable[[SlurmClient, str], Coroutine[Any, Any, Report]]
) -> Report:
    from airflow_provider_csc.hooks.slurm import (  # noqa: PLC0415 - brings all of SSH
        SlurmHook,
        open_client,
    )
    from airflow_provider_csc.sync import run_sync  # noqa: PLC0415

    settings = SlurmHook(slurm_conn_id).get_settings()
    work_dir = check_remote_path("work_dir of the connection", settings.work_dir)

    async def do() -> Report:
        async with open_client(settings) as client:
            return await work(client, work_dir)

    return run_sync(do())


async def _list(client: SlurmClient, work_dir: str, *, limit: int, with_sizes: bool) -> Inventory:
    program = build_inventory(work_dir, limit=limit, with_sizes=with_sizes)
    return parse_inventory(await client.ask(program, timeout=_LIST_SECONDS))


def _problem(inventory: Inventory) -> str:
    if isinstance(inventory.jobs, NoAnswer):
        return f"squeue gave no answer: {inventory.jobs.reason}"
    return ""


def _ask_states(tasks: Iterable[TaskKey], get_states: StatesOfTask) -> States:
    """Ask for task instances, those of one task at once; see `read_state` for why not more."""
    groups: dict[tuple[str, str], list[TaskKey]] = {}
    for key in sorted(tasks, key=str):
        groups.setdefault((key.dag_id, key.task_id), []).append(key)
    states: dict[TaskKey, TaskState | NoTask | NotTold] = {}
    for (dag_id, task_id), keys in groups.items():
        for part in _parts(keys):
            run_ids = list(dict.fromkeys(key.run_id for key in part))
            try:
                answer = get_states(dag_id, task_id, run_ids)
            except CscError as error:
                states.update(dict.fromkeys(part, NotTold(error.message)))
            else:
                states.update({key: read_state(key, answer) for key in part})
    return states


def _parts(keys: Sequence[TaskKey]) -> Iterable[list[TaskKey]]:
    part: list[TaskKey] = []
    length = 0
    for key in keys:
        length += len(key.run_id) + 20
        if part and length > _MAX_RUN_ID_CHARACTERS:
            yield part
            part, length = [], len(key.run_id) + 20
        part.append(key)
    if part:
        yield part


def _is_old(inventory: Inventory, directory: RunDirectory, keep: Keep) -> bool:
    days = keep.succeeded if has_succeeded(directory) else keep.otherwise
    return inventory.clock - directory.modified >= days * DAY


async def _ask_ended(client: SlurmClient, directories: Iterable[RunDirectory]) -> frozenset[str]:
    asked = [one.job_id for one in directories if one.job_id and not is_proven_over(one)]
    found: frozenset[str] = frozenset()
    for start in range(0, len(asked), 500):
        part = asked[start : start + 500]
        found |= parse_ended(await client.ask(build_accounts(part)), part)
    return found


async def _cancel(client: SlurmClient, report: ReaperReport, work_dir: str) -> ReaperReport:
    """Cancel the orphans, and ask squeue until they have ended, for about a minute."""
    for one in report.orphans:
        _LOG.info("Cancelling job %s of %s: %s", one.job.job_id, one.task, one.why)
    jobs = [one.job for one in report.orphans]
    refused: dict[str, str] = {}
    for start in range(0, len(jobs), _CANCEL_AT_ONCE):
        part = jobs[start : start + _CANCEL_AT_ONCE]
        refused |= parse_reaping(await client.ask(build_reaping(part), timeout=_LIST_SECONDS))
    waiting = {(job.job_id, job.name) for job in jobs}
    for delay in _CONFIRM_DELAYS if waiting else ():
        await asyncio.sleep(delay)
        inventory = await _list(client, work_dir, limit=0, with_sizes=False)
        if isinstance(inventory.jobs, NoAnswer):
            continue
        waiting &= {(job.job_id, job.name) for job in inventory.jobs.rows if not job.is_over}
        if all(job_id in refused for job_id, _name in waiting):
            break
    still = "was asked to end, but Slurm does not confirm that it did"
    not_cancelled = {job_id: refused.get(job_id, still) for job_id, _name in sorted(waiting)}
    return replace(
        report,
        cancelled=tuple(job.job_id for job in jobs if job.job_id not in not_cancelled),
        not_cancelled=not_cancelled,
    )


async def _remove(client: SlurmClient, report: PruneReport) -> PruneReport:
    directories = [one.directory for one in report.removable]
    refused: dict[str, str] = {}
    for start in range(0, len(directories), _REMOVE_AT_ONCE):
        part = directories[start : start + _REMOVE_AT_ONCE]
        program = build_removal(report.base, part)
        answer = parse_removal(await client.ask(program, timeout=_REMOVE_SECONDS))
        if "*" in answer:
            answer = dict.fromkeys((one.name for one in part), answer["*"])
        refused |= answer
    return replace(
        report,
        removed=tuple(one.name for one in directories if one.name not in refused),
        not_removed=refused,
    )
