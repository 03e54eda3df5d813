"""Put a job on a site: its resources become options there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_provider_csc.sites.resources import read_resources
from airflow_provider_csc.sites.translation import translate
from airflow_provider_csc.slurm.option_names import override_options
from airflow_provider_csc.slurm.options import parse_options
from airflow_provider_csc.slurm.script_options import read_script_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_csc.sites.model import SiteProfile
    from airflow_provider_csc.slurm.plan import JobSpec


def place(
    spec: JobSpec, script: str, profile: SiteProfile, defaults: Mapping[str, str | None]
) -> tuple[JobSpec, tuple[str, ...]]:
    """
    Return the job with options instead of resources, and why they are these.

    Options of the task and lines of its script are kept. Of the connection's defaults the time is
    taken, and the partition only where the profile has none to choose from.

    :raises ConfigError: for what the site cannot give.
    """
    if spec.resources is None:
        return spec, ()
    said = {**read_script_options(script).options, **parse_options(spec.options)}
    known = dict(said)
    for name in ("time",) if profile.partitions else ("time", "partition"):
        if defaults.get(name) and name not in known:
            known |= parse_options({name: defaults[name]})
    made = translate(read_resources(spec.resources), profile, known)
    added = {name: value for name, value in made.options.items() if name not in said}
    return replace(
        spec, options=override_options(spec.options, added), resources=None
    ), made.reasons
