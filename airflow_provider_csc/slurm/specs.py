"""
What sbatch's options take that is more than a number: nodes, GPUs, signals, dependencies, job ids.

Each ``parse_*`` returns the checked text in one spelling. Sources: sbatch(1) and scancel(1), Slurm
22.05 to 25.11, and their readers (src/common/proc_args.c and gres.c, job_scheduler.c).
"""

from __future__ import annotations

import re

from airflow_provider_csc.notation import NotationError, number_text, shown
from airflow_provider_csc.slurm.arrays import format_array, parse_array
from airflow_provider_csc.slurm.values import format_time_limit, parse_count, parse_delay

_NODE_RANGE = re.compile(r"(?:\+?([0-9]+)(k?m?))?(?:-([0-9]+)(k?m?))?", re.IGNORECASE)
_NODE_SIZES = re.compile(r"[0-9]+(-[0-9]+(:[0-9]+)?)?(,[0-9]+(-[0-9]+(:[0-9]+)?)?)*")
_NODE_REMEDY = (
    "Write a number or min-max, for example '2' or '2-4' (k and m multiply by 1024 and 1048576); "
    "since Slurm 23.02 also sizes as '1,2,4' or '1-15:4'."
)


def parse_nodes(value: str | int) -> str:
    """Return a checked number of nodes: ``min``, ``min-max``, or the sizes a job can have."""
    text = number_text(value)
    match = _NODE_RANGE.fullmatch(text)
    if not text or not (match or _NODE_SIZES.fullmatch(text)):
        raise NotationError(f"{shown(value)} is not a number of nodes", _NODE_REMEDY)
    if match and match[3]:
        least, most = _node_count(match[1], match[2]), _node_count(match[3], match[4])
        if 0 < most < least:
            problem = f"{shown(value)} asks for at least {least} and at most {most} nodes"
            raise NotationError(problem, _NODE_REMEDY)
    return text


def _node_count(digits: str | None, unit: str | None) -> int:
    factor = {"": 1, "k": 2**10, "m": 2**20, "km": 2**30}[(unit or "").lower()]
    return int(digits or 1) * factor


_AMOUNT = r"[0-9]+(?:[kmgtp](?:i?b)?)?"
_GRES = re.compile(rf"[^:=,\s]+(?::[^:=,\s]+(?:[:=]{_AMOUNT})?|={_AMOUNT})?", re.IGNORECASE)
_GPUS = re.compile(rf"[^:=,\s]+(?:[:=]{_AMOUNT})?", re.IGNORECASE)


def parse_gres(text: str) -> str:
    """Return checked generic resources: ``name[[:type]:count]``, comma-separated (sbatch(1))."""
    remedy = "Write name[[:type]:count], comma-separated, for example 'gpu:gh200:2,nvme:100'."
    if text.strip().lower() in {"help", "list"}:
        raise NotationError(f"{shown(text)} makes sbatch print a list and submit nothing", remedy)
    return _checked_list(text, _GRES, NotationError(f"{shown(text)} names no resources", remedy))


def parse_gpus(value: str | int) -> str:
    """Return a checked number of GPUs: ``[type:]number``, comma-separated (sbatch(1), --gpus)."""
    remedy = "Write [type:]number, comma-separated, for example '2' or 'gh200:2'."
    error = NotationError(f"{shown(value)} is not a number of GPUs", remedy)
    return _checked_list(number_text(value), _GPUS, error)


def _checked_list(text: str, item: re.Pattern[str], error: NotationError) -> str:
    items = [each.strip() for each in text.split(",") if each.strip()]
    if not items or not all(item.fullmatch(each) for each in items):
        raise error
    return ",".join(items)


_SIGNALS = (
    *("ABRT", "ALRM", "CHLD", "CONT", "HUP", "INT", "KILL", "PIPE", "QUIT"),
    *("STOP", "TERM", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "XCPU"),
)
_SIGNAL = re.compile(
    rf"(?P<who>B|R|BR|RB)?:?(?:SIG)?(?P<name>{'|'.join(_SIGNALS)}|[0-9]{{1,5}})(?:@(?P<at>[0-9]{{1,5}}))?"
)
_UINT16 = range(65536)


