"""
The batch script: what Slurm runs around the user's own script.

The user's script is kept unmodified in the run directory. The batch script beside it carries its
``#SBATCH`` lines, prepares the environment, runs it, hands signals on, and writes as its very last
act the exit record, from which the end of the job is known even when Slurm has forgotten it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.slurm.framing import quote, words
from airflow_provider_csc.slurm.run_dir import fill_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_SCRIPT_BYTES = 4 * 1024 * 1024  # slurm.conf(5), max_script_size: 4 MiB by default

# The record is written whatever ends this shell, save SIGKILL: also an environment that calls
# `exit`. $$ is this shell even in a command substitution, whose own fd 1 is a pipe. Before the
# user's script runs, a signal ends the job, as it would end any shell.
_HEAD = """\
#!/bin/bash --login
{directives}
# Written by airflow-provider-csc. The script it runs lies unmodified beside it.
csc_run_dir=$1
csc_script=$csc_run_dir/@SCRIPT
# The tasks of an array are one job here; each has its own record.
csc_id=${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}
csc_self=$SLURM_JOB_ID
csc_record=$csc_run_dir/@EXIT
if [ -n "${{SLURM_ARRAY_TASK_ID-}}" ]; then
  csc_self=${{csc_id}}_$SLURM_ARRAY_TASK_ID
  csc_record=$csc_run_dir/@ARRAY_EXIT
fi
{element}\
# A submission that was thought lost may have been made again: the job whose id stands first runs.
csc_first=$csc_run_dir/@JOB_ID
if [ ! -e "$csc_first" ] && printf '%s\\n' "$csc_id" >"$csc_first.$csc_self"; then
  ln -T -- "$csc_first.$csc_self" "$csc_first" 2>/dev/null
fi
rm -f -- "$csc_first.$csc_self"
read -r csc_first 2>/dev/null <"$csc_first" || csc_first=$csc_id
[ ! -e "$csc_run_dir"/@CANCEL ] || csc_first='none: it was killed'
if [ -n "$csc_first" ] && [ "${{csc_first%%;*}}" != "$csc_id" ]; then
  printf 'airflow-provider-csc: job %s does nothing; the job of this submission is %s.\\n' \\
    "$csc_id" "$csc_first" >&2
  scancel "$csc_id"
  exit 1
fi
{log}\
rm -f -- "$csc_record"
csc_started=$(date +%s)
csc_child=
csc_starting=
csc_late=
csc_ender=
csc_handed=0
csc_signals=(HUP INT QUIT TERM USR1 USR2 URG XCPU)

