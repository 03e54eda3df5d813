"""
What a site said of itself a short while ago, so that not every task asks.

Kept on this machine only, in a directory that nobody else can write: it holds no secret, but what
it says is believed.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import json
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from airflow_provider_csc.deployment import sites_folders
from airflow_provider_csc.errors import ConfigError, ConnectFailedError, CscError
from airflow_provider_csc.slurm.findings import read_time
from airflow_provider_csc.slurm.options import read_arguments
from airflow_provider_csc.slurm.preflight import find_problems
from airflow_provider_csc.slurm.preflight_facts import PreflightFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from airflow_provider_csc.client.slurm import SlurmClient
    from airflow_provider_csc.sites.model import SiteProfile
    from airflow_provider_csc.slurm.findings import Finding
    from airflow_provider_csc.slurm.submit_commands import SubmitRequest
    from airflow_provider_csc.transport.base import SiteSettings

_OURS = 0o700

# Who comes while a site is asked waits for that answer, also for the one that there is none.
# With it goes whether the site was asked just now.
_Answer = tuple["PreflightFacts | CscError", bool]
_Asking = asyncio.Task[_Answer]
_asking: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Asking]] = WeakKeyDictionary()


async def report_problems(
    client: SlurmClient,
    settings: SiteSettings,
    request: SubmitRequest,
    report: Callable[[str], None],
    *,
    max_age: float,
    waits: bool = True,
) -> None:
    """
    Say what is known to be in a job's way, by answers of the site that are not too old (s).

    What could not be asked is told when it was asked, and stops nothing: the submission itself
    finds out whether the site is there. Whoever ``waits`` for the job hears of its certificate
    then.
    """
    options = read_arguments(request.asked)
    try:
        # To read it takes a moment, which an event loop of many tasks does not have.
        profile = await asyncio.to_thread(load_site, settings) if settings.site else None
    except ConfigError as error:
        report(f"Preflight: not known. {error.message}")
        return
    if not waits and wants_certificate(profile):
        await _report_expiry(settings, options, report)
    further = ""
    if profile is not None:
        from airflow_provider_csc.sites.preflight import build_questions  # noqa: PLC0415

        further = build_questions(profile, options)
    seed = _seed(settings, request.base_dir, further)
    facts, is_new = await _ask(client, seed, request, further, max_age)
    if isinstance(facts, CscError):
        # Why there is no connection the submission says, which waits for one.
        why = "" if isinstance(facts, ConnectFailedError) else f" {facts.message}"
        report(f"Preflight: not known, for the site did not answer.{why}")
        return
    for problem in _find_unknown(options, facts, profile) if is_new else ():
        report(f"Preflight: not known: {problem}")
    for finding in _find_problems(options, facts, profile, request.architecture):
        report(f"Preflight: {finding}")


def load_site(settings: SiteSettings) -> SiteProfile | None:
    """
    Return the profile of a connection's site, where it names one.

    :raises ConfigError: when it cannot be read.
    """
    if settings.site is None:
        return None
    from airflow_provider_csc.sites.load import load_profile  # noqa: PLC0415 - needs pydantic

    return load_profile(settings.site, sites_folders())


def wants_certificate(profile: SiteProfile | None) -> bool:
    """Whether a site lets nobody in without a certificate, or may do so: that a profile says."""
    return profile is None or profile.log_in.certificate_hours is not None


def _find_problems(
    options: Mapping[str, str | bool],
    facts: PreflightFacts,
    profile: SiteProfile | None,
    architecture: str | None,
) -> Iterator[Finding]:
    if profile is None:
        yield from find_problems(options, facts)
        return
    from airflow_provider_csc.sites import preflight  # noqa: PLC0415 - needs pydantic

    yield from preflight.find_problems(options, facts, profile, architecture)


def _find_unknown(
    options: Mapping[str, str | bool], facts: PreflightFacts, profile: SiteProfile | None
) -> Iterator[str]:
    yield from facts.problems.values()
    if profile is not None:
        from airflow_provider_csc.sites.preflight import find_unknown  # noqa: PLC0415 - as above

        yield from find_unknown(options, facts, profile).values()


async def _report_expiry(
    settings: SiteSettings, options: Mapping[str, str | bool], report: Callable[[str], None]
) -> None:
    from airflow_provider_csc.transport.certificates import read_certificate  # noqa: PLC0415

    try:
        certificate = await read_certificate(settings.ssh)
    except ConfigError as error:
        report(f"Preflight: not known. {error.message}")
        return
    if certificate and (finding := certificate.find_expiry(time.time(), read_limit(options))):
        report(f"Preflight: {finding}")


def read_limit(options: Mapping[str, str | bool]) -> int | None:
    """Return the time limit of a job in seconds; None where it has none, or none that is known."""
    asked = read_time(options, "time")
    return asked.seconds if asked else None


async def _ask(
    client: SlurmClient, seed: str, request: SubmitRequest, further: str, max_age: float
) -> _Answer:
    """Return what a site says of itself, and whether that is news to who asks first."""
    asking = _asking.setdefault(asyncio.get_running_loop(), {})
    is_first = seed not in asking
    if is_first:
        # A context of its own, for it belongs to nobody: who asked first may leave.
        asking[seed] = asyncio.get_running_loop().create_task(
            _answer(client, seed, request.base_dir, further, max_age),
            context=contextvars.Context(),
            name="slurm-preflight",
        )
        asking[seed].add_done_callback(lambda _: asking.pop(seed, None))
    answer, is_new = await asyncio.shield(asking[seed])
    return answer, is_new and is_first


async def _answer(
    client: SlurmClient, seed: str, base_dir: str, further: str, max_age: float
) -> _Answer:
    place = await asyncio.to_thread(_place_of, seed)
    kept = await asyncio.to_thread(_recall, place, max_age)
    if kept is not None:
        return kept, False
    try:
        facts = await client.preflight_facts(base_dir, further)
    except CscError as error:
        return error, True
    await asyncio.to_thread(_keep, place, facts)
    return facts, True


def _seed(settings: SiteSettings, base_dir: str, further: str) -> str:
    # The same name can be another host behind another jump host.
    way = " ".join(map(str, (*settings.ssh.jump_hosts, settings.ssh.target)))
    # The set-up decides which Slurm answers, and by which variables.
    return f"{way}\n{base_dir}\n{settings.login_setup}\0{further}"


def _place_of(seed: str) -> Path | None:
    """Return the file for a site's answers; None where there is no safe place for it."""
    folder = Path(tempfile.gettempdir()) / f"airflow-csc-{os.getuid()}"
    try:
        folder.mkdir(mode=_OURS, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not is_ours or stat.S_IMODE(status.st_mode) != _OURS:
        return None
    return folder / f"site-{hashlib.sha256(seed.encode()).hexdigest()[:16]}.json"


def _recall(place: Path | None, max_age: float) -> PreflightFacts | None:
    if place is None:
        return None
    try:
        if not 0 <= time.time() - place.stat().st_mtime < max_age:
            return None
        return PreflightFacts.from_payload(json.loads(place.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Away, half of another version, or whatever else: it is asked again.
        return None


def _keep(place: Path | None, facts: PreflightFacts) -> None:
    if place is None:
        return
    own = place.with_name(f"{place.name}.{os.getpid()}")
    try:
        own.write_text(json.dumps(facts.to_payload()), "utf-8")
        own.replace(place)
    except OSError:
        own.unlink(missing_ok=True)
