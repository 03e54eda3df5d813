"""What the reaper reports about a site: for the log, and as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.reaping import DirectoryVerdict, JobVerdict, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from airflow_provider_csc.slurm.inventory import RunDirectory

_SHOWN_ROWS = 200
_TWO_HOURS = 7_200


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaperReport:
    """
    What became of a site's live jobs.

    ``problem`` is why nothing could be judged, or ''. ``cancelled`` are jobs of which Slurm
    confirms that they have ended; ``not_cancelled`` says of the others why, by job id.
    ``other_jobs`` counts the user's live jobs without a token.
    """

    slurm_conn_id: str
    base: str
    dry_run: bool
    jobs: tuple[JobVerdict, ...]
    other_jobs: int = 0
    problem: str = ""
    cancelled: tuple[str, ...] = ()
    not_cancelled: Mapping[str, str]

    @property
    def orphans(self) -> tuple[JobVerdict, ...]:
        """The jobs that may be cancelled."""
        return tuple(one for one in self.jobs if one.verdict is Verdict.ORPHAN)

    @property
    def summary(self) -> str:
        """One line that says it all."""
        if self.problem:
            return f"{self.slurm_conn_id}: nothing was judged and nothing cancelled: {self.problem}"
        counts = Counter(one.verdict.value for one in self.jobs)
        told = ", ".join(
            f"{counts[each.value]} {each.value}" for each in Verdict if counts[each.value]
        )
        if self.dry_run:
            done = f"{len(self.orphans)} would be cancelled (dry run)"
        else:
            done = f"{len(self.cancelled)} cancelled, {len(self.not_cancelled)} not"
        return (
            f"{self.slurm_conn_id}: {len(self.jobs)} live jobs with a token "
            f"({told or 'none'}); {done}. "
            f"{self.other_jobs} jobs without a token are none of ours."
        )

    def table(self) -> str:
        """Return a row for each job, the orphans first."""
        order = list(Verdict)
        order.remove(Verdict.ORPHAN)
        order.insert(0, Verdict.ORPHAN)
        jobs = sorted(self.jobs, key=lambda one: (order.index(one.verdict), one.job.job_id))
        rows = [
            [
                one.job.job_id,
                one.job.state,
                _show_age(one.age_seconds),
                one.verdict.value,
                str(one.task or one.job.name),
                self.not_cancelled.get(one.job.job_id, one.why),
            ]
            for one in jobs
        ]
        return render_table(["job", "state", "age", "verdict", "task", "why"], rows)

    def to_xcom(self) -> dict[str, object]:
        """Return it as JSON takes it; of the jobs only those that are not live."""
        return {
            "slurm_conn_id": self.slurm_conn_id,
            "base": self.base,
            "dry_run": self.dry_run,
            "problem": self.problem,
            "counts": dict(Counter(one.verdict.value for one in self.jobs)),
            "jobs": [_job_to_xcom(one) for one in self.jobs if one.verdict is not Verdict.LIVE][
                :_SHOWN_ROWS
            ],
            "other_jobs": self.other_jobs,
            "cancelled": list(self.cancelled),
            "not_cancelled": dict(self.not_cancelled),
            "summary": self.summary,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Inodes and bytes on the disk; None where they could not be measured."""

    inodes: int | None
    bytes: int | None

    def __str__(self) -> str:
        if self.inodes is None or self.bytes is None:
            return "an unknown number of inodes"
        return f"{self.inodes} inodes, {self.bytes / 1e6:.1f} MB"


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneReport:
    """
    What became of a site's run directories.

    ``total`` counts all of them, ``directories`` those that were looked at. ``removed`` are names;
    ``not_removed`` says why a directory that should have gone is still there.
    """

    slurm_conn_id: str
    base: str
    dry_run: bool
    total: int
    directories: tuple[DirectoryVerdict, ...]
    problem: str = ""
    removed: tuple[str, ...] = ()
    not_removed: Mapping[str, str]

    @property
    def removable(self) -> tuple[DirectoryVerdict, ...]:
        """The directories that nobody needs."""
        return tuple(one for one in self.directories if one.is_removable)

    @property
    def before(self) -> Usage:
        """What was looked at takes up, or took up before the removal."""
        return _usage(one.directory for one in self.directories)

    @property
    def after(self) -> Usage:
        """What is left of it, or would be after a removal that is not a dry run."""
        gone = set(self.removed)
        if self.dry_run:
            gone = {one.directory.name for one in self.removable}
        return _usage(one.directory for one in self.directories if one.directory.name not in gone)

    @property
    def summary(self) -> str:
        """One line that says it all."""
        if self.problem:
            return f"{self.slurm_conn_id}: nothing was judged and nothing removed: {self.problem}"
        done = f"{len(self.removable)} would be removed (dry run)"
        if not self.dry_run:
            done = f"{len(self.removed)} removed, {len(self.not_removed)} not"
        seen = len(self.directories)
        more = f"; {self.total - seen} newer ones were not looked at" if self.total > seen else ""
        return (
            f"{self.slurm_conn_id}: {seen} of {self.total} run directories in {self.base} "
            f"({self.before}); {done}; {'it would leave' if self.dry_run else 'left are'} "
            f"{self.after}{more}."
        )

    def table(self) -> str:
        """Return a row for each directory that goes, then how many stay for which reason."""
        rows = [
            [
                one.directory.name,
                "?" if one.directory.inodes is None else str(one.directory.inodes),
                "?" if one.directory.bytes is None else str(one.directory.bytes),
                self.not_removed.get(one.directory.name, one.why),
            ]
            for one in self.removable
        ]
        text = render_table(["directory", "inodes", "bytes", "why"], rows)
        stay = [f"kept: {number}, {why}" for why, number in sorted(self.kept.items())]
        return "\n".join([text, *stay])

    @property
    def kept(self) -> dict[str, int]:
        """How many directories stay, by the reason."""
        return dict(Counter(one.why for one in self.directories if not one.is_removable))

    def to_xcom(self) -> dict[str, object]:
        """Return it as JSON takes it."""
        return {
            "slurm_conn_id": self.slurm_conn_id,
            "base": self.base,
            "dry_run": self.dry_run,
            "problem": self.problem,
            "total": self.total,
            "looked_at": len(self.directories),
            "removable": len(self.removable),
            "removed": len(self.removed),
            "not_removed": dict(list(self.not_removed.items())[:_SHOWN_ROWS]),
            "kept": self.kept,
            "inodes_before": self.before.inodes,
            "bytes_before": self.before.bytes,
            "inodes_after": self.after.inodes,
            "bytes_after": self.after.bytes,
            "summary": self.summary,
        }


