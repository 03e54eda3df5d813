"""How parts of many files get through the engine, whatever fails; no store is asked."""

from __future__ import annotations

import errno
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.errors import AllasError, TransferCancelledError
from airflow_provider_csc.store import engine as engine_module
from airflow_provider_csc.store.connection import RequestError, StoreSettings
from airflow_provider_csc.store.engine import LATER, Engine, SpeedLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_csc.store.engine import Lane

SETTINGS = StoreSettings(
    endpoint_url="http://127.0.0.1:1", region_name="r", credentials=lambda: None
)  # type: ignore[arg-type, return-value]


@dataclass(eq=False)
class Fake:
    """A file of some parts that notes what is done with it."""

    name: str
    parts: int = 1
    on_prepare: Callable[[], None] = lambda: None
    on_carry: Callable[[int, int], None] = lambda _part, _attempt: None
    on_finish: Callable[[], None] = lambda: None
    size: int = 10
    carried: list[int] = field(default_factory=list)
    attempts: dict[int, int] = field(default_factory=dict)
    ends: list[str] = field(default_factory=list)
    is_skipped: bool = False

    def prepare(self, lane: Lane) -> Iterator[int]:
        self.on_prepare()
        return iter(range(self.parts))

    def carry(self, part: int, lane: Lane) -> None:
        self.attempts[part] = self.attempts.get(part, 0) + 1
        lane.passed(self.size)
        self.on_carry(part, self.attempts[part])
        self.carried.append(part)

    def finish(self, lane: Lane) -> None:
        assert sorted(self.carried) == list(range(self.parts))
        self.on_finish()
        self.ends.append("finished")

    def give_up(self) -> None:
        self.ends.append("given up")


def fail(error: Exception) -> Callable[..., None]:
    def work(*_: Any) -> None:
        raise error

    return work


def passing() -> RequestError:
    return RequestError("later", code="SlowDown", status=503, is_passing=True)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_LONGEST_PAUSE", 0.01)


def run(fakes: list[Fake], workers: int = 4, **options: Any) -> Engine:
    engine = Engine(SETTINGS, workers=workers, **options)
    engine.progress.files_total = len(fakes)
    engine.run(fakes)
    return engine


@pytest.mark.parametrize("workers", [1, 3, 16])
def test_each_part_is_carried_once_and_each_file_finished_once(workers: int) -> None:
    fakes = [Fake(str(number), parts=number % 7) for number in range(100)]
    engine = run(fakes, workers)
    assert all(sorted(fake.carried) == list(range(fake.parts)) for fake in fakes)
    assert all(fake.ends == ["finished"] for fake in fakes)
    assert engine.progress.files_done == 100
    assert engine.progress.bytes_done == 10 * sum(fake.parts for fake in fakes)


def test_no_more_files_are_begun_than_there_are_threads() -> None:
    open_files, most, lock = [0], [0], threading.Lock()

    def change(by: int) -> None:
        with lock:
            open_files[0] += by
            most[0] = max(most[0], open_files[0])

    fakes = [
        Fake(
            str(n),
            parts=5,
            on_prepare=lambda: change(1),
            on_carry=lambda *_: time.sleep(0.001),
            on_finish=lambda: change(-1),
        )
        for n in range(40)
    ]
    run(fakes, workers=4)
    assert most[0] <= 5


def test_all_threads_work_at_one_file_of_many_parts() -> None:
    """They used to go home while the first of them asked the store to begin."""
    at_work: set[int] = set()

    def note(*_: Any) -> None:
        at_work.add(threading.get_ident())
        time.sleep(0.002)

    run([Fake("f", parts=100, on_prepare=lambda: time.sleep(0.05), on_carry=note)], workers=6)
    assert len(at_work) == 6


@pytest.mark.parametrize("workers", [1, 8])
def test_there_may_be_thousands_of_parts(workers: int) -> None:
    fake = Fake("f", parts=5000)
    run([fake], workers)
    assert len(fake.carried) == 5000


