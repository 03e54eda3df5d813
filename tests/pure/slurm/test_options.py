"""
The options a user gives are read, checked and written as sbatch takes them.

We refuse nothing that sbatch takes, but for two kinds of value: reserved options, and those in
``option_cases.MISREAD``. tests/cluster/test_sbatch_agrees.py holds the real sbatch to the tables.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.slurm.option_names import check_option_names
from airflow_provider_csc.slurm.option_table import (
    ALIASES,
    CONTRADICTIONS,
    OPTIONS,
    RESERVED,
    SHORT_FORMS,
    Kind,
)
from airflow_provider_csc.slurm.options import (
    check_contradictions,
    option_arguments,
    parse_options,
)
from tests.pure.slurm import option_cases


def arguments(options: dict[str, object]) -> list[str]:
    return option_arguments(parse_options(options))


def refused(options: dict[str, object]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_options(options)
    error = caught.value
    assert error.message.startswith(f"{error.field}: ")
    assert error.message.endswith(str(error.remedy))
    assert str(error.value) in error.message
    return error


@pytest.mark.parametrize(("name", "value", "argument"), option_cases.TAKEN)
def test_what_sbatch_takes_is_taken_and_gets_one_spelling(
    name: str, value: Any, argument: str
) -> None:
    assert arguments({name: value}) == [argument]


@pytest.mark.parametrize(("name", "value"), option_cases.REFUSED + option_cases.MISREAD)
def test_what_sbatch_refuses_or_misreads_is_refused(name: str, value: Any) -> None:
    assert refused({name: value}).field == f"options['{name}']"


@pytest.mark.parametrize(
    ("name", "value", "argument"),
    [
        ("time", 90, "--time=0-01:30:00"),
        ("time", timedelta(hours=36), "--time=1-12:00:00"),
        ("time", 0, "--time=UNLIMITED"),
        ("delay_boot", timedelta(minutes=5), "--delay-boot=0-00:05:00"),
        ("mem", 4000, "--mem=4000M"),
        ("mem", 0, "--mem=0"),
        ("nodes", 2, "--nodes=2"),
        ("ntasks", 4, "--ntasks=4"),
        ("gpus", 2, "--gpus=2"),
        ("signal", 10, "--signal=10"),
        ("nice", 1, "--nice=1"),
        ("nice", 0, "--nice=0"),
        ("nice", -5, "--nice=-5"),
        ("array", range(100), "--array=0-99"),
        ("array", [1, 3, "5-7%2"], "--array=1,3,5-7%2"),
        ("array", 5, "--array=5"),
        ("dependency", 123, "--dependency=123"),
        ("dependency", ["afterok:1", "afterany:2"], "--dependency=afterok:1,afterany:2"),
        ("gres", ["gpu:gh200:2", "nvme:100"], "--gres=gpu:gh200:2,nvme:100"),
        ("nodelist", ("c1", "c[3-4]"), "--nodelist=c1,c[3-4]"),
        ("partition", ["small", "large"], "--partition=small,large"),
        ("mail_type", ["END", "FAIL"], "--mail-type=END,FAIL"),
        ("export", ["ALL", "X=1"], "--export=ALL,X=1"),
        ("wait-all-nodes", 1, "--wait-all-nodes=1"),
        ("oom-kill-step", 0, "--oom-kill-step=0"),
        ("requeue", "expedite", "--requeue=expedite"),
        ("output", PurePosixPath("/scratch/a b/%j.log"), "--output=/scratch/a b/%j.log"),
        ("comment", 3.5, "--comment=3.5"),
        ("begin", timedelta(hours=1), "--begin=now+3600"),
        ("begin", datetime(2030, 1, 1, tzinfo=UTC), "--begin=uts1893456000"),
        ("deadline", datetime(2030, 1, 1, 12), "--deadline=2030-01-01T12:00:00"),  # noqa: DTZ001
        ("resources", ["a", "b"], "--resources=a,b"),
        ("exclusive", True, "--exclusive"),
        ("exclusive", "True", "--exclusive"),
        ("hold", True, "--hold"),
        ("hold", "true", "--hold"),
        ("propagate", True, "--propagate"),
    ],
)
def test_python_values_are_written_as_sbatch_reads_them(
    name: str, value: Any, argument: str
) -> None:
    assert arguments({name: value}) == [argument]


@pytest.mark.parametrize("name", ["time", "hold", "exclusive", "array", "comment"])
@pytest.mark.parametrize("value", [None, False, [], ()])
def test_none_false_and_empty_lists_leave_an_option_out(name: str, value: Any) -> None:
    assert parse_options({name: value}) == {}


@pytest.mark.parametrize("name", ["hold", "exclusive", "nice"])
def test_a_rendered_false_leaves_out_what_can_stand_alone(name: str) -> None:
    assert parse_options({name: "False"}) == {}


@pytest.mark.parametrize("key", ["cpus-per-task", "cpus_per_task", "--cpus-per-task"])
def test_names_may_have_underscores_and_leading_dashes(key: str) -> None:
    assert arguments({key: 2}) == ["--cpus-per-task=2"]


def test_arguments_are_in_alphabetical_order() -> None:
    options = {"time": 1, "account": "a", "hold": True, "mem": "1G"}
    assert arguments(options) == ["--account=a", "--hold", "--mem=1G", "--time=0-00:01:00"]


@pytest.mark.parametrize("name", ["comment", "account", "output", "nodelist", "constraint"])
@pytest.mark.parametrize(
    "value",
    [
        *("two words", "'single'", '"double"', "$(touch x)", "`touch x`", "$HOME", "a;b", "a|b&c"),
        *("ääkköset", "日本", "-dash", "--dash=x", "back\\slash", "#hash", "*", "~", "\ttab", "\r"),
        *("!", "{a,b}", "<x>", " ", ""),
    ],
)
def test_text_reaches_sbatch_as_it_is(name: str, value: Any) -> None:
    """The argument, quoted, comes out of a real bash unchanged."""
    (argument,) = arguments({name: value})
    assert argument == f"--{name}={value}"
    assert shlex.split(shlex.quote(argument)) == [argument]


def test_quoted_arguments_come_out_of_bash_unchanged() -> None:
    values = [value for name, value, _ in option_cases.TAKEN if name == "comment"]
    values += ["$(touch x)", "`id`", "'\"\\", "*", "!x", "ä", "-n", " "]
    (echoed,) = {
        subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {shlex.join(f'--comment={v}' for v in values)}"],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
    }
    assert echoed.split("\0")[:-1] == [f"--comment={value}" for value in values]


@pytest.mark.parametrize("value", ["a\nb", "a\0b", "\n", ["a", "b\n"]])
@pytest.mark.parametrize("name", ["comment", "time", "nodelist", "exclusive"])
def test_newlines_and_nul_bytes_are_refused(name: str, value: Any) -> None:
    assert "\n" not in refused({name: value}).message


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("memm", "Did you mean 'mem'"),
        ("partitoin", "Did you mean 'partition'?"),
        ("cpus", "Did you mean 'cpus-per-gpu' or 'cpus-per-task'?"),
        ("Time", "'time'"),
        ("walltime", "'time'"),
        ("p", "Did you mean 'partition'?"),
        ("-p", "Did you mean 'partition'?"),
        ("xyzzy", "See sbatch(1)"),
        ("", "See sbatch(1)"),
        ("time; rm -rf ~", "sbatch has no such option"),
        ("time=5", "sbatch has no such option"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_ones(key: str, said: str) -> None:
    error = refused({key: "4G"})
    assert error.field == f"options[{key!r}]"
    assert said in error.message
    assert "(given '4G')" in error.message


@pytest.mark.parametrize("key", sorted(RESERVED))
def test_a_reserved_option_is_refused_with_the_reason(key: str) -> None:
    assert f"--{key} cannot be set here: " in refused({key: True}).message


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("chdir", "Use `work_dir`."),
        ("job_name", "Use `job_name`."),
        ("--job-name", "Use `job_name`."),
        ("wrap", "Use `command`."),
        ("wait", "Use `wait_for_completion`, which waits here."),
        ("cluster", "Use one connection for each."),
    ],
)
def test_a_reserved_option_is_told_what_to_use_instead(key: str, instead: str) -> None:
    assert refused({key: "x"}).remedy == instead


@pytest.mark.parametrize("options", option_cases.CONTRADICTIONS)
def test_a_contradiction_is_named(options: dict[str, Any]) -> None:
    error = refused(options)
    assert all(name in error.message for name in options)


@pytest.mark.parametrize(
    "options",
    [
        {"exclusive": True, "oversubscribe": True},
        {"requeue": True, "no-requeue": True},
        {"ntasks-per-gpu": 1, "tres-per-task": "cpu:1"},
    ],
)
def test_what_newer_releases_refuse_and_older_ones_decide_silently_is_refused(
    options: dict[str, Any],
) -> None:
    """sbatch 22.05 takes the first two and follows the one that comes last."""
    assert refused(options)


@pytest.mark.parametrize(
    "options",
    [
        {"exclusive": "user", "requeue": True, "mem": "1G", "cpus-per-task": 2},
        {"mem": "1G", "mem-per-cpu": None},
        {"time": "20", "time-min": "10"},
        {"time": "10", "time-min": "10"},
        {"time": "UNLIMITED", "time-min": "10"},
        {"time-min": "10"},
        {"hint": "multithread", "ntasks-per-core": 1},
    ],
)
def test_what_goes_together_is_taken(options: dict[str, Any]) -> None:
    assert parse_options(options)


def test_a_script_and_options_can_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match=r"--mem is given as well"):
        check_contradictions({"mem": "1G"} | {"mem-per-cpu": "2G"})


def test_an_option_given_twice_is_refused_with_both_spellings() -> None:
    message = refused({"cpus_per_task": 1, "cpus-per-task": 2}).message
    assert "given twice" in message
    assert "'cpus_per_task'" in message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"time": True}, "--time needs a value (given True). Write minutes, MM:SS"),
        ({"comment": True}, "Give its value as text."),
        ({"open-mode": True}, "Write one of append, truncate"),
        ({"hold": "yes"}, "--hold takes no value, not 'yes'. Write True or False."),
        ({"hold": 1}, "--hold takes no value, not 1."),
        ({"time": {"hours": 1}}, "is a dict. Write minutes"),
        ({"time": ["1:00", "2:00"]}, "is a list. Write minutes"),
        ({"time": datetime(2030, 1, 1, tzinfo=UTC)}, "is a datetime."),
        ({"ntasks": 4.5}, "'4.5' is not a count"),
        ({"nodelist": ["a", True]}, "True is a bool"),
        ({"nice": [1]}, "is a list"),
        ({"comment": b"x"}, "is a bytes"),
        ({"time": timedelta(0)}, "is not a positive time"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_what_is_right(
    options: dict[str, Any], said: str
) -> None:
    assert said in refused(options).message


def test_the_message_reads_as_sentences() -> None:
    assert refused({"time": "2 hours"}).message == (
        "options['time']: '2 hours' is not a time. Write minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, "
        "D-HH:MM:SS or UNLIMITED, for example '02:30:00' or '1-12:00:00'."
    )


def test_a_huge_value_is_shown_by_its_ends() -> None:
    assert len(refused({"time": "x" * 10_000}).message) < 400


def test_names_alone_are_checked_before_values_are_rendered() -> None:
    check_option_names({"time": "{{ params.time }}", "array": "{{ x }}", "cpus_per_task": object()})
    for options in ({"tmie": "{{ x }}"}, {"wait": None}, {"mem_bind": 1, "mem-bind": 2}):
        with pytest.raises(ConfigError):
            check_option_names(options)


def test_the_table_names_each_option_and_letter_once() -> None:
    letters = [option.short for option in OPTIONS.values() if option.short]
    assert len(letters) == len(set(letters)) == len(SHORT_FORMS)
    assert set(RESERVED) | set(ALIASES.values()) <= set(OPTIONS)
    assert not set(ALIASES) & set(OPTIONS)
    assert {name for group in CONTRADICTIONS for name in group} <= set(OPTIONS)
    assert all(option.choices for option in OPTIONS.values() if option.kind is Kind.CHOICE)


OPTION_VALUES = st.one_of(
    st.text(max_size=20),
    st.integers(),
    st.booleans(),
    st.none(),
    st.floats(allow_nan=False),
    st.timedeltas(),
    st.lists(st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=2), st.none(), max_size=1),
)


@given(st.sampled_from(sorted(set(OPTIONS) - set(RESERVED))), OPTION_VALUES)
def test_any_value_becomes_one_argument_or_a_named_error(name: str, value: Any) -> None:
    """Any other exception than ConfigError fails the test."""
    with contextlib.suppress(ConfigError):
        written = arguments({name: value})
        assert len(written) <= 1
        assert all(argument.startswith(f"--{name}") for argument in written)
        assert not set("".join(written)) & {"\n", "\0"}


@given(st.sampled_from(option_cases.TAKEN))
def test_what_was_parsed_is_parsed_to_itself(case: tuple[str, str, str]) -> None:
    name, value, _ = case
    parsed = parse_options({name: value})
    assert parse_options(parsed) == parsed


def test_importing_the_core_loads_neither_airflow_nor_input_and_output() -> None:
    code = (
        "import sys, airflow_provider_csc.slurm.options, airflow_provider_csc.slurm.script_options\n"
        "print(sorted({'airflow', 'asyncio', 'asyncssh', 'socket', 'subprocess'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