def parse_signal(value: str | int) -> str:
    """Return a checked ``[{R|B}:]<signal>[@seconds]``, the signal as a bare name or number."""
    match = _SIGNAL.fullmatch(number_text(value).upper())
    if match and _is_signal(match["name"]) and int(match["at"] or 0) in _UINT16:
        who = f"{match['who']}:" if match["who"] else ""
        return who + match["name"] + (f"@{int(match['at'])}" if match["at"] else "")
    remedy = (
        "Write [B:|R:]signal[@seconds before the end, at most 65535], for example 'USR1@120' or "
        f"'B:TERM@60'; signals have a number or one of the names {', '.join(_SIGNALS)}."
    )
    raise NotationError(f"{shown(value)} is not a signal", remedy)


def _is_signal(name: str) -> bool:
    return not name.isdecimal() or 0 < int(name) in _UINT16


def parse_switches(value: str | int) -> str:
    """Return a checked ``count[@max-time]`` (sbatch(1), --switches)."""
    count, at, wait = number_text(value).partition("@")
    return str(parse_count(count)) + (f"@{format_time_limit(parse_delay(wait))}" if at else "")


_JOB = r"[1-9][0-9]*(?:_(?:[0-9]+|\*|\[[0-9,:-]+\]))?"
_JOBS = rf"(?: :{_JOB} (?:\+[1-9][0-9]*)? (?:\(\w+\))? )+"
_TERM = rf"""(?:
    (?:after(?:any|burstbuffer|corr|notok|ok)?|expand) {_JOBS}
    | singleton (?:\(\w+\))?
)"""
_DEPENDENCY = re.compile(
    rf"(?:{_TERM}|{_JOB})(?:,(?:{_TERM}|{_JOB}))*|{_TERM}(?:\?{_TERM})+",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)


def parse_dependency(value: str | int) -> str:
    """
    Return checked dependencies, in small letters (sbatch(1), --dependency).

    A mix of ``,`` (all) and ``?`` (any), which sbatch(1) forbids and 22.05 misreads, is refused.
    """
    text = re.sub(r"\s", "", number_text(value))
    if _DEPENDENCY.fullmatch(text):
        return text.lower()
    remedy = (
        "Write type:job_id[:job_id...], joined by ',' for all or by '?' for any, for example "
        "'afterok:123:124' or 'after:123+5,singleton'. Types are after, afterany, "
        "afterburstbuffer, aftercorr, afternotok, afterok, expand and singleton."
    )
    raise NotationError(f"{shown(value)} is not a dependency", remedy)


_JOB_ID = re.compile(
    r"(?P<job>[0-9]{1,10})"
    r"(?:_(?P<task>[0-9]{1,7})|_\[(?P<tasks>[^\]]+)\]|\+(?P<component>[0-9]{1,4}))?"
    r"(?:;(?P<cluster>[A-Za-z0-9][A-Za-z0-9_.-]*))?"
)


def parse_job_id(value: str | int) -> str:
    """
    Return a job id in one spelling: ``123``, ``123_4``, ``123_[1-5]``, ``123+1``, ``123;cluster``.

    :raises NotationError: for anything else, so that nothing but a job id reaches a command line.
    """
    match = _JOB_ID.fullmatch(number_text(value))
    if not match or not 0 < int(match["job"]) < 2**32:
        remedy = "Write the number sbatch gave, for example '123', '123_4', '123_[1-5]' or '123+1'."
        raise NotationError(f"{shown(value)} is not a job id", remedy)
    return str(int(match["job"])) + _job_id_tail(match)


def _job_id_tail(match: re.Match[str]) -> str:
    cluster = f";{match['cluster']}" if match["cluster"] else ""
    if match["task"]:
        return f"_{int(match['task'])}{cluster}"
    if match["tasks"]:
        return f"_[{format_array(parse_array(match['tasks']))}]{cluster}"
    return (f"+{int(match['component'])}" if match["component"] else "") + cluster
