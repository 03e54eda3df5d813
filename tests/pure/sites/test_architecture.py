"""For which architecture an environment is built, by the site's profile."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.sites.architecture import choose_architecture, find_architecture
from airflow_provider_csc.sites.load import load_profile
from airflow_provider_csc.sites.model import SiteProfile


def site(*, of: str | None = None, **partitions: str | None) -> SiteProfile:
    """A site, and partitions, of which each may say an architecture of its own."""
    said: dict[str, Any] = {name: {"architecture": kind} for name, kind in partitions.items()}
    return SiteProfile(name="ours", title="Ours", architecture=of, partitions=said)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("profile", "partition", "found"),
    [
        (site(of="x86_64", cpu=None, arm="aarch64"), None, "x86_64"),
        (site(of="x86_64", cpu=None, arm="aarch64"), "cpu", "x86_64"),
        (site(of="x86_64", cpu=None, arm="aarch64"), "arm", "aarch64"),
        (site(of="x86_64", cpu=None, arm="aarch64"), "cpu,arm", None),
        (site(of="x86_64", cpu=None, more=None), "cpu,more", "x86_64"),
        (site(of="x86_64", cpu=None, arm="aarch64"), "cpu, arm", None),
        (site(of="x86_64"), "not-in-the-profile", "x86_64"),
        (site(of="x86_64", cpu=None), "not-in-the-profile", None),
        (site(of="x86_64", cpu=None), "cpu,not-in-the-profile", None),
        (site(cpu="x86_64", gpu="x86_64"), None, "x86_64"),
        (site(cpu="x86_64", arm="aarch64"), None, None),
        (site(cpu="x86_64", other=None), None, None),
        (site(cpu="x86_64"), "not-in-the-profile", None),
        (site(), None, None),
    ],
)
def test_it_is_that_of_the_partition_else_of_the_site(
    profile: SiteProfile, partition: str | None, found: str | None
) -> None:
    assert find_architecture(profile, partition) == found


@pytest.mark.parametrize(
    ("name", "found"),
    [("roihu-cpu", "x86_64"), ("roihu-gpu", "aarch64"), ("lumi", "x86_64"), ("generic", None)],
)
def test_the_shipped_profiles_tell_it(name: str, found: str | None) -> None:
    assert find_architecture(load_profile(name), None) == found


@pytest.mark.parametrize(("asked", "chosen"), [(None, "x86_64"), ("x86_64", "x86_64")])
def test_what_is_asked_for_may_be_what_is_there(asked: str | None, chosen: str) -> None:
    assert choose_architecture(asked, site(of="x86_64"), None) == chosen


def test_what_is_asked_for_counts_where_the_profile_tells_nothing() -> None:
    assert choose_architecture("riscv64", site(), None) == "riscv64"
    assert choose_architecture("aarch64", site(cpu="x86_64", arm="aarch64"), None) == "aarch64"


@pytest.mark.parametrize(
    ("partition", "words"),
    [("cpu", "not that of partition cpu of ours, which is 'x86_64'"), (None, "not that of ours,")],
)
def test_what_contradicts_the_profile_is_refused(partition: str | None, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_architecture("aarch64", site(of="x86_64", cpu=None), partition)

    assert words in caught.value.message
    assert "Leave it out" in caught.value.message
    assert (caught.value.details["field"], caught.value.details["value"]) == (
        "architecture",
        "aarch64",
    )
