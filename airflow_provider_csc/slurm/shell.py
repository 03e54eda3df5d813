"""
What the shell programs of this provider have in common: helpers, and how Slurm is asked.

`framing` carries a program; this is what programs are made of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.framing import quote
from airflow_provider_csc.slurm.output import ACCOUNTING_FORMAT, QUEUE_FORMAT, SEPARATOR

if TYPE_CHECKING:
    from collections.abc import Iterable

# What a user's own SQUEUE_PARTITION or SCANCEL_STATE leaves out would look like a job that is not
# there. Times come as strftime(3)'s %s: seconds since 1970, whatever the site's zone; the ids of a
# pending array come in full (by default they are cut after 64 characters).
SLURM = """
slurm() {
  unset "${!SQUEUE_@}" "${!SCANCEL_@}"
  SLURM_TIME_FORMAT=%s SLURM_BITSTR_LEN=0 "$@"
}
"""
# A path on the cluster, of which ~ at the beginning is the home directory.
PLACE = """
place() {
  case $1 in
    '~') printf '%s' "$HOME" ;;
    '~/'*) printf '%s' "$HOME/${1#'~/'}" ;;
    *) printf '%s' "$1" ;;
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

_SEPARATOR = f"$'\\x{ord(SEPARATOR):02x}'"


def squeue() -> str:
    """Return the squeue command that `output.parse_queue` reads."""
    return f"slurm squeue --noheader --states=all --format={_ansi(QUEUE_FORMAT)}"


def sacct() -> str:
    """Return the sacct command that `output.parse_accounting` reads."""
    fields = ",".join(ACCOUNTING_FORMAT)
    return f"slurm sacct --noheader --parsable2 --delimiter={_SEPARATOR} --format={fields}"


def _ansi(text: str) -> str:
    return "$'" + text.replace(SEPARATOR, f"\\x{ord(SEPARATOR):02x}") + "'"


def id_list(job_ids: Iterable[str]) -> str:
    """Return job ids, quoted, for ``--jobs``."""
    unique = sorted(set(job_ids))
    # squeue answers an unknown id with an error when it is the only one asked for, and leaves it
    # out otherwise (src/squeue/squeue.c); asked for twice it is never the only one.
    return quote(",".join([*unique, unique[0]]))


def join_path(directory: str, name: str) -> str:
    """Return the path of a file in a directory."""
    return f"{directory.rstrip('/')}/{name}"
