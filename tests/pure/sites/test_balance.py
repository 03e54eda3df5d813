"""What a project may still use is read from what the sites' own programs print."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.errors import UnreadableOutputError
from airflow_provider_csc.sites.balance import (
    Balance,
    Purse,
    Workspace,
    build_ask_balance,
    build_ask_workspaces,
    parse_csc_projects,
    parse_csc_workspaces,
    parse_lumi_allocations,
    read_balance,
)
from airflow_provider_csc.sites.model import BalanceCommand
from airflow_provider_csc.slurm.framing import Frame

# As the CSC user guide shows it (docs/computing/index.md).
PROJECTS = """\
Project: project_2012345        Owner: Kalle Käyttäjä
Title: "Ortotopology modeling"
Start: 2019-08-20 End: 2029-10-23 Status: open
Billing units      Budget        Used      Remain
--------------      ------        ----      ------
CPU BU:             60000          20       59980
GPU BU:              1000          30         970
Storage BU:        300000          40      299960
Cloud BU:             400          10         390
Latest resource grant: 2025-01-31
-----------------------------------------------------------------
Project info updated: 2025-09-02 15:12
"""
# As users' repositories show it.
ALLOCATIONS = """\
Data updated: 2025-10-10 12:05:41
Project             |                    CPU (used/allocated)|               GPU (used/allocated)|           Storage (used/allocated)
----------------------------------------------------------------------
project_462000963   |      174875/1500000  (11.7%) core/hours|  125563/1500000   (8.4%) gpu/hours|   908606/8000000  (11.4%) TB/hours
project_462000353   |            657004/0    (N/A) core/hours|       9337612/0    (N/A) gpu/hours|        6560216/0    (N/A) TB/hours
"""
# As the CSC user guide shows it (docs/computing/disk.md).
WORKSPACES = """\
Disk area               Capacity(used/max)  Files(used/max)  Cleanup
----------------------------------------------------------------------
Personal home folder

/users/kkayttaj                 4.4G/15G         24K/150K        n/a
----------------------------------------------------------------------
Project: project_2000123 "Project X"

/projappl/project_2000123        24G/15G         36K/150K        n/a
/scratch/project_2000123        103G/250G       389K/500k       180d
----------------------------------------------------------------------
"""
PERL = """\
perl: warning: Setting locale failed.
perl: warning: Please check that your locale settings:
\tLANGUAGE = (unset),
\tLC_ALL = (unset),
\tLC_CTYPE = "UTF-8",
\tLANG = "en_US.UTF-8"
    are supported and installed on your system.
perl: warning: Falling back to the standard locale ("C").
"""


def purse(unit: str, budget: float, used: float, remaining: float) -> Purse:
    return Purse(unit=unit, budget=budget, used=used, remaining=remaining)


ORTOTOPOLOGY = Balance(
    project="project_2012345",
    purses=(
        purse("CPU BU", 60000, 20, 59980),
        purse("GPU BU", 1000, 30, 970),
        purse("Storage BU", 300000, 40, 299960),
        purse("Cloud BU", 400, 10, 390),
    ),
    updated="2025-09-02 15:12",
)


# ---- csc-projects ----


@pytest.mark.parametrize("noise", ["", PERL, "\n\nmotd: maintenance on Monday\n"])
def test_each_purse_of_a_project_is_read_whatever_is_said_before(noise: str) -> None:
    assert parse_csc_projects(noise + PROJECTS) == [ORTOTOPOLOGY]


def test_colours_are_passed_over() -> None:
    coloured = PROJECTS.replace("CPU BU:", "\x1b[1;32mCPU BU:\x1b[0m").replace(
        "59980", "\x1b[31m59980\x1b[0m"
    )
    assert parse_csc_projects(coloured) == [ORTOTOPOLOGY]


@pytest.mark.parametrize(
    "title",
    [
        '"Project: project_1 of the 1990s"',
        '"""',
        "",
        '"CPU BU:   1   1   1"',
        '"two lines\nCPU BU:             9          9       9\nProject: project_9"',
        '"\x1b[31mred\x1b[0m | ünïcødé 漢字 100%"',
    ],
)
def test_a_title_may_hold_anything(title: str) -> None:
    text = PROJECTS.replace('"Ortotopology modeling"', title)
    assert parse_csc_projects(text) == [ORTOTOPOLOGY]


def test_several_projects_are_several_balances() -> None:
    other = PROJECTS.replace("2012345", "2000001").replace("59980", "-20")
    found = parse_csc_projects(PROJECTS + other)
    assert [each.project for each in found] == ["project_2012345", "project_2000001"]
    cpu = found[1].find("CPU BU")
    assert cpu is not None
    assert cpu.remaining == -20


def test_what_is_not_available_stays_unknown() -> None:
    text = PROJECTS.replace("1000          30         970", "N/A          N/A         N/A")
    gpu = parse_csc_projects(text)[0].find("GPU BU")
    assert gpu == Purse(unit="GPU BU", budget=None, used=None, remaining=None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        PERL,
        "Ortotopology modeling\n",  # csc-projects -o T
        "csc-projects: command not found",
        PROJECTS.partition("CPU BU")[0],
        PROJECTS.replace(" BU:", " units:"),
    ],
)
def test_what_has_no_budget_in_it_is_an_error_and_not_a_budget_of_nothing(text: str) -> None:
    with pytest.raises(UnreadableOutputError, match="csc-projects"):
        parse_csc_projects(text)


