"""
Ask Airflow which jobs the tasks of a DAG run have, for tasks that wait until that is known.

No edge of Airflow's leads from one to the other: it would hold the second task back until the first
one's job is over. One task of the event loop asks for all that wait in the process.
"""

from __future__ import annotations

import asyncio
import contextvars
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from asgiref.sync import sync_to_async

from airflow_provider_csc.errors import UpstreamFailedError
from airflow_provider_csc.slurm.dependencies import NotYet, Upstream, judge_upstream

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from airflow_provider_csc.slurm.dependencies import Link

ASK_SECONDS = 5.0
# Of a large mapped task only so many ids are asked for at a time.
_ASKS_PER_ROUND = 200
# Of a task in another state no job is of use, whatever it may have had.
_MAY_HAVE_JOB = frozenset({"running", "deferred", "success", "failed"})
# After so long of running with one id, a task cannot be about to drop that of an earlier try.
STEADY_SECONDS = 30.0


class RunName(NamedTuple):
    """What names a DAG run."""

    dag_id: str
    run_id: str


class Instance(NamedTuple):
    """A task instance of a run; ``map_index`` is -1 where the task is not mapped."""

    task_id: str
    map_index: int

    def __str__(self) -> str:
        """Return what a person calls it."""
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"


States = dict[str, dict[Instance, "str | None"]]


def ask_states(run: RunName, task_ids: Iterable[str]) -> States:
    """Return the states of all instances of some tasks. It blocks."""
    from airflow.sdk.execution_time import task_runner  # noqa: PLC0415 - costs seconds

    found: States = {}
    for group in _unambiguous(set(task_ids)):
        answer: dict[str, dict[str, str | None]] = task_runner.RuntimeTaskInstance.get_task_states(
            dag_id=run.dag_id, task_ids=sorted(group), run_ids=[run.run_id]
        )
        found |= read_states(answer.get(run.run_id, {}), group)
    return found


def _unambiguous(task_ids: set[str]) -> list[set[str]]:
    """Part ids so that `read_states` cannot take ``a_1`` for an instance of a mapped ``a``."""
    unclear = {name for name in task_ids if re.sub(r"_[0-9]+$", "", name) in task_ids - {name}}
    return [group for group in (task_ids - unclear, *({name} for name in unclear)) if group]


def read_states(answer: Mapping[str, str | None], task_ids: Iterable[str]) -> States:
    """Read ``{"a": state}`` or ``{"a_0": state, "a_1": state}``, as Airflow names instances."""
    found: States = {task_id: {} for task_id in task_ids}
    for name, state in answer.items():
        if name in found:
            found[name][Instance(name, -1)] = state
            continue
        task_id, _, index = name.rpartition("_")
        if task_id in found and index.isdecimal():
            found[task_id][Instance(task_id, int(index))] = state
    return found


def ask_job_id(run: RunName, instance: Instance) -> str | None:
    """Return the job that a task instance has submitted, None where it has not. It blocks."""
    from airflow.sdk.execution_time.xcom import XCom  # noqa: PLC0415 - costs seconds

    value = XCom.get_one(
        key="job_id",
        dag_id=run.dag_id,
        run_id=run.run_id,
        task_id=instance.task_id,
        map_index=instance.map_index,
    )
    return None if value is None else str(value)


@dataclass(eq=False)
class Waiter:
    """
    One task that waits until the jobs of others are known.

    ``replaced`` are jobs that ended otherwise than was asked (id to state).
    """

    run: RunName
    links: Sequence[Link]
    replaced: Mapping[str, str]
    waits_for: str = ""
    _since: dict[tuple[Instance, str], float] = field(default_factory=dict)

    @property
    def key(self) -> Hashable:
        """Equal for all who wait for the same."""
        return self.run, tuple(self.links), tuple(sorted(self.replaced.items()))

    @property
    def task_ids(self) -> set[str]:
        """Return the tasks it waits for."""
        return {link.task_id for link in self.links}

    def wanted(self, states: States) -> list[Instance]:
        """Return the instances whose job has to be asked for."""
        return [
            instance
            for task_id in self.task_ids
            for instance, state in states.get(task_id, {}).items()
            if state in _MAY_HAVE_JOB
        ]

    def judge(
        self, states: States, job_ids: Mapping[Instance, str | None]
    ) -> list[Upstream] | None:
        """
        Return what is waited for once it is known as a whole.

        :raises UpstreamFailedError: when it can never be as asked.
        """
        found = [
            self._judge_one(link, instance, state, job_ids)
            for link in self.links
            for instance, state in self._instances(link, states).items()
        ]
        missing = [each.why for each in found if isinstance(each, NotYet)]
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""  # noqa: PLR2004 - enough
        self.waits_for = ", ".join(missing[:3]) + more
        return None if missing else [each for each in found if isinstance(each, Upstream)]

    def _instances(self, link: Link, states: States) -> dict[Instance, str | None]:
        instances = states.get(link.task_id, {})
        if not instances:
            raise UpstreamFailedError(
                f"{link.task_id} has no task instance in this DAG run, so that nothing can be run "
                f"{link.kind} it.",
                upstream=link.task_id,
                kind=link.kind,
                is_lasting=True,
            )
        return instances

    def _judge_one(
        self,
        link: Link,
        instance: Instance,
        state: str | None,
        job_ids: Mapping[Instance, str | None],
    ) -> Upstream | NotYet:
        if state in _MAY_HAVE_JOB and instance not in job_ids:
            return NotYet(str(instance))
        job_id = job_ids.get(instance)
        now = began = time.monotonic()
        if state == "running" and job_id:
            began = self._since.setdefault((instance, job_id), now)
        else:
            self._since = {key: at for key, at in self._since.items() if key[0] != instance}
        return judge_upstream(
            link.kind,
            str(instance),
            state=state,
            job_id=job_id,
            replaced=self.replaced,
            is_steady=now - began >= STEADY_SECONDS,
        )


