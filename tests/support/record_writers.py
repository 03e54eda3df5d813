"""
Processes that change one record at the same time, for tests that kill or disturb them.

    python -m tests.support.record_writers WORK

Reads a `Plan` as JSON from standard input, and then a line upon which they begin. Starts once and
forks, so that sixteen writers cost one import of boto3. Each writer has a ledger, a file with a
line before each update ("begin TAG") and one after it ("done TAG").
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_csc.store.target import Target


@dataclass(kw_only=True)
class Plan:
    directory: str
    bucket: str
    key: str
    endpoint_url: str
    access_key: str
    secret_key: str
    writers: int = 16
    updates: int = 25  # of each; of holders of a lease, how often each holds it
    name: str = "w"
    lease_seconds: float = 5.0
    # A signal that holder 0 sends itself while it holds the lease for the second time.
    halt: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def ledger(self, number: int) -> Path:
        return Path(self.directory) / f"{self.name}{number}.ledger"


class Writers:
    """The processes of a plan; they begin when all are there."""

    def __init__(self, plan: Plan, work: str = "count") -> None:
        self.plan = plan
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.record_writers", work],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        self._say(json.dumps(asdict(plan)))
        self.pids: list[int] = json.loads(self._process.stdout.readline())

    def begin(self) -> Self:
        self._say("go")
        return self

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def wait(self, timeout: float = 600) -> list[int]:
        """Wait for their ends; return their statuses, negative for signals."""
        output, _ = self._process.communicate(timeout=timeout)
        statuses: list[int] = json.loads(output)
        return statuses

    def tags(self, word: str) -> list[str]:
        """The updates that were begun, or done, by the ledgers."""
        lines = [
            line.split()
            for number in range(self.plan.writers)
            if self.plan.ledger(number).exists()
            for line in self.plan.ledger(number).read_text().splitlines()
        ]
        return [tag for said, tag in lines if said == word]


def verdict(value: dict[str, int] | None, *writers: Writers) -> dict[str, Any]:
    """Hold what is stored against the ledgers: done and lost, made twice, or never begun."""
    stored = value or {}
    done = [tag for each in writers for tag in each.tags("done")]
    begun = {tag for each in writers for tag in each.tags("begin")}
    return {
        "done": len(done),
        "stored": len(stored),
        "lost": sorted(set(done) - set(stored)),
        "twice": sorted(tag for tag, count in stored.items() if count != 1),
        "foreign": sorted(set(stored) - begun),
    }


def connect(plan: Plan) -> Target:
    import boto3
    from botocore.config import Config

    from airflow_provider_csc.allas.connection import build_client_config
    from airflow_provider_csc.hooks.allas import RECORD_CONFIG
    from airflow_provider_csc.store.target import Options, Target

    config: Any = Config(**build_client_config("path"))  # type: ignore[arg-type]
    client = boto3.client(
        "s3",
        endpoint_url=plan.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=plan.access_key,
        aws_secret_access_key=plan.secret_key,
        config=config.merge(RECORD_CONFIG),
    )
    options = Options(**{"timeout_seconds": 600, **plan.options})
    return Target(
        client=client, bucket=plan.bucket, key=plan.key, writer=plan.name, options=options
    )


def count(plan: Plan, number: int) -> None:
    """Add a tag to the record for each update."""
    from airflow_provider_csc.store.change import change

    target = connect(plan)
    with plan.ledger(number).open("a", buffering=1) as ledger:
        for turn in range(plan.updates):
            tag = f"{plan.name}{number}-{turn}"

            def add(present: Any, tag: str = tag) -> dict[str, int]:
                counts = Counter(present.snapshot.value or {})
                counts[tag] += 1
                return dict(counts)

            print("begin", tag, file=ledger)
            change(target, add)
            print("done", tag, file=ledger)


def hold(plan: Plan, number: int) -> None:
    """
    Hold a lease again and again; while it is held, write its number down at the resource.

    The resource is a file that all share. "in" is written under its number right after `check`,
    "out" before the release; a line is one write, so that lines of several do not mix. Where the
    plan halts holder 0, that is between the two: when it believes that it may write.
    """
    from airflow_provider_csc.errors import LeaseLostError
    from airflow_provider_csc.store.leases import Lease

    target = connect(plan)
    shared = os.open(Path(plan.directory) / "resource", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(word: str, token: int) -> None:
        os.write(shared, f"{word} {number} {token}\n".encode())

    lease = Lease(lambda: target, owner=f"{plan.name}{number}", seconds=plan.lease_seconds)
    for turn in range(plan.updates):
        token = lease.acquire(wait_seconds=None)
        try:
            for step in range(3):
                lease.check()
                if plan.halt is not None and (number, turn, step) == (0, 1, 1):
                    os.kill(os.getpid(), plan.halt)
                note("in", token)
                time.sleep(0.02)
        except LeaseLostError:
            note("lost", token)
        else:
            note("out", token)
        lease.release()


WORKS: dict[str, Callable[[Plan, int], None]] = {"count": count, "hold": hold}


def main(work: str) -> None:
    plan = Plan(**json.loads(sys.stdin.readline()))
    from airflow_provider_csc.store import change, leases  # noqa: F401 - before the fork

    connect(plan)  # likewise
    gate, opened = os.pipe()
    pids = []
    for number in range(plan.writers):
        pid = os.fork()
        if not pid:
            os.close(opened)
            os.read(gate, 1)
            try:
                WORKS[work](plan, number)
            except BaseException:  # noqa: BLE001 - a child does not go on as its parent
                sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
                os._exit(1)
            os._exit(0)
        pids.append(pid)
    print(json.dumps(pids), flush=True)
    sys.stdin.readline()
    os.close(opened)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    print(json.dumps(statuses), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
