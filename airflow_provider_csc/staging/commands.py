"""The shell programs by which a site is asked about, and given, what a job stages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_csc.errors import SlurmError
from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.slurm.framing import assignments, quote
from airflow_provider_csc.slurm.run_dir import fill_names
from airflow_provider_csc.slurm.shell import PLACE, SLURM
from airflow_provider_csc.slurm.values import parse_elapsed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_csc.slurm.framing import Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """
    How far the staging of a job is.

    ``wanted`` is what its present start calls itself, empty as long as it has not begun to wait;
    ``issued`` is what was begun for some start; ``left`` how many seconds it may still run, None
    where there is no limit, or where squeue did not tell; then ``is_told`` is false.
    """

    wanted: str
    issued: Mapping[str, Any] | None
    left: int | None
    is_told: bool = True

    @property
    def is_served(self) -> bool:
        """Whether this start has its URLs already."""
        return self.issued is not None and self.issued.get("epoch") == self.wanted


def build_look(run_dir: str, job_id: str) -> str:
    """Ask how far the staging of a job is, and how long the job may still run."""
    return f"""{SLURM}
run_dir={quote(run_dir)}
{fill_names('ask wanted env LC_ALL=C cat -- "$run_dir/@STAGE_WANTED"')}
{fill_names('ask issued env LC_ALL=C cat -- "$run_dir/@STAGE_ISSUED"')}
ask job slurm squeue --noheader --Format=TimeLeft:32,RestartCnt:16 --jobs={quote(job_id)}
"""


def read_look(frames: Mapping[str, Frame]) -> Look:
    """
    Read what `build_look` asked.

    :raises SlurmError: where a file is there, or may be, and cannot be read.
    """
    job = frames["job"]
    wanted, issued = (read_file(frames[name]) for name in ("wanted", "issued"))
    words = job.text.split() if job.status == 0 else []
    left, restarts = words if len(words) == 2 else ("", "")  # noqa: PLR2004
    epoch = (wanted or b"").decode(errors="replace").strip()
    seconds, is_told = _read_left(left)
    return Look(
        wanted=epoch if _is_of(epoch, restarts) else "",
        issued=None if issued is None else _read_record(issued),
        left=seconds,
        is_told=is_told,
    )


def read_file(frame: Frame) -> bytes | None:
    """
    Return what a program (in the C locale) read of a file; None where there is no such file.

    :raises SlurmError: where it cannot be read: then nothing is known of it.
    """
    if frame.status == 0:
        return frame.data
    if frame.text.endswith("No such file or directory"):
        return None
    raise SlurmError(f"A file of the run directory cannot be read: {frame.complaint}")


def build_is_there(path: str) -> str:
    """Ask whether there is a file, for `read_file`."""
    return f'{PLACE}place path {quote(path)}\nask file env LC_ALL=C stat -- "$path"\n'


def _is_of(epoch: str, restarts: str) -> bool:
    """Whether it is the present start of a job that says so, not one before Slurm requeued it."""
    own = epoch.rpartition(".")[2]
    return not (own.isdecimal() and restarts.isdecimal() and int(own) < int(restarts))


def _read_record(data: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(data)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


# Of TimeLeft, beside [D-]HH:MM:SS: no limit; more than a year, or none any more (_print_secs in
# src/squeue/print.c).
_BEYOND = ("UNLIMITED", "INVALID")


def _read_left(text: str) -> tuple[int | None, bool]:
    """Return the seconds that are left, and whether squeue told."""
    if text in _BEYOND:
        return None, True
    try:
        seconds = parse_elapsed(text)
    except NotationError:
        return None, False
    return (None, False) if seconds is None else (int(seconds), True)


# Each appears as a whole; first what was begun, so that it can be undone if that is all.
_WRITE = r"""
put() {
  local own=$1.$HOSTNAME.$BASHPID
  (umask 077 && printf '%s' "$2" >"$own") && mv -f -T -- "$own" "$1" && return
  rm -f -- "$own"
  return 1
}
write() {
  put "$run_dir/@STAGE_ISSUED" "$issued" && put "$run_dir/@STAGE_URLS" "$urls"
}
ask write write
"""


def build_issue(run_dir: str, record: Mapping[str, Any], manifest: str) -> str:
    """Give a job its URLs, and note what was begun for it."""
    values = {"run_dir": run_dir, "issued": json.dumps(record), "urls": manifest}
    return f"{assignments(values)}\n{fill_names(_WRITE)}"


_CLEAN = r"""
ask clean rm -f -- "$run_dir/@STAGE_WANTED" "$run_dir/@STAGE_URLS" "$run_dir/@STAGE_URLS.new" \
  "$run_dir/@STAGE_ISSUED"
"""


def build_clean(run_dir: str) -> str:
    """Remove URLs, and what has no use once a job's outputs are settled."""
    return f"run_dir={quote(run_dir)}\n{fill_names(_CLEAN)}"


# On a log-in node the helper has a directory of its own, which goes with it. What a shell there is
# given to say of every command (an exported xtrace) must not make it tell its URLs.
_BY_LOGIN = r"""
prepare() {
  umask 077
  mkdir -p -- "$base" && control=$(mktemp -d "$base/staging.XXXXXXXX") &&
    printf '%s' "$helper" >"$control/stage.sh" && printf '%s' "$urls" >"$control/staging.urls" &&
    printf 'epoch\t%s\n' "$epoch" >"$control/staging.receipts" && printf '%s' "$control"
}
stage() {
  mkdir -p -- "$work" && cd -- "$work" &&
    exec env -u BASH_ENV -u SHELLOPTS -u BASHOPTS bash --noprofile --norc \
      "$control/stage.sh" "$phase" "$control" "$epoch" "$limit" "$RANDOM$$"
}
place base "$base"
place work "$work"
control=
# Also where nobody reads the answer any more, which ends this with SIGPIPE.
trap '[ -z "$control" ] || rm -rf -- "$control"' EXIT
if ask prepare prepare; then
  control=$answer
  ask stage stage
  ask receipts cat -- "$control/staging.receipts"
fi
"""


def build_login_run(
    phase: Literal["in", "out"], *, base: str, work: str, helper: str, manifest: str, epoch: str
) -> str:
    """Run the helper on the log-in node, in the directory ``work``, which is made."""
    values = {
        "base": base,
        "work": work,
        "helper": helper,
        "urls": manifest,
        "epoch": epoch,
        "phase": phase,
        # Its URLs are there; and there is no job that could have failed.
        "limit": "10" if phase == "in" else "0",
    }
    return f"{PLACE}{assignments(values)}\n{_BY_LOGIN}"


_LIST = r"""
list() {
  local -x LC_ALL=C
  if [ -d "$path" ]; then
    [ -z "$(find -L "$path" -name $'*[\x01-\x1f]*' -print -quit)" ] ||
      { printf 'the name of a file below it has a control character'; return 1; }
    find -L "$path" -type f -printf '%s\t%P\n' ||
      { printf '\nit is there, and not all of it can be listed'; return 1; }
  else
    stat -L --format=$'%s\t' -- "$path"
  fi
}
place path "$path"
ask list list
"""


def build_list(path: str) -> str:
    """List the files below a directory on the cluster, or a file alone."""
    return f"{PLACE}path={quote(path)}\n{_LIST}"


def read_list(frame: Frame) -> dict[str, int]:
    """Return sizes by relative path; of a file alone the path is empty."""
    lines = frame.data.decode("utf-8", "surrogateescape").split("\n")
    pairs = [line.split("\t", 1) for line in lines if "\t" in line]
    return {name: int(size) for size, name in pairs if size.isdecimal()}
