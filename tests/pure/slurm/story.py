"""Lets a tracker live through rounds as the poller drives them, against a site made of values."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.answers import Answers
from airflow_provider_csc.slurm.array_tracking import make_tracker
from airflow_provider_csc.slurm.commands import CONTROLLER_FRAME
from airflow_provider_csc.slurm.events import Moment
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.tracking import (
    Ended,
    Event,
    LogLines,
    Note,
    WatchSpec,
)
from tests.pure.slurm.evidence import answer

if TYPE_CHECKING:
    from airflow_provider_csc.slurm.commands import LogRequest, PollRequest

NO_JOB = Frame(1, b"slurm_load_jobs error: Invalid job id specified")
RUN_DIR = "/runs/af0123456789abcdef0123.1"
LOG = f"{RUN_DIR}/stdout.log"


@dataclass
class Site:
    """What a site would answer now; ``readable`` is how far a broken file can be read."""

    squeue: Frame = field(default_factory=answer)
    sacct: Frame = field(default_factory=answer)
    record: bytes | None = None
    progress: str | None = None
    logs: dict[str, bytes] = field(default_factory=dict)
    readable: dict[str, int] = field(default_factory=dict)
    scontrol: Frame = NO_JOB
    requests: list[PollRequest] = field(default_factory=list)

    def answer(self, request: PollRequest, clock: int) -> Answers:
        self.requests.append(request)
        frames = {"clock": Frame(0, str(clock).encode())}
        if request.queued or request.owned:
            frames["squeue"] = self.squeue
        if request.accounted:
            frames["sacct"] = self.sacct
        for job_id in request.detailed:
            frames[f"{CONTROLLER_FRAME}{job_id}"] = self.scontrol
        for name, _ in request.exit_records:
            frames[name] = _file(self.record)
        for name, _ in request.progress:
            frames[name] = _file(None if self.progress is None else self.progress.encode())
        for log in request.logs:
            # Of a file that still has its known size nothing is told.
            if len(self.logs.get(log.path, b"")) != log.known:
                frames[log.name] = self._read(log)
        return Answers(frames)

    def _read(self, request: LogRequest) -> Frame:
        if request.path not in self.logs:
            return Frame(1, b"")
        data = self.logs[request.path]
        stop = min(request.offset + request.limit, self.readable.get(request.path, len(data)))
        part = b64encode(data[request.offset : stop])
        return Frame(0, f"{len(data)} {request.offset} ".encode() + part)


def _file(data: bytes | None) -> Frame:
    return Frame(1, b"cat: No such file or directory") if data is None else Frame(0, data)


class Story:
    """One tracker and its site; each `round` is what `SitePoller` does in one."""

    def __init__(self, spec: WatchSpec | None = None, site: Site | None = None) -> None:
        self.tracker = make_tracker("w0", spec or WatchSpec(job_ids=("123",)))
        self.site = site or Site()
        # The cluster's clock, this machine's, and one that nobody sets.
        self.clock = 100_000
        self.wall = 900_000.0
        self.steady = 50.0
        self.events: list[Event] = []

    def round(self, seconds: int = 0) -> list[Event]:
        """Let time pass, ask once, follow up; return what happened in this round."""
        self.clock += seconds
        self.pass_time(seconds)
        events = self._ask(self.tracker.ask())
        for _ in range(200):
            if not (self.tracker.is_settling or self.tracker.is_starting):
                break
            events += self._ask(self.tracker.follow_up())
            if not (self.tracker.is_settling and self.tracker.logs.has_more):
                break
        self.tracker.logs.confirm(self.tracker.logs.offsets)
        self.events += events
        return events

    def pass_time(self, seconds: float) -> None:
        """Let time pass on this machine."""
        self.wall += seconds
        self.steady += seconds

    @property
    def now(self) -> Moment:
        return Moment(wall=self.wall, steady=self.steady)

    def _ask(self, request: PollRequest) -> list[Event]:
        return self.tracker.observe(self.site.answer(request, self.clock), self.now)

    @property
    def to_cancel(self) -> list[str]:
        return self.tracker.jobs_to_cancel(self.now)

    @property
    def ended(self) -> Ended | None:
        return next((event for event in self.events if isinstance(event, Ended)), None)

    @property
    def lines(self) -> list[str]:
        return [
            line for event in self.events if isinstance(event, LogLines) for line in event.lines
        ]

    @property
    def notes(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Note)]
