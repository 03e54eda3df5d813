"""What a waiting task makes of a real sshd that it cannot reach, or that turns it away."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.triggers.slurm import SlurmJobTrigger, SlurmSiteTrigger
from tests.chaos.proxy import Mode, Proxy
from tests.support.run_trigger import start_trigger
from tests.support.task import build_context, first_event, resume, stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from multiprocessing.context import ForkServerProcess

    from airflow.triggers.base import BaseTrigger

    from tests.cluster.conftest import SlurmConnection

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("slurm_connection")]

COUNT = "for i in $(seq 1 {}); do echo $i; sleep 0.5; done"


def operator(**arguments: Any) -> SlurmSubmitOperator:
    return SlurmSubmitOperator(
        **{"task_id": "job", "poll_interval": 0.5, "deferrable": True} | arguments
    )


def deferred(task: SlurmSubmitOperator, context: dict[str, Any]) -> BaseTrigger:
    with pytest.raises(TaskDeferred) as caught:
        task.execute(context)
    return stored(caught.value.trigger)


@asynccontextmanager
async def waiting(trigger: BaseTrigger) -> AsyncIterator[asyncio.Task[Any]]:
    """Run a trigger; see to it that it is gone at the end."""
    task = asyncio.create_task(first_event(trigger))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await trigger.cleanup()


def check_parked_once(log: list[str], reason: str) -> None:
    """One line tells of it; where that knew of a lost connection only, one more tells why."""
    (first,) = (line for line in log if "No answer from the site since" in line)
    more = [line for line in log if "Still no answer" in line]
    assert [reason in line for line in (first, *more)] in ([True], [False, True])


async def seen(log: list[str], text: str, seconds: float = 30) -> str:
    """Wait for a line of the task's log."""
    end = time.monotonic() + seconds
    while not (found := [line for line in log if text in line]):
        assert time.monotonic() < end, f"no {text!r} in {list(log)}"
        await asyncio.sleep(0.1)
    return found[0]


class Way:
    """The connection to the cluster through a proxy."""

    def __init__(self, cluster: dict[str, Any], connection: SlurmConnection, proxy: Proxy) -> None:
        port = cluster["ssh_port"]
        known_hosts = Path(cluster["ssh_known_hosts"]).read_text()
        self._known_hosts = known_hosts.replace(f":{port} ", f":{proxy.port} ")
        self._connection, self._port = connection, proxy.port

    def set(self, **changes: Any) -> None:
        self._connection.set(port=self._port, known_hosts=self._known_hosts, **changes)


class Certificate:
    """A key of alice's that opens only with a certificate, and the authority that signs it."""

    def __init__(self, cluster: dict[str, Any], place: Path) -> None:
        self._authority = cluster["ssh_user_ca_key"]
        self.key = place / "key"
        self.file = place / "key-cert.pub"
        self._keygen("-t", "ed25519", "-N", "", "-f", str(self.key))

    def sign(self, end: str, *, start: str = "-1m", name: str = "alice") -> str:
        """Make a certificate that is valid until then, as ``+5s``; return it."""
        public = f"{self.key}.pub"
        signed = ("-s", self._authority, "-I", "test", "-n", name, "-V", f"{start}:{end}")
        self._keygen(*signed, public)
        return self.file.read_text()

    @staticmethod
    def _keygen(*words: str) -> None:
        subprocess.run(["ssh-keygen", "-q", *words], check=True)


@pytest.fixture
def certificate(cluster: dict[str, Any]) -> Iterator[Certificate]:
    with tempfile.TemporaryDirectory() as place:
        yield Certificate(cluster, Path(place))


VALID_SECONDS = 6
RESUMED = {
    False: "The site answers again after",
    True: "Connection slurm_default was changed; going on with it.",
}


@pytest.mark.parametrize("is_text", [False, True])
def test_a_certificate_that_expires_parks_the_task_until_it_is_renewed(
    cluster: dict[str, Any],
    slurm_connection: SlurmConnection,
    certificate: Certificate,
    task_log: list[str],
    is_text: bool,
) -> None:
    """sshd asks for it at log-in only, so it is missed when the connection is lost."""

    def use(way: Way, text: str) -> None:
        # Where it stands in the connection, none may lie beside the key.
        if is_text:
            certificate.file.unlink()
        way.set(key_file=str(certificate.key), **{"certificate": text} if is_text else {})

    async def play() -> None:
        async with Proxy(target=cluster["ssh_port"]) as proxy:
            way = Way(cluster, slurm_connection, proxy)
            use(way, certificate.sign("+1h"))
            task = operator(command=COUNT.format(40))
            trigger = await asyncio.to_thread(deferred, task, build_context(task))
            # On a busy machine the submission alone may take longer than this one is valid.
            use(way, certificate.sign(f"+{VALID_SECONDS}s"))
            expired = time.monotonic() + VALID_SECONDS + 1
            async with waiting(trigger) as job:
                await seen(task_log, "is RUNNING")
                await asyncio.sleep(max(expired - time.monotonic(), 0))
                proxy.cut_all()
                # A command that was cut comes first, where there was one.
                line = await seen(task_log, "EXPIRED on 20")
                place = "in the connection" if is_text else f"at {certificate.file}"
                assert f"renew it {place}." in line
                await asyncio.sleep(3)
                use(way, certificate.sign("+1h"))
                await seen(task_log, RESUMED[is_text])
                event = await asyncio.wait_for(job, 40)
            assert event["results"][0]["state"] == "COMPLETED"

    asyncio.run(play())
    assert [line for line in task_log if line.isdecimal()] == [str(n) for n in range(1, 41)]
    check_parked_once(task_log, "EXPIRED on 20")
    assert sum(RESUMED[is_text] in line for line in task_log) == 1


