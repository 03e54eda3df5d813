"""Looking, locking, listing and removing, by a real bash beside a squeue that says what it is told."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.environments.catalog import Catalog, read_catalog
from airflow_provider_csc.environments.commands import (
    LOCK_GRACE_SECONDS,
    Look,
    Wanted,
    build_list,
    build_look,
    build_release,
    build_remove,
    read_look,
)
from airflow_provider_csc.errors import ConfigError, SiteUnavailableError, UnreadableOutputError
from airflow_provider_csc.slurm.framing import Frame, build_program, parse_answer

if TYPE_CHECKING:
    from pathlib import Path

HASH = "0123456789ab" + "0" * 52
OTHER = "af11111111111111111111"
HERE = platform.machine()
USER = subprocess.check_output(["id", "-un"], text=True).strip()


@dataclass
class Site:
    root: Path

    def __post_init__(self) -> None:
        self.prefix = self.root / "pre $fix"
        (self.root / "bin").mkdir()
        self.queue()

    def queue(self, *jobs: str, is_away: bool = False) -> None:
        lines = "\n".join(jobs)
        program = self.root / "bin" / "squeue"
        program.write_text(f"#!/bin/bash\ncat <<'END'\n{lines}\nEND\nexit {int(is_away)}\n")
        program.chmod(0o755)

    def ask(self, body: str) -> dict[str, Frame]:
        done = subprocess.run(
            ["bash"],
            input=build_program(body, mark="@mark").encode(),
            env={"PATH": f"{self.root}/bin:{os.environ['PATH']}", "HOME": str(self.root)},
            capture_output=True,
            check=True,
        )
        return parse_answer(done.stdout, mark="@mark")

    def wanted(self, key: str = "af00000000000000000000", **changes: Any) -> Wanted:
        given = {"prefix": str(self.prefix), "name": "env", "content_hash": HASH, "key": key}
        return Wanted(**{**given, "short_hash": HASH[:12], **changes})

    def look(self, *, claims: bool = True, **changes: Any) -> Look:
        return read_look(self.ask(build_look(self.wanted(**changes), claims=claims)))

    @property
    def entry(self) -> Path:
        return self.prefix / f"env-{HERE}-{HASH[:12]}"

    @property
    def lock(self) -> Path:
        return self.prefix / f"{self.entry.name}.lock"

    def hold(self, *, age: float, key: str = OTHER) -> None:
        self.lock.unlink(missing_ok=True)
        self.prefix.mkdir(exist_ok=True)
        self.lock.symlink_to(f"{key}@{USER}")
        then = time.time() - age
        os.utime(self.lock, (then, then), follow_symlinks=False)

    def build(self, job: int = 1, *, entry: str = "", used: float = 0, **record: Any) -> Path:
        """Put what a job would have built in place."""
        name = entry or self.entry.name
        place = self.prefix / ".builds" / f"{name}.{job}"
        place.mkdir(parents=True)
        told = {"made_by": "airflow-provider-csc", "hash": HASH, "job_id": str(job)}
        told |= {"architecture": HERE, "python": "3.12.1", "files": 5, "bytes": 10, "seconds": 1}
        told |= {"built": int(time.time() - used), "recipe": {}} | record
        (place / "csc-environment.json").write_text(json.dumps(told))
        (place / "csc-requirements.txt").write_text("alpha==1\nbeta==2\n")
        (place / "csc-last-used").touch()
        then = time.time() - used
        os.utime(place / "csc-last-used", (then, then))
        link = self.prefix / name
        link.unlink(missing_ok=True)
        link.symlink_to(f".builds/{place.name}")
        return place

    def catalog(self) -> Catalog:
        return read_catalog(self.ask(build_list(str(self.prefix))))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_what_is_not_there_is_locked_for_who_asks(site: Site) -> None:
    look = site.look()

    assert (look.record, look.holder) == (None, "")
    assert (look.path, look.architecture) == (str(site.entry), HERE)
    assert str(site.lock.readlink()) == f"af00000000000000000000@{USER}"


def test_a_look_alone_locks_nothing_and_makes_nothing(site: Site) -> None:
    assert site.look(claims=False).record is None
    assert not site.prefix.exists()


def test_what_is_complete_is_found_and_not_locked(site: Site) -> None:
    site.build(7)

    look = site.look()

    assert look.record
    assert (look.record.job_id, look.versions) == ("7", "alpha==1\nbeta==2")
    assert not site.lock.is_symlink()


def test_a_record_of_another_content_is_no_evidence(site: Site) -> None:
    site.build(7, hash="f" * 64)

    assert site.look().record is None
    assert site.lock.is_symlink()


def test_a_record_that_is_cut_short_is_an_error(site: Site) -> None:
    record = site.build() / "csc-environment.json"
    record.write_text(f'{{"hash": "{HASH}", "made_by')

    with pytest.raises(UnreadableOutputError, match="cannot be read"):
        site.look()


def test_another_architecture_is_another_environment(site: Site) -> None:
    site.build()

    look = site.look(architecture="aarch64")

    assert look.record is None
    assert look.path.endswith("env-aarch64-0123456789ab")


@pytest.mark.parametrize("age", [0, LOCK_GRACE_SECONDS * 100])
def test_a_lock_whose_job_is_in_the_queue_is_respected_however_old(site: Site, age: int) -> None:
    site.hold(age=age)
    site.queue(f"41 x.{OTHER}.1", "42 other.af2222.1", f"43 y.{OTHER}.2.1")

    look = site.look()

    assert (look.holder, look.jobs) == (f"{OTHER}@{USER}", ("41", "43"))


def test_a_lock_without_a_job_is_respected_while_it_is_young(site: Site) -> None:
    site.hold(age=LOCK_GRACE_SECONDS - 60)

    assert (site.look().holder, site.look().jobs) == (f"{OTHER}@{USER}", ())


def test_an_old_lock_is_respected_while_squeue_gives_no_answer(site: Site) -> None:
    site.hold(age=LOCK_GRACE_SECONDS * 100)
    site.queue(is_away=True)

    look = site.look()

    assert (look.holder, look.jobs) == (f"{OTHER}@{USER}", None)


def test_an_old_lock_without_a_job_is_taken_over(site: Site) -> None:
    site.hold(age=LOCK_GRACE_SECONDS + 1)

    assert site.look().holder == ""
    assert str(site.lock.readlink()) == f"af00000000000000000000@{USER}"
    assert [each.name for each in site.prefix.iterdir() if "taking" in each.name] == []


def test_ones_own_lock_is_held_on_and_made_young_again(site: Site) -> None:
    site.hold(age=LOCK_GRACE_SECONDS + 1, key="af00000000000000000000")

    assert site.look().holder == ""
    assert time.time() - site.lock.lstat().st_mtime < 60


@pytest.mark.parametrize("is_stale", [False, True])
def test_of_many_who_ask_at_once_one_has_the_lock(site: Site, is_stale: bool) -> None:
    if is_stale:
        site.hold(age=LOCK_GRACE_SECONDS + 1)
    keys = [f"af{number:020d}" for number in range(8)]

    with ThreadPoolExecutor(8) as pool:
        looks = list(pool.map(lambda key: site.look(key=key), keys))

    winners = [key for key, look in zip(keys, looks, strict=True) if not look.holder]
    assert winners == [str(site.lock.readlink()).partition("@")[0]]


def test_who_takes_over_for_too_long_is_passed_by(site: Site) -> None:
    site.hold(age=LOCK_GRACE_SECONDS + 1)
    taking = site.prefix / f"{site.lock.name}.taking"
    taking.symlink_to("af99@x")
    assert site.look().holder == f"{OTHER}@{USER}"

    then = time.time() - LOCK_GRACE_SECONDS - 1
    os.utime(taking, (then, then), follow_symlinks=False)
    assert site.look().holder == ""


def test_only_ones_own_lock_is_released(site: Site) -> None:
    site.hold(age=0)
    site.ask(build_release(site.wanted()))
    assert site.lock.is_symlink()

    site.ask(build_release(site.wanted(key=OTHER)))
    assert not site.lock.is_symlink()


def test_a_prefix_that_is_a_file_is_refused_by_name(site: Site) -> None:
    site.prefix.write_text("")

    with pytest.raises(ConfigError, match=r"prefix: nothing can be made in .*pre \$fix"):
        site.look()


def test_a_full_disk_is_waited_for(site: Site) -> None:
    full = Frame(1, b"mkdir: cannot create directory: Disk quota exceeded")
    frames = {"path": Frame(0, b"/p/x"), "architecture": Frame(0, b"x86_64"), "prefix": full}

    with pytest.raises(SiteUnavailableError, match="quota"):
        read_look(frames)


# Pruning.

DAY = 86_400


def unneeded(site: Site, **choice: Any) -> list[str]:
    given = {"older_than": 90 * DAY, "keep_newest": 0, **choice}
    return [each.build for each in site.catalog().unneeded(**given)]


def entry(number: int, name: str = "env") -> str:
    return f"{name}-{HERE}-{number:012x}"


def test_nothing_is_listed_where_there_is_nothing(site: Site) -> None:
    assert site.catalog().builds == ()


def test_what_nobody_used_for_long_is_unneeded_oldest_first(site: Site) -> None:
    for number, days in enumerate((100, 200, 10)):
        site.build(number, entry=entry(number), used=days * DAY)

    assert unneeded(site) == [f"{entry(1)}.1", f"{entry(0)}.0"]


def test_what_was_used_lately_stays_though_it_was_built_long_ago(site: Site) -> None:
    site.build(entry=entry(1), used=1, built=1_000_000_000)

    assert unneeded(site) == []


def test_the_newest_of_each_name_and_what_is_kept_stay(site: Site) -> None:
    for number, days in enumerate((100, 200, 300)):
        site.build(number, entry=entry(number), used=days * DAY)
    site.build(9, entry=entry(9, "torch"), used=400 * DAY)

    assert unneeded(site, keep_newest=1) == [f"{entry(2)}.2", f"{entry(1)}.1"]
    assert unneeded(site, keep=["env"]) == [f"{entry(9, 'torch')}.9"]
    assert unneeded(site, name="torch") == [f"{entry(9, 'torch')}.9"]
    assert unneeded(site, keep=[f"{site.prefix}/{entry(2)}"], name="env") == [
        f"{entry(1)}.1",
        f"{entry(0)}.0",
    ]


def test_what_was_never_finished_goes_after_a_day_unless_its_job_is_queued(site: Site) -> None:
    half = site.prefix / ".builds" / f"{entry(1)}.77"
    half.mkdir(parents=True)
    assert unneeded(site) == []

    os.utime(half, (time.time() - 2 * DAY,) * 2)
    site.queue("77")
    assert unneeded(site) == []
    site.queue("78")
    assert unneeded(site) == [half.name]


def test_an_unknown_queue_is_no_empty_queue(site: Site) -> None:
    site.build()
    site.queue(is_away=True)

    with pytest.raises(SiteUnavailableError):
        site.catalog()


def test_what_has_another_name_is_not_ours(site: Site) -> None:
    for name in ("notes", "env-x86_64-short.1", "a\tb"):
        (site.prefix / ".builds" / name).mkdir(parents=True)

    assert site.catalog().builds == ()


def test_removing_takes_the_link_and_the_build_and_follows_nothing(site: Site) -> None:
    build = site.build(entry=entry(1))
    outside = site.root / "outside"
    outside.mkdir()
    (outside / "file").touch()
    (build / "link").symlink_to(outside)

    frames = site.ask(build_remove(str(site.prefix), [build.name]))

    assert [frame.status for frame in frames.values()] == [0]
    assert list((site.prefix / ".builds").iterdir()) == []
    assert not (site.prefix / entry(1)).is_symlink()
    assert (outside / "file").exists()


def test_a_build_that_is_a_link_is_not_removed(site: Site) -> None:
    (site.prefix / ".builds").mkdir(parents=True)
    outside = site.root / "outside"
    outside.mkdir()
    link = site.prefix / ".builds" / f"{entry(1)}.1"
    link.symlink_to(outside)

    (frame,) = site.ask(build_remove(str(site.prefix), [link.name])).values()

    assert frame.status != 0
    assert outside.exists()


def test_the_link_to_a_newer_build_stays(site: Site) -> None:
    old = site.build(1, entry=entry(1))
    site.build(2, entry=entry(1))

    site.ask(build_remove(str(site.prefix), [old.name]))

    assert str((site.prefix / entry(1)).readlink()) == f".builds/{entry(1)}.2"
    assert not old.exists()


def test_a_removal_that_was_cut_short_is_taken_up(site: Site) -> None:
    half = site.prefix / ".builds" / f".removed.{entry(1)}.1"
    half.mkdir(parents=True)
    os.utime(half, (time.time() - 2 * DAY,) * 2)

    assert unneeded(site) == [half.name]
    site.ask(build_remove(str(site.prefix), [half.name]))
    assert not half.exists()
