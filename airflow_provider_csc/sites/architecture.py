"""What programs have to be built for to run on the nodes of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.notation import shown

if TYPE_CHECKING:
    from airflow_provider_csc.sites.model import Architecture, SiteProfile


def find_architecture(profile: SiteProfile, partition: str | None) -> str | None:
    """
    Return what ``uname -m`` says on the nodes of a partition, or of several (``a,b``).

    Without one it is that of the site; None where the profile does not tell, or they differ. Of a
    partition beside those that it names nothing is known: Roihu's profiles have a half each.
    """
    kinds: set[Architecture | None] = {profile.architecture}
    if partition is not None and profile.partitions:
        named = [profile.partitions.get(name.strip()) for name in partition.split(",")]
        kinds = {(each.architecture or profile.architecture) if each else None for each in named}
    elif profile.architecture is None:
        kinds = {each.architecture for each in profile.partitions.values()}
    kind = kinds.pop() if len(kinds) == 1 else None
    return kind.value if kind else None


def choose_architecture(
    asked: str | None, profile: SiteProfile, partition: str | None
) -> str | None:
    """
    Return the architecture that is asked for, else that of a partition or of the site.

    :raises ConfigError: where the two contradict each other.
    """
    found = find_architecture(profile, partition)
    if asked and found and asked != found:
        place = f"partition {partition} of {profile.name}" if partition else profile.name
        raise ConfigError(
            f"architecture: {shown(asked)} is not that of {place}, which is {found!r}. Leave it "
            "out, name a partition or a connection with such nodes, or correct the site's profile.",
            field="architecture",
            value=asked,
        )
    return asked or found
