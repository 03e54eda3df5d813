"""
Every long option of sbatch, what it takes, and which ones this provider keeps for itself.

Source: src/common/slurm_opt.c and sbatch(1) of each release from Slurm 22.05 to 25.11. An option
that only some of them have is listed all the same: the site's own sbatch has the last word.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """What an option's value is."""

    FLAG = "flag"
    TEXT = "text"
    LIST = "list"  # text; several are joined by commas
    CHOICE = "choice"
    CHOICES = "choices"  # several may be given, joined by commas
    COUNT = "count"  # 1, 2, 3, ...
    NUMBER = "number"  # 0, 1, 2, ...
    INTEGER = "integer"
    PRIORITY = "priority"
    TIME = "time"  # zero is no limit
    DELAY = "delay"  # zero is zero
    WHEN = "when"
    MEMORY = "memory"
    ARRAY = "array"
    DEPENDENCY = "dependency"
    NODES = "nodes"
    GRES = "gres"
    GPUS = "gpus"
    SIGNAL = "signal"
    SWITCHES = "switches"


class Option(NamedTuple):
    """One option; ``choices`` are lower case, as sbatch compares them without case."""

    name: str
    short: str | None
    kind: Kind
    is_value_optional: bool
    choices: tuple[str, ...] = ()


# Name, short form, kind. A kind is a value of the enumeration above or the choices themselves, with
# bars for one of them and commas for several. With a "?" at its end, the value may be left out.
_TABLE = """
account              A  text
acctg-freq           -  list
array                a  array
batch                -  text
bb                   -  text
bbf                  -  text
begin                b  when
chdir                D  text
cluster-constraint   -  text
clusters             M  list
comment              -  text
constraint           C  text
container            -  text
context              -  text
contiguous           -  flag
core-spec            S  number
cores-per-socket     -  count
cpu-freq             -  text
cpus-per-gpu         -  count
cpus-per-task        c  count
deadline             -  when
delay-boot           -  delay
dependency           d  dependency
distribution         m  text
error                e  text
exclude              x  list
exclusive            -  user|mcs|topo|exclusive|oversubscribe?
export               -  list
export-file          -  text
extra-node-info      B  text
get-user-env         -  text?
gid                  -  text
gpu-bind             -  text
gpu-freq             -  list
gpus                 G  gpus
gpus-per-node        -  gpus
gpus-per-socket      -  gpus
gpus-per-task        -  gpus
gres                 -  gres
gres-flags           -  disable-binding,enforce-binding,one-task-per-sharing,\
multiple-tasks-per-sharing
help                 h  flag
hint                 -  compute_bound,memory_bound,multithread,nomultithread
hold                 H  flag
ignore-pbs           -  flag
input                i  text
job-name             J  text
kill-on-invalid-dep  -  yes|no
licenses             L  list
mail-type            -  list
mail-user            -  list
mcs-label            -  text
mem                  -  memory
mem-bind             -  text
mem-per-cpu          -  memory
mem-per-gpu          -  memory
mincpus              -  count
network              -  list
nice                 -  integer?
no-kill              k  off|no|set?
no-requeue           -  flag
nodefile             F  text
nodelist             w  list
nodes                N  nodes
ntasks               n  count
ntasks-per-core      -  count
ntasks-per-gpu       -  count
ntasks-per-node      -  count
ntasks-per-socket    -  count
ntasks-per-tres      -  count
open-mode            -  append|truncate|a|t
output               o  text
overcommit           O  flag
oversubscribe        s  flag
parsable             -  flag
partition            p  list
power                -  list
prefer               -  text
priority             -  priority
profile              -  list
propagate            -  list?
qos                  q  list
quiet                Q  flag
reboot               -  flag
requeue              -  expedite|?
reservation          -  list
signal               -  signal
sockets-per-node     -  count
spread-job           -  flag
switches             -  switches
test-only            -  flag
thread-spec          -  count
threads-per-core     -  count
time                 t  time
time-min             -  time
tmp                  -  memory
uid                  -  text
usage                -  flag
use-min-nodes        -  flag
verbose              v  flag
version              V  flag
wait                 W  flag
wait-all-nodes       -  0|1
wckey                -  text
wrap                 -  text
"""