def test_what_cannot_even_begin_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_engine: Engine) -> None:
        raise MemoryError

    monkeypatch.setattr(engine_module, "Lane", broken)
    with pytest.raises(MemoryError):
        run([Fake("f")])


def test_what_may_succeed_later_is_tried_again_and_counted_once() -> None:
    def twice(_part: int, attempt: int) -> None:
        if attempt < 3:
            raise passing()

    fake = Fake("f", parts=3, on_carry=twice)
    engine = run([fake])
    assert fake.attempts == {0: 3, 1: 3, 2: 3}
    assert engine.progress.bytes_done == 30


def test_what_never_succeeds_ends_everything() -> None:
    fakes = [Fake("f", on_carry=fail(passing())), *(Fake(str(n)) for n in range(3))]
    with pytest.raises(RequestError, match="later"):
        run(fakes, workers=1)
    assert fakes[0].attempts == {0: engine_module.ATTEMPTS}
    assert fakes[0].ends == ["given up"]


@pytest.mark.parametrize("where", ["on_prepare", "on_carry", "on_finish"])
@pytest.mark.parametrize(
    "error",
    [
        AllasError("bad"),
        RequestError("bad", code="NoSuchKey", status=404, is_passing=False),
        PermissionError(errno.EACCES, "bad"),
    ],
)
def test_a_file_that_fails_does_not_keep_the_others_back(where: str, error: Exception) -> None:
    others = [Fake(str(number), parts=3) for number in range(30)]
    bad = Fake("bad file", parts=3, **{where: fail(error)})  # type: ignore[arg-type]
    with pytest.raises(AllasError, match=r"1 of 31 files could not be transferred:\n.*bad"):
        run([*others[:15], bad, *others[15:]])
    assert all(fake.ends == ["finished"] for fake in others)
    assert bad.ends == ["given up"]


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (RequestError("no", code="AccessDenied", status=403, is_passing=False), RequestError, "no"),
        (OSError(errno.ENOSPC, "No space left"), AllasError, "Make room"),
        (OSError(errno.EDQUOT, "Quota"), AllasError, "quota of the directory"),
        (ZeroDivisionError("a fault of ours"), ZeroDivisionError, "a fault of ours"),
    ],
)
def test_what_concerns_all_ends_all(error: Exception, kind: type[Exception], text: str) -> None:
    fakes = [Fake("bad", on_carry=fail(error)), *(Fake(str(n)) for n in range(500))]
    with pytest.raises(kind, match=text):
        run(fakes, workers=2)
    assert fakes[0].ends == ["given up"]
    assert not fakes[-1].ends
    assert all(fake.ends in ([], ["finished"], ["given up"]) for fake in fakes)


def test_a_list_of_files_that_breaks_off_ends_all() -> None:
    def broken() -> Iterator[Fake]:
        yield Fake("one")
        raise LookupError("the rest")

    with pytest.raises(LookupError, match="the rest"):
        Engine(SETTINGS).run(broken())


def test_a_cancel_ends_it_and_every_file_that_was_begun_is_given_up() -> None:
    started = threading.Event()

    def slow(*_: Any) -> None:
        started.set()
        time.sleep(0.05)

    fakes = [Fake(str(number), parts=1000, on_carry=slow) for number in range(10)]
    engine = Engine(SETTINGS, workers=4)

    def cancel() -> None:
        started.wait()
        engine.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(TransferCancelledError):
        engine.run(fakes)
    thread.join()
    begun = [fake for fake in fakes if fake.attempts]
    assert begun
    assert all(fake.ends == ["given up"] for fake in begun)


def test_an_interruption_of_who_waits_ends_it_too() -> None:
    """Airflow raises AirflowTaskTimeout in the main thread."""

    class OutOfTime(BaseException):
        pass

    def report(_progress: object) -> None:
        raise OutOfTime

    fakes = [Fake(str(n), parts=1000, on_carry=lambda *_: time.sleep(0.01)) for n in range(4)]
    with pytest.raises(OutOfTime):
        Engine(SETTINGS, report=report, report_seconds=0.05).run(fakes)
    assert all(fake.ends in ([], ["given up"]) for fake in fakes)


