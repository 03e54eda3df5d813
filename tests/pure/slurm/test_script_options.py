"""
The ``#SBATCH`` lines of a script are read as sbatch reads them.

tests/cluster/test_sbatch_agrees.py holds the real sbatch to the same scripts.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.slurm.script_options import check_script_options, read_script_options
from tests.pure.slurm import option_cases


@pytest.mark.parametrize(
    ("script", "options"), [case[1:] for case in option_cases.SCRIPTS],
    ids=[case[0] for case in option_cases.SCRIPTS],
)  # fmt: skip
def test_options_are_found_where_sbatch_finds_them(script: str, options: dict[str, Any]) -> None:
    found = read_script_options("#!/bin/bash\n" + script + "true\n")
    assert (found.options, found.unreadable) == (options, ())


@pytest.mark.parametrize(("script", "unreadable"), option_cases.UNREADABLE_SCRIPTS)
def test_what_is_no_option_of_the_table_is_put_aside(
    script: str, unreadable: tuple[str, ...]
) -> None:
    assert read_script_options("#!/bin/bash\n" + script).unreadable == unreadable


def test_an_option_of_a_sites_plugin_does_not_hide_the_others() -> None:
    found = read_script_options("#SBATCH --x11 --tmpfs 5G -p small\n#SBATCH --ear=on -J n\n")
    assert found.options == {"partition": "small", "job-name": "n"}
    assert found.unreadable == ("--x11", "--tmpfs", "5G", "--ear=on")


def test_lines_are_kept_as_written_and_in_order() -> None:
    script = (
        "#!/bin/bash\n#SBATCH  -p small # why\n# note\n#SBATCH --zzz\n\ntrue\n#SBATCH -J late\n"
    )
    assert read_script_options(script).lines == ("#SBATCH  -p small # why", "#SBATCH --zzz")


def test_a_carriage_return_is_a_space() -> None:
    """Such a script is refused elsewhere, with the reason; here it must only be read."""
    assert read_script_options("#SBATCH -J n\r\n\r\n#SBATCH -H\r\n").options == {
        "job-name": "n",
        "hold": True,
    }


def test_a_backslash_keeps_a_space_in_the_word() -> None:
    """So it is since Slurm 24.05; before, the word ended at the space."""
    assert read_script_options("#SBATCH --comment=a\\ b\n").options == {"comment": "a b"}


def test_a_heterogeneous_job_is_told_apart_and_its_first_component_read() -> None:
    script = "#!/bin/bash\n#SBATCH -N1 -J n\n#SBATCH hetjob\n#SBATCH -N2 -p gpu\ntrue\n"
    found = read_script_options(script)
    assert found.is_heterogeneous
    assert found.options == {"nodes": "1", "job-name": "n"}
    assert len(found.lines) == 3
    assert not read_script_options("#SBATCH -N1\n").is_heterogeneous


@pytest.mark.parametrize(
    "script", ["", "\n", "#!/bin/bash", "echo", "#SBATCH", "#SBATCH\n\n", "\0"]
)
def test_a_script_without_options_has_none(script: str) -> None:
    found = read_script_options(script)
    assert (found.options, found.unreadable) == ({}, ())


def test_values_are_not_judged() -> None:
    found = read_script_options("#SBATCH --time=soon -n many --exclusive -k\n")
    assert found.options == {"time": "soon", "ntasks": "many", "exclusive": True, "no-kill": True}


@pytest.mark.parametrize(
    "line",
    ["-W", "--wait", "--test-only", "-M lumi", "--clusters=lumi", "--cluster a", "--external"],
)
def test_what_no_command_line_can_undo_must_be_taken_out_of_a_script(line: str) -> None:
    found = read_script_options(f"#!/bin/bash\n#SBATCH {line}\n")
    with pytest.raises(ConfigError, match=r"^script: #SBATCH --.* cannot be used: .*Take '--"):
        check_script_options(found)


def test_a_script_may_set_what_the_command_line_overrides() -> None:
    script = "#SBATCH -J n -D /tmp -o x -e y --parsable --wrap=x -Q -v\n"
    check_script_options(read_script_options(script))


WORDS = st.text(alphabet="-=ab pN1\"'\\#:\t\r\n", max_size=30)


@given(st.lists(WORDS, max_size=5))
def test_any_script_is_read(lines: list[str]) -> None:
    script = "".join(f"#SBATCH {line}\n" for line in lines)
    found = read_script_options(script)
    assert len(found.lines) <= len(script.split("\n"))


@given(st.text(alphabet=st.characters(exclude_characters="\n\0", codec="utf-8"), min_size=1))
def test_a_quoted_value_is_read_as_it_was_written(value: Any) -> None:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    found = read_script_options(f'#SBATCH --comment="{escaped}" -J n\n')
    assert found.options == {"comment": value, "job-name": "n"}
