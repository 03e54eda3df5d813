"""
What bad input gets: tables for the tests of it and for the page that shows it.

``python -m tests.support.bad_input`` runs every case against the real cluster and writes
docs/bad-input.md.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tests.support.archives import archive_of, member

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(__file__).parents[2] / "docs" / "bad-input.md"


@dataclass(frozen=True)
class Case:
    """
    Arguments of the operator and changes to its connection; what the error must name.

    With a function they are those of ``@task.slurm``, and ``call`` the function's own. What
    ``builds`` is a `PythonEnvironmentOperator`.
    """

    name: str
    arguments: dict[str, Any]
    words: list[str]
    connection: dict[str, Any] = field(default_factory=dict)
    function: Callable[..., Any] | None = None
    call: dict[str, Any] = field(default_factory=dict)
    builds: bool = False


def command(**arguments: Any) -> dict[str, Any]:
    return {"command": "true"} | arguments


def takes(x: Any = None) -> Any:
    return x


def names_a_module() -> str:
    return json.dumps({})


def names_the_task_instance(ti: Any) -> Any:
    return ti


def python(name: str, words: list[str], function: Any = takes, **arguments: Any) -> Case:
    """A case of ``@task.slurm``; ``x`` is the function's argument."""
    call = {"x": arguments.pop("x")} if "x" in arguments else {}
    return Case(name, arguments, words, function=function, call=call)


def option(name: str, value: Any) -> dict[str, Any]:
    return command(options={name: value})


def needing(
    name: str, needs: dict[str, Any], words: list[str], site: str = "roihu-cpu", **arguments: Any
) -> Case:
    """A case of ``job_resources`` at a site."""
    return Case(name, command(job_resources=needs, **arguments), words, {"site": site})


def building(name: str, words: list[str], *, site: str | None = None, **said: Any) -> Case:
    """A case of an environment; what is no argument of its operator is a field of its recipe."""
    arguments = {each: said.pop(each) for each in OF_BUILDS if each in said}
    given = {"recipe": said, "prefix": NEVER_MADE, **arguments}
    return Case(name, given, words, {"site": site} if site else {}, builds=True)


CONFIG = """\
modules: [gcc]
venv: {name: ray, pth: /users/me, packages: [-r req.txt]}
options:
  mem: 4 gig
"""
DEAR = {"partition": "small", "time": "02:00:00", "cpus_per_task": 16, "mem": "64G"}
# Where environments would be built.
NEVER_MADE = "~/never-made-environments"
OF_BUILDS = ("recipe", "prefix", "config", "architecture", "command", "options")