@dataclass(eq=False)
class Making(Fake):
    """A file whose parts are made one after the other, as parts of their own: ("make", number)."""

    made: list[int] = field(default_factory=list)
    is_making: bool = False
    most_made: int = 0

    def prepare(self, lane: Lane) -> Iterator[Any]:
        self.on_prepare()
        return self._parts()

    def _parts(self) -> Iterator[Any]:
        made = given = 0
        while given < self.parts:
            if len(self.made) > given:
                yield self.made[given]
                given += 1
            elif not self.is_making and made < self.parts:
                self.is_making = True
                yield ("make", made)
                made += 1
            else:
                yield LATER

    def carry(self, part: Any, lane: Lane) -> None:
        if not isinstance(part, tuple):
            super().carry(part, lane)
            return
        time.sleep(0.002)
        self.on_carry(-1, 1)
        self.made.append(part[1])
        self.is_making = False


@pytest.fixture
def run_awake(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Fake], int], None]:
    """Run with threads that sleep for long where nothing wakes them, and see that none did."""
    monkeypatch.setattr(engine_module, "_LOOK_SECONDS", 40.0)

    def run_in_thread(fakes: list[Fake], workers: int) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(run, fakes, workers).result(30)

    return run_in_thread


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_parts_that_are_not_there_yet_are_waited_for(
    workers: int, run_awake: Callable[[list[Fake], int], None]
) -> None:
    fakes: list[Fake] = [Making("a", parts=20), Fake("b", parts=5), Making("c", parts=20)]
    run_awake(fakes, workers)
    assert [sorted(fake.carried) for fake in fakes] == [list(range(fake.parts)) for fake in fakes]
    assert all(fake.ends == ["finished"] for fake in fakes)


def test_who_waits_for_a_part_does_not_keep_other_files_back() -> None:
    others = [Fake(str(number)) for number in range(50)]
    seen: list[int] = []

    def slow(part: int, _attempt: int) -> None:
        if part != -1:
            return
        end = time.monotonic() + 20
        while not all(other.ends for other in others) and time.monotonic() < end:
            time.sleep(0.005)
        seen.append(sum(bool(other.ends) for other in others))

    run([Making("slow", parts=3, on_carry=slow), *others], workers=2)
    assert seen[0] == 50


@pytest.mark.parametrize("workers", [1, 4])
def test_a_failure_ends_a_file_of_which_parts_are_waited_for(
    workers: int, run_awake: Callable[[list[Fake], int], None]
) -> None:
    bad = Making("bad", parts=5, on_carry=fail(AllasError("bad")))
    with pytest.raises(AllasError, match="bad"):
        run_awake([bad, Fake("good")], workers)
    assert bad.ends == ["given up"]


def test_a_wake_has_parts_asked_for_again(
    run_awake: Callable[[list[Fake], int], None],
) -> None:
    """Without it they are asked for again only after some time."""
    told, allowed, carried = threading.Event(), threading.Event(), threading.Event()
    was_carried: list[bool] = []

    class Long(Fake):
        def prepare(self, lane: Lane) -> Iterator[Any]:
            yield 0
            while not allowed.is_set():
                # Under the engine's lock, so that who is told sleeps before anybody can wake it.
                told.set()
                yield LATER
            yield 1

        def carry(self, part: int, lane: Lane) -> None:
            super().carry(part, lane)
            if part:
                carried.set()
                return
            assert told.wait(20)
            allowed.set()
            lane.wake()
            was_carried.append(carried.wait(20))

    run_awake([Long("f", parts=2)], 2)
    assert was_carried == [True]


def test_a_speed_limit_is_of_all_together() -> None:
    limit = SpeedLimit(1000.0)
    waits = [limit.reserve(100) for _ in range(11)]
    assert waits[0] == 0
    assert 0.9 < waits[-1] <= 1.0
