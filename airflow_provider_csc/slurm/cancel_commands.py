"""
The shell programs that end jobs, as text: at once, with a grace period, or before a job has an id.

Each is one remote command, framed as `framing` describes. What scancel(1) does to the parts of a
job was tried on 22.05 with proctrack/cgroup: without ``--signal`` the batch shell gets SIGTERM,
``--signal`` alone reaches only the job's steps, with ``--batch`` it reaches the batch shell alone
(which hands it on), and with ``--full`` every process, so that a script also gets it a second time
from the batch shell. ``--signal`` is refused for a pending job.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.framing import assignments, quote, words
from airflow_provider_csc.slurm.run_dir import fill_names
from airflow_provider_csc.slurm.shell import CANCEL, GROUP_OF, PLACE, SLURM

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_csc.slurm.framing import Frame

# What scancel says of a job that needs no cancelling any more (slurm_errno.c).
_GONE = re.compile("Invalid job id|already completing or completed")
_SIGNAL = re.compile(r"(?P<batch>[BR]*:)?(?P<name>[^@:]+)(@.*)?")

# A file system that hangs or is full must not keep the job from being cancelled.
_MARK = """
mark_cancel() {
  umask 077
  printf '%s\\n' "$2" | timeout --kill-after=1 3 tee -- "$1/@CANCEL" >/dev/null
}
"""

_SUBMISSION = r"""
named() { slurm squeue --me --noheader --format='%F %j'; }
cancel_submission() {
  local base run_dir id name array index ids=()
  umask 077
  place base "$base_dir"
  run_dir=$base/$token
  frame run_dir 0 "$run_dir"
  # The directory is the claim to submit: once it is there with the mark, nothing is submitted.
  ask base mkdir -p -- "$base"
  [ -d "$run_dir" ] || ask claim mkdir -m 700 -- "$run_dir"
  ask mark mark_cancel "$run_dir" "$grace"
  [ -z "$identity" ] || [ -e "$run_dir/@IDENTITY" ] ||
    printf '%s' "$identity" >"$run_dir/@IDENTITY"
  id=$(grep -E -o '^[0-9]+(_[0-9]+)?' -- "$run_dir/@JOB_ID" 2>/dev/null | head -n 1)
  [ -z "$id" ] || ids+=("$id")
  read -r array index < <(group_of "$run_dir")
  ask squeue named
  while read -r id name; do
    if [[ $name == *".$token" ]]; then
      ids+=("$id")
    elif [ -n "$array" ] && [[ $name == *".$array" ]]; then
      ids+=("${id}_$index")
    fi
  done < <(sort -u <<<"$answer")
  frame job_ids 0 "${ids[*]}"
  [ "${#ids[@]}" -eq 0 ] || ask scancel cancel_jobs "${ids[@]}"
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """How a running job is told before it is killed: a signal, and so many seconds to end."""

    seconds: float
    signal: str = "TERM"
    to_batch_only: bool = False


def read_notice(grace: float, signal_option: str | None) -> Notice | None:
    """
    Return the notice for a grace period and the user's ``--signal`` (``B:USR1@60``, ``TERM``).

    None where nothing is to be waited for. Of ``--signal`` the time is left out: it says how long
    before the time limit, not how long the job needs.
    """
    if grace <= 0:
        return None
    match = _SIGNAL.fullmatch((signal_option or "").strip())
    if match is None:
        return Notice(seconds=grace)
    return Notice(seconds=grace, signal=match["name"], to_batch_only="B" in (match["batch"] or ""))


def build_kill(job_ids: Sequence[str]) -> str:
    """Cancel jobs as scancel(1) does by default: SIGTERM, then SIGKILL after KillWait."""
    return f"{SLURM}{CANCEL}\nask scancel cancel_jobs {words(job_ids)}\n"


def build_notice(job_ids: Sequence[str], notice: Notice, run_dirs: Sequence[str] = ()) -> str:
    """
    Cancel what is pending, signal what runs, and leave the mark by which the job ends itself.

    The mark holds the grace in seconds. It is written first, for the signal is what makes the job's
    wrapper look at it.
    """
    ids = words(job_ids)
    reach = "--batch" if notice.to_batch_only else "--full"
    lines = [SLURM, CANCEL, fill_names(_MARK)]
    lines += [
        f"ask mark{number} mark_cancel {quote(run_dir)} {notice.seconds:.0f}"
        for number, run_dir in enumerate(run_dirs)
    ]
    lines += [
        f"ask pending cancel_jobs --state=PENDING {ids}",
        f"ask scancel slurm scancel {reach} --signal={quote(notice.signal)} -- {ids}",
    ]
    return "\n".join(lines) + "\n"


def build_cancel_submission(
    *, base_dir: str, token: str, identity: str = "", grace: float = 0
) -> str:
    """
    Keep a submission from being made, or cancel what it has become.

    It makes the run directory where there is none, writes the mark that the submission looks at,
    and cancels the job that is recorded there or that squeue knows by the token in its name.
    """
    values = assignments(
        {
            "base_dir": base_dir,
            "token": token,
            "identity": identity,
            "grace": f"{grace:.0f}",
        }
    )
    functions = fill_names(f"{PLACE}{SLURM}{CANCEL}{GROUP_OF}{_MARK}{_SUBMISSION}")
    return f"{values}\n{functions}\ncancel_submission\n"


def read_cancelled_submission(frames: Mapping[str, Frame]) -> tuple[str, ...]:
    """Return the ids of the jobs that a submission had become, each once."""
    return tuple(dict.fromkeys(frames["job_ids"].text.split()))


def read_problem(frames: Mapping[str, Frame]) -> str:
    """Return why a cancellation may not have had its effect; empty when nothing speaks for that."""
    answers = [
        frame for name, frame in frames.items() if name in ("scancel", "squeue", "pending", "mark")
    ]
    return "\n".join(filter(None, (_complaint(frame) for frame in answers)))


def _complaint(frame: Frame) -> str:
    if frame.status == 0:
        return ""
    lines = [line for line in frame.complaint.splitlines() if not _GONE.search(line)]
    if lines or frame.text:
        return "\n".join(lines)
    return f"it ended with status {frame.status} and said nothing"