size_of() {{
  if [ -f "/proc/$$/fd/$1" ]; then stat -L -c %s -- "/proc/$$/fd/$1" 2>/dev/null; fi || printf -1
}}
# Where the log of a task of an array is, nobody can ask later; of other jobs it is known.
log_of() {{
  local path=
  [ "$csc_self" = "$SLURM_JOB_ID" ] || path=$(readlink -- "/proc/$$/fd/$1")
  case $path in *[\\"\\\\[:cntrl:]]*) ;; /*) printf '"%s": "%s", ' "$2" "$path" ;; esac
}}
finish() {{
  local record=$csc_record stdout_bytes stderr_bytes
  trap '' "${{csc_signals[@]}}"
  trap - EXIT
  [ -z "$csc_ender" ] || kill -s KILL "$csc_ender" 2>/dev/null
  stdout_bytes=$(size_of 1)
  stderr_bytes=$(size_of 2)
  printf '{{"job_id": "%s", "exit_code": %d, "started": %d, "ended": %d, "node": "%s", ' \\
    "$csc_self" "$1" "$csc_started" "$(date +%s)" "${{SLURMD_NODENAME:-$HOSTNAME}}" \\
    >"$record.new" &&
    printf '%s%s' "$(log_of 1 stdout)" "$(log_of 2 stderr)" >>"$record.new" &&
    printf '"stdout_bytes": %d, "stderr_bytes": %d, "restarts": %d, "signals": %d}}\\n' \\
      "${{stdout_bytes:--1}}" "${{stderr_bytes:--1}}" "${{SLURM_RESTART_COUNT:-0}}" "$csc_handed" \\
      >>"$record.new" && mv -f -- "$record.new" "$record"
  exit "$1"
}}
hand_on() {{
  csc_interrupted=1
  csc_handed=$((csc_handed + 1))
  if [ -n "$csc_child" ]; then
    kill -s "$1" "$csc_child" 2>/dev/null
    end_in_time
  elif [ -n "$csc_starting" ]; then
    csc_late=$1
  elif [ "$1" != URG ]; then
    finish "$((128 + $(kill -l "$1")))"
  fi
}}
# A kill of the task leaves a file with the seconds of grace; should the one who left it die
# meanwhile, this ends the job. `read` waits without a process of its own that would outlive it.
end_in_time() {{
  local grace=0
  [ -z "$csc_ender" ] && [ -e "$csc_run_dir"/@CANCEL ] || return
  read -r grace <"$csc_run_dir"/@CANCEL
  {{
    trap '' "${{csc_signals[@]}}"
    read -r -t "$grace" <> <(:)
    scancel "$csc_self" || kill -s KILL "$csc_child"
  }} </dev/null >/dev/null 2>&1 &
  csc_ender=$!
}}
prepare() {{
  "$@" && return
  local status=$?
  printf 'airflow-provider-csc: on %s this failed with status %d: %s\\n' \\
    "$HOSTNAME" "$status" "$*" >&2
  finish "$status"
}}
trap 'finish "$?"' EXIT
for csc_name in "${{csc_signals[@]}}"; do
  trap "hand_on $csc_name" "$csc_name"
done
"""

# A job of one task among those of others: it has a run directory of its own, which the array's list
# names; from here on it is a job like any other. What the array alone knows is not for its script.
# One element of an array has the array's own number as SLURM_JOB_ID: to cancel that cancels all.
_ELEMENT = r"""if [ -n "$2" ]; then
  mapfile -t -s "$SLURM_ARRAY_TASK_ID" -n 1 csc_line <"$1/@MEMBERS"
  csc_run_dir=${csc_line[0]}
  if [ -z "$csc_run_dir" ] || [ ! -d "$csc_run_dir" ]; then
    printf 'airflow-provider-csc: on %s element %s has no run directory.\n' \
      "$HOSTNAME" "$SLURM_ARRAY_TASK_ID" >&2
    exit 1
  fi
  csc_id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
  csc_self=$csc_id
  csc_record=$csc_run_dir/@EXIT
  csc_log=$1/$SLURM_ARRAY_TASK_ID.log
  csc_script=$csc_run_dir/@SCRIPT
  [ -e "$csc_script" ] || csc_script=$1/@SCRIPT
  if [ . -ef "$1" ]; then
    cd -- "$csc_run_dir" || exit 1
    SLURM_SUBMIT_DIR=$PWD
  fi
fi
"""
# Its log gets a second name, without a second file: Slurm's own last words are in it, too. Only the
# job that runs may have it, and in place of one that another left there.
_LINK_LOG = r"""if [ -n "$2" ] && [ ! "$csc_log" -ef "$csc_run_dir"/@LOG ]; then
  ln -f -- "$csc_log" "$csc_run_dir"/@LOG 2>/dev/null ||
    ln -f -s -- "$csc_log" "$csc_run_dir"/@LOG
fi
"""
_SOURCE_EXPORTS = """\
  unset "${!SLURM_ARRAY_@}"
  . "$csc_run_dir"/@EXPORTS || exit"""

_MODULE_HELP = """
if ! type module >/dev/null 2>&1; then
  printf 'airflow-provider-csc: %s has no `module` command in a login shell.\\n' "$HOSTNAME" >&2
  finish 127
fi
"""

# The user's variables reach the user's script alone: one named PATH or `status` must not touch what
# writes the exit record. Bash makes a background command ignore SIGINT and SIGQUIT, and gives it
# /dev/null as standard input; `trap -` and `<&0` undo that.
_START = """
start() {{
  trap - INT QUIT
{promised}{exports}
  exec -- "$1"
}}
"""

# A signal reaches the batch shell alone when it was asked for so (sbatch --signal=B:...), and where
# processes are tracked by cgroup also the SIGTERM of scancel and of the time limit (tried on
# 22.05, proctrack/cgroup). So each is handed on; with proctrack/linuxproc the user's script gets
# SIGTERM twice. `wait` returns early when a trap ran, so it is asked again until it was not
# interrupted.
_TAIL = """
csc_starting=1
start "$csc_script" <&0 &
csc_child=$!
[ -z "$csc_late" ] || hand_on "$csc_late"
csc_interrupted=1
while [ -n "$csc_interrupted" ]; do
  csc_interrupted=
  wait "$csc_child" 2>/dev/null
  csc_status=$?
done
finish "$csc_status"
"""

# Of the user's variables the helper gets these, which curl(1) honours.
_PROXIES = (
    *("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
    *("no_proxy", "NO_PROXY"),
)
# Before modules are loaded, whose libraries may not be those of the system's curl. What a login
# shell says of every shell (BASH_ENV, an exported xtrace) must not make the helper tell its URLs.
_FETCH = """
csc_epoch=$csc_self.${{SLURM_RESTART_COUNT:-0}}
csc_system=("PATH=$PATH" "LD_LIBRARY_PATH=${{LD_LIBRARY_PATH-}}")
stage() {{
  trap - INT QUIT
{proxies}  exec env -u BASH_ENV -u SHELLOPTS -u BASHOPTS "${{csc_system[@]}}" \\
    bash --noprofile --norc "$csc_run_dir"/@STAGE "$1" "$csc_run_dir" "$csc_epoch" "$2"
}}
conduct() {{
  csc_child=
  csc_starting=1
  "$@" <&0 &
  csc_child=$!
  [ -z "$csc_late" ] || hand_on "$csc_late"
  csc_late=
  csc_interrupted=1
  while [ -n "$csc_interrupted" ]; do
    csc_interrupted=
    wait "$csc_child" 2>/dev/null
    csc_status=$?
  done
  csc_child= csc_starting=
}}
conduct stage in {timeout}
[ "$csc_status" = 0 ] || finish "$csc_status"
"""
# Whether a failed job delivers anything is the helper's to know. Its own failure is the job's.
_DELIVER = """
conduct start "$csc_script"
csc_own=$csc_status
conduct stage out "$csc_own"
[ "$csc_own" != 0 ] || csc_own=$csc_status
finish "$csc_own"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What is prepared for the user's script: modules, a virtual environment, variables."""

    env: Mapping[str, str] = field(default_factory=dict)
    modules: Sequence[str] = ()
    path: str | None = None


def render_batch_script(
    *,
    directives: Sequence[str],
    environment: Environment,
    promised: Mapping[str, str] | None = None,
    is_shared: bool = False,
    staging_timeout: int | None = None,
) -> str:
    """
    Return the text of the batch script, which gets its run directory as only argument.

    ``promised`` are variables of a job array, in bash's words, that the user's script finds changed
    where one job does not run the array as it was asked for.

    One that ``is_shared`` by the jobs of several tasks finds the variables of each in its run
    directory (`render_exports`). As an array it gets the array's directory, and a second argument.

    With ``staging_timeout`` (seconds) it fetches inputs before, and delivers outputs after the
    user's script, by the helper in its run directory; of the user's variables that gets the proxy.
    """
    element = fill_names(_ELEMENT) if is_shared else ""
    log = fill_names(_LINK_LOG) if is_shared else ""
    head = fill_names(_HEAD).format(directives="\n".join(directives), element=element, log=log)
    exports = fill_names(_SOURCE_EXPORTS) if is_shared else _render_exports(environment.env)
    body = _render_environment(environment, promised or {}, exports)
    if staging_timeout is None:
        return head + body + fill_names(_TAIL).format()
    proxies = {name: value for name, value in environment.env.items() if name in _PROXIES}
    exports = f"{_render_exports(proxies)}\n" if proxies else ""
    fetch = fill_names(_FETCH).format(timeout=staging_timeout, proxies=exports)
    return head + fetch + body + _DELIVER


def render_exports(env: Mapping[str, str]) -> str:
    """Return the file of variables that a shared batch script reads; never empty."""
    return f"{_render_exports(env)}\ntrue\n"


def _render_exports(env: Mapping[str, str]) -> str:
    return "\n".join(f"  export {name}={quote(value)}" for name, value in env.items())


def _render_environment(environment: Environment, promised: Mapping[str, str], exports: str) -> str:
    lines = []
    if environment.modules:
        lines.append(_MODULE_HELP)
        lines += [f"prepare module {words(parse_module(each))}" for each in environment.modules]
    if environment.path:
        lines.append(f"prepare source {at_home(environment.path.rstrip('/') + '/bin/activate')}")
    kept = "".join(f"  export {name}={value}\n" for name, value in promised.items())
    return "\n".join(lines) + _START.format(promised=kept, exports=exports)


def at_home(path: str) -> str:
    """Return a path quoted for bash, of which ``~/`` at the beginning is the home directory."""
    return f'"$HOME"/{quote(path[2:])}' if path.startswith("~/") else quote(path)


def parse_module(line: str) -> list[str]:
    """
    Return the words of one module line: ``load x``, ``use /path``, or ``x`` for ``load x``.

    :raises ConfigError: for a line with no module in it, or with an unprintable character.
    """
    parts = line.split()
    if not parts or not line.isprintable():
        raise ConfigError(
            f"modules: {line!r} names no module. Write 'gcc/15.2.0', 'load gcc/15.2.0' or "
            "'use /path/to/modulefiles'.",
            field="modules",
            value=line,
        )
    known = {"load", "use", "unload", "swap", "purge", "add", "restore", "try-load", "unuse"}
    return parts if parts[0] in known else ["load", *parts]


def parse_environment(
    *, env: Mapping[str, object] | None, modules: Sequence[str] | None, path: str | None
) -> Environment:
    """
    Validate what the user asked to be prepared.

    :raises ConfigError: names the field, the value and the remedy.
    """
    for line in modules or ():
        parse_module(line)
    if path is not None:
        check_remote_path("environment", path)
    return Environment(env=_parse_env(env or {}), modules=tuple(modules or ()), path=path)


def _parse_env(env: Mapping[str, object]) -> dict[str, str]:
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name):
            raise ConfigError(
                f"env: {name!r} is not a name for an environment variable; use letters, digits "
                "and underscores, not beginning with a digit.",
                field="env",
                value=name,
            )
        if value is None or "\0" in str(value):
            raise ConfigError(
                f"env[{name!r}] is {value!r}; give text without NUL bytes, or leave it out.",
                field=f"env[{name!r}]",
                value=value,
            )
    return {name: str(value) for name, value in env.items()}


