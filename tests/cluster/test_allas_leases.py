"""Leases against a real Ceph RGW (16.2), held by processes that are killed or paused."""

from __future__ import annotations

import os
import signal
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.errors import LeaseHeldError
from airflow_provider_csc.hooks.allas_record import AllasLease
from tests.support.record_writers import Plan, Writers

if TYPE_CHECKING:
    from airflow_provider_csc.hooks.allas import AllasHook

pytestmark = pytest.mark.cluster


@pytest.fixture
def key() -> str:
    return f"leases/{uuid.uuid4().hex[:8]}"


@pytest.fixture
def plan(cluster: dict[str, Any], allas_hook: AllasHook, key: str, tmp_path: Path) -> Plan:
    return Plan(
        directory=str(tmp_path),
        bucket=str(allas_hook.service_config["bucket_name"]),
        key=key,
        endpoint_url=cluster["s3_endpoint_url"],
        access_key=cluster["s3_access_key"],
        secret_key=cluster["s3_secret_key"],
        writers=3,
        updates=2,
    )


def test_a_lease_is_had_by_one_and_then_by_the_next(allas_hook: AllasHook, key: str) -> None:
    with AllasLease(key, hook=allas_hook, owner="one") as one:
        assert one.check() == one.token
        first = one.token
        with pytest.raises(LeaseHeldError, match="held by one until") as caught:
            AllasLease(key, hook=allas_hook, owner="two").acquire()
        assert (caught.value.holder, caught.value.owner) == ("one", "two")
    with AllasLease(key, hook=allas_hook, owner="two") as two:
        assert two.token > first
    assert not two.is_held


def read_resource(plan: Plan) -> list[tuple[str, int, int]]:
    path = Path(plan.directory, "resource")
    rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(word, int(number), int(token)) for word, number, token in rows]


def find_refused(rows: list[tuple[str, int, int]]) -> list[tuple[int, int]]:
    """
    Play the resource: return the writes with numbers below the highest seen, and whose they are.

    Numbers must belong to one holder each. Where none is refused nobody was in while another was.
    """
    owners: dict[int, int] = {}
    refused, last = [], 0
    for word, number, token in rows:
        assert owners.setdefault(token, number) == number, "two with one number"
        if word == "in" and token < last:
            refused.append((number, token))
        last = max(last, token)
    return refused


def test_the_lease_of_a_holder_that_was_killed_goes_to_the_others(
    allas_hook: AllasHook, plan: Plan
) -> None:
    plan.halt = signal.SIGKILL
    assert Writers(plan, "hold").begin().wait() == [-signal.SIGKILL, 0, 0]
    rows = read_resource(plan)
    assert find_refused(rows) == []
    # Once and a part of it by the one that was killed, twice by each of the others.
    assert [word for word, *_ in rows].count("out") == 1 + 2 + 2
    tokens = {token for *_, token in rows}
    assert len(tokens) == 2 + 2 + 2
    with AllasLease(plan.key, hook=allas_hook, owner="next", wait_seconds=None) as lease:
        assert lease.token > max(tokens)


def test_a_holder_that_was_paused_learns_that_it_lost(allas_hook: AllasHook, plan: Plan) -> None:
    """
    Stopped between its check and its act, until another holds the lease; then it goes on.

    The fencing number is what stops the act; afterwards it is told.
    """
    plan.halt, plan.writers = signal.SIGSTOP, 1
    holders = Writers(plan, "hold").begin()
    (stopped,) = holders.pids
    while state_of(stopped) != "T":
        time.sleep(0.05)
    mine = max(token for *_, token in read_resource(plan))
    with AllasLease(plan.key, hook=allas_hook, owner="next", wait_seconds=None) as lease:
        with Path(plan.directory, "resource").open("a") as resource:
            resource.write(f"in 1 {lease.token}\n")
        os.kill(stopped, signal.SIGCONT)
    assert holders.wait() == [0]
    rows = read_resource(plan)
    assert find_refused(rows) == [(0, mine)]
    assert [row for row in rows if row[0] == "lost"] == [("lost", 0, mine)]


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def test_a_lease_outlives_its_time_by_renewal(allas_hook: AllasHook, key: str) -> None:
    """Until the store's clock is past the time at which it would have been free to others."""
    with AllasLease(key, hook=allas_hook, owner="long", seconds=5) as lease:
        token = lease.token
        with pytest.raises(LeaseHeldError) as first:
            AllasLease(key, hook=allas_hook, owner="other").acquire()
        with pytest.raises(LeaseHeldError) as last:
            AllasLease(key, hook=allas_hook, owner="other").acquire(wait_seconds=9)
        assert last.value.expires > first.value.expires
        assert lease.check() == token