CASES = [
    # What is run.
    Case("nothing to run", {}, ["exactly one of", "none of them"]),
    Case("two things to run", command(script="#!/bin/bash\n"), ["command and script"]),
    Case("an empty command", {"command": "  "}, ["command", "empty"]),
    Case("an empty argument list", {"command": []}, ["command", "empty"]),
    Case("an empty script", {"script": "\n"}, ["script", "empty", "#!/bin/bash"]),
    Case("Windows line endings", {"script": "#!/bin/bash\r\ntrue\r\n"}, ["script", "dos2unix"]),
    Case("no shebang", {"script": "echo hello\n"}, ["script", "echo hello", "#!/bin/bash"]),
    Case("a NUL byte in a script", {"script": "#!/bin/bash\n\0\n"}, ["script", "line 2", "NUL"]),
    Case("a NUL byte in a command", {"command": "echo \0"}, ["command", "NUL"]),
    Case(
        "a script file that does not exist",
        {"script": "missing_file.sh"},
        ["script", "missing_file.sh", "template_searchpath"],
    ),
    Case(
        "a remote script that does not exist",
        {"remote_script": "/no/such.sh"},
        ["remote_script", "/no/such.sh", "No such file"],
    ),
    Case(
        "a remote script that is a program",
        {"remote_script": "/usr/bin/true"},
        ["remote_script", "/usr/bin/true", "text"],
    ),
    Case("a relative remote script", {"remote_script": "job.sh"}, ["remote_script", "absolute"]),
    # Options.
    Case("an unknown option", option("memm", "4G"), ["memm", "'mem'"]),
    Case("an option that is set otherwise", option("wrap", "true"), ["wrap", "command"]),
    Case("a bad time", option("time", "1 hour"), ["options['time']", "1 hour", "1-12:00:00"]),
    Case("a bad memory size", option("mem", "4 gigs"), ["options['mem']", "4 gigs", "4G"]),
    Case("a bad count", option("nodes", "two"), ["options['nodes']", "two"]),
    Case("a bad array", option("array", "9-1"), ["options['array']", "9-1"]),
    Case(
        "an array whose logs cannot be told apart",
        command(options={"array": "0-9", "output": "all.txt"}, array_logs="all"),
        ["array_logs", "all.txt", "%a"],
    ),
    Case("a bad choice of an array's logs", command(array_logs="some"), ["array_logs", "'some'"]),
    Case(
        "a limit of failures that is no limit",
        command(max_failed_tasks=1.5),
        ["max_failed_tasks", "1.5", "0.1"],
    ),
    Case("a bad dependency", option("dependency", "after"), ["options['dependency']", "afterok"]),
    Case(
        "a kind of dependency that does not exist",
        command(depends_on={"after_ok": "prepare"}),
        ["depends_on", "after_ok", "afterok"],
    ),
    Case(
        "a dependency on a task that does not exist",
        command(depends_on="prepare"),
        ["depends_on", "'prepare'", "no task"],
    ),
    Case("a dependency on itself", command(depends_on="job"), ["depends_on", "'job' waits for"]),
    Case(
        "two dependencies",
        command(depends_on="prepare", options={"dependency": "afterok:1"}),
        ["depends_on", "options['dependency']", "Leave one"],
    ),
    Case(
        "options that exclude each other",
        command(options={"mem": "1G", "mem_per_cpu": "1G"}),
        ["mem", "mem-per-cpu", "Leave one out"],
    ),
    Case(
        "an option that excludes one of the script",
        {"script": "#!/bin/bash\n#SBATCH --mem=1G\n", "options": {"mem-per-cpu": "1G"}},
        ["mem", "mem-per-cpu"],
    ),
    # What is prepared.
    Case("a bad variable name", command(env={"MY-VAR": "x"}), ["env", "MY-VAR", "underscores"]),
    Case("a variable without a value", command(env={"X": None}), ["env['X']", "None"]),
    Case("modules that are no list", command(modules="gcc"), ["modules", "'gcc'", "a list"]),
    Case("an empty module", command(modules=[" "]), ["modules", "gcc/15.2.0"]),
    Case("a relative environment", command(environment="venv"), ["environment", "venv"]),
    Case("a comma in the job's name", command(job_name="a,b"), ["job_name", "a,b", "comma"]),
    Case("a newline in the job's name", command(job_name="a\nb"), ["job_name", "control"]),
    # Configurations.
    Case(
        "a configuration with an unknown key",
        command(config={"modules": ["gcc"], "enviroment": "/venv"}),
        ["config", "'enviroment'", "'environment'"],
    ),
    Case("a configuration that is no mapping", command(config=["gcc"]), ["config", "YAML"]),
    Case(
        "a configuration file that does not exist",
        command(config="missing.yaml"),
        ["config", "missing.yaml", "template_searchpath"],
    ),
    Case(
        "a configuration with several mistakes",
        command(config=CONFIG),
        ["3 problems", "config:2:19: venv.pth", "'path'", "config:4:8: options['mem']", "'4G'"],
    ),
    Case(
        "a configuration that is no YAML",
        command(config="modules: [gcc\nenv: {A: 1}\n"),
        ["config:2:4", "expected ',' or ']'"],
    ),
    Case(
        "a configuration with a key twice",
        command(config="modules: [gcc]\nmodules: [cuda]\n"),
        ["config:2:1", "'modules' stands twice"],
    ),
    Case(
        "a configuration that would run code",
        command(config="modules: !!python/object/apply:os.system ['true']\n"),
        ["config:1:10", "tag", "is not read"],
    ),
    Case(
        "an unknown placeholder",
        command(config="work_dir: /users/(csc-usr)\n"),
        ["config:1:11", "work_dir", "(csc-usr)", "(csc-user)"],
    ),
    Case(
        "a placeholder that nobody can fill in",
        command(config="outputs: ['s3://bucket/(id)/log']\n"),
        ["config:1:11", "outputs[0]", "(id)", "(key)"],
    ),
    Case(
        "a shell's variable in a path",
        command(config="work_dir: ${HOME}/run\n"),
        ["config:1:11", "work_dir", "(csc-user)"],
    ),
    Case(
        "an unknown resource in a configuration",
        command(config="resources: {gpus: 1}\n"),
        ["config:1:19", "resources['gpus']", "gpus_per_node"],
    ),
    # What a job needs.
    Case("Airflow's own resources", command(resources={"cpus": 4}), ["resources", "job_resources"]),
    needing("an unknown resource", {"gpus": 1}, ["resources.gpus", "gpus_per_node"]),
    needing("no nodes at all", {"nodes": 0}, ["resources.nodes", "0"]),
    needing("a resource of a bad size", {"memory_per_node": "4 gigs"}, ["4 gigs", "'4G'"]),
    needing(
        "memory that is said twice",
        {"memory_per_cpu": "2G", "memory_per_node": "64G"},
        ["resources.memory_per_cpu", "memory_per_node is given, too"],
    ),
    needing("a kind of GPU and no GPU", {"gpu_type": "gh200"}, ["gpu_type", "gpus_per_node"]),
    needing(
        "resources that the options say, too",
        {"nodes": 2},
        ["options.nodes", "'2'", "resources as well"],
        options={"nodes": 2},
    ),
    needing(
        "resources that no partition has",
        {"gpus_per_node": 4, "nodes": 2},
        ["no partition of roihu-gpu", "The nearest is Resources(", "gpularge"],
        site="roihu-gpu",
    ),
    needing(
        "resources that a partition that is named does not have",
        {"nodes": 2},
        ["partition small of roihu-cpu", "The nearest that it can: Resources("],
        options={"partition": "small"},
    ),
    # Environments.
    building("no recipe", ["recipe", "missing", "a config with a venv"], recipe=None),
    building("an unknown field of a recipe", ["'package'", "'packages'"], package=["numpy"]),
    building(
        "two packages in one",
        ["packages", "numpy\\nscipy", "'numpy>=2'"],
        packages=["numpy\nscipy"],
    ),
    building(
        "packages and a requirements file",
        ["requirements", "beside packages", "one of them"],
        packages=["numpy"],
        requirements="scipy\n",
    ),
    building(
        "a requirements file that does not exist",
        ["requirements", "missing.txt", "template_searchpath"],
        requirements="missing.txt",
    ),
    building(
        "an option in a requirements file",
        ["requirements", "'-r base.txt'", "index_url"],
        requirements="numpy\n-r base.txt\n",
    ),
    building(
        "a lock that leaves a version open",
        ["lock", "'numpy>=2'", "name==version"],
        lock="numpy>=2\n",
    ),
    building(
        "a password in a recipe",
        ["index_url", "a password", "~/.netrc"],
        packages=["numpy"],
        index_url="https://me:secret@packages.example.org/simple",
    ),
    building("an unknown backend", ["backend", "'conda'", "'tykky'"], backend="conda"),
    building(
        "a field of another backend",
        ["python", "'tykky'", "venv"],
        backend="tykky",
        packages=["numpy"],
        python="python3.12",
    ),
    building("a container of no image", ["image", "docker://"], backend="container"),
    building("a relative prefix", ["prefix", "'environments'", "absolute"], prefix="environments"),
    building(
        "a prefix that cannot be written to",
        ["prefix", "/usr/environments", "Permission denied", "this user can write to"],
        prefix="/usr/environments",
    ),
    building(
        "an architecture that is none",
        ["architecture", "'x86-64'", "uname -m"],
        architecture="x86-64",
    ),
    building(
        "an architecture that is not the site's",
        ["architecture", "'aarch64'", "roihu-cpu", "'x86_64'", "Leave it out"],
        architecture="aarch64",
        site="roihu-cpu",
    ),
    building(
        "an environment of a configuration without a venv",
        ["config", "no venv", "packages: [numpy]"],
        recipe=None,
        config={"modules": ["gcc"]},
    ),
    building(
        "a command for an environment",
        ["command", "recipe", "Leave command out"],
        command="true",
    ),
    building("an array of environments", ["options['array']", "0-9"], options={"array": "0-9"}),
    Case(
        "a dict that is no environment",
        command(environment={"modules": ["gcc"]}),
        ["environment", "names no environment", "'recipe'"],
    ),
    Case(
        "an unknown field of an environment that is to be built",
        command(environment={"recipe": {"packages": ["numpy"]}, "prefx": "/projappl/p"}),
        ["environment", "'prefx'", "'prefix'"],
    ),
    # Python functions.
    python("a lambda", ["lambda", "def"], lambda: 1),
    python(
        "a task instance for a function",
        ["ti of Airflow's context", "run_id", "{{ ti.try_number }}"],
        names_the_task_instance,
    ),
    python("a module outside of a function", ["json is a module", "inside"], names_a_module),
    python("an argument that is no JSON", ["argument x[0] is of type set", "cloudpickle"], x=[{1}]),
    python("an argument that is too large", ["argument x (5.0 MiB)", "Allas"], x="x" * (5 << 20)),
    python("a relative interpreter", ["python", "bin/python", "absolute"], python="bin/python"),
    python("an unknown serializer", ["serializer", "'dill'", "'json'"], serializer="dill"),
    python("an array of a function", ["array", ".expand()"], options={"array": "0-9"}),
    python("a function and a command", ["command", "function"], command="true"),
    python("a result not waited for", ["wait_for_completion"], wait_for_completion=False),
    # Places.
    Case("a relative work_dir", command(work_dir="here"), ["work_dir", "here", "absolute"]),
    Case("a newline in work_dir", command(work_dir="/tmp/a\nb"), ["work_dir", "newline"]),
    Case("a missing work_dir", command(work_dir="/no/dir"), ["work_dir", "/no/dir", "Make it"]),
    Case("a forbidden work_dir", command(work_dir="/root"), ["work_dir", "Permission denied"]),
    Case("a read-only work_dir", command(work_dir="/usr/bin"), ["work_dir", "writable"]),
    Case(
        "no right to make run directories",
        command(),
        ["work_dir", "/usr/airflow-runs", "Permission denied"],
        {"work_dir": "/usr/airflow-runs"},
    ),
    Case(
        "a relative base of the run directories",
        command(),
        ["work_dir", "runs", "absolute"],
        {"work_dir": "runs"},
    ),
    # What is submitted with others.
    Case(
        "coalescing what is not waited for",
        command(coalesce=True, wait_for_completion=False),
        ["coalesce", "wait_for_completion=False"],
    ),
    Case(
        "coalescing a script on the cluster",
        {"remote_script": "/a/job.sh", "coalesce": True},
        ["coalesce", "/a/job.sh", "`script`"],
    ),
    Case(
        "coalescing arrays",
        command(coalesce=True, options={"array": "0-9"}),
        ["coalesce", "0-9", ".expand()"],
    ),
    # What it costs.
    Case(
        "a limit on billing units that is none",
        command(max_billing_units=0),
        ["max_billing_units", "0", "above 0"],
    ),
    Case(
        "a limit of a DAG run without a number",
        command(max_billing_units_per_run={"CPU BU": "much"}),
        ["max_billing_units_per_run", "much", "{'CPU BU': 500}"],
    ),
    Case(
        "a job that could cost more than its limit",
        command(options=DEAR, max_billing_units=10),
        ["max_billing_units", "48 CPU BU", "00:25:00", "6 cores and 13 GiB"],
        {"site": "roihu-cpu"},
    ),
    Case(
        "a limit on a job whose cost is not known",
        command(options={"partition": "small"}, max_billing_units=10),
        ["max_billing_units", "memory", "options['mem']"],
        {"site": "roihu-cpu"},
    ),
    Case(
        "a limit at a site without prices",
        command(max_billing_units=10),
        ["max_billing_units", "slurm_default", "Site"],
    ),
    # What Slurm refuses.
    Case("an unknown partition", option("partition", "nope"), ["nope", "sinfo", "`partition`"]),
    Case("an unknown account", option("account", "nope"), ["Invalid account", "`account`"]),
    Case(
        "somebody else's account",
        option("account", "project_2005678"),
        ["Invalid account", "`account`"],
    ),
    Case("more memory than any node has", option("mem", "900G"), ["Memory", "`mem`"]),
    Case(
        "more time than the partition gives",
        command(options={"partition": "test", "time": "01:00:00"}),
        ["time limit", "MaxTime"],
    ),
    Case("more nodes than there are", option("nodes", 50), ["More processors", "Ask for less"]),
    Case("an unknown generic resource", option("gres", "qpu:1"), ["gres", "sinfo"]),
    # The connection.
    Case(
        "a connection that does not exist",
        command(slurm_conn_id="no_such_connection"),
        ["no_such_connection", "slurm_conn_id"],
    ),
    Case(
        "a connection of another type",
        command(),
        ["slurm_default", "'http'", "'slurm'"],
        {"conn_type": "http"},
    ),
    Case("a connection without a host", command(), ["slurm_default", "Host"], {"host": ""}),
    Case(
        "a site that does not exist",
        command(),
        ["slurm_default", "site", "'roihu-cpuu'", "'roihu-cpu'"],
        {"site": "roihu-cpuu"},
    ),
    Case(
        "a site that is retired",
        command(),
        ["Puhti", "2026-07-31", "'roihu-cpu'"],
        {"site": "puhti"},
    ),
    Case(
        "a host key that is not the site's",
        command(),
        ["host key", "it shows ssh-ed25519 SHA256:", "trusted is SHA256:", "profile"],
        {"site": "lumi", "known_hosts": None},
    ),
    Case(
        "a key file that cannot be read",
        command(),
        ["key_file", "/no/such/key", "No such file"],
        {"key_file": "/no/such/key"},
    ),
    Case(
        "a key file that is no key",
        command(),
        ["key_file", "OpenSSH"],
        {"key_file": "/etc/hostname"},
    ),
    Case(
        "a certificate file that cannot be read",
        command(),
        ["certificate_file", "/no/such/key-cert.pub", "No such file"],
        {"certificate_file": "/no/such/key-cert.pub"},
    ),
    Case(
        "a certificate file that is none",
        command(),
        ["certificate", "-cert.pub"],
        {"certificate_file": "/etc/hostname"},
    ),
    Case(
        "a host key that nobody has confirmed",
        command(),
        ["host key", "unknown", "Known hosts"],
        {"known_hosts": "/dev/null"},
    ),
    Case(
        "a key in the place of its file's name",
        command(),
        ["key_file", "Private key text"],
        {"key_file": "-----BEGIN OPENSSH PRIVATE KEY-----\nnot shown\n"},
    ),
]


