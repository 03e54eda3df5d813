"""
The shell programs that look for environments, lock, list and remove them; and their answers.

A lock is a link to nothing, because one is made with its text in one step, and only where there is
none. Its text is ``<key of the task instance>@<user>``: so it is known whether the job of who holds
it is still in the queue. A lock that stayed behind is replaced by a rename, which only who made
``….taking`` may do, and only after another look.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_csc.environments.layout import (
    ARCHITECTURE,
    BUILDS_DIR,
    LOCK_SUFFIX,
    RECORD_FILE,
    USED_FILE,
    VERSIONS_FILE,
)
from airflow_provider_csc.environments.report import Record, parse_record
from airflow_provider_csc.errors import ConfigError, SiteUnavailableError, UnreadableOutputError
from airflow_provider_csc.slurm.framing import assignments, quote
from airflow_provider_csc.slurm.shell import PLACE, SLURM

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_csc.slurm.framing import Frame

# A submission that is under way has no job yet; one whose fate is open may get one late.
LOCK_GRACE_SECONDS = 300
# The text of a lock, of the variable `key`.
OWNER = "$key@$(id -un)"

_LOOK = r"""
place prefix "$prefix"
[ -n "$architecture" ] || architecture=$(uname -m)
final=$prefix/$name-$architecture-$short
lock=$final@LOCK
ask architecture printf %s "$architecture"
ask path printf %s "$final"
tell() {
  record=$(cat -- "$final/@RECORD" 2>/dev/null) && [[ $record == *"\"$hash\""* ]] || return
  ask record printf %s "$record"
  ask versions cat -- "$final/@VERSIONS"
}
"""
_CLAIM = r"""
age_of() { printf %d "$(($(date +%s) - $(stat -c %Y -- "$1" 2>/dev/null || date +%s)))"; }
# The jobs of who holds a lock, whose names end with the key and the try.
jobs_of() {
  local queue id job
  queue=$(slurm timeout 30 squeue --noheader --user="${1#*@}" --format='%i %j') || return
  while read -r id job; do
    case $job in *".${1%@*}".*) printf '%s ' "$id" ;; esac
  done <<<"$queue"
}
claim() {
  local holder jobs attempt said
  for attempt in 1 2 3; do
    said=$(ln -s -T -- "$owner" "$lock" 2>&1) && return
    holder=$(readlink -- "$lock") || continue
    if [ "$holder" = "$owner" ]; then touch -h -- "$lock"; return; fi
    jobs=$(jobs_of "$holder") || { printf '%s\n%s' "$holder" '?'; return 3; }
    if [ -n "$jobs" ] || [ "$(age_of "$lock")" -lt "$grace" ]; then
      printf '%s\n%s' "$holder" "$jobs"
      return 3
    fi
    if ln -s -T -- "$owner" "$lock.taking" 2>/dev/null; then
      if [ "$(readlink -- "$lock")" = "$holder" ]; then
        mv -f -T -- "$lock.taking" "$lock" && return
      fi
      rm -f -- "$lock.taking"
    elif [ "$(age_of "$lock.taking")" -ge "$grace" ]; then
      rm -f -- "$lock.taking"
    fi
  done
  [ -z "$holder" ] || { printf '%s\n' "$holder"; return 3; }
  printf '%s' "$said"
  return 1
}
release() { [ "$(readlink -- "$lock")" != "$owner" ] || rm -f -- "$lock"; }
if ! tell && ask prefix mkdir -p -- "$prefix/@BUILDS" && ask claim claim; then
  # Whoever held it before may have finished between the two looks.
  if tell; then release; fi
