"""DAG files are parsed every few seconds: what importing an operator may cost, in modules."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

import airflow_provider_csc

if TYPE_CHECKING:
    from collections.abc import Iterator

# What a DAG file loads beyond `from airflow.sdk import BaseOperator`; all of it is small. A module
# that is added here must be one too: a file with 100 tasks may take 1.2 times as long as with Bash.
ALLOWED = {
    "airflow.providers.common",
    "airflow.providers.common.compat",
    "airflow.providers.common.compat._compat_utils",
    "airflow.providers.common.compat.sdk",
    "airflow.providers.common.compat.version_compat",
    "difflib",
}
OPERATOR_MODULES = [
    "airflow_provider_csc.operators.slurm",
    "airflow_provider_csc.sensors.slurm",
    "airflow_provider_csc.sensors.allas, airflow_provider_csc.assets.allas",
]

DECORATOR_MODULES = ["airflow_provider_csc.decorators.slurm"]

PROBE = """
import sys
{before}
before = set(sys.modules)
import {module}
print(*sorted(set(sys.modules) - before), sep="\\n")
"""

# Runs each program in a process of its own, all of which have imported the same, which takes
# seconds, once.
NURSERY = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
from airflow.sdk import BaseOperator, BaseSensorOperator
for line in sys.stdin:
    output, written = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(written, 1)
        try:
            exec(json.loads(line), {"__name__": "__main__"})
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        os._exit(1)
    os.close(written)
    with os.fdopen(output) as file:
        text = file.read()
    is_well = os.waitpid(child, 0)[1] == 0
    print(json.dumps([is_well, text]), file=answers, flush=True)
"""


@pytest.fixture(scope="module")
def airflow_loaded() -> Iterator[subprocess.Popen[str]]:
    """A process that has imported Airflow's own operators and has programs run by copies of it."""
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as nursery:
        yield nursery
        nursery.communicate()


def run(nursery: subprocess.Popen[str], program: str) -> str:
    assert nursery.stdin
    assert nursery.stdout
    print(json.dumps(program), file=nursery.stdin, flush=True)
    is_well, output = json.loads(nursery.stdout.readline())
    assert is_well, "it says why to standard error"
    return str(output)


@pytest.mark.parametrize("module", OPERATOR_MODULES)
def test_an_operator_module_loads_nothing_heavy(
    module: str, airflow_loaded: subprocess.Popen[str]
) -> None:
    assert foreign_modules(airflow_loaded, module) <= ALLOWED


# What most tasks say in a DAG file, and what of ours is loaded for it.
TASK = """airflow_provider_csc.operators.slurm as ours
ours.SlurmSubmitOperator(task_id="x", command="true", {arguments})"""


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        ("deferrable=True", {"sources"}),
        ("options={'mem': '1G'}", {"sources", "option_names", "option_table"}),
        ("config={'modules': ['gcc']}", {"sources"}),
        ("config='job.yaml'", {"sources"}),
    ],
)
def test_a_dag_file_loads_nothing_that_only_a_running_task_needs(
    arguments: str, needed: set[str], airflow_loaded: subprocess.Popen[str]
) -> None:
    program = PROBE.format(module=TASK.format(arguments=arguments), before="")
    loaded = run(airflow_loaded, program).splitlines()
    core = "airflow_provider_csc.slurm."
    assert {name.removeprefix(core) for name in loaded if name.startswith(core)} == needed
    later = {"worker_kill", "links.slurm", "configs.models", "yaml_text", "hooks.configs"}
    assert not {f"airflow_provider_csc.{name}" for name in later} & set(loaded)


@pytest.mark.parametrize("module", DECORATOR_MODULES)
def test_a_decorator_module_loads_nothing_heavy(
    module: str, airflow_loaded: subprocess.Popen[str]
) -> None:
    # Who writes @task.slurm has loaded what all decorators of Airflow stand on.
    before = "from airflow.sdk import task"
    assert foreign_modules(airflow_loaded, module, before=before) <= ALLOWED


def foreign_modules(nursery: subprocess.Popen[str], module: str, before: str = "") -> set[str]:
    loaded = set(run(nursery, PROBE.format(module=module, before=before)).splitlines())

    # Airflow 3.1 logs to standard output while it is imported; such lines are no module names.
    foreign = {name for name in loaded if not name.startswith("airflow_provider_csc")}
    return {name for name in foreign if " " not in name}


def test_an_operator_module_knows_nothing_of_configurations(
    airflow_loaded: subprocess.Popen[str],
) -> None:
    program = PROBE.format(module=OPERATOR_MODULES[0], before="")

    loaded = set(run(airflow_loaded, program).splitlines())

    # Airflow itself loads pydantic, so that cannot be asked for.
    assert not {name for name in loaded if name.startswith("airflow_provider_csc.configs")}


def test_the_core_needs_no_airflow_and_little_else() -> None:
    program = """
import sys
import airflow_provider_csc.slurm.plan, airflow_provider_csc.slurm.tracking
print(*sorted({name.split(".")[0] for name in sys.modules}), sep="\\n")
"""

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines())
    assert not {"airflow", "asyncssh", "asyncio", "boto3", "pydantic"} & loaded


# Loaded only where Airflow has what they build on.
NEEDED = {"airflow_provider_csc.triggers._acknowledged": "airflow.triggers.shared_stream"}


def modules() -> list[str]:
    walk = pkgutil.walk_packages(airflow_provider_csc.__path__, "airflow_provider_csc.")
    names = [module.name for module in walk]
    return [name for name in names if name not in NEEDED or find_spec(NEEDED[name])]


def test_every_module_imports_without_a_warning(airflow_loaded: subprocess.Popen[str]) -> None:
    # Airflow itself is imported first: its own warnings are not ours.
    program = "import warnings, airflow.sdk, airflow.triggers.base\n"
    program += "import airflow.providers.amazon.aws.hooks.s3, asyncssh\n"
    program += "warnings.simplefilter('error')\n"
    program += "\n".join(f"import {name}" for name in modules())

    run(airflow_loaded, program)
