"""A deferred wait: what is told and when, with no task that waits for it."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.client import poller as poller_module
from airflow_provider_csc.client.poller import Moved, Watcher, _Batch
from airflow_provider_csc.slurm.events import Ended, LogLines, Note
from airflow_provider_csc.slurm.result import JobResult
from airflow_provider_csc.triggers import _following, _loops, _settling, slurm
from airflow_provider_csc.triggers.slurm import SlurmJobTrigger, SlurmSiteTrigger
from airflow_provider_csc.triggers.slurm_queue import SlurmQueueTrigger

if TYPE_CHECKING:
    from collections.abc import Callable

WHOSE: ContextVar[str] = ContextVar("whose", default="nobody's")
RESULT = JobResult(job_id="1", state="COMPLETED")


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str, /, *args: object) -> None:
        self.lines.append(f"{WHOSE.get()}: {message % args}")

    def log(self, _level: int, message: str, /, *args: object) -> None:
        self.info(message, *args)


class Poller:
    """Keeps who is watching; events are left for them by hand."""

    def __init__(self, settings: str) -> None:
        self.settings = settings
        self.watchers: list[Watcher] = []
        self.detached: list[Watcher] = []
        self.is_slow = False

    def attach(self, _watched: object, **options: Any) -> Watcher:
        logs = SimpleNamespace(confirm=lambda _offsets: None)
        tracker: Any = SimpleNamespace(logs=logs)
        watcher = Watcher("w", tracker, options["interval"], options["source"], options["wake"])
        self.watchers.append(watcher)
        return watcher

    async def detach(self, watcher: Watcher) -> None:
        await asyncio.sleep(0.1 if self.is_slow else 0)
        self.detached.append(watcher)

    def tell(self, *events: Any) -> None:
        self.watchers[-1].put(_Batch(events, ""))


@pytest.fixture
def pollers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Poller]:
    pollers = {name: Poller(name) for name in ("one", "other")}

    async def read(_conn_id: str) -> str:
        return "one"

    monkeypatch.setattr(poller_module, "poller_for", lambda settings, _meter: pollers[settings])
    monkeypatch.setattr(slurm, "read_site", read)
    monkeypatch.setattr(_settling, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(_following, "AirflowMeter", lambda: None)
    return pollers


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()
    monkeypatch.setattr(SlurmJobTrigger, "log", log)
    return log


async def begin(trigger: SlurmJobTrigger, whose: str) -> asyncio.Task[Any]:
    WHOSE.set(whose)
    running = asyncio.ensure_future(anext(trigger.run()))
    WHOSE.set("nobody's")
    await asyncio.sleep(0.01)
    return running


def trigger() -> SlurmJobTrigger:
    return SlurmJobTrigger(slurm_conn_id="c", job_ids=["1"], run_dir="/r", attempt={"waits": 1})


@pytest.mark.asyncio
async def test_what_happens_is_told_in_the_context_of_the_trigger(
    pollers: dict[str, Poller], log: Log
) -> None:
    poller = pollers["one"]
    running = await begin(trigger(), "mine")
    tasks = len(asyncio.all_tasks())

    poller.tell(Note("it is PENDING"))
    poller.tell(LogLines(["a", "b"]))
    await asyncio.sleep(0.01)

    assert log.lines == ["mine: it is PENDING", "mine: a", "mine: b"]
    # What told it is gone.
    assert len(asyncio.all_tasks()) == tasks
    poller.tell(LogLines(["c"]), Ended([RESULT]))
    event = await running
    assert log.lines[-1] == "mine: c"
    assert event.payload == {"results": [RESULT.to_payload()], "attempt": {"waits": 1}}
    assert len(poller.detached) == 1


@pytest.mark.asyncio
async def test_whatever_ends_the_poller_ends_the_wait(pollers: dict[str, Poller], log: Log) -> None:
    class GroupEndError(BaseException):
        pass

    running = await begin(trigger(), "mine")
    watcher = pollers["one"].watchers[-1]
    watcher.put(GroupEndError())
    with pytest.raises(GroupEndError):
        await asyncio.wait_for(running, 5)


@pytest.mark.asyncio
async def test_a_cancelled_wait_goes_on_until_it_is_cleaned_up(
    pollers: dict[str, Poller], log: Log
) -> None:
    """A job that is being killed still says something."""
    poller, one = pollers["one"], trigger()
    running = await begin(one, "mine")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    poller.tell(LogLines(["cleaning up"]))
    await asyncio.sleep(0.01)

    assert log.lines == ["mine: cleaning up"]
    assert not poller.detached
    await one.cleanup()
    assert len(poller.detached) == 1
    poller.tell(LogLines(["too late"]))
    await asyncio.sleep(0.01)
    assert log.lines == ["mine: cleaning up"]


@pytest.mark.asyncio
async def test_who_is_cancelled_while_cleaning_up_leaves_all_the_same(
    pollers: dict[str, Poller], log: Log
) -> None:
    """Airflow cancels a trigger once a second until it is gone."""
    poller, one = pollers["one"], trigger()
    poller.is_slow = True
    running = await begin(one, "mine")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    cleaning = asyncio.ensure_future(one.cleanup())
    await asyncio.sleep(0.01)
    cleaning.cancel()
    await asyncio.sleep(0.2)

    assert len(poller.detached) == 1
    assert log.lines == []


@pytest.mark.asyncio
async def test_a_connection_that_was_changed_is_gone_on_with(
    pollers: dict[str, Poller], log: Log
) -> None:
    moved: Any = Moved("other", SimpleNamespace())  # type: ignore[arg-type]
    running = await begin(trigger(), "mine")
    pollers["one"].tell(moved)
    await asyncio.sleep(0.01)

    pollers["other"].tell(LogLines(["there"]))
    pollers["other"].tell(Ended([RESULT]))
    await running

    assert (len(pollers["one"].detached), len(pollers["other"].detached)) == (1, 1)
    assert log.lines[-1] == "mine: there"


@pytest.mark.asyncio
@pytest.mark.parametrize("is_shown", [True, False])
async def test_what_goes_wrong_is_raised_where_the_end_is_waited_for(
    pollers: dict[str, Poller], log: Log, monkeypatch: pytest.MonkeyPatch, is_shown: bool
) -> None:
    def fail(*_: object) -> None:
        raise LookupError("disk full")

    running = await begin(trigger(), "mine")
    if is_shown:
        monkeypatch.setattr(log, "info", fail)
        pollers["one"].tell(LogLines(["a"]))
    else:
        pollers["one"].watchers[-1].put(LookupError("disk full"))
    with pytest.raises(LookupError, match="disk full"):
        await running


@pytest.mark.asyncio
async def test_a_connection_is_read_once_for_all_who_want_it_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads: list[str] = []
    answers: list[Callable[[], str]] = [lambda: "one", lambda: "two"]

    async def read(_hook: object) -> str:
        reads.append("read")
        await asyncio.sleep(0.01)
        return answers.pop(0)()

    monkeypatch.setattr(_loops.SlurmHook, "aget_settings", read)
    gone, *others = (asyncio.ensure_future(_loops.read_site("c")) for _ in range(5))
    await asyncio.sleep(0)
    gone.cancel()

    assert await asyncio.gather(*others) == ["one"] * 4
    assert await _loops.read_site("c") == "two"  # type: ignore[comparison-overlap]
    assert len(reads) == 2


def test_triggers_of_a_class_have_one_logger_and_it_has_their_name() -> None:
    site, queue = SlurmSiteTrigger(slurm_conn_id="c"), SlurmQueueTrigger(slurm_conn_id="c")

    assert site.log is SlurmSiteTrigger(slurm_conn_id="c").log
    assert site.log is not queue.log
