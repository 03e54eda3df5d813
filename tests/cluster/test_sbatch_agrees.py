"""
The real sbatch agrees with our tables of what it takes, and with how we read ``#SBATCH`` lines.

Everything runs through one SSH connection, because there are hundreds of cases.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from typing import Any

import pytest

from airflow_provider_csc.slurm.options import option_arguments, parse_options
from tests.pure.slurm import option_cases

pytestmark = pytest.mark.cluster

MARK = "=== case"
NAMES = ("account", "comment", "hold", "job-name", "partition")


def run_on_cluster(cluster: dict[str, Any], commands: list[str]) -> list[tuple[int, str]]:
    """Run commands as alice and return the status and all output of each."""
    alice = cluster["users"]["alice"]
    ssh = [
        *("ssh", "-i", alice["private_key"], "-p", str(cluster["ssh_port"]), "-o", "BatchMode=yes"),
        *("-o", f"UserKnownHostsFile={cluster['ssh_known_hosts']}", "-o", "IdentitiesOnly=yes"),
        *(f"alice@{cluster['ssh_host']}", "bash -s"),
    ]
    script = "cd /tmp\n" + "".join(
        f"{{ {command}\n}} </dev/null 2>&1; printf '\\n%s %s\\n' {shlex.quote(MARK)} $?\n"
        for command in commands
    )
    result = subprocess.run(ssh, input=script, capture_output=True, text=True, check=True)
    parts = re.split(rf"\n{MARK} (\d+)\n", result.stdout)
    assert len(parts) == 2 * len(commands) + 1, result.stdout + result.stderr
    return [(int(status), said) for said, status in zip(parts[::2], parts[1::2], strict=False)]


def sbatch(arguments: list[str], script: str = "#!/bin/bash\n:\n") -> str:
    return f"printf %s {shlex.quote(script)} | sbatch --test-only {shlex.join(arguments)}"


def ask(cluster: dict[str, Any], cases: list[list[str]]) -> list[tuple[int, str]]:
    return run_on_cluster(cluster, [sbatch(arguments) for arguments in cases])


def test_sbatch_takes_what_we_take_as_written_and_as_we_write_it(cluster: dict[str, Any]) -> None:
    cases = [[f"--{name}={value}"] for name, value, _ in option_cases.TAKEN]
    cases += [[argument] for _, _, argument in option_cases.TAKEN]
    answers = zip(cases, ask(cluster, cases), strict=True)
    assert [(case, said) for case, (status, said) in answers if status != 0] == []


def test_sbatch_understands_the_same_by_what_we_write(cluster: dict[str, Any]) -> None:
    pairs = [(f"--{name}={value}", argument) for name, value, argument in option_cases.TAKEN]
    rewritten = [(theirs, ours) for theirs, ours in pairs if theirs != ours]
    answers = ask(cluster, [["-vv", argument] for pair in rewritten for argument in pair])
    for pair, theirs, ours in zip(rewritten, answers[::2], answers[1::2], strict=True):
        assert _normalised(theirs[1]) == _normalised(ours[1]), pair


def _normalised(said: str) -> list[tuple[str, str]]:
    """Return the options sbatch defined; arrays and dependencies it repeats as they were written."""
    defined = _defined(said)
    return sorted((n, v) for n, v in defined.items() if n not in {"array", "dependency"})


def _defined(said: str) -> dict[str, str]:
    block = re.search(r"defined options\n(.*?)end of defined options", said, re.DOTALL)
    assert block, said
    return dict(re.findall(r"^sbatch: ([a-z][a-z-]+) *: ?(.*)$", block[1], re.MULTILINE))


def test_sbatch_refuses_what_we_refuse(cluster: dict[str, Any]) -> None:
    cases = [[f"--{name}={value}"] for name, value in option_cases.REFUSED]
    answers = zip(cases, ask(cluster, cases), strict=True)
    assert [(case, said) for case, (status, said) in answers if status == 0] == []


def test_sbatch_takes_what_we_call_misread(cluster: dict[str, Any]) -> None:
    """What it stops taking belongs into the table of what is refused."""
    cases = [[f"--{name}={value}"] for name, value in option_cases.MISREAD]
    answers = zip(cases, ask(cluster, cases), strict=True)
    assert [(case, said) for case, (status, said) in answers if status != 0] == []


def test_sbatch_refuses_the_contradictions(cluster: dict[str, Any]) -> None:
    cases = [[f"--{n}={v}" for n, v in each.items()] for each in option_cases.CONTRADICTIONS]
    answers = zip(cases, ask(cluster, cases), strict=True)
    assert [(case, said) for case, (status, said) in answers if status == 0] == []


def test_sbatch_reads_the_same_options_in_a_script(cluster: dict[str, Any]) -> None:
    scripts = [f"#!/bin/bash\n{script}true\n" for _, script, _ in option_cases.SCRIPTS]
    answers = run_on_cluster(cluster, [sbatch(["-vv"], script) for script in scripts])
    for (name, _, options), (_, said) in zip(option_cases.SCRIPTS, answers, strict=True):
        expected = {n: "set" if value is True else value for n, value in options.items()}
        defined = _defined(said)
        assert {n: defined[n] for n in NAMES if n in defined} == expected, name


def test_sbatch_refuses_the_unreadable_scripts(cluster: dict[str, Any]) -> None:
    scripts = [f"#!/bin/bash\n{script}true\n" for script, _ in option_cases.UNREADABLE_SCRIPTS]
    answers = run_on_cluster(cluster, [sbatch([], script) for script in scripts])
    cases = zip(option_cases.UNREADABLE_SCRIPTS, answers, strict=True)
    assert [(case, said) for case, (status, said) in cases if status == 0] == []


@pytest.mark.parametrize("text", ["x y", "'\"", "$(touch /tmp/oops)", "ä", "-n", "a\tb", "\\", "*"])
def test_text_reaches_the_real_sbatch_unchanged(cluster: dict[str, Any], text: str) -> None:
    arguments = option_arguments(parse_options({"comment": text}))
    ((_, said),) = ask(cluster, [["-vv", *arguments]])
    assert _defined(said)["comment"] == text
