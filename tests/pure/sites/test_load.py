"""Which profiles there are, what a user's own file makes of them, and what is wrong with one."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING

import pytest

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.sites.load import SHIPPED, find_profile, list_profiles, load_profile

if TYPE_CHECKING:
    from pathlib import Path

SHIPPED_NAMES = {"generic", "lumi", "mahti", "puhti", "roihu-cpu", "roihu-gpu"}


def write(folder: Path, name: str, text: str) -> tuple[str, ...]:
    (folder / name).write_text(textwrap.dedent(text))
    return (str(folder),)


def refusal(name: str, folders: tuple[str, ...]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_profile(name, folders)
    return caught.value


def test_the_shipped_profiles_are_there() -> None:
    assert set(list_profiles()) == SHIPPED_NAMES


@pytest.mark.parametrize("name", sorted(SHIPPED_NAMES))
def test_a_shipped_profile_is_one(name: str) -> None:
    assert load_profile(name).name == name
    assert find_profile(name) == SHIPPED


@pytest.mark.parametrize("name", sorted(SHIPPED_NAMES - {"generic"}))
def test_a_shipped_profile_names_its_sources(name: str) -> None:
    profile = load_profile(name)
    assert profile.sources
    assert profile.as_of
    assert profile.log_in.host
    assert len(profile.log_in.host_key_fingerprints) == 3


def test_a_file_of_the_users_own_is_a_profile(tmp_path: Path) -> None:
    folders = write(tmp_path, "mine.yaml", "title: Mine\nlog_in: {host: login.example.org}\n")
    assert load_profile("mine", folders).log_in.host == "login.example.org"
    assert find_profile("mine", folders) == str(tmp_path / "mine.yaml")
    assert set(list_profiles(folders)) == SHIPPED_NAMES | {"mine"}


def test_a_file_extends_the_shipped_one_of_its_own_name(tmp_path: Path) -> None:
    folders = write(
        tmp_path,
        "lumi.yaml",
        """
        extends: lumi
        partitions:
          small: {max_nodes: 2, max_submitted: null}
          q_fiqci: null
        """,
    )
    mine, shipped = load_profile("lumi", folders), load_profile("lumi")
    assert mine.partitions["small"].max_nodes == 2
    assert mine.partitions["small"].max_submitted is None
    assert mine.partitions["small"].max_time == shipped.partitions["small"].max_time
    assert set(shipped.partitions) - set(mine.partitions) == {"q_fiqci"}


def test_the_first_of_several_folders_wins(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "mine.yaml", f"title: {name}\n")
    folders = (str(tmp_path / "one"), str(tmp_path / "two"))
    assert load_profile("mine", folders).title == "one"


def test_a_chain_of_files_is_followed(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "extends: b\ntitle: A\n")
    write(tmp_path, "b.yaml", "extends: c\nlog_in: {host: b}\n")
    folders = write(tmp_path, "c.yaml", "title: C\nlog_in: {host: c, port: 23}\n")
    found = load_profile("a", folders)
    assert (found.title, found.log_in.host, found.log_in.port) == ("A", "b", 23)


def test_what_a_parent_takes_away_stays_away(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "extends: b\nlog_in: {port: 23}\n")
    write(tmp_path, "b.yaml", "extends: c\nlog_in: null\n")
    folders = write(tmp_path, "c.yaml", "title: C\nlog_in: {host: c}\n")
    assert load_profile("a", folders).log_in.host is None


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    folders = write(tmp_path, "mine.yaml", "title: One\n")
    assert load_profile("mine", folders).title == "One"
    write(tmp_path, "mine.yaml", "title: Another\n")
    assert load_profile("mine", folders).title == "Another"


@pytest.mark.parametrize("text", ["12:00:00", "'12:00:00'", "0-12:00:00", "720"])
def test_a_time_need_not_be_quoted(text: str, tmp_path: Path) -> None:
    folders = write(tmp_path, "m.yaml", f"title: M\npartitions: {{p: {{max_time: {text}}}}}\n")
    assert load_profile("m", folders).partitions["p"].max_time == 12 * 3600


BAD = {
    "an unknown field": (
        "title: M\npartitions:\n  p:\n    max_tim: 1\n",
        (4, 5, "partitions.p.max_tim"),
        "Did you mean 'max_time'?",
    ),
    "an unknown field of nothing known": (
        "title: M\nlog_in: {zzz: 1}\n",
        (2, 10, "log_in.zzz"),
        "There are: certificate_from,",
    ),
    "an unknown field of an optional part": (
        "title: M\npartitions: {p: {gpus: {per_node: 1, typ: x}}}\n",
        (2, 38, "partitions.p.gpus.typ"),
        "Did you mean 'type'?",
    ),
    "an unknown field of an item": (
        "title: M\nbilling: {b: {unit: u, highest_of: [{off: cores, of: cores}]}}\n",
        (2, 38, "billing.b.highest_of.0.off"),
        "Did you mean 'of'?",
    ),
    "a bad value": (
        "title: M\nlog_in:\n  port: 99999\n",
        (3, 3, "log_in.port"),
        "99999 cannot be",
    ),
    "a bad choice": (
        "title: M\narchitecture: arm\n",
        (2, 1, "architecture"),
        "'x86_64' or 'aarch64'",
    ),
    "a bad memory size": (
        "title: M\npartitions: {p: {memory_per_node: lots}}\n",
        (2, 18, "partitions.p.memory_per_node"),
        "'lots' cannot be",
    ),
    "a truth where a number is to stand": (
        "title: M\npartitions: {p: {max_nodes: true}}\n",
        (2, 18, "partitions.p.max_nodes"),
        "True cannot be",
    ),
    "an option sbatch does not have": (
        "title: M\njobs:\n  options: {exprot: NONE}\n",
        (3, 3, "jobs.options"),
        "Did you mean 'export'?",
    ),
    "an option that is the provider's own": (
        "title: M\njobs:\n  options: {wrap: 'true'}\n",
        (3, 3, "jobs.options"),
        "--wrap cannot be set here",
    ),
    "a bad name of a variable": (
        "title: M\njobs:\n  env: {MY-VAR: x}\n",
        (3, 3, "jobs.env"),
        "MY-VAR",
    ),
    "a bad name of a partition": (
        "title: M\npartitions:\n  'a b': {}\n",
        (3, 3, "partitions.a b"),
        "'a b' cannot be",
    ),
    "a fingerprint that is none": (
        "title: M\nlog_in:\n  host_key_fingerprints:\n  - 'MD5:aa'\n",
        (4, 5, "log_in.host_key_fingerprints.0"),
        "'MD5:aa' cannot be",
    ),
    "a formula that does not exist": (
        "title: M\npartitions: {p: {billing: gpu}}\n",
        (1, 1, "profile"),
        "there is no formula 'gpu'",
    ),
    "a field that is missing": ("architecture: x86_64\n", (1, 1, "title"), "missing"),
    "a key that stands twice": (
        "title: M\ntitle: N\n",
        (2, 1, "site"),
        "'title' stands twice, also in line 1",
    ),
    "a tag": (
        "title: !!python/name:os.system x\n",
        (1, 8, "site"),
        "'!!python/name:os.system' is not read",
    ),
    "a list": ("- title: M\n", (1, 1, "site"), "Write a mapping"),
    "no YAML": ("title: [M\n", (2, 1, "site"), "no YAML"),
    "another name": ("name: n\ntitle: M\n", (1, 1, "name"), "'m'"),
    "a parent that does not exist": (
        "title: M\nextends: lmui\n",
        (2, 1, "extends"),
        "Did you mean 'lumi'?",
    ),
    "a parent that is a list": ("title: M\nextends: [lumi]\n", (2, 1, "extends"), "Name one"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_error_names_file_place_field_and_remedy(case: str, tmp_path: Path) -> None:
    text, (line, column, field), words = BAD[case]
    error = refusal("m", write(tmp_path, "m.yaml", text))
    assert words in error.message
    assert f"{tmp_path / 'm.yaml'}:{line}:{column}: {field}:" in error.message
    assert error.details["field"] == field
    assert (error.details["path"], error.details["line"]) == (str(tmp_path / "m.yaml"), line)


def test_all_errors_of_a_file_are_told(tmp_path: Path) -> None:
    folders = write(tmp_path, "m.yaml", "titel: M\narchitecture: arm\n")
    lines = refusal("m", folders).message.splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "title",
        "architecture",
        "titel",
    ]


def test_an_error_in_what_is_extended_names_that_file(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "title: B\nlog_in: {port: 0}\n")
    folders = write(tmp_path, "m.yaml", "extends: base\nlog_in: {host: h}\n")
    assert f"{tmp_path / 'base.yaml'}:2:10: log_in.port:" in refusal("m", folders).message


def test_files_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "extends: b\n")
    folders = write(tmp_path, "b.yaml", "extends: a\n")
    assert "extends itself" in refusal("a", folders).message


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "m.yml", "title: M\n")
    folders = write(tmp_path, "m.yaml", "title: M\n")
    assert "m.yml beside it" in refusal("m", folders).message


def test_an_unknown_name_gets_the_nearest_one() -> None:
    assert refusal("roihu", ()).message.endswith("Did you mean 'roihu-gpu'?")


def test_a_folder_that_is_not_there_is_named_where_a_profile_is_missed() -> None:
    assert "there is no /no/such/folder" in refusal("zzz", ("/no/such/folder",)).message


def test_a_name_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    write(tmp_path, "m.yaml", "title: M\n")
    assert "no profile" in refusal("../m", (str(tmp_path / "below"),)).message


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    folders = write(tmp_path, "m.yaml", "title: M\n" + "#" * 1_000_001)
    assert "too large" in refusal("m", folders).message


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_bytes(b"title: \xff\n")
    assert "cannot be read" in refusal("m", (str(tmp_path),)).message


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").symlink_to(tmp_path / "gone")
    assert "No such file" in refusal("m", (str(tmp_path),)).message