_SINCE_23_02 = """
autocomplete         -  text
container-id         -  text
extra                -  text
tres-per-task        -  list
"""

_SINCE_23_11 = """
tres-bind            -  text
"""

_SINCE_24_05 = """
resv-ports           -  number?
segment              -  count
stepmgr              -  flag
"""

_SINCE_24_11 = """
oom-kill-step        -  0|1?
"""

_SINCE_25_05 = """
external             -  flag
"""

_SINCE_25_11 = """
consolidate-segments -  flag
resources            -  list
spread-segments      -  flag
"""


def _read_table(*tables: str) -> dict[str, Option]:
    rows = (line.split() for table in tables for line in table.split("\n") if line)
    return {name: _read_row(name, short, kind) for name, short, kind in rows}


_KINDS = {kind.value: kind for kind in Kind}


def _read_row(name: str, short: str, notation: str) -> Option:
    words = notation.removesuffix("?")
    is_choice = words not in _KINDS
    return Option(
        name=name,
        short=None if short == "-" else short,
        kind=(Kind.CHOICE if "|" in words else Kind.CHOICES) if is_choice else _KINDS[words],
        is_value_optional=notation != words,
        choices=tuple(filter(None, re.split("[|,]", words))) if is_choice else (),
    )


OPTIONS = _read_table(
    _TABLE, _SINCE_23_02, _SINCE_23_11, _SINCE_24_05, _SINCE_24_11, _SINCE_25_05, _SINCE_25_11
)

SHORT_FORMS = {option.short: option.name for option in OPTIONS.values() if option.short}

# Second names that sbatch reads and its manual leaves out.
ALIASES = {"cluster": "clusters", "tasks-per-node": "ntasks-per-node"}

_PRINTS_ONLY = ("it makes sbatch print and submit nothing", "Leave it out.")
_OUR_OUTPUT = ("it changes what sbatch prints, which is read here", "Leave it out.")

# Why an option is not the user's to set, and what to do instead.
RESERVED = {
    "autocomplete": _PRINTS_ONLY,
    "chdir": ("the job's directory is a parameter of its own", "Use `work_dir`."),
    "clusters": ("a connection stands for one cluster", "Use one connection for each."),
    "external": ("it submits a job that has no script", "Leave it out."),
    "help": _PRINTS_ONLY,
    "job-name": ("the name also carries the mark by which a job is found", "Use `job_name`."),
    "parsable": _OUR_OUTPUT,
    "quiet": _OUR_OUTPUT,
    "test-only": _PRINTS_ONLY,
    "usage": _PRINTS_ONLY,
    "verbose": _OUR_OUTPUT,
    "version": _PRINTS_ONLY,
    "wait": ("sbatch would wait for the job", "Use `wait_for_completion`, which waits here."),
    "wrap": ("the command is a parameter of its own", "Use `command`."),
}

# Of each group sbatch takes one option only: sbatch(1) of 25.11 and, in slurm_opt.c,
# validate_options_salloc_sbatch_srun(). Older releases let some pass and drop one without a word.
CONTRADICTIONS = (
    ("mem", "mem-per-cpu", "mem-per-gpu"),
    ("exclusive", "oversubscribe"),
    ("requeue", "no-requeue"),
    ("core-spec", "thread-spec"),
    ("cpus-per-task", "cpus-per-gpu"),
    ("bb", "bbf"),
    ("ntasks-per-gpu", "gpus-per-task"),
    ("ntasks-per-gpu", "gpus-per-socket"),
    ("ntasks-per-gpu", "ntasks-per-node"),
    ("ntasks-per-gpu", "tres-per-task"),
)