@dataclass(eq=False)
class _Group:
    """All who wait for the same."""

    waiter: Waiter
    answers: list[asyncio.Future[list[Upstream]]] = field(default_factory=list)

    def tell(self, states: States, job_ids: Mapping[Instance, str | None]) -> None:
        """Answer all, if there is an answer."""
        waiting = [answer for answer in self.answers if not answer.done()]
        try:
            found = self.waiter.judge(states, job_ids)
        except UpstreamFailedError as error:
            for answer in waiting:
                answer.set_exception(error)
            return
        if found is not None:
            for answer in waiting:
                answer.set_result(found)


class UpstreamWatch:
    """Asks Airflow in rounds until everybody who waits knows."""

    def __init__(self, *, interval: float) -> None:
        self._interval = interval
        self._groups: dict[Hashable, _Group] = {}
        self._known: dict[RunName, dict[Instance, str | None]] = {}
        self._turn: dict[RunName, list[Instance]] = {}
        self._task: asyncio.Task[None] | None = None
        self.problem = ""

    async def wait(self, waiter: Waiter) -> list[Upstream]:
        """
        Return the jobs that a task waits for.

        :raises UpstreamFailedError: when one can never be as asked.
        """
        group = self._groups.setdefault(waiter.key, _Group(waiter))
        answer: asyncio.Future[list[Upstream]] = asyncio.get_running_loop().create_future()
        group.answers.append(answer)
        if self._task is None or self._task.done():
            # A context of its own: it belongs to no one trigger. It is never cancelled, because
            # Airflow 3.1 reads its next answer wrongly when a question is given up.
            self._task = asyncio.get_running_loop().create_task(
                self._run(), context=contextvars.Context(), name="slurm-upstreams"
            )
        try:
            return await answer
        finally:
            group.answers.remove(answer)
            if not group.answers and self._groups.get(waiter.key) is group:
                del self._groups[waiter.key]

    async def _run(self) -> None:
        while self._groups:
            runs: dict[RunName, list[_Group]] = {}
            for group in self._groups.values():
                runs.setdefault(group.waiter.run, []).append(group)
            problem = ""
            for run, groups in runs.items():
                try:
                    await self._ask(run, groups)
                except Exception as error:  # noqa: BLE001 - whatever Airflow lacks, it is asked again
                    problem = f"{type(error).__name__}: {error}"
            self.problem = problem
            self._known = {run: self._known[run] for run in runs if run in self._known}
            self._turn = {run: self._turn[run] for run in runs if run in self._turn}
            await asyncio.sleep(self._interval)

    async def _ask(self, run: RunName, groups: Sequence[_Group]) -> None:
        """Ask about one run: the states of all tasks, and as many jobs as one round may."""
        task_ids = {name for group in groups for name in group.waiter.task_ids}
        states = await sync_to_async(ask_states)(run, task_ids)
        wanted = {name for group in groups for name in group.waiter.wanted(states)}
        # What a task had while it started may be of the try before: that is asked for anew.
        known = {
            name: value
            for name, value in self._known.get(run, {}).items()
            if name in wanted and states[name.task_id][name] != "running"
        }
        # Who was not asked for in this round is asked for in the next.
        line = [name for name in self._turn.get(run, []) if name in wanted]
        line += sorted(wanted - set(line))
        for name in line[:_ASKS_PER_ROUND]:
            known[name] = await sync_to_async(ask_job_id)(run, name)
        self._known[run] = known
        self._turn[run] = [*line[_ASKS_PER_ROUND:], *line[:_ASKS_PER_ROUND]]
        for group in groups:
            group.tell(states, known)


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, UpstreamWatch] = WeakKeyDictionary()


def upstream_watch() -> UpstreamWatch:
    """Return the watch of the running event loop."""
    return _watches.setdefault(asyncio.get_running_loop(), UpstreamWatch(interval=ASK_SECONDS))


def look_once(waiter: Waiter) -> list[Upstream] | None:
    """
    Return the jobs that a task waits for if they are known now; a worker asks so. It blocks.

    :raises UpstreamFailedError: when one can never be as asked.
    """
    states = ask_states(waiter.run, waiter.task_ids)
    wanted = waiter.wanted(states)
    if len(wanted) > _ASKS_PER_ROUND:
        return None
    return waiter.judge(states, {name: ask_job_id(waiter.run, name) for name in wanted})


def is_played() -> bool:
    """Whether ``dag.test()`` plays Airflow here, which runs one task after the other."""
    from airflow.sdk.execution_time import task_runner  # noqa: PLC0415 - costs seconds

    supervisor: Any = getattr(task_runner, "SUPERVISOR_COMMS", None)
    return type(supervisor).__name__ == "InProcessSupervisorComms"
