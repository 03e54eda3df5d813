"""What a log-in node runs to move files, in a real bash: it leaves nothing of itself behind."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.framing import INTERPRETER, build_program, parse_answer
from airflow_provider_csc.staging.commands import build_login_run

if TYPE_CHECKING:
    from pathlib import Path


def program(base: Path, helper: str) -> bytes:
    body = build_login_run(
        "in",
        base=str(base),
        work=str(base / "work"),
        helper=helper,
        manifest="URLs",
        epoch="1",
    )
    return build_program(body, mark="@mark").encode()


def names(base: Path) -> list[str]:
    return sorted(path.name for path in base.iterdir())


def test_the_helper_runs_where_the_files_go_and_its_directory_is_gone_then(tmp_path: Path) -> None:
    helper = 'cat "$2/staging.urls" >urls; stat -c %a "$2" >mode'
    done = subprocess.run(
        shlex.split(INTERPRETER), input=program(tmp_path, helper), capture_output=True, check=True
    )

    frames = parse_answer(done.stdout, mark="@mark")
    assert (frames["stage"].status, frames["receipts"].text) == (0, "epoch\t1")
    assert (tmp_path / "work/urls").read_text() == "URLs"
    assert (tmp_path / "work/mode").read_text() == "700\n"
    assert names(tmp_path) == ["work"]


def test_its_directory_is_gone_where_nobody_reads_the_answer_any_more(tmp_path: Path) -> None:
    """As when sshd is killed, which kills none of the programs it has started."""
    reading, writing = os.pipe()
    os.mkfifo(tmp_path / "go")
    process = subprocess.Popen(
        shlex.split(INTERPRETER), stdin=subprocess.PIPE, stdout=writing, stderr=subprocess.DEVNULL
    )
    os.close(writing)
    assert process.stdin is not None
    process.stdin.write(program(tmp_path, f"read -r <{tmp_path}/go"))
    process.stdin.close()
    # Opened when the helper opens it, too, which waits for a line.
    with (tmp_path / "go").open("w") as go:
        os.close(reading)
        go.write("\n")
    process.wait(60)

    assert process.returncode != 0
    assert names(tmp_path) == ["go", "work"]