@dataclass(frozen=True, kw_only=True)
class PackingCase:
    """
    What is to be packed or unpacked, and what the error must name.

    ``make`` fills the directory on the worker, ``archive`` is the object in the store. In arguments
    ``{directory}`` and ``{bucket}`` are filled in.
    """

    name: str
    way: Literal["pack", "unpack"]
    words: list[str]
    arguments: dict[str, Any] = field(default_factory=dict)
    make: Callable[[Path], object] = lambda directory: (directory / "a").write_text("x")
    archive: bytes | None = None


def packing(name: str, words: list[str], make: Any = None, **arguments: Any) -> PackingCase:
    more = {} if make is None else {"make": make}
    return PackingCase(name=name, way="pack", words=words, arguments=arguments, **more)


def unpacking(
    name: str, words: list[str], archive: bytes | None = None, **arguments: Any
) -> PackingCase:
    return PackingCase(name=name, way="unpack", words=words, arguments=arguments, archive=archive)


def link_to(target: str) -> Callable[[Path], object]:
    return lambda directory: (directory / "link").symlink_to(target)


def odd_name(directory: Path) -> None:
    Path(os.fsdecode(os.fsencode(directory) + b"/\xff\xfe")).write_text("x")


PACKING_CASES = [
    packing("packing a file", ["source", "is a file", "pack"], source="{directory}/a"),
    packing("packing what is not there", ["source", "neither a file"], source="{directory}/gone"),
    packing("packing nothing", ["nothing below"], make=lambda _: None),
    packing(
        "packing into an object of another name",
        ["destination", "name.tar'", ".tar.zst", "prefix"],
        destination="s3://{bucket}/name.tar",
    ),
    packing("packing, and deleting what is not there", ["delete_extra"], delete_extra=True),
    packing("packing, and comparing sizes", ["compare", "'size'", "'checksum'"], compare="size"),
    packing("packing a link that is refused", ["link"], link_to("a"), symlinks="refuse"),
    packing("packing a circle of links", ["link", "no end"], link_to(".")),
    packing("packing a name that is not UTF-8", ["not UTF-8"], odd_name),
    unpacking("unpacking a prefix", ["source", "prefix", "whole key"], source="s3://{bucket}/in/"),
    unpacking("unpacking, and comparing sizes", ["compare", "'size'"], compare="size"),
    unpacking("unpacking into a file", ["destination", "is a file"], destination="{directory}/a"),
    unpacking("unpacking what is not there", ["name.tar.zst"]),
    unpacking("unpacking what is no archive", ["no tar archive", "without unpack"], b"a,b\n" * 200),
    unpacking(
        "unpacking what was cut off",
        ["cannot be unpacked", "made again"],
        archive_of(member("a"), member("b"))[:700],
    ),
    unpacking(
        "unpacking nothing that is meant",
        ["nothing in", "include and exclude"],
        archive_of(member("a")),
        include=["*.nc"],
    ),
    unpacking(
        "unpacking a member that leads out",
        ["'../out'", "outside", "Exclude it"],
        archive_of(member("../out")),
    ),
    unpacking(
        "unpacking a link that leads out",
        ["'/etc/passwd'", "Exclude it"],
        archive_of(member("link", tarfile.SYMTYPE, "/etc/passwd")),
    ),
    unpacking(
        "unpacking a device",
        ["'null'", "device", "Exclude it"],
        archive_of(member("null", tarfile.CHRTYPE)),
    ),
    unpacking(
        "unpacking a directory where there is a file",
        ["/a is no directory", "Remove it"],
        archive_of(member("a/b")),
    ),
]