def render_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned text, at most 200 of them, and how many more there are."""
    shown = [columns, *rows[:_SHOWN_ROWS]]
    widths = [max(len(row[at]) for row in shown) for at in range(len(columns))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]
    if len(rows) > _SHOWN_ROWS:
        lines.append(f"... and {len(rows) - _SHOWN_ROWS} more")
    return "\n".join(lines)


def _usage(directories: Iterable[RunDirectory]) -> Usage:
    known = list(directories)
    inodes = [one.inodes for one in known if one.inodes is not None]
    sizes = [one.bytes for one in known if one.bytes is not None]
    if len(inodes) < len(known) or len(sizes) < len(known):
        return Usage(inodes=None, bytes=None)
    return Usage(inodes=sum(inodes), bytes=sum(sizes))


def _job_to_xcom(one: JobVerdict) -> dict[str, object]:
    return {
        "job_id": one.job.job_id,
        "name": one.job.name,
        "state": one.job.state,
        "age_seconds": one.age_seconds,
        "verdict": one.verdict.value,
        "why": one.why,
        "task": str(one.task) if one.task else None,
    }


def _show_age(seconds: int | None) -> str:
    if seconds is None:
        return "?"
    return f"{seconds} s" if seconds < _TWO_HOURS else f"{seconds / 3600:.1f} h"
