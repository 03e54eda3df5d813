"""
Gather what many task instances want to submit at about the same time, and submit it as arrays.

There is one gatherer per site and event loop, like the poller, whose connection it shares. What
cannot be coalesced is submitted alone, over the same connection.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import secrets
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from airflow_provider_csc.client.coalesced_submitter import CoalescedSubmitter
from airflow_provider_csc.client.submitter import (
    DAY,
    RESOLVE_DELAYS,
    Submitter,
    adopt_previous,
    killed_error,
    names_of,
)
from airflow_provider_csc.errors import (
    CscError,
    SiteUnavailableError,
    SubmitKilledError,
    SubmitRejectedError,
    SubmitUnknownError,
)
from airflow_provider_csc.slurm.coalescing import (
    MAX_ELEMENTS,
    Member,
    TaskArray,
    group_members,
    is_too_many,
)
from airflow_provider_csc.slurm.submission import Killed, Submission, decide, read_look_ups
from airflow_provider_csc.slurm.submit_commands import build_look_ups

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from airflow_provider_csc.client.poller import SitePoller
    from airflow_provider_csc.slurm.submission import LookUp, Previous
    from airflow_provider_csc.transport.base import SiteSettings

# How long one is waited for who comes first, in windows.
_MOST_WINDOWS = 6
_LOOK_UP_SECONDS = 180.0


@dataclass(eq=False, slots=True)
class _Waiter:
    """
    Who waits for a submission; he is told things in his own task, whose log they belong to.

    ``is_lost`` where his claim was made before, and it is known that no job came of it.
    """

    member: Member
    window: float
    arrived: float
    told: asyncio.Queue[str | Submission | BaseException] = field(default_factory=asyncio.Queue)
    is_gone: bool = False
    is_lost: bool = False

    def tell(self, what: str | Submission | BaseException) -> None:
        self.told.put_nowait(what)


class Gatherer:
    """Submits for everybody on one event loop who submits to one site."""

    def __init__(
        self, poller: Callable[[], SitePoller], *, delays: Sequence[float] = RESOLVE_DELAYS
    ) -> None:
        self._poller = poller
        self._delays = delays
        self._waiting: list[_Waiter] = []
        self._came = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._works: set[asyncio.Task[None]] = set()

    async def submit(
        self, member: Member, *, window: float, report: Callable[[str], None]
    ) -> Submission:
        """
        Submit for one task instance, together with those that come within ``window`` seconds.

        Everybody who comes lets the others wait so long again, but six times at the most. Who
        leaves before it was begun with is not submitted.

        :raises CscError: as `Submitter.submit` does.
        """
        async with self._poller().hold():
            waiter = _Waiter(member, window, asyncio.get_running_loop().time())
            self._waiting.append(waiter)
            self._came.set()
            if self._task is None or self._task.done():
                self._task = self._create_task(self._run())
            try:
                while True:
                    match await waiter.told.get():
                        case Submission() as submission:
                            return submission
                        case str(text):
                            report(text)
                        case error:
                            raise error
            finally:
                waiter.is_gone = True

    @staticmethod
    def _create_task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # A context of its own: it belongs to no one trigger.
        return asyncio.get_running_loop().create_task(
            work, context=contextvars.Context(), name="slurm-gatherer"
        )

    async def _run(self) -> None:
        """Wait until nobody new comes, and begin with those who came; as long as there are any."""
        while self._waiting:
            await self._gather()
            waiters, self._waiting = self._waiting, []
            present = [waiter for waiter in waiters if not waiter.is_gone]
            if present:
                work = self._create_task(self._submit_all(present))
                self._works.add(work)
                work.add_done_callback(self._works.discard)

    async def _gather(self) -> None:
        loop = asyncio.get_running_loop()
        while len(self._waiting) < MAX_ELEMENTS:
            self._came.clear()
            first, last = self._waiting[0], self._waiting[-1]
            until = min(last.arrived + last.window, first.arrived + _MOST_WINDOWS * first.window)
            if loop.time() >= until:
                return
            try:
                async with asyncio.timeout_at(until):
                    await self._came.wait()
            except TimeoutError:
                return

    async def _submit_all(self, waiters: Sequence[_Waiter]) -> None:
        by_token = {waiter.member.token: waiter for waiter in waiters}
        # Two triggers of one task instance: the second finds what the first has done.
        doubles = [one for one in waiters if by_token[one.member.token] is not one]
        try:
            async with self._poller().hold():
                groups = group_members(waiter.member for waiter in by_token.values())
                await asyncio.gather(
                    *(
                        self._submit_group([by_token[member.token] for member in group])
                        for group in groups
                    )
                )
                await asyncio.gather(*(self._submit_alone(waiter) for waiter in doubles))
        except Exception as error:  # noqa: BLE001 - those who wait must hear of it, whatever it is
            _tell_all(waiters, error)

    async def _submit_group(self, waiters: Sequence[_Waiter]) -> None:
        """Submit for those who can be submitted together; each hears what came of it."""
        if len(waiters) == 1:
            await self._submit_alone(waiters[0])
            return
        fresh = [waiter for waiter in waiters if waiter.member.is_fresh]
        asking = [waiter for waiter in waiters if not waiter.member.is_fresh]
        await self._submit_known(asking, fresh)

    async def _submit_known(self, asking: Sequence[_Waiter], fresh: Sequence[_Waiter]) -> None:
        """Look for what came before where there may be something, then submit for all."""
        try:
            ready, others = await self._look_back(asking)
        except Exception as error:  # noqa: BLE001 - it is raised where somebody waits for it
            _tell_all([*asking, *fresh], error)
            return
        await asyncio.gather(
            self._submit_ready([*fresh, *ready]),
            *(self._submit_alone(waiter) for waiter in others),
        )

    async def _look_back(self, asking: Sequence[_Waiter]) -> tuple[list[_Waiter], list[_Waiter]]:
        """
        Look for what came before, for all in one command; return who is ready, and who is not.

        Who has a job already is told of it. Who has more to do than that (a job of before to
        cancel, a claim to wait for or to give up) does it alone.
        """
        ready: list[_Waiter] = []
        others: list[_Waiter] = []
        if not asking:
            return ready, others
        members = [waiter.member for waiter in asking]
        program = build_look_ups(
            base_dir=members[0].request.base_dir,
            keys=[member.identity.key for member in members],
            names=[name for one in members for name in names_of(one.identity, one.label)],
            since=members[0].since - DAY,
        )
        frames = await self._poller().client.ask(program, timeout=_LOOK_UP_SECONDS)
        seconds = max(time.time() - members[0].since, 0)
        found = read_look_ups(frames, {member.identity.key: seconds for member in members})
        for waiter in asking:
            look_up = found[waiter.member.identity.key]
            if not look_up.is_complete:
                waiter.tell(_not_told(look_up))
                continue
            step = _next_step(waiter.member, look_up, seconds)
            if step is None:
                others.append(waiter)
            elif isinstance(step, Submission):
                waiter.tell(f"Job {step.job_id} of this task is found again; it is adopted.")
                waiter.tell(step)
            else:
                waiter.is_lost = look_up.find(waiter.member.identity.number) is not None
                waiter.tell(step)
                ready.append(waiter)
        return ready, others

    async def _submit_ready(self, waiters: Sequence[_Waiter]) -> None:
        """
        Submit arrays, smaller ones where Slurm takes none so large; one by one at the end.

        That is what a limit on elements or on jobs in the queue asks for; what is refused alone
        is refused for all who are left, for they ask for the same.
        """
        left = list(waiters)
        size = len(left)
        while left:
            part, left = left[:size], left[size:]
            present = [waiter for waiter in part if not waiter.is_gone]
            if len(present) < 2:  # noqa: PLR2004 - one is no array
                refusal = [await self._submit_alone(waiter) for waiter in present]
                if left and refusal and refusal[0] is not None and size == 1:
                    _tell_all(left, refusal[0])
                    return
                continue
            try:
                await self._submit_array(present)
            except Exception as error:  # noqa: BLE001 - it is raised where somebody waits for it
                if not is_too_many(error):
                    _tell_all([*present, *left], error)
                    return
                left, size = [*present, *left], (len(present) + 1) // 2

    async def _submit_array(self, waiters: Sequence[_Waiter]) -> None:
        array = TaskArray.of([waiter.member for waiter in waiters], secrets.token_hex(8))

        def report(text: str) -> None:
            for waiter in waiters:
                waiter.tell(text)

        submitter = CoalescedSubmitter(
            client=self._poller().client,
            array=array,
            report=report,
            lost=frozenset(waiter.member.token for waiter in waiters if waiter.is_lost),
            delays=self._delays,
        )
        outcomes = await submitter.submit()
        made = sum(isinstance(one, Submission) and not one.is_adopted for one in outcomes)
        claimed, unclear = [], []
        for waiter, outcome in zip(waiters, outcomes, strict=True):
            if isinstance(outcome, Submission | Killed | SubmitKilledError):
                _tell_outcome(waiter, outcome, made)
            elif waiter.is_lost:
                unclear.append(waiter)
            else:
                claimed.append(waiter)
        await asyncio.gather(
            self._submit_known(claimed, []), *(self._submit_alone(one) for one in unclear)
        )

    async def _submit_alone(self, waiter: _Waiter) -> CscError | None:
        """Submit for one as if there were no others; return a refusal that passes by itself."""
        if waiter.is_gone:
            return None
        member = waiter.member
        try:
            waiter.tell(
                await Submitter(
                    client=self._poller().client,
                    request=member.request,
                    identity=member.identity,
                    label=member.label,
                    since=member.since,
                    report=waiter.tell,
                    is_fresh=member.is_fresh,
                    delays=self._delays,
                ).submit()
            )
        except (SubmitRejectedError, SiteUnavailableError) as error:
            waiter.tell(error)
            return error if is_too_many(error) else None
        except Exception as error:  # noqa: BLE001 - it is raised where somebody waits for it
            waiter.tell(error)
        return None


def _next_step(member: Member, look_up: LookUp, run_seconds: float) -> Submission | str | None:
    """Return a job to adopt, or why one can be submitted; None where more is to be done."""
    identity = member.identity
    here = look_up.find(identity.number)
    if here is not None:
        is_mine = not here.is_of_another_run(identity.run_started, run_seconds)
        return _take_up(here, member) if is_mine else None
    is_busy = any(one.may_be_submitting for one in look_up.previous)
    decision = decide(look_up, identity, run_seconds=run_seconds)
    if is_busy or decision.give_up or decision.cancel:
        return None
    return _take_up(decision.adopt, member) if decision.adopt else decision.why


def _take_up(found: Previous, member: Member) -> Submission | str | None:
    # Where its run directory is gone, slurmctld has to be asked for its files.
    if found.job_id and found.run_dir:
        return replace(adopt_previous(found, found.recorded), asked=member.request.asked)
    if found.job_id or found.is_given_up or found.may_be_submitting:
        return None
    return (
        "An earlier submission of this very try came to nothing: neither squeue nor sacct knows a "
        "job of it. Submitting again, in the same run directory."
    )


def _tell_outcome(
    waiter: _Waiter, outcome: Submission | Killed | SubmitKilledError, made: int
) -> None:
    match outcome:
        case Submission(is_adopted=True):
            waiter.tell(f"This very try had submitted job {outcome.job_id} already; it is adopted.")
            waiter.tell(outcome)
        case Submission():
            waiter.tell(f"Submitted as job {outcome.job_id}, one of an array of {made}.")
            waiter.tell(outcome)
        case Killed():
            waiter.tell(killed_error(outcome))
        case SubmitKilledError():
            waiter.tell(outcome)


def _tell_all(waiters: Sequence[_Waiter], error: BaseException) -> None:
    for waiter in waiters:
        # One of his own, for each adds his traceback.
        waiter.tell(copy.copy(error))


def _not_told(look_up: LookUp) -> SubmitUnknownError:
    return SubmitUnknownError(
        "It cannot be told whether an earlier try of this task has a job: "
        f"{look_up.problem}. Nothing is submitted before that is known.",
        run_dir=None,
    )


_gatherers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[SiteSettings, Gatherer]] = (
    WeakKeyDictionary()
)


def gatherer_for(settings: SiteSettings) -> Gatherer:
    """Return the gatherer of a site on the running event loop; equal settings share one."""
    from airflow_provider_csc.client.poller import poller_for

    on_loop = _gatherers.setdefault(asyncio.get_running_loop(), {})
    if settings not in on_loop:
        # Asked for anew each time: a poller that nobody used any more was forgotten.
        on_loop[settings] = Gatherer(lambda: poller_for(settings))
    return on_loop[settings]