def check_remote_path(field_name: str, path: str) -> str:
    """
    Return an absolute path on the cluster, or one below ``~/``, as it is.

    :raises ConfigError: for anything else; a shell's ``$VARIABLES`` are never expanded.
    """
    if not path.startswith(("/", "~/")) and path != "~":
        raise ConfigError(
            f"{field_name}: {path!r} is not an absolute path on the cluster. Write it in full, "
            "for example '/scratch/project_2001234/me', or '~/below/home'.",
            field=field_name,
            value=path,
        )
    if any(ord(character) < 32 for character in path):  # noqa: PLR2004
        raise ConfigError(
            f"{field_name}: {path!r} holds a control character (such as a newline), which Slurm "
            "cannot store in a path. Rename the directory.",
            field=field_name,
            value=path,
        )
    return path


def render_command(command: str | Sequence[str]) -> str:
    """Return the script for ``command``: text for a shell, or one program with its arguments."""
    if isinstance(command, str):
        return f"#!/bin/bash\n{command}\n"
    return f"#!/bin/bash\nexec -- {words(list(command))}\n"


def check_script(field_name: str, text: str) -> str:
    """
    Return a batch script that Slurm and the kernel can run, as it is.

    :raises ConfigError: for one that is empty, has no ``#!`` line, holds a NUL byte, has Windows
        line endings, or is longer than Slurm takes.
    """
    problem = _script_problem(text)
    if problem:
        raise ConfigError(f"{field_name}: {problem}", field=field_name, value=text[:200])
    return text


