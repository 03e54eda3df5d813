"""
What a site said of itself a short while ago, so that not every task asks.

Kept on this machine only, in a directory that nobody else can write: it holds no secret, but what
it says is believed.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_csc.errors import SlurmError, TransportError
from airflow_provider_csc.slurm.options import read_arguments
from airflow_provider_csc.slurm.preflight import find_problems
from airflow_provider_csc.slurm.preflight_facts import PreflightFacts

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_csc.client.slurm import SlurmClient
    from airflow_provider_csc.slurm.submit_commands import SubmitRequest
    from airflow_provider_csc.transport.base import SiteSettings

_OURS = 0o700


async def report_problems(
    client: SlurmClient,
    settings: SiteSettings,
    request: SubmitRequest,
    report: Callable[[str], None],
    *,
    max_age: float,
) -> None:
    """
    Say what is known to be in a job's way, by answers of the site that are not too old (s).

    What could not be asked is told when it was asked, and stops nothing: the submission itself
    finds out whether the site is there.
    """
    place = _place_of(settings, request.base_dir)
    facts = _recall(place, max_age)
    if facts is None:
        try:
            facts = await client.preflight_facts(request.base_dir)
        except (TransportError, SlurmError) as error:
            report(f"Preflight: not known, for the site did not answer. {error.message}")
            return
        for problem in facts.problems:
            report(f"Preflight: not known: {problem}")
        _keep(place, facts)
    for finding in find_problems(read_arguments(request.asked), facts):
        report(f"Preflight: {finding}")


def _place_of(settings: SiteSettings, base_dir: str) -> Path | None:
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
    # The same name can be another host behind another jump host.
    way = " ".join(map(str, (*settings.ssh.jump_hosts, settings.ssh.target)))
    seed = f"{way}\n{base_dir}"
    return folder / f"site-{hashlib.sha256(seed.encode()).hexdigest()[:16]}.json"


def _recall(place: Path | None, max_age: float) -> PreflightFacts | None:
    if place is None:
        return None
    try:
        if not 0 <= time.time() - place.stat().st_mtime < max_age:
            return None
        return PreflightFacts.from_payload(json.loads(place.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
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
