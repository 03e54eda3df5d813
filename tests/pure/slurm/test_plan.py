"""What a DAG author wrote becomes one submission, or an error that names field, value and remedy."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.slurm.identity import TaskIdentity
from airflow_provider_csc.slurm.plan import (
    JobSpec,
    add_site_environment,
    build_request,
    check_job_name,
    check_source,
    check_spec,
    read_source,
)
from airflow_provider_csc.slurm.submit_commands import SubmitRequest, build_submit
from tests.pure.slurm.shell import HOSTILE_NAMES, HOSTILE_VALUES, FakeSite

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY = TaskIdentity(
    dag_id="dag", run_id="run", task_id="train", map_index=-1, try_number=1, first_try=1
)
NO_DEFAULTS: dict[str, str | None] = {"account": None, "partition": None, "time": None}


def plan(
    *, defaults: dict[str, str | None] | None = None, remote_text: str | None = None, **spec: Any
) -> SubmitRequest:
    job = JobSpec(
        **({} if "script" in spec or "remote_script" in spec else {"command": "true"}) | spec
    )
    check_spec(job)
    request, _ = build_request(
        job,
        IDENTITY,
        script=read_source(job, remote_text),
        defaults=NO_DEFAULTS | (defaults or {}),
        base_dir="/base",
    )
    return request


def options_of(request: SubmitRequest) -> dict[str, str]:
    pairs = (option.removeprefix("--").partition("=") for option in request.options)
    return {name: value for name, _, value in pairs}


# ---- what bad input gets ----

SCRIPT = "#!/bin/bash\n"


@pytest.mark.parametrize(
    ("spec", "field", "value", "words"),
    [
        # Unknown options get the nearest names.
        (
            {"options": {"partion": "small"}},
            "options['partion']",
            "'small'",
            "Did you mean 'partition'",
        ),
        ({"options": {"p": "small"}}, "options['p']", "'small'", "Did you mean 'partition'"),
        (
            {"options": {"gpu": 1}},
            "options['gpu']",
            "1",
            "Did you mean 'gpu-bind' or 'gpu-freq' or",
        ),
        ({"options": {"zzz": 1}}, "options['zzz']", "1", "See sbatch(1) for the long options"),
        # Bad syntax gets an example of the right one.
        (
            {"options": {"time": "soon"}},
            "options['time']",
            "'soon'",
            "'soon' is not a time. Write minutes",
        ),
        ({"options": {"time": "1:2:3:4"}}, "options['time']", "'1:2:3:4'", "'02:30:00'"),
        (
            {"options": {"mem": "lots"}},
            "options['mem']",
            "'lots'",
            "is not a memory size. Write a whole",
        ),
        ({"options": {"mem": "1.5G"}}, "options['mem']", "'1.5G'", "'1536M' or '4G'"),
        (
            {"options": {"array": "5-1"}},
            "options['array']",
            "'5-1'",
            "the range 5-1 ends before it begins",
        ),
        ({"options": {"array": "a"}}, "options['array']", "'a'", "'0-99%10'"),
        ({"options": {"nodes": 0.5}}, "options['nodes']", "0.5", "is not a number of nodes"),
        (
            {"options": {"comment": "a\nb"}},
            "options['comment']",
            r"'a\nb'",
            "Write it in one line.",
        ),
        (
            {"options": {"comment": "a\0b"}},
            "options['comment']",
            r"'a\x00b'",
            "Write it in one line.",
        ),
        ({"options": {"job-name": "x"}}, "options['job-name']", "'x'", "Use `job_name`."),
        ({"options": {"wrap": "x"}}, "options['wrap']", "'x'", "Use `command`."),
        ({"options": {"chdir": "/x"}}, "options['chdir']", "'/x'", "Use `work_dir`."),
        (
            {"options": {"mem": "1G", "mem-per-cpu": "1G"}},
            "options['mem-per-cpu']",
            "'1G'",
            "Leave one out.",
        ),
        # One source, no more and no less.
        ({"command": None}, "command", [], "given: none of them."),
        (
            {"script": SCRIPT, "command": "x"},
            "command",
            ["command", "script"],
            "command and script.",
        ),
        (
            {"command": "x", "script": SCRIPT, "remote_script": "/x"},
            *("command", ["command", "script", "remote_script"]),
            "Give exactly one of command, script and remote_script; given: command and script and",
        ),
        # Scripts that cannot run.
        ({"script": ""}, "script", "", "the script is empty. Give at least '#!/bin/bash'"),
        ({"script": "  \n"}, "script", "  \n", "the script is empty."),
        (
            {"script": "#!/bin/sh\r\nls\r\n"},
            "script",
            "#!/bin/sh\r\nls\r\n",
            "Windows line endings (CR LF)",
        ),
        (
            {"script": "ls -l\n"},
            "script",
            "ls -l\n",
            "the first line is 'ls -l'; it must name the inter",
        ),
        ({"script": "#!/bin/sh\na\0"}, "script", "#!/bin/sh\na\0", "line 2 holds a NUL byte"),
        # Commands.
        ({"command": ""}, "command", "", "'' is empty. Give a shell command, or a program"),
        ({"command": "  "}, "command", "  ", "is empty."),
        ({"command": []}, "command", [], "[] is empty."),
        ({"command": ["", "x"]}, "command", ["", "x"], "is empty."),
        ({"command": "a\0b"}, "command", "a\0b", r"'a\x00b' is not text without NUL bytes."),
        (
            {"command": ["ls", 5]},
            "command",
            5,
            "5 is not text without NUL bytes. Convert it with str().",
        ),
        # Places.
        (
            {"work_dir": "relative"},
            "work_dir",
            "relative",
            "is not an absolute path on the cluster",
        ),
        ({"work_dir": "$HOME/x"}, "work_dir", "$HOME/x", "or '~/below/home'"),
        ({"work_dir": "-x"}, "work_dir", "-x", "is not an absolute path"),
        ({"work_dir": "/a\nb"}, "work_dir", "/a\nb", "control character"),
        ({"remote_script": "run.sh"}, "remote_script", "run.sh", "is not an absolute path"),
        ({"remote_script": "/a\0"}, "remote_script", "/a\0", "control character"),
        ({"environment": "venv"}, "environment", "venv", "is not an absolute path"),
        # Names.
        ({"job_name": ""}, "job_name", "", "it must not be empty"),
        ({"job_name": " "}, "job_name", " ", "it must not be empty"),
        ({"job_name": "a,b"}, "job_name", "a,b", "must not hold a comma"),
        ({"job_name": "a\nb"}, "job_name", "a\nb", "or a control character"),
        ({"job_name": "a\0b"}, "job_name", "a\0b", "or a control character"),
        # The environment.
        ({"env": {"1A": "x"}}, "env", "1A", "use letters, digits and underscores"),
        ({"env": {"A": None}}, "env['A']", None, "or leave it out"),
        ({"env": {"A": "\0"}}, "env['A']", "\0", "give text without NUL bytes"),
        (
            {"modules": ["gcc\nid"]},
            "modules",
            "gcc\nid",
            "Write 'gcc/15.2.0', 'load gcc/15.2.0' or",
        ),
    ],
)
def test_bad_input_is_named_with_its_value_and_a_remedy(
    spec: dict[str, Any], field: str, value: object, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_spec(
            JobSpec(
                **({} if "script" in spec or "remote_script" in spec else {"command": "x"}) | spec
            )
        )
    assert words in caught.value.message
    assert (caught.value.field, caught.value.value) == (field, value)
    assert caught.value.message.startswith(field) or field == "command"


@pytest.mark.parametrize(
    ("spec", "text", "field", "words"),
    [
        ({"remote_script": "/x"}, "", "remote_script", "the script is empty."),
        ({"remote_script": "/x"}, "echo\n", "remote_script", "the first line is 'echo'"),
        ({"remote_script": "/x"}, "#!/bin/sh\r\n", "remote_script", "Windows line endings"),
        ({"remote_script": "/x"}, "#!/bin/sh\n\0", "remote_script", "line 2 holds a NUL byte"),
        (
            {"options": {"array": "1-3", "output": "all.txt"}, "array_logs": "all"},
            *(None, "array_logs", "Use %A and %a in it, as 'log-%A_%a.txt'"),
        ),
        (
            {"script": f"{SCRIPT}#SBATCH --array=1-3 -o %j_%a\n", "array_logs": "all"},
            *(None, "array_logs", "--output=%j_%a does not name such files"),
        ),
        (
            {"script": f"{SCRIPT}#SBATCH --wait\n"},
            None,
            "script",
            "Take '--wait' out of its #SBATCH",
        ),
        ({"script": f"{SCRIPT}#SBATCH hetjob\n"}, None, "script", "Submit the components as tasks"),
        (
            {"script": f"{SCRIPT}#SBATCH --mem=1G\n", "options": {"mem-per-cpu": "1G"}},
            *(None, "options['mem-per-cpu']", "Leave one out."),
        ),
        (
            {"script": f"{SCRIPT}#SBATCH --job-name=a,b\n"},
            *(None, "job_name", "must not hold a comma"),
        ),
    ],
)
def test_what_a_script_holds_is_refused_as_well(
    spec: dict[str, Any], text: str | None, field: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(remote_text=text, **spec)
    assert words in caught.value.message
    assert caught.value.field == field


@pytest.mark.parametrize(
    "spec",
    [
        *(
            {"command": "echo \ud83d"},
            {"command": ["echo", "\udcff"]},
            {"script": f"{SCRIPT}\udcff"},
        ),
        *({"env": {"A": "\udcff"}}, {"options": {"comment": ["\udcff"]}}, {"work_dir": "/\udcff"}),
    ],
)
def test_half_a_character_is_refused_wherever_it_is(spec: dict[str, Any]) -> None:
    """As when a text was cut in the middle of an emoji; it had failed while it was being sent."""
    with pytest.raises(ConfigError, match="is half a character") as caught:
        check_spec(JobSpec(**({} if "script" in spec else {"command": "x"}) | spec))
    assert caught.value.field in spec


def test_the_sources_are_checked_alone_before_templates_are_rendered() -> None:
    check_source(command="{{ params.command }}")
    with pytest.raises(ConfigError, match="given: script and remote_script"):
        check_source(script="x.sh", remote_script="/x")


@pytest.mark.parametrize("name", [name for name in HOSTILE_NAMES if "," not in name])
def test_a_name_of_any_other_kind_is_kept(name: str) -> None:
    assert check_job_name("job_name", name) == name
    assert options_of(plan(job_name=name))["job-name"] == f"{name}.{IDENTITY.token}"


# ---- nothing is executed, nothing is mangled ----


def test_every_text_reaches_slurm_as_it_was_written(tmp_path: Path) -> None:
    """The whole way: what a task says, through planning and a real bash, to sbatch."""
    site = FakeSite(tmp_path / "site")
    site.command("sbatch", "echo 1")
    values = [value for value in HOSTILE_VALUES if "\n" not in value]
    for value in values:
        work_dir = tmp_path / "work" / (value or "empty")
        work_dir.mkdir(parents=True, exist_ok=True)
        request = plan(
            options={"comment": value, "account": value or "a"},
            job_name=f"n{value}".translate({ord(control): None for control in "\t\r\x1b"}),
            work_dir=None if {*value} & {*"\t\r\x1b"} else str(work_dir),
            env={"V": value},
        )
        number = len(site.calls("sbatch"))
        base = str(tmp_path / "base" / str(number))
        changed = {name: getattr(request, name) for name in SubmitRequest.__slots__}
        site.ask(build_submit(SubmitRequest(**changed | {"base_dir": base})))
        call = site.calls("sbatch")[number]
        assert f"--comment={value}" in call.args
        assert f"--account={value or 'a'}" in call.args
        assert call.args[-1] == f"{base}/{IDENTITY.token}"
        batch = tmp_path / "base" / str(number) / IDENTITY.token / "batch.sh"
        assert batch.read_bytes() == request.batch.encode()
    assert not [path for path in tmp_path.rglob("pwned") if "work" not in path.parts]
    assert not list(site.home.iterdir())


@pytest.mark.parametrize("value", HOSTILE_VALUES)
def test_a_commands_arguments_are_read_by_no_shell(tmp_path: Path, value: str) -> None:
    if "\r\n" in value:
        return
    script = tmp_path / "script"
    script.write_text(plan(command=["printf", "%s", value]).script, newline="")
    done = subprocess.run(["bash", script], capture_output=True, cwd=tmp_path, check=True)
    assert done.stdout.decode() == value
    assert not (tmp_path / "pwned").exists()


# ---- good input ----


def test_a_plain_command_asks_for_nothing_but_its_name_and_log() -> None:
    request = plan(command="echo hi")
    assert request.script == "#!/bin/bash\necho hi\n"
    assert options_of(request) == {"job-name": f"dag.train.{IDENTITY.token}", "open-mode": "append"}
    assert request.token == IDENTITY.token
    assert (request.base_dir, request.work_dir) == ("/base", None)
    assert (request.own_output, request.asks_paths) == (True, False)
    assert request.asked == ()


def test_a_users_script_is_kept_as_it_is_and_its_lines_go_before_ours() -> None:
    script = "#!/usr/bin/env python3\n#SBATCH --time=10\n# x\n#SBATCH -p small  # why\nprint(1)\n#SBATCH --no\n"
    request = plan(script=script)
    assert request.script == script
    assert request.batch.startswith(
        "#!/bin/bash --login\n#SBATCH --time=10\n#SBATCH -p small  # why\n# Written by"
    )
    assert "--no\n" not in request.batch


def test_a_remote_script_is_read_where_it_lies_and_starts_there() -> None:
    request = plan(remote_script="/appl/my scripts/run.sh", remote_text="#!/bin/sh\nls\n")
    assert request.script == "#!/bin/sh\nls\n"
    assert request.work_dir == "/appl/my scripts"
    assert plan(remote_script="/run.sh", remote_text="#!/bin/sh\n").work_dir == "/"


@pytest.mark.parametrize(
    ("chdir", "work_dir", "expected"),
    [
        (None, None, "/appl"),
        ("/data", None, "/data"),
        ("sub", None, "/appl/sub"),
        ("/data", "/mine", "/mine"),
        (None, "~", "~"),
    ],
)
def test_a_tasks_directory_goes_before_the_scripts(
    chdir: str | None, work_dir: str | None, expected: str
) -> None:
    text = f"{SCRIPT}#SBATCH --chdir={chdir}\n" if chdir else SCRIPT
    assert (
        plan(remote_script="/appl/x.sh", remote_text=text, work_dir=work_dir).work_dir == expected
    )


def test_a_scripts_own_directory_is_left_to_slurm() -> None:
    assert plan(script=f"{SCRIPT}#SBATCH --chdir=/data\n").work_dir is None


DEFAULTS: dict[str, str | None] = {"account": "project_1", "partition": "small", "time": "15"}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, {"account": "project_1", "partition": "small", "time": "0-00:15:00"}),
        (
            {"options": {"partition": "gpu", "time": "1:00:00"}},
            {"account": "project_1", "partition": "gpu", "time": "0-01:00:00"},
        ),
        ({"script": f"{SCRIPT}#SBATCH -p large -t 5\n"}, {"account": "project_1"}),
        (
            {"script": f"{SCRIPT}#SBATCH -p large\n", "options": {"partition": "gpu"}},
            {"account": "project_1", "partition": "gpu", "time": "0-00:15:00"},
        ),
        # None leaves an option out, and the connection's comes in.
        (
            {"options": {"account": None}},
            {"account": "project_1", "partition": "small", "time": "0-00:15:00"},
        ),
    ],
)
def test_task_goes_before_script_and_script_before_connection(
    spec: dict[str, Any], expected: dict[str, str]
) -> None:
    """What a script says itself is not repeated; sbatch reads it there."""
    found = options_of(plan(defaults=DEFAULTS, **spec))
    del found["job-name"], found["open-mode"]
    assert found == expected


def test_an_option_of_the_site_goes_behind_all_others() -> None:
    site = {"export": "HOME,X=1", "cpus_per_task": "2"}
    found = options_of(plan(defaults=site, script=f"{SCRIPT}#SBATCH --export=NONE\n"))
    assert (found.get("export"), found["cpus-per-task"]) == (None, "2")
    found = options_of(plan(defaults=site, options={"export": "ALL", "cpus-per-task": 4}))
    assert (found["export"], found["cpus-per-task"]) == ("ALL", "4")


@pytest.mark.parametrize(
    "spec",
    [{"options": {"mem-per-cpu": "1G"}}, {"script": f"{SCRIPT}#SBATCH --mem-per-cpu=1G\n"}],
)
def test_an_option_of_the_site_gives_way_to_one_that_excludes_it(spec: dict[str, Any]) -> None:
    assert "mem" not in options_of(plan(defaults={"mem": "0"}, **spec))
    assert options_of(plan(defaults={"mem": "0"}))["mem"] == "0"


def test_what_a_site_prepares_comes_before_what_the_task_does() -> None:
    job = JobSpec(command="true", env={"X": "task"}, modules=["gcc"])
    found = add_site_environment(job, env={"X": "site", "Y": "site"}, module_paths=["/appl/m"])
    assert found.env == {"X": "task", "Y": "site"}
    assert found.modules == ["use /appl/m", "gcc"]


def test_a_site_that_prepares_nothing_leaves_the_script_alone() -> None:
    job = JobSpec(command="true")
    bare = add_site_environment(job, env={}, module_paths=())
    requests = [
        build_request(
            each, IDENTITY, script=read_source(each), defaults=NO_DEFAULTS, base_dir="/base"
        )
        for each in (job, bare)
    ]
    assert requests[0] == requests[1]


@pytest.mark.parametrize(
    ("spec", "own_output", "asks_paths"),
    [
        ({}, True, False),
        ({"options": {"output": "/x/%j.log"}}, False, True),
        ({"options": {"error": "/x/%j.err"}}, True, True),
        ({"script": f"{SCRIPT}#SBATCH -o x.log\n"}, False, True),
        ({"script": f"{SCRIPT}#SBATCH --error=x.err\n"}, True, True),
    ],
)
def test_output_goes_to_the_run_directory_unless_the_user_says_where(
    spec: dict[str, Any], *, own_output: bool, asks_paths: bool
) -> None:
    request = plan(**spec)
    assert (request.own_output, request.asks_paths) == (own_output, asks_paths)


@pytest.mark.parametrize(
    "spec",
    [{"options": {"open-mode": "truncate"}}, {"script": f"{SCRIPT}#SBATCH --open-mode=truncate\n"}],
)
def test_a_requeued_job_appends_to_its_log_unless_the_user_says_otherwise(
    spec: dict[str, Any],
) -> None:
    assert options_of(plan())["open-mode"] == "append"
    assert options_of(plan(**spec)).get("open-mode") != "append"


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ({}, "dag.train"),
        ({"job_name": "mine"}, "mine"),
        ({"script": f"{SCRIPT}#SBATCH -J theirs\n"}, "theirs"),
        ({"script": f"{SCRIPT}#SBATCH -J theirs\n", "job_name": "mine"}, "mine"),
    ],
)
def test_a_jobs_name_is_readable_and_ends_with_the_token(spec: dict[str, Any], label: str) -> None:
    request = plan(**spec)
    assert options_of(request)["job-name"] == f"{label}.{IDENTITY.token}"


def test_the_label_is_what_a_look_up_needs() -> None:
    job = JobSpec(command="true", job_name="mine")
    _, label = build_request(
        job, IDENTITY, script=read_source(job), defaults=NO_DEFAULTS, base_dir="/base"
    )
    assert label == "mine"


def test_what_was_asked_for_is_told_from_whoever_asked() -> None:
    """It stands in a refusal, so that a reader sees what sbatch was given."""
    request = plan(
        script=f"{SCRIPT}#SBATCH --nodes=2\n",
        options={"mem": "4G"},
        defaults={"account": "project_1"},
    )
    assert request.asked == ("--account=project_1", "--mem=4G", "--nodes=2")


def test_the_environment_is_in_the_batch_script() -> None:
    request = plan(env={"N": 3}, modules=["gcc"], environment="/appl/venv")
    for line in (
        "prepare module load gcc",
        "prepare source /appl/venv/bin/activate",
        "  export N=3",
    ):
        assert f"{line}\n" in request.batch