def _script_problem(text: str) -> str | None:
    if not text.strip():
        return "the script is empty. Give at least '#!/bin/bash' and one command."
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        return f"line {line} holds a NUL byte; is it a binary program? Give a text script."
    if "\r\n" in text:
        return "it has Windows line endings (CR LF); convert it, for example with dos2unix."
    if not text.startswith("#!"):
        first = text.splitlines()[0][:60]
        return f"the first line is {first!r}; it must name the interpreter, as '#!/bin/bash'."
    if len(text.encode()) > _MAX_SCRIPT_BYTES:
        return "it is larger than the 4 MiB Slurm takes. Ship the data beside the script."
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitRecord:
    """
    What the job itself wrote down at its end. Times in seconds since 1970, the node's clock.

    The sizes are those of its standard output and error as the node saw them then, -1 where that is
    no file; ``restarts`` is how often it had been requeued, ``signals`` how many reached the batch
    shell while it ran (None: a job of an older version). Of a task of an array, whose ``job_id`` is
    ``123_4``, it tells where these files are.
    """

    job_id: str
    exit_code: int
    started: int
    ended: int
    nodes: str
    stdout_bytes: int = -1
    stderr_bytes: int = -1
    restarts: int = 0
    signals: int | None = None
    stdout_path: str | None = None
    stderr_path: str | None = None