fi
"""
_RELEASE = r"""
if [ "$(readlink -- "$lock")" = "$owner" ]; then ask released rm -f -- "$lock"; fi
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """
    What there is of an environment.

    ``record`` and ``versions`` where it is complete. Else, who asked for the lock has it, unless
    ``holder`` has: with these jobs in the queue, or with none there yet; None where squeue does not
    say.
    """

    path: str
    architecture: str
    record: Record | None = None
    versions: str = ""
    holder: str = ""
    jobs: tuple[str, ...] | None = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which environment is looked for; ``key`` tells whose lock it would be."""

    prefix: str
    name: str
    content_hash: str
    short_hash: str
    key: str
    architecture: str = ""


def build_look(wanted: Wanted, *, claims: bool) -> str:
    """Look whether an environment is complete; where it is not, and it is asked for, lock it."""
    return _head(wanted) + _fill(_CLAIM if claims else "tell\n")


def build_release(wanted: Wanted) -> str:
    """Release a lock, if it is ours."""
    return _head(wanted) + _fill(_RELEASE)


def _head(wanted: Wanted) -> str:
    values = {
        "prefix": wanted.prefix.rstrip("/") or "/",
        "name": wanted.name,
        "short": wanted.short_hash,
        "hash": wanted.content_hash,
        "key": wanted.key,
        "architecture": wanted.architecture,
        "grace": str(LOCK_GRACE_SECONDS),
    }
    return f"{PLACE}{SLURM}{assignments(values)}\nowner={OWNER}\n{_fill(_LOOK)}"


def _fill(program: str) -> str:
    names = {
        "@LOCK": LOCK_SUFFIX,
        "@RECORD": RECORD_FILE,
        "@VERSIONS": VERSIONS_FILE,
        "@BUILDS": BUILDS_DIR,
        "@USED": USED_FILE,
    }
    for mark, name in names.items():
        program = program.replace(mark, name)
    return program


def read_look(frames: Mapping[str, Frame]) -> Look:
    """
    Return what a look found.

    :raises ConfigError: for a prefix that cannot be used.
    :raises SiteUnavailableError: where the file system takes nothing now.
    :raises UnreadableOutputError: for a record that is none.
    """
    path, architecture = frames["path"].text, frames["architecture"].text
    if not ARCHITECTURE.fullmatch(architecture):
        raise UnreadableOutputError(
            f"The site says that its architecture is {architecture!r}.", output=architecture
        )
    if "record" in frames:
        return _read_complete(frames, path, architecture)
    for name in ("prefix", "claim"):
        frame = frames.get(name)
        if frame is not None and frame.status not in (0, _HELD):
            raise _unusable(path, frame)
    claim = frames.get("claim")
    if claim is None or claim.status == 0:
        return Look(path=path, architecture=architecture)
    holder, _, jobs = claim.text.partition("\n")
    known = None if jobs == "?" else tuple(jobs.split())
    return Look(path=path, architecture=architecture, holder=holder, jobs=known)


_HELD = 3  # what `claim` returns where somebody else has the lock
_PASSING = ("No space left", "Disk quota exceeded", "Read-only file system", "Input/output error")


def _read_complete(frames: Mapping[str, Frame], path: str, architecture: str) -> Look:
    record, versions = parse_record(frames["record"].data), frames["versions"]
    if record is None or versions.status != 0:
        raise UnreadableOutputError(
            f"The record of the environment {path} cannot be read. Remove that link, and it is "
            "built anew.",
            output=frames["record"].text[:500],
        )
    return Look(path=path, architecture=architecture, record=record, versions=versions.text)


def _unusable(path: str, frame: Frame) -> ConfigError | SiteUnavailableError:
    prefix = posixpath.dirname(path)
    message = f"prefix: nothing can be made in {prefix}: {frame.complaint}."
    if any(each in frame.complaint for each in _PASSING):
        return SiteUnavailableError(message, path=prefix)
    return ConfigError(
        f"{message} Name a directory that this user can write to.", field="prefix", value=prefix
    )


# Of what lies in the builds' directory: when it was made and last used, and where its link points.
_LIST = r"""
place prefix "$prefix"
builds=$prefix/@BUILDS
list() {
  local each base used
  [ -d "$builds" ] || return 0
  [ ! -L "$builds" ] || { printf '%s is a link' "$builds"; return 1; }
  for each in "$builds"/* "$builds"/.removed.*; do
    [ -d "$each" ] && [ ! -L "$each" ] || continue
    base=${each##*/}
    used=$(stat -c %Y -- "$each/@USED" 2>/dev/null)
    printf '%s\t%s\t%s\t%s\t%s\n' "$base" "$(readlink -- "$prefix/${base%.*}")" \
      "$(stat -c %Y -- "$each")" "$used" "$(head -c 1000000 -- "$each/@RECORD" 2>/dev/null)"
  done
}
ask list list
ask now date +%s
ask queue slurm timeout 30 squeue --noheader --format=%A
ask prefix printf %s "$prefix"
"""
# Whatever is removed goes out of sight first, as a whole; nothing is followed on the way.
_REMOVE = r"""
remove() {
  local build=$builds/$1 link=$prefix/${1%.*}
  [ ! -L "$builds" ] && [ ! -L "$build" ] && [ -d "$build" ] || return 1
  if [ "$(readlink -- "$link")" = "@BUILDS/$1" ]; then rm -f -- "$link" || return; fi
  if [[ $1 != .removed.* ]]; then
    mv -T -- "$build" "$builds/.removed.$1" || return
    build=$builds/.removed.$1
  fi
  rm -rf --one-file-system -- "$build"
}
"""


def build_list(prefix: str) -> str:
    """List what lies below a prefix."""
    return f"{PLACE}{SLURM}{assignments({'prefix': prefix.rstrip('/') or '/'})}\n{_fill(_LIST)}"


def build_remove(prefix: str, builds: Sequence[str]) -> str:
    """Remove builds, and the links to them."""
    head = f"{PLACE}{assignments({'prefix': prefix.rstrip('/') or '/'})}\n"
    lines = [f"ask remove{number} remove {quote(name)}" for number, name in enumerate(builds)]
    start = 'place prefix "$prefix"\nbuilds=$prefix/@BUILDS\n'
    return head + _fill(start + _REMOVE) + "\n".join(lines) + "\n"
