"""
What the shell programs of this provider have in common: helpers, and how Slurm is asked.

`framing` carries a program; this is what programs are made of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.framing import quote
from airflow_provider_csc.slurm.output import ACCOUNTING_FORMAT, QUEUE_FORMAT, SEPARATOR

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# What a user's own SQUEUE_PARTITION or SCANCEL_STATE leaves out would look like a job that is not
# there. Times come as strftime(3)'s %s: seconds since 1970, whatever the site's zone; the ids of a
# pending array come in full (by default they are cut after 64 characters).
SLURM = """
slurm() {
  unset "${!SQUEUE_@}" "${!SCANCEL_@}"
  SLURM_TIME_FORMAT=%s SLURM_BITSTR_LEN=0 "$@"
}
"""
# `place VARIABLE PATH`: a path on the cluster, of which ~ at the beginning is the home directory.
# Into a variable, for a function whose output is read takes a process of its own.
PLACE = """
place() {
  case $2 in
    '~') printf -v "$1" '%s' "$HOME" ;;
    '~/'*) printf -v "$1" '%s' "$HOME/${2#'~/'}" ;;
    *) printf -v "$1" '%s' "$2" ;;
  esac
}
"""
# The array that a run directory's job is an element of, and which: token and index; else nothing.
GROUP_OF = r"""
group_of() {
  [ ! -r "$1/@IDENTITY" ] || sed -n -E \
    's/.*"group": "(af[0-9a-f]{20}\.1)", "index": ([0-9]+).*/\1 \2/p' -- "$1/@IDENTITY"
}
"""
# Cancel jobs. An element of an array that waits and is cancelled leaves no trace, neither in squeue
# nor in sacct (tried on 22.05); one that was changed has become a record of its own, and does.
CANCEL = r"""
cancel_jobs() {
  local id elements= state=
  case $1 in --state=*) state=$1; shift ;; esac
  for id in "$@"; do case $id in *_*) elements+=${elements:+,}$id ;; esac; done
  [ -z "$elements" ] || slurm scontrol update "JobId=$elements" Requeue=0 >/dev/null 2>&1
  slurm scancel $state -- "$@"
}
"""

# Linux takes no argument over 128 KiB (MAX_ARG_STRLEN); 9,000 ids of ten digits fit.
_MAX_LIST_BYTES = 100_000

_SEPARATOR = f"$'\\x{ord(SEPARATOR):02x}'"


def squeue(*, only_mine: bool = False) -> str:
    """
    Return the squeue command that `output.parse_queue` reads.

    Told to look at the caller's jobs only, slurmctld sends no others; by a list of ids squeue picks
    out of the jobs of the whole cluster (src/squeue/squeue.c, 22.05 to 25.11).
    """
    mine = " --me" if only_mine else ""
    return f"slurm squeue --noheader --states=all --format={_ansi(QUEUE_FORMAT)}{mine}"


def sacct() -> str:
    """Return the sacct command that `output.parse_accounting` reads."""
    fields = ",".join(ACCOUNTING_FORMAT)
    return f"slurm sacct --noheader --parsable2 --delimiter={_SEPARATOR} --format={fields}"


def _ansi(text: str) -> str:
    return "$'" + text.replace(SEPARATOR, f"\\x{ord(SEPARATOR):02x}") + "'"


def split_ids(job_ids: Iterable[str]) -> Iterator[list[str]]:
    """Yield job ids in lists that `id_list` can write as one argument each."""
    chunk: list[str] = []
    size = 0
    for job_id in sorted(set(job_ids)):
        needed = len(job_id) + 1
        if chunk and size + needed > _MAX_LIST_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(job_id)
        size += needed
    if chunk:
        yield chunk


def id_list(job_ids: Iterable[str]) -> str:
    """
    Return job ids, quoted, for ``--jobs``.

    An unknown id squeue leaves out, unless it is the only one: then it says so, with an error.
    """
    return quote(",".join(sorted(set(job_ids))))


def join_path(directory: str, name: str) -> str:
    """Return the path of a file in a directory."""
    return f"{directory.rstrip('/')}/{name}"