_SIZES = range(-1, 2**63)
_LATEST = 2**37  # seconds since 1970; a date in the year 6325 can still be computed with


def parse_exit_record(data: bytes) -> ExitRecord | None:
    """Read an exit record; None for bytes that are not one whole record as a job writes it."""
    try:
        fields = json.loads(data)
        record = ExitRecord(
            job_id=str(fields["job_id"]),
            exit_code=_checked(fields["exit_code"], range(256)),
            started=_checked(fields["started"], range(_LATEST)),
            ended=_checked(fields["ended"], range(_LATEST)),
            nodes=str(fields["node"]),
            # Jobs that were submitted by an older version do not tell these.
            stdout_bytes=_checked(fields.get("stdout_bytes", -1), _SIZES),
            stderr_bytes=_checked(fields.get("stderr_bytes", -1), _SIZES),
            restarts=_checked(fields.get("restarts", 0), range(2**31)),
            signals=_checked(fields["signals"], range(2**31)) if "signals" in fields else None,
            stdout_path=_path(fields.get("stdout")),
            stderr_path=_path(fields.get("stderr")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return record


def parse_exit_records(data: bytes) -> dict[str, ExitRecord]:
    """Read records, one in each line, by the ids in them; what is no whole record is left out."""
    found = (parse_exit_record(line) for line in data.splitlines())
    return {record.job_id: record for record in found if record is not None}


def _path(value: object) -> str | None:
    return value if isinstance(value, str) and value.startswith("/") else None


def _checked(value: object, allowed: range) -> int:
    if type(value) is not int or value not in allowed:
        raise ValueError(value)
    return value
