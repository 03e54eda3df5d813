"""
How many jobs may be in the queue, how many are, and what a refusal means by that.

The same words of sbatch's mean that the queue is full, and that nothing may ever be submitted there
(a missing account): only the limits themselves tell which. Sources: sacctmgr(1), squeue(1), and
what 22.05 printed for limits of an association, its account and its quality of service.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.slurm.array_parts import parse_part
from airflow_provider_csc.slurm.framing import assignments, words
from airflow_provider_csc.slurm.options import read_arguments
from airflow_provider_csc.slurm.run_dir import fill_names
from airflow_provider_csc.slurm.shell import PLACE, SLURM

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from airflow_provider_csc.slurm.framing import Frame

_CODE = re.compile(r"(?:Assoc|QOS)(?:Max|Grp)\w*Submit\w*Limit")
_FIELDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueScope:
    """
    Which limits count for a submission.

    Empty where the user named none. ``code`` is Slurm's name of the limit that was reached, where
    it gave one; ``needed`` the number of jobs, of which each element of an array is one.
    """

    account: str = ""
    partition: str = ""
    qos: str = ""
    code: str = ""
    needed: int = 1

    def to_payload(self) -> dict[str, str | int]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> QueueScope:
        """Read what `to_payload` made."""
        return cls(**{name: payload[name] for name in cls.__slots__ if name in payload})


def read_scope(asked: Sequence[str], said: str, *, part: str = "") -> QueueScope:
    """
    Return whose limits a refused submission reached, from its options and sbatch's words.

    The options are those of an array as a whole; ``part`` is what was submitted of it (see
    `array_parts.format_part`), empty where that was all.
    """
    options = {name: str(value) for name, value in read_arguments(asked).items()}
    code = _CODE.search(said)
    return QueueScope(
        account=options.get("account", ""),
        partition=options.get("partition", ""),
        qos=options.get("qos", ""),
        code=code.group() if code else "",
        needed=_count_elements(part or options.get("array")),
    )


def _count_elements(array: str | None) -> int:
    try:
        return len(parse_part(array).spec) if array else 1
    except NotationError:
        return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimit:
    """
    One limit on jobs in the queue, pending or running.

    ``code`` is the beginning of Slurm's name for it, ``words`` what a person calls it. ``queued``
    is None where it cannot be counted.
    """

    code: str
    words: str
    limit: int
    queued: int | None

    def room(self, coming: int) -> int | None:
        """Return how many more fit besides those that are about to be submitted."""
        return None if self.queued is None else self.limit - self.queued - coming


# An association's own row shows what it inherits, save the limits of the account as a whole (seen
# on 22.05).
_LIMITS = r"""
manage() { slurm timeout 30 sacctmgr --parsable2 --noheader show "$@"; }
me=$(id -un)
ask cluster eval "slurm timeout 30 scontrol show config | sed -n 's/^ClusterName *= *//p'"
[ -n "$account" ] || account=$(manage user "$me" format=DefaultAccount 2>/dev/null | head -n 1)
frame account 0 "$account"
ask assoc manage assoc where user="$me" format=Cluster,Account,Partition,MaxSubmit,DefaultQOS
ask group manage assoc where user= account="$account" format=Cluster,Account,GrpSubmit
ask qos manage qos format=Name,MaxSubmitPU,MaxSubmitPA,GrpSubmit
[ -z "$partition" ] || ask partition slurm scontrol --oneliner show partition "${partition%%,*}"
"""
# Many rows of squeue are counted where they are. Of a submission that has become an element of
# several tasks' array squeue shows that array's name: its run directory tells. This is asked before
# the rows are counted, so that nobody's job is missing in both.
_COUNTS = r"""
count() {
  local rows
  rows=$(slurm timeout 30 squeue --array --noheader --format='%a|%P|%q' "$@" 2>&1) || {
    printf '%s' "$rows"
    return 1
  }
  [ -z "$rows" ] || printf '%s\n' "$rows" | sort | uniq -c
}
names() {
  local base token
  place base "$base_dir"
  for token in "${tokens[@]}"; do
    [ ! -s "$base/$token/@JOB_ID" ] || printf '%s\n' "$token"
  done
  slurm timeout 30 squeue --me --noheader --format=%j | grep -F -o "${tokens[@]/#/-e}" | sort -u
  return "${PIPESTATUS[0]}"
}
[ "${#tokens[@]}" -eq 0 ] || ask names names
ask mine count --me
ask all count --account="$account"
"""


def build_queue_probe(scope: QueueScope, tokens: Sequence[str] = (), base_dir: str = "~") -> str:
    """Ask for limits and counts, and which of some submissions below ``base_dir`` were made."""
    given = f"{assignments({'base_dir': base_dir})}\ntokens=({words(tokens)})\n"
    return f"{given}{build_show_limits(scope)}{PLACE}{fill_names(_COUNTS)}"


def build_show_limits(scope: QueueScope) -> str:
    """Ask for limits alone, as for `build_queue_probe`, without what is queued."""
    given = assignments({"account": scope.account, "partition": scope.partition})
    return f"{given}\n{SLURM}{_LIMITS}"


def read_tokens(frames: Mapping[str, Frame]) -> set[str]:
    """Return which of the submissions that were asked for have a job."""
    return set(frames["names"].text.split()) if "names" in frames else set()


def read_limits(frames: Mapping[str, Frame], scope: QueueScope) -> tuple[QueueLimit, ...]:
    """Return the limits on jobs in the queue that are known to hold for a submission."""
    account, cluster = frames["account"].text, frames["cluster"].text
    mine, everybody = _read_counts(frames.get("mine")), _read_counts(frames.get("all"))
    own = _pick_association(_rows(frames["assoc"], cluster), account, scope.partition)
    found: list[QueueLimit] = []
    if own and own[3].isdecimal():
        words = f"MaxSubmit of account {account}" + (f" in {own[2]}" if own[2] else "")
        count = _sum(mine, account=account, partition=own[2])
        found.append(
            QueueLimit(code="AssocMaxSubmit", words=words, limit=int(own[3]), queued=count)
        )
    for row in _rows(frames["group"], cluster):
        if row[1] == account and row[2].isdecimal():
            words = f"GrpSubmit of account {account}, which all its users share,"
            count = _sum(everybody, account=account)
            code = "AssocGrpSubmit"
            found.append(QueueLimit(code=code, words=words, limit=int(row[2]), queued=count))
    names = {scope.qos or (own[4] if own else "") or "normal", _partition_qos(frames)}
    for row in _rows(frames["qos"], None):
        if row[0] in names:
            found += _qos_limits(row, account, mine, everybody)
    return tuple(found)


def _rows(frame: Frame, cluster: str | None) -> list[list[str]]:
    """Return a list of fields for each row, of this cluster where rows name one."""
    if frame.status != 0:
        return []
    rows = [line.split("|") for line in frame.text.splitlines() if "|" in line]
    # Missing fields at the end are empty ones.
    rows = [[*row, "", "", "", "", ""] for row in rows]
    return [row for row in rows if cluster is None or row[0].lower() == cluster.lower()]


def _pick_association(rows: list[list[str]], account: str, partition: str) -> list[str] | None:
    """Return the row that counts: one for the partition goes before one for all."""
    mine = [row for row in rows if row[1] == account and row[2] in ("", *partition.split(","))]
    return max(mine, key=lambda row: bool(row[2]), default=None)


def _partition_qos(frames: Mapping[str, Frame]) -> str:
    found = re.search(r"\bQoS=(\S+)", frames["partition"].text) if "partition" in frames else None
    return found.group(1) if found else ""


def _qos_limits(
    row: list[str], account: str, mine: _Counts | None, everybody: _Counts | None
) -> Iterable[QueueLimit]:
    name = row[0]
    kinds = (
        ("QOSMaxSubmitJobPerUser", "MaxSubmitJobsPerUser", row[1], _sum(mine, qos=name)),
        (
            "QOSMaxSubmitJobPerAccount",
            "MaxSubmitJobsPerAccount",
            row[2],
            _sum(everybody, qos=name, account=account),
        ),
        # Jobs of other accounts are not counted, so that it is only known to hold.
        ("QOSGrpSubmit", "GrpSubmit", row[3], None),
    )
    for code, field, limit, count in kinds:
        if limit.isdecimal():
            words = f"{field} of quality of service {name}"
            yield QueueLimit(code=code, words=words, limit=int(limit), queued=count)


_Counts = list[tuple[int, str, str, str]]


def _read_counts(frame: Frame | None) -> _Counts | None:
    """Read numbers of jobs by account, partition and quality of service; None for no answer."""
    if frame is None or frame.status != 0:
        return None
    counts: _Counts = []
    for line in frame.text.splitlines():
        number, _, rest = line.strip().partition(" ")
        fields = rest.split("|")
        if number.isdecimal() and len(fields) == _FIELDS - 1:
            counts.append((int(number), *map(str.strip, fields)))  # type: ignore[arg-type] # three
    return counts


def _sum(
    counts: _Counts | None, *, account: str = "", partition: str = "", qos: str = ""
) -> int | None:
    if counts is None:
        return None
    wanted = ((1, account), (2, partition), (3, qos))
    return sum(row[0] for row in counts if all(not one or row[at] == one for at, one in wanted))


class Refusal(Enum):
    """What a refusal for a limit on jobs in the queue means."""

    FULL = "full"
    BEYOND = "beyond"  # more than the limit even of an empty queue
    ROOM = "room"  # there is room: the limit is not the reason
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a refusal means, and the limit that decided, if one did."""

    refusal: Refusal
    limit: QueueLimit | None = None

    def describe(self, needed: int) -> str:
        """Return what a person should know, in one or two sentences."""
        limit = self.limit
        if limit is None:
            return "The site says that the queue is full; which limit that is cannot be read."
        text = f"{limit.words} is {limit.limit}"
        if self.refusal is Refusal.FULL:
            return f"The queue is full: {text}, {limit.queued} are queued."
        if self.refusal is Refusal.ROOM:
            return (
                f"The queue is not full: {text}, {limit.queued} are queued. It is refused for "
                "another reason, such as a missing `account`, a partition that is closed to it, or "
                "no billing units left."
            )
        if limit.limit == 0:
            return f"{text}: nothing may be submitted with it. Set another `account`."
        return (
            f"{text}, and this asks for {needed} jobs at once, each element of an array being one. "
            "Ask for fewer, or split the array."
        )


def relevant_limits(limits: Sequence[QueueLimit], code: str) -> list[QueueLimit]:
    """Return the limits that Slurm's name of one can mean: without a name, all."""
    return [limit for limit in limits if not code or code.startswith(limit.code)]


def judge_refusal(scope: QueueScope, limits: Sequence[QueueLimit]) -> Judgement:
    """Return what a refusal means by the limits that are known."""
    concerned = relevant_limits(limits, scope.code)
    for limit in concerned:
        if scope.needed > limit.limit:
            return Judgement(Refusal.BEYOND, limit)
    for limit in concerned:
        room = limit.room(0)
        if room is not None and room < scope.needed:
            return Judgement(Refusal.FULL, limit)
    if scope.code and len(concerned) == 1 and concerned[0].queued is not None:
        return Judgement(Refusal.ROOM, concerned[0])
    return Judgement(Refusal.UNKNOWN)


def find_room(scope: QueueScope, limits: Sequence[QueueLimit], coming: int) -> int | None:
    """Return how many more jobs fit, besides those that are coming; None where it is not known."""
    rooms = [limit.room(coming) for limit in relevant_limits(limits, scope.code)]
    known = [room for room in rooms if room is not None]
    return min(known) if known else None
