"""Run our shell programs with a real bash, as a log-in shell would, beside fake Slurm commands."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.framing import INTERPRETER, Frame, build_program, parse_answer

if TYPE_CHECKING:
    from pathlib import Path

MARK = "@0123456789abcdef"

# What a path on a cluster may be called; our base directories hold nothing but newlines less.
HOSTILE_NAMES = [
    "plain",
    "with space",
    " edges ",
    "quote's",
    'double"quote',
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned;",
    "&& touch pwned",
    "-dash",
    "--output=pwned",
    "~",
    "*",
    "[a-z]?",
    "$HOME",
    "%j%%x",
    "{braces}",
    "#hash",
    "!bang",
    "=equals=",
    "ümläut-日本",
    "\\",
    "$'\\x41'",
]

# What a value that is no path may hold besides.
HOSTILE_VALUES = [
    *HOSTILE_NAMES,
    "",
    "line\nbreak",
    "\n",
    "tab\there",
    "\r",
    "\x1b[31m",
    "\\n",
    "'",
]

_FAKE = """#!/bin/bash
here={here}
number=$(ls "$here" | grep -c '^{name}\\.[0-9]*\\.argv$')
printf '%s\\0' "$@" >"$here/{name}.$number.argv"
printf '%s' "$PWD" >"$here/{name}.$number.cwd"
umask >"$here/{name}.$number.umask"
env -0 >"$here/{name}.$number.env"
{body}
"""


@dataclass(frozen=True)
class Call:
    """One call of a fake command: its arguments, its directory, its umask, its environment."""

    args: list[str]
    cwd: str
    umask: str
    env: dict[str, str]


class FakeSite:
    """A home directory and a PATH on which Slurm's commands are small scripts that take notes."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.bin = root / "bin"
        self.notes = root / "notes"
        for directory in (self.home, self.bin, self.notes):
            directory.mkdir(parents=True)
        for name in ("sbatch", "squeue", "sacct", "scontrol", "scancel"):
            self.command(name, "")

    def command(self, name: str, body: str) -> None:
        """Say what a command does after it has taken its notes."""
        path = self.bin / name
        path.write_text(_FAKE.format(here=shlex.quote(str(self.notes)), name=name, body=body))
        path.chmod(0o755)

    def calls(self, name: str) -> list[Call]:
        found = sorted(
            self.notes.glob(f"{name}.*.argv"), key=lambda path: int(path.suffixes[0][1:])
        )
        return [_read_call(path) for path in found]

    def run(
        self,
        program: str,
        *,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        before: str = "",
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a whole program as sshd does, through a log-in shell; ``before`` is its noise."""
        return subprocess.run(
            ["/bin/sh", "-c", f"{before}\n{INTERPRETER}"],
            input=program.encode(),
            capture_output=True,
            cwd=cwd or self.home,
            env={
                "HOME": str(self.home),
                "PATH": f"{self.bin}:{os.environ['PATH']}",
                "LANG": "C.UTF-8",
                **(env or {}),
            },
            timeout=30,
            check=False,
        )

    def ask(
        self, body: str, *, setup: str = "", env: dict[str, str] | None = None, before: str = ""
    ) -> dict[str, Frame]:
        """Run the body of a program and read its answer."""
        program = build_program(body, mark=MARK, setup=setup)
        done = self.run(program, env=env, before=before)
        return parse_answer(done.stdout, mark=MARK)


def _read_call(path: Path) -> Call:
    def note(kind: str) -> str:
        return path.with_suffix(f".{kind}").read_bytes().decode()

    pairs = (item.partition("=") for item in note("env").split("\0") if item)
    return Call(
        args=note("argv").split("\0")[:-1],
        cwd=note("cwd"),
        umask=note("umask").strip(),
        env={name: value for name, _, value in pairs},
    )


def list_files(root: Path) -> set[str]:
    """Return every file and directory below a directory."""
    return {str(path.relative_to(root)) for path in root.rglob("*")}
