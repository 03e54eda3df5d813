r"""
How a shell program travels to a site and how its answer is read back without guessing.

The program is fed to bash on standard input: nothing of it is visible in a process list and no
length limit applies. It is one brace group, so a connection that is cut while sending leaves a
syntax error, and nothing was executed.

The answer is a sequence of frames, ``<mark> <name> <status> <size>\n<size bytes>\n``. The mark is
new for each program, so what a log-in shell prints before, or a log file holds, is never taken for
an answer; the frame named ``end`` proves that the answer is whole.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_csc.errors import UnreadableOutputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# `bash -s` would read its program byte by byte, and so would `read` before 5.1; since then -N takes
# what there is, and spares a process. Where reading breaks off nothing is run: with REPLY unset
# the rest would be. The end of the input is a failure to `read`, of which `set -e` must not hear.
# A word without expansions means the same to every log-in shell (sh, zsh, csh, fish).
INTERPRETER = (
    "bash -c 'unset REPLY; ((BASH_VERSINFO * 10 + BASH_VERSINFO[1] > 50)) && "
    '{ REPLY=; LC_ALL=C IFS= read -rN 1000000000; } || :; eval "${REPLY-$(cat)}"\''
)
# What bash puts before a complaint of a program it evaluates: "environment: line 73: cd: ...".
_WHERE = re.compile(r"^\S+: line \d+: ", re.MULTILINE)
_END = "end"
_SETUP_END = "setup"

# Set-up lines find programs; what they do to the shell itself (`set -e`, `set -a`, IFS) must not
# reach our own lines. REPLY holds the program, which no other needs in its environment.
_RESET = r"""
unset REPLY
set +aefuxC +o pipefail +o posix
shopt -u failglob nullglob
IFS=$' \t\n'
"""

# `ask NAME COMMAND...` frames a command's output and status, and leaves them in $answer and $?.
# Both streams, because a failed command explains itself on standard error. LC_ALL makes bash count
# bytes, and stays inside the function: a job inherits the environment of its submission. Each write
# wakes sshd and us, which takes as long as a small program: $in_one_go all frames wait for the last
# one, without which none is believed anyway.
_PRELUDE = r"""
frames=
frame() {
  local LC_ALL=C
  frames+="$mark $1 $2 ${#3}"$'\n'$3$'\n'
  [ -n "$in_one_go" ] || { printf '%s' "$frames"; frames=; }
}
ask() {
  local name=$1 status
  shift
  answer=$("$@" 2>&1)
  status=$?
  frame "$name" "$status" "$answer"
  return "$status"
}
"""


@dataclass(frozen=True, slots=True)
class Frame:
    """What one remote command answered: its exit status and its output."""

    status: int
    data: bytes

    @property
    def text(self) -> str:
        """The output as text, without the space around it."""
        return self.data.decode(errors="replace").strip()

    @property
    def complaint(self) -> str:
        """The output of a failed command, without where in our program it failed."""
        return _WHERE.sub("", self.text)


def quote(value: str) -> str:
    """
    Quote one word for bash, whatever is in it.

    :raises ValueError: for a NUL byte, which no shell word can hold.
    """
    if "\0" in value:
        raise ValueError("a NUL byte cannot be part of a shell word")
    return shlex.quote(value)


def build_program(body: str, *, mark: str, setup: str = "", in_one_go: bool = False) -> str:
    """
    Return the whole program: the site's set-up lines, the helpers, the body, the end frame.

    It answers ``in_one_go`` where the answer is small and every millisecond counts.
    """
    return (
        "{\n"
        f"mark={quote(mark)}\n"
        # Whatever the set-up prints is noise; what it does to the shell is its purpose.
        f"{{ {setup.strip() or ':'}\n}} >&2\n"
        f"{_RESET}{_PRELUDE}in_one_go={'1' if in_one_go else ''}\n"
        f"frame {_SETUP_END} 0 ''\n"
        f"{body.strip()}\n"
        f"in_one_go= frame {_END} 0 ''\n"
        "} </dev/null\n"
    )


def parse_answer(stdout: bytes, *, mark: str) -> dict[str, Frame]:
    """
    Return the frames of an answer by name.

    :raises UnreadableOutputError: when the answer is cut short or was disturbed.
    """
    frames: dict[str, Frame] = {}
    position = _find_mark(stdout, mark)
    while _END not in frames:
        name, frame, position = _parse_frame(stdout, mark, position)
        frames[name] = frame
    return {name: frame for name, frame in frames.items() if name not in (_END, _SETUP_END)}


def _find_mark(stdout: bytes, mark: str) -> int:
    start = stdout.find(mark.encode() + b" ")
    if start < 0:
        raise UnreadableOutputError(
            "The log-in shell gave no answer; "
            "its set-up lines may have ended it, or it was killed.",
            output=stdout[-2000:].decode(errors="replace"),
        )
    return start


def _parse_frame(stdout: bytes, mark: str, start: int) -> tuple[str, Frame, int]:
    header_end = stdout.find(b"\n", start)
    words = stdout[start:header_end].split() if header_end >= 0 else []
    if len(words) != 4 or words[0] != mark.encode():  # noqa: PLR2004
        raise _cut_short(stdout)
    try:
        name, status, size = words[1].decode(), int(words[2]), int(words[3])
    except ValueError:
        raise _cut_short(stdout) from None
    data_start = header_end + 1
    data = stdout[data_start : data_start + size]
    if not 0 <= size == len(data):
        raise _cut_short(stdout)
    return name, Frame(status, data), data_start + size + 1


def _cut_short(stdout: bytes) -> UnreadableOutputError:
    return UnreadableOutputError(
        "The remote answer ended before its end mark, so none of it is believed.",
        output=stdout[-500:].decode(errors="replace"),
    )


def words(values: Sequence[str]) -> str:
    """Return several words quoted for bash."""
    return " ".join(quote(value) for value in values)


def assignments(values: Mapping[str, str]) -> str:
    """Return ``name=value`` lines for bash; the names are ours, the values anyone's."""
    return "\n".join(f"{name}={quote(value)}" for name, value in values.items())