# What sshd is given to answer that does not; a log-in that it lets through needs longer at times.
SILENT_SECONDS = 5
OUTAGES = {
    Mode.REFUSE: "Connection reset by peer",
    Mode.SILENT: "did not answer in time",
}


@pytest.mark.parametrize("mode", list(OUTAGES))
def test_an_sshd_that_does_not_let_us_in_parks_the_task_once(
    cluster: dict[str, Any], slurm_connection: SlurmConnection, task_log: list[str], mode: Mode
) -> None:
    async def play() -> None:
        async with Proxy(target=cluster["ssh_port"]) as proxy:
            Way(cluster, slurm_connection, proxy).set(connect_timeout=SILENT_SECONDS)
            task = operator(command=COUNT.format(20))
            trigger = await asyncio.to_thread(deferred, task, build_context(task))
            async with waiting(trigger) as job:
                await seen(task_log, "is RUNNING")
                proxy.mode = mode
                proxy.cut_all()
                # A command that was cut comes first, where there was one.
                await seen(task_log, OUTAGES[mode])
                while proxy.turned_away < 3:
                    await asyncio.sleep(0.1)
                # Whoever still waits for an answer gives up by himself, for the reason he told.
                proxy.mode = Mode.PASS
                event = await asyncio.wait_for(job, 40)
            assert event["results"][0]["state"] == "COMPLETED"

    asyncio.run(play())
    assert [line for line in task_log if line.isdecimal()] == [str(n) for n in range(1, 21)]
    check_parked_once(task_log, OUTAGES[mode])
    assert sum("answers again" in line for line in task_log) == 1


def test_a_submission_waits_for_an_sshd_that_never_answers(
    cluster: dict[str, Any], slurm_connection: SlurmConnection, task_log: list[str]
) -> None:
    async def play() -> None:
        async with Proxy(target=cluster["ssh_port"], mode=Mode.SILENT) as proxy:
            Way(cluster, slurm_connection, proxy).set(connect_timeout=2)
            task = operator(command="echo made it")
            context = build_context(task)
            trigger = await asyncio.to_thread(deferred, task, context)
            assert isinstance(trigger, SlurmSiteTrigger)
            async with waiting(trigger) as site:
                while proxy.turned_away < 3:
                    await asyncio.sleep(0.1)
                assert not site.done()
                proxy.mode = Mode.PASS
                proxy.pass_on()
                event = await asyncio.wait_for(site, 40)
            result = await asyncio.to_thread(
                resume,
                task,
                context,
                lambda: task.execute_again(context, event, {"is_resumed": True}),
            )
            assert result["state"] == "COMPLETED"

    asyncio.run(play())
    assert sum("Waiting since" in line for line in task_log) == 1
    assert sum("can take jobs again" in line for line in task_log) == 1
    assert task_log.count("made it") == 1


def test_two_triggerers_that_follow_one_job_double_lines_and_lose_none(tmp_path: Path) -> None:
    """As at a hand-over; one of them is stopped in the middle, and another one takes over."""
    task = operator(command=COUNT.format(60) + "; exit 7")
    trigger = deferred(task, build_context(task))
    assert isinstance(trigger, SlurmJobTrigger)
    run_dir = Path(str(trigger.run_dir))

    def start(name: str) -> tuple[Path, ForkServerProcess]:
        output = tmp_path / name
        return output, start_trigger(trigger, output)

    def numbers(output: Path) -> list[int]:
        return [int(line) for line in output.read_text().splitlines() if line.isdecimal()]

    (one, first), (two, second) = start("one"), start("two")
    # Who begins later goes on where the other one's lines were written down.
    while min(max(numbers(output), default=0) for output in (one, two)) < 10:
        assert first.is_alive()
        assert second.is_alive()
        time.sleep(0.1)
    first.terminate()
    first.join(20)
    three, third = start("three")
    second.join(90)
    third.join(90)
    assert second.exitcode == third.exitcode == 0
    events = [path.read_text().partition("EVENT ")[2] for path in (two, three)]
    shown = [result for event in events for result in json.loads(event)]
    assert [(each["state"], each["exit_code"]) for each in shown] == [("FAILED", 7)] * 2
    # Each shows an unbroken part of the log, in order; a person who reads them all misses nothing.
    for part in map(numbers, (one, two, three)):
        assert part == list(range(part[0], part[-1] + 1))
    assert numbers(two)[-1] == numbers(three)[-1] == 60
    shown_lines = [number for part in (one, two, three) for number in numbers(part)]
    assert sorted(set(shown_lines)) == list(range(1, 61))
    assert len(shown_lines) <= 2 * 60 + 3  # and one round again, that one had not acknowledged
    assert (run_dir / "verdict").read_text() == "FAILED\n"
    offset = int((run_dir / "log_offsets").read_text().split()[0])
    assert offset == (run_dir / "stdout.log").stat().st_size