def packing_outcome(case: PackingCase, client: Any, bucket: str, directory: Path) -> str:
    """The message a person sees for one case; the directory is empty before."""
    from airflow_provider_csc.transfers.allas import AllasToLocalOperator, LocalToAllasOperator

    case.make(directory)
    uri = f"s3://{bucket}/name.tar.zst"
    if case.archive is not None:
        client.put_object(Bucket=bucket, Key="name.tar.zst", Body=case.archive)
    kind, source, destination = LocalToAllasOperator, str(directory), uri
    if case.way == "unpack":
        kind, source, destination = AllasToLocalOperator, uri, str(directory)
    given = {
        name: value.format(bucket=bucket, directory=directory) if isinstance(value, str) else value
        for name, value in case.arguments.items()
    }
    arguments = {"source": source, "destination": destination, case.way: True, **given}
    try:
        kind(task_id=case.way, **arguments).execute({})
    except Exception as error:  # noqa: BLE001 - whatever a person would see
        told = f"{type(error).__name__}: {error}"
        told = re.sub(r"http://[\d.]+:\d+", "https://a3s.fi", told)
        return told.replace(str(directory), "/data/run").replace(bucket, "2001234-data")
    return "(no error)"


def outcome(case: Case, set_connection: Callable[..., object]) -> str:
    """The message a person sees for one case: at parsing the DAG or at running the task."""
    from airflow.sdk import DAG

    from airflow_provider_csc.decorators.slurm import slurm_task
    from airflow_provider_csc.operators.environments import PythonEnvironmentOperator
    from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
    from tests.support.task import run_task

    set_connection(**case.connection)
    try:
        arguments = {"task_id": "job", "deferrable": True, **case.arguments}
        with DAG("bad_input", schedule=None):
            if case.builds:
                task = PythonEnvironmentOperator(**arguments)
            elif case.function is None:
                task = SlurmSubmitOperator(**arguments)
            else:
                task = slurm_task(case.function, **arguments)(**case.call).operator
        task.resolve_template_files()
        run_task(task)
    except Exception as error:  # noqa: BLE001 - whatever a person would see
        return f"{type(error).__name__}: {error}"
    return "(no error)"


