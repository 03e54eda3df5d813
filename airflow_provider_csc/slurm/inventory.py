"""
What lies on a site under our names: live jobs and run directories, listed and removed.

Programs as in `commands`, and what they answer. A site may hold thousands of run directories, so
each is asked about by a few processes for all, never by a process of its own.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.batch import ExitRecord, parse_exit_record
from airflow_provider_csc.slurm.framing import assignments, quote, words
from airflow_provider_csc.slurm.output import (
    AccountingRow,
    Answer,
    NoAnswer,
    QueueRow,
    belongs_to,
    parse_accounting,
    parse_job_id,
    parse_queue,
)
from airflow_provider_csc.slurm.run_dir import (
    EXIT_FILE,
    FILES_SUFFIX,
    IDENTITY_FILE,
    JOB_ID_FILE,
    NAME_FILE,
    VERDICT_FILE,
    fill_names,
)
from airflow_provider_csc.slurm.shell import PLACE, SLURM, id_list, sacct, squeue

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from airflow_provider_csc.slurm.framing import Frame

# A token as bash, find and Python read it alike (POSIX extended regular expressions).
_CALLED = r"af[0-9a-f]{20}\.[1-9][0-9]*(\.[1-9][0-9]*)?"
_NAME = rf"{_CALLED}({re.escape(FILES_SUFFIX)})?(~[0-9]+)?"
_IS_NAME = re.compile(_NAME)
_ENDS_WITH_TOKEN = re.compile(rf"(?:^|\.)({_CALLED})$")

_RECORD_FILES = (IDENTITY_FILE, JOB_ID_FILE, EXIT_FILE, VERDICT_FILE, NAME_FILE)

# A file of ours is small; what a job wrote under such a name is not read beyond 8 KiB (find's unit
# is 512 bytes, rounded up). Pipes and links are passed over.
_LIST = r"""
enter() { cd -P -- "$1" && pwd; }
own() {
  find . -mindepth 1 -maxdepth 1 -type d -uid "$(id -u)" -regextype posix-extended \
    -regex "\./$name_pattern" -printf '%T@ %i %f\n' | LC_ALL=C sort -n
}
choose() {
  local -A wanted=()
  local rest=$limit modified inode name line
  while read -r name; do wanted[$name]=1; done < <(grep -E -o "$token_pattern\$" <<<"$1")
  for name in "${!wanted[@]}"; do
    [ -r "$name/@MEMBERS" ] || continue
    while read -r line; do wanted[${line##*/}]=1; done <"$name/@MEMBERS"
  done
  while read -r modified inode name; do
    # They are removed with their run directory.
    [[ $name != *"$files_suffix" ]] || [ ! -d "${name%"$files_suffix"}" ] || continue
    total=$((total + 1))
    if [ -z "${wanted[$name]}" ]; then
      [ "$rest" -gt 0 ] || continue
      rest=$((rest - 1))
    fi
    names+=("$name")
    printf -v line '%s %s %s\n' "$modified" "$inode" "$name"
    listed+=$line
  done < <(own)
}
records() {
  local name
  for name in "${names[@]}"; do printf "$name/%s\\0" $record_files; done |
    xargs -0 -r sh -c 'find "$@" -maxdepth 0 -type f -size -17 -print0 2>/dev/null' sh |
    xargs -0 -r grep --text --with-filename --no-messages --max-count=40 --devices=skip ''
}
usage() {
  local name
  for name in "${names[@]}"; do
    printf '%s\0' "$name"
    [[ $name = *~* ]] || [ ! -d "$name$files_suffix" ] || printf '%s\0' "$name$files_suffix"
  done | timeout 100 du --summarize --one-file-system "$@" --files0-from=-
}
inventory() {
  local total=0 listed= line base
  local -a names=()
  frame clock 0 "$(date +%s)"
  ask squeue SQUEUE --me
  local jobs=$answer
  place base "$base_dir"
  ask base enter "$base" && cd -P -- "$answer" || return
  choose "$jobs"
  frame total 0 "$total"
  frame directories 0 "$listed"
  [ "${#names[@]}" -gt 0 ] || return
  ask records records
  [ -z "$with_sizes" ] || { ask bytes usage --block-size=1; ask inodes usage --inodes; }
}
"""

# A directory is renamed before it is removed, so that nobody finds half of it under its token, and
# looked at once more under a name that nobody else uses. What is removed is what was judged: the
# same inode, in which nothing was made since. What the log-in node staged beside it goes with it.
_REMOVE = r"""
is_same() {
  [ -d "$1" ] && [ ! -L "$1" ] && [ "$(stat --format='%i %Y %u' -- "$1")" = "$2 $3 $uid" ]
}
remove() {
  local name=$1 away=$1 token=${1%%~*} files
  token=${token%"$files_suffix"}
  [[ $name =~ ^$name_pattern$ ]] || { printf 'is not the name of a run directory'; return 1; }
  if [[ $jobs == *".$token"$'\n'* ]]; then printf 'has a job in the queue'; return 1; fi
  is_same "$name" "$2" "$3" || { printf 'has changed since it was judged'; return 1; }
  if [ "$name" != "$token" ] && [[ $name != *~* ]] && [ -e "$token" ]; then
    printf 'has a run directory'
    return 1
  fi
  if [[ $name != *~* ]]; then
    away=$name~$now
    mv -T -- "$name" "$away" || return
    is_same "$away" "$2" "$3" || { mv -T -- "$away" "$name"; printf 'has changed'; return 1; }
  fi
  rm -rf --one-file-system -- "./$away" || return
  files=$token$files_suffix
  [ "$name" = "$token" ] && [ -d "$files" ] && [ ! -L "$files" ] && [ -O "$files" ] || return 0
  mv -T -- "$files" "$files~$now" && rm -rf --one-file-system -- "./$files~$now"
}
removal() {
  local jobs now uid name inode modified
  ask squeue slurm squeue --noheader --states=all --format=%j --me || return
  jobs=$answer$'\n'
  now=$(date +%s)
  uid=$(id -u)
  ask base cd -P -- "$base" && cd -P -- "$base" || return
  while read -r name inode modified; do
    ask "remove.$name" remove "$name" "$inode" "$modified"
  done <<<"$directories"
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIdentity:
    """
    Whose a run directory is, as its identity file says; see `identity`.

    ``group`` and ``index`` tell which element of which array of several tasks its job is; '' where
    it is none.
    """

    deployment: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    waits: bool
    group: str = ""
    index: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveJob:
    """
    One of this user's jobs that squeue knows. Times: seconds since 1970.

    An array is one job; of an array of several tasks' jobs, each element is one besides.

    ``token`` is None for a job that is not ours. ``is_over`` is True for what has ended, and
    ``is_ending`` for what nothing can be done about any more.
    """

    job_id: str
    name: str
    token: str | None
    state: str
    submitted: int | None
    is_over: bool
    is_ending: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDirectory:
    """
    One directory directly below the base that is called as a token, or as one moved aside.

    ``modified`` is in seconds since 1970; ``bytes`` are what it takes up on the disk, with what the
    log-in node staged beside it; None where it was not measured. One that ``is_array`` holds what
    the jobs of several tasks share.
    """

    name: str
    inode: int
    modified: int
    identity: RunIdentity | None = None
    job_id: str | None = None
    exit_record: ExitRecord | None = None
    verdict: str | None = None
    inodes: int | None = None
    bytes: int | None = None
    is_array: bool = False

    @property
    def token(self) -> str:
        """The token it was made for."""
        return self.name.partition("~")[0].removesuffix(FILES_SUFFIX)

    @property
    def is_files(self) -> bool:
        """Whether it is what the log-in node staged, for a job whose run directory is not there."""
        return self.name.partition("~")[0].endswith(FILES_SUFFIX)

    @property
    def is_moved_aside(self) -> bool:
        """Whether a later run of the same id moved it out of its way."""
        return "~" in self.name

    @property
    def own_exit_record(self) -> ExitRecord | None:
        """The exit record, when the job that is recorded here wrote it."""
        record = self.exit_record
        return record if record and record.job_id == self.job_id else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """
    What a site has of this user, at ``clock`` (its own, seconds since 1970).

    ``problem`` says why run directories could not be listed. ``total`` counts all of them,
    ``directories`` holds those that were asked for, the oldest first.
    """

    clock: int
    jobs: Answer[LiveJob] | NoAnswer
    base: str
    problem: str
    total: int
    directories: tuple[RunDirectory, ...]

    def directory_of(self, token: str) -> RunDirectory | None:
        """Return the run directory of a token."""
        return next((one for one in self.directories if one.name == token), None)


def build_inventory(base_dir: str, *, limit: int, with_sizes: bool) -> str:
    """
    List this user's jobs, and the run directories of those jobs and of at most ``limit`` others.

    The others are the oldest. Measuring sizes looks at every file, which a shared file system pays
    for.
    """
    values = assignments(
        {
            "base_dir": base_dir,
            "limit": str(limit),
            "with_sizes": "1" if with_sizes else "",
            "name_pattern": _NAME,
            "token_pattern": _CALLED,
            "record_files": words(_RECORD_FILES),
            "files_suffix": FILES_SUFFIX,
        }
    )
    listing = fill_names(_LIST).replace("SQUEUE", squeue())
    return f"{values}\n{PLACE}{SLURM}{listing}\ninventory\n"


def build_removal(base: str, directories: Sequence[RunDirectory]) -> str:
    """Remove run directories as they were listed; one that has changed since is left alone."""
    rows = "\n".join(f"{one.name} {one.inode} {one.modified}" for one in directories)
    values = assignments(
        {
            "base": base,
            "directories": rows,
            "name_pattern": _NAME,
            "files_suffix": FILES_SUFFIX,
        }
    )
    return f"{values}\n{SLURM}{_REMOVE}\nremoval\n"


def build_reaping(jobs: Sequence[LiveJob]) -> str:
    """
    Cancel jobs, each by its id and its name.

    A controller that lost its newest jobs gives their ids out again (seen on 22.05); a job of
    another name is not the one that was judged.
    """
    lines = [
        f'ask cancel.{one.job_id} slurm scancel --user="$(id -un)" --name={quote(one.name)} '
        f"-- {quote(one.job_id)}"
        for one in jobs
    ]
    return "\n".join([SLURM, *lines]) + "\n"


def build_accounts(job_ids: Sequence[str]) -> str:
    """Ask sacct how jobs ended."""
    return f"{SLURM}\nask sacct {sacct()} --allocations --jobs={id_list(job_ids)}\n"


def parse_inventory(frames: Mapping[str, Frame]) -> Inventory:
    """Read what the program of `build_inventory` answered."""
    base, directories = frames["base"], _parse_directories(frames)
    return Inventory(
        clock=int(frames["clock"].text),
        jobs=_parse_jobs(frames["squeue"], directories),
        base=base.text if base.status == 0 else "",
        problem="" if base.status == 0 else base.complaint,
        total=int(frames["total"].text) if "total" in frames else 0,
        directories=directories,
    )


def parse_removal(frames: Mapping[str, Frame]) -> dict[str, str]:
    """Return why each directory that is still there was not removed, by name."""
    for step in ("squeue", "base"):
        if step in frames and frames[step].status != 0:
            return {"*": frames[step].complaint}
    prefix = "remove."
    return {
        name.removeprefix(prefix): frame.complaint or f"rm ended with status {frame.status}"
        for name, frame in frames.items()
        if name.startswith(prefix) and frame.status != 0
    }


def parse_reaping(frames: Mapping[str, Frame]) -> dict[str, str]:
    """Return what scancel said of each job that it did not cancel, by id."""
    prefix = "cancel."
    return {
        name.removeprefix(prefix): frame.text or f"scancel ended with status {frame.status}"
        for name, frame in frames.items()
        if name.startswith(prefix) and frame.status != 0
    }


def parse_ended(frames: Mapping[str, Frame], job_ids: Sequence[str]) -> frozenset[str]:
    """
    Return the jobs of which sacct says that they, and all their elements, have ended.

    Of an element of an array (``123_7``) it is asked about that alone.
    """
    accounts = parse_accounting(frames["sacct"])
    rows: dict[str, list[AccountingRow]] = {}
    for row in accounts.rows if isinstance(accounts, Answer) else ():
        rows.setdefault(_base_id(row.job_id), []).append(row)

    def has_ended(job_id: str) -> bool:
        own = [row for row in rows.get(_base_id(job_id), ()) if belongs_to(row.job_id, job_id)]
        return bool(own) and all(row.state.is_final for row in own)

    return frozenset(filter(has_ended, job_ids))


def parse_live_token(job_name: str) -> str | None:
    """Return the token a job's name ends with, or None for a job that is not ours."""
    match = _ENDS_WITH_TOKEN.search(job_name)
    return match.group(1) if match else None


def _base_id(job_id: str) -> str:
    return re.split(r"[_+.]", job_id, maxsplit=1)[0]


def _parse_jobs(frame: Frame, directories: Sequence[RunDirectory]) -> Answer[LiveJob] | NoAnswer:
    queue = parse_queue(frame)
    if isinstance(queue, NoAnswer):
        return queue
    rows: dict[str, list[QueueRow]] = {}
    for row in queue.rows:
        rows.setdefault(_base_id(row.job_id), []).append(row)
    arrays: dict[str, list[RunDirectory]] = {}
    for directory in directories:
        if directory.identity and directory.identity.group:
            arrays.setdefault(directory.identity.group, []).append(directory)
    jobs = [_live_job(job_id, group) for job_id, group in rows.items()]
    elements = [
        element
        for job in jobs
        if job.token in arrays
        for element in _elements(job.job_id, rows[job.job_id], arrays[job.token])
    ]
    return Answer((*jobs, *elements))


def _elements(
    job_id: str, rows: Sequence[QueueRow], members: Sequence[RunDirectory]
) -> Iterator[LiveJob]:
    """Yield the elements of an array of several tasks' jobs, each under its own token."""
    for member in members:
        element = f"{job_id}_{member.identity.index}" if member.identity else ""
        if own := [row for row in rows if belongs_to(row.job_id, element)]:
            yield replace(_live_job(element, own), token=member.name)


def _live_job(job_id: str, rows: list[QueueRow]) -> LiveJob:
    live = [row for row in rows if not row.state.is_final]
    shown = live or rows
    times = [row.submitted for row in rows if row.submitted]
    return LiveJob(
        job_id=job_id,
        name=rows[0].name,
        token=parse_live_token(rows[0].name),
        state="+".join(sorted({row.state.name for row in shown})),
        submitted=max(times) if times else None,
        is_over=not live,
        is_ending=bool(live) and all(row.state.name == "COMPLETING" for row in live),
    )


def _parse_directories(frames: Mapping[str, Frame]) -> tuple[RunDirectory, ...]:
    if "directories" not in frames:
        return ()
    records = _parse_records(frames["records"]) if "records" in frames else {}
    sizes, inodes = _parse_usage(frames.get("bytes")), _parse_usage(frames.get("inodes"))
    found = []
    for line in frames["directories"].text.splitlines():
        modified, inode, name = line.split(" ", 2)
        if not _IS_NAME.fullmatch(name):
            continue
        files = records.get(name, {})
        exit_text = files.get(EXIT_FILE)
        found.append(
            RunDirectory(
                name=name,
                inode=int(inode),
                modified=int(modified.partition(".")[0]),
                identity=parse_identity(files.get(IDENTITY_FILE, "")),
                job_id=parse_job_id(files.get(JOB_ID_FILE, "")),
                exit_record=parse_exit_record(exit_text.encode()) if exit_text else None,
                # Of an array a second line follows.
                verdict=files.get(VERDICT_FILE, "").partition("\n")[0].strip() or None,
                inodes=_with_files(inodes, name),
                is_array=NAME_FILE in files,
                bytes=_with_files(sizes, name),
            )
        )
    return tuple(found)


def _parse_records(frame: Frame) -> dict[str, dict[str, str]]:
    """Read grep's ``name/file:line`` into the files' text, by directory and by file."""
    files: dict[str, dict[str, str]] = {}
    for row in frame.data.decode(errors="replace").split("\n"):
        path, colon, line = row.partition(":")
        name, _, file = path.partition("/")
        if colon and _IS_NAME.fullmatch(name):
            texts = files.setdefault(name, {})
            texts[file] = f"{texts[file]}\n{line}" if file in texts else line
    return files


def _parse_usage(frame: Frame | None) -> dict[str, int]:
    """Read du's ``number name``; what vanished meanwhile is missing."""
    lines = frame.text.splitlines() if frame else []
    pairs = [line.split("\t", 1) for line in lines]
    return {pair[1]: int(pair[0]) for pair in pairs if len(pair) == 2 and pair[0].isdecimal()}  # noqa: PLR2004


def _with_files(usage: Mapping[str, int], name: str) -> int | None:
    return usage[name] + usage.get(f"{name}{FILES_SUFFIX}", 0) if name in usage else None


def parse_identity(text: str) -> RunIdentity | None:
    """Read an identity file; None for text that is not one whole identity."""
    try:
        fields = json.loads(text)
        identity = RunIdentity(
            deployment=fields["deployment"],
            dag_id=fields["dag_id"],
            run_id=fields["run_id"],
            task_id=fields["task_id"],
            map_index=fields["map_index"],
            waits=fields["waits"],
            group=str(fields.get("group", "")),
            index=int(fields.get("index", -1)),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    texts = (identity.deployment, identity.dag_id, identity.run_id, identity.task_id)
    is_whole = all(isinstance(text, str) for text in texts)
    is_whole &= type(identity.map_index) is int and isinstance(identity.waits, bool)
    return identity if is_whole else None
