"""
An ``sbatch`` before the real one whose answer is not what happened.

The connection's log-in set-up puts it on the PATH. What it does at a task's n-th submission stands
in the n-th line of ``plan/<task>``; what it did it appends to ``log``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Lie(StrEnum):
    """What becomes of one call of sbatch."""

    NONE = "none"
    ACCEPTED = "accepted"  # the job is there, and the answer says that nobody knows
    SILENT = "silent"  # the job is there, and nothing is said
    NOT_ACCEPTED = "not-accepted"  # the same answer, and no job
    LATE = "late"  # the same answer, and the job comes later
    DROPPED = "dropped"  # the job is there, and the connection is gone
    RESTARTED = "restarted"  # the controller is restarted between accepting and answering


_PROGRAM = r"""#!/bin/bash
real=$(PATH=${PATH//"HERE/bin:"/} command -v sbatch)
here=HERE
timed_out() { echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1; }
told() { echo "$task $lie" >>"$here/log"; }
task=
for word in "$@"; do
  case $word in --job-name=*) task=${word#--job-name=} task=${task%%.af*} ;; esac
done
[ -n "$task" ] && [ -f "$here/plan/$task" ] || exec "$real" "$@"
calls=$(wc -l 2>/dev/null <"$here/calls/$task")
echo call >>"$here/calls/$task"
lie=$(sed -n "$((${calls:-0} + 1))p" "$here/plan/$task")
case $lie in
  accepted) "$real" "$@" >/dev/null 2>&1 && told; timed_out ;;
  silent) "$real" "$@" >/dev/null 2>&1 && told; exit 1 ;;
  not-accepted) told; timed_out ;;
  late) ( sleep 2; exec "$real" "$@" ) </dev/null >/dev/null 2>&1 & told; timed_out ;;
  dropped)
    "$real" "$@" >/dev/null 2>&1 && told
    pid=$$
    until [ "$(cat "/proc/$pid/comm")" = sshd ]; do pid=$(ps -o ppid= -p "$pid" | tr -d ' '); done
    kill -KILL "$pid"
    sleep 5 ;;
  restarted)
    "$real" "$@" >/dev/null 2>&1 && touch "$here/restart-wanted"
    for _ in $(seq 300); do [ -e "$here/restart-wanted" ] || break; sleep 0.1; done
    told; timed_out ;;
  *) exec "$real" "$@" ;;
esac
"""


class Shim:
    """The files of it, in a directory that the user of the cluster can write into."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for name in ("bin", "plan", "calls"):
            (directory / name).mkdir(exist_ok=True)
            (directory / name).chmod(0o777)
        (directory / "log").touch()
        (directory / "log").chmod(0o666)
        program = directory / "bin" / "sbatch"
        program.write_text(_PROGRAM.replace("HERE", str(directory)))
        program.chmod(0o755)

    @property
    def login_setup(self) -> str:
        return f"export PATH={self._directory}/bin:$PATH"

    def plan(self, task: str, lies: Sequence[Lie]) -> None:
        """Say what happens at a task's submissions, the first one first."""
        (self._directory / "plan" / task).write_text("".join(f"{lie}\n" for lie in lies))

    @property
    def told(self) -> int:
        """How many lies were told so far."""
        return len((self._directory / "log").read_text().splitlines())

    @property
    def restart_wanted(self) -> Path:
        """A file that is there while a submission waits for the controller to be restarted."""
        return self._directory / "restart-wanted"