def unvarying(message: str) -> str:
    """A message without what differs from run to run."""
    message = re.sub(r"SHA256:[\w+/]{43}", "SHA256:...", message)
    return re.sub(r"bad-[0-9a-f-]{36}", "airflow-runs", message)


def main() -> None:
    cluster = json.loads(
        (Path(os.environ.get("CLUSTER_DIR", "/var/lib/csc-cluster")) / "cluster.json").read_text()
    )

    def set_connection(**changes: Any) -> None:
        os.environ["AIRFLOW_CONN_SLURM_DEFAULT"] = json.dumps(build_connection(cluster, **changes))

    shown = [show(case.name, unvarying(outcome(case, set_connection))) for case in CASES]
    packed = [show(case.name, told) for case, told in run_packing(cluster)]
    PAGE.write_text(HEAD + "\n".join(shown) + PACKING_HEAD + "\n".join(packed))


def show(name: str, told: str) -> str:
    return f"### {name}\n\n```text\n{told}\n```\n"


def run_packing(cluster: dict[str, Any]) -> list[tuple[PackingCase, str]]:
    """Run the cases of packing in a bucket of their own."""
    from airflow_provider_csc.hooks.allas import AllasHook

    connection = {
        "conn_type": "allas",
        "login": cluster["s3_access_key"],
        "password": cluster["s3_secret_key"],
        "extra": {"endpoint_url": cluster["s3_endpoint_url"]},
    }
    os.environ["AIRFLOW_CONN_ALLAS_DEFAULT"] = json.dumps(connection)
    hook, bucket, done = AllasHook(), f"bad-{uuid.uuid4().hex[:12]}", []
    hook.create_bucket(bucket)
    try:
        for case in PACKING_CASES:
            hook.get_conn().delete_object(Bucket=bucket, Key="name.tar.zst")
            with tempfile.TemporaryDirectory() as directory:
                told = packing_outcome(case, hook.get_conn(), bucket, Path(directory))
            done.append((case, told))
    finally:
        hook.delete_bucket(bucket, force_delete=True)
    return done


