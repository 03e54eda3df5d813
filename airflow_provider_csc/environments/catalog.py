"""Which environments there are below a prefix, and which of them nobody needs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.environments.layout import BUILD_NAME, BUILDS_DIR
from airflow_provider_csc.environments.report import Record, parse_record
from airflow_provider_csc.errors import SiteUnavailableError, SlurmError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from airflow_provider_csc.slurm.framing import Frame

_FIELDS = 5
_REMOVED = ".removed."
_WORK = ".work"
# So young may be a build whose job the queue does not show us.
_YOUNG_SECONDS = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """
    One directory of those that were built.

    ``path`` is the environment's, where it is in place. ``record`` is None for what is no whole
    environment; times are in seconds since 1970, None where unknown.
    """

    build: str
    entry: str
    name: str
    architecture: str
    job_id: str
    path: str | None
    made: int
    used: int | None
    record: Record | None

    @property
    def last_used(self) -> int:
        """When a job last used it, as far as that is known; else when it was built."""
        built = self.record.built if self.record else self.made
        return max(built, self.used or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """All builds below a prefix, the site's time, and the jobs in its queue."""

    prefix: str
    now: int
    jobs: frozenset[str]
    builds: tuple[Build, ...]

    def unneeded(
        self,
        *,
        older_than: float,
        keep: Collection[str] = (),
        keep_newest: int = 1,
        name: str | None = None,
    ) -> list[Build]:
        """
        Return what nobody used for so many seconds, oldest first.

        Of each name and architecture the newest stay; so does what is kept by name or path, and
        what a job in the queue is building.
        """
        chosen = [each for each in self.builds if name is None or each.name == name]
        newest = self._newest(keep_newest)
        found = [
            each
            for each in chosen
            if each.build not in newest
            and each.job_id not in self.jobs
            and not {each.name, each.entry, each.path} & set(keep)
            and self.now - each.last_used >= self._limit_of(each, older_than)
        ]
        return sorted(found, key=lambda each: (each.last_used, each.build))

    @staticmethod
    def _limit_of(build: Build, older_than: float) -> float:
        """Return how old it has to be; nobody uses what was never finished."""
        return older_than if build.record else _YOUNG_SECONDS

    def _newest(self, count: int) -> set[str]:
        by_name: dict[tuple[str, str], list[Build]] = defaultdict(list)
        for each in self.builds:
            if each.path and each.record:
                by_name[each.name, each.architecture].append(each)
        ordered = (sorted(each, key=lambda one: -one.last_used) for each in by_name.values())
        return {one.build for each in ordered for one in each[:count]}


def read_catalog(frames: Mapping[str, Frame]) -> Catalog:
    """
    Return what `commands.build_list` answered.

    :raises SlurmError: where the directory cannot be listed.
    :raises SiteUnavailableError: where squeue does not say which builds are under way.
    """
    listed, queue = frames["list"], frames["queue"]
    if listed.status != 0:
        raise SlurmError(f"The environments cannot be listed: {listed.complaint}.")
    if queue.status != 0:
        raise SiteUnavailableError(f"squeue gave no answer: {queue.complaint}.")
    prefix = frames["prefix"].text
    lines = listed.data.decode(errors="replace").splitlines()
    builds = (_read_build(line.split("\t", _FIELDS - 1), prefix) for line in lines)
    return Catalog(
        prefix=prefix,
        now=int(frames["now"].text),
        jobs=frozenset(queue.text.split()),
        builds=tuple(each for each in builds if each is not None),
    )


def _read_build(fields: Sequence[str], prefix: str) -> Build | None:
    """Return a build; None for a directory of another name, which is not ours to judge."""
    if len(fields) != _FIELDS:
        return None
    build, link, made, used, record = fields
    match = BUILD_NAME.fullmatch(build.removeprefix(_REMOVED).removesuffix(_WORK))
    if match is None or not made.isdecimal():
        return None
    entry = match["entry"]
    return Build(
        build=build,
        entry=entry,
        name=match["name"],
        architecture=match["architecture"],
        job_id=match["job"],
        path=f"{prefix}/{entry}" if link == f"{BUILDS_DIR}/{build}" else None,
        made=int(made),
        used=int(used) if used.isdecimal() else None,
        record=parse_record(record),
    )


def describe_build(build: Build, now: int) -> dict[str, Any]:
    """Return plain values for a person and for an XCom."""
    record = build.record
    return {
        "path": build.path,
        "build": build.build,
        "name": build.name,
        "architecture": build.architecture,
        "complete": record is not None and build.path is not None,
        "hash": record.content_hash if record else None,
        "python": record.python if record else None,
        "files": record.files if record else None,
        "bytes": record.bytes if record else None,
        "built": record.built if record else None,
        "last_used": build.used,
        "idle_days": round(max(now - build.last_used, 0) / 86_400, 2),
    }