# ---- lumi-allocations ----


@pytest.mark.parametrize("noise", ["", PERL])
def test_lumis_three_purses_are_read(noise: str) -> None:
    first, second = parse_lumi_allocations(noise + ALLOCATIONS)
    assert first == Balance(
        project="project_462000963",
        purses=(
            purse("core-hours", 1500000, 174875, 1325125),
            purse("GPU-hours", 1500000, 125563, 1374437),
            purse("TB-hours", 8000000, 908606, 7091394),
        ),
        updated="2025-10-10 12:05:41",
    )
    assert second.purses == (
        purse("core-hours", 0, 657004, -657004),
        purse("GPU-hours", 0, 9337612, -9337612),
        purse("TB-hours", 0, 6560216, -6560216),
    )


def test_a_cell_of_another_form_is_an_error_and_no_purse_less() -> None:
    with pytest.raises(UnreadableOutputError, match="12 cores"):
        parse_lumi_allocations(
            ALLOCATIONS.replace("174875/1500000  (11.7%) core/hours", "12 cores")
        )


@pytest.mark.parametrize("text", ["", ALLOCATIONS.partition("project_")[0], "no such project"])
def test_a_table_without_rows_is_an_error(text: str) -> None:
    with pytest.raises(UnreadableOutputError, match="lumi-allocations"):
        parse_lumi_allocations(text)


# ---- asking ----


def test_the_balance_of_the_project_that_was_asked_for_is_returned() -> None:
    frame = Frame(0, (PERL + ALLOCATIONS).encode())
    found = read_balance(frame, BalanceCommand.LUMI_ALLOCATIONS, "project_462000353")
    assert found.purses[0].used == 657004


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (Frame(1, b"no such project"), "status 1: no such project"),
        (Frame(0, PROJECTS.encode()), "nothing of 'project_2'"),
    ],
)
def test_a_program_that_fails_or_speaks_of_others_tells_no_balance(
    frame: Frame, words: str
) -> None:
    with pytest.raises(UnreadableOutputError, match=words):
        read_balance(frame, BalanceCommand.CSC_PROJECTS, "project_2")


def test_a_projects_name_cannot_become_a_command() -> None:
    text = build_ask_balance(BalanceCommand.CSC_PROJECTS, "$(reboot) `x` ;'")
    assert text == "ask balance env LC_ALL=C csc-projects -p '$(reboot) `x` ;'\"'\"''\n"
    assert build_ask_workspaces() == "ask workspaces env LC_ALL=C csc-workspaces\n"


# ---- csc-workspaces ----

GIB = 2**30


def test_quotas_and_numbers_of_files_are_read() -> None:
    home, projappl, scratch = parse_csc_workspaces(PERL + WORKSPACES)
    assert home == Workspace(
        path="/users/kkayttaj",
        project=None,
        used_bytes=round(4.4 * GIB),
        quota_bytes=15 * GIB,
        used_files=24_000,
        quota_files=150_000,
        purge_days=None,
    )
    assert (projappl.project, projappl.used_bytes) == ("project_2000123", 24 * GIB)
    assert (scratch.used_files, scratch.quota_files) == (389_000, 500_000)
    assert scratch.purge_days == 180


@pytest.mark.parametrize(
    ("written", "used", "quota"),
    [
        ("7.2/10TB", round(7.2 * 2**40), 10 * 2**40),
        ("512M/1TiB", 512 * 2**20, 2**40),
        ("0B/250G", 0, 250 * GIB),
        ("12k/1G", 12 * 1024, GIB),
        ("3G/n/a", 3 * GIB, None),
        ("-/15G", None, 15 * GIB),
    ],
)
def test_units_are_written_in_many_ways(written: str, used: int | None, quota: int | None) -> None:
    (found,) = parse_csc_workspaces(f"/scratch/project_1   {written}   1K/500k  180d")
    assert (found.used_bytes, found.quota_bytes) == (used, quota)


@pytest.mark.parametrize("text", ["", "/scratch/project_1 full", WORKSPACES.replace("/", "|")])
def test_no_area_is_an_error(text: str) -> None:
    with pytest.raises(UnreadableOutputError, match="csc-workspaces"):
        parse_csc_workspaces(text)


# ---- whatever is printed ----

PARSERS = [parse_csc_projects, parse_lumi_allocations, parse_csc_workspaces]
LINES = [line for text in (PROJECTS, ALLOCATIONS, WORKSPACES, PERL) for line in text.split("\n")]


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """Lines of all programs, each cut or with something put in."""
    lines = draw(st.lists(st.sampled_from(LINES), max_size=20))
    done = []
    for line in lines:
        at = draw(st.integers(0, len(line)))
        done.append(line[:at] + draw(st.text(max_size=5)) + line[draw(st.integers(0, at)) :])
    return "\n".join(done)


@pytest.mark.parametrize("parse", PARSERS)
@given(text=st.text() | damaged())
def test_no_text_raises_anything_but_that_it_cannot_be_read(parse: object, text: str) -> None:
    with contextlib.suppress(UnreadableOutputError):
        assert parse(text)  # type: ignore[operator]