HEAD = """\
# What bad input gets

Each message below was printed by a run against the real cluster of [docker/](../docker/README.md)
(`python -m tests.support.bad_input` writes this page, and a test holds it to what is printed). In
each case nothing was submitted and no directory was left behind.

`ConfigError` comes while the DAG is parsed, `AirflowFailException` when the task runs; neither is
retried. `ConnectFailedError` is an ordinary failure. (A site that is merely away makes a task wait
instead.)

"""


PACKING_HEAD = """
## Packed transfers

Of [very many small files](transfers.md#very-many-small-files), packed and unpacked. In each case
nothing was stored, and no file was written. `AllasError` is an ordinary failure, which is retried.

"""


def build_connection(
    cluster: dict[str, Any], *, user: str = "alice", **changes: Any
) -> dict[str, Any]:
    """A Slurm connection to the cluster; keys of ``changes`` are fields, or else extras."""
    facts = cluster["users"][user]
    fields: dict[str, Any] = {
        "conn_type": "slurm",
        "host": cluster["ssh_host"],
        "port": cluster["ssh_port"],
        "login": user,
    }
    extra: dict[str, Any] = {
        "key_file": facts["private_key"],
        "known_hosts": cluster["ssh_known_hosts"],
        "account": facts["account"],
        "poll_interval_floor": 0.5,
    }
    for name, value in changes.items():
        place = fields if name in ("conn_type", "host", "port", "login") else extra
        place[name] = value
    return {**fields, "extra": extra}


if __name__ == "__main__":
    main()
