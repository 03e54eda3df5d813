"""
Record what a real Slurm prints into ``tests/outputs/slurm-<version>/``, for the parsers' tests.

Run as root on the machine of docker/'s cluster: ``python tests/outputs/record.py``, or with the
names of some parts, as ``site_facts``. All takes about three minutes, submits some forty small jobs
as alice, and leaves nothing behind. Each file holds the command as our programs build it, its exit
status, and both its streams together, as ``ask`` in `airflow_provider_csc.slurm.framing` sees them;
or, of a whole program, its answer.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.commands import PollRequest, build_poll
from airflow_provider_csc.slurm.framing import INTERPRETER, build_program
from airflow_provider_csc.slurm.site_facts import build_site_facts

if TYPE_CHECKING:
    from collections.abc import Iterator

CLUSTER_DIR = Path(os.environ.get("CLUSTER_DIR", "/var/lib/csc-cluster"))
FACTS = json.loads((CLUSTER_DIR / "cluster.json").read_text())
HERE = Path(__file__).parent / ("slurm-" + ".".join(FACTS["slurm_version"].split(".")[:2]))
USER = "alice"
SCRATCH = FACTS["users"][USER]["scratch"]


def run(command: str, *, conf: str | None = None) -> tuple[int, str]:
    """Run a command as the user, both streams together."""
    setting = f"export SLURM_CONF={shlex.quote(conf)}; " if conf else ""
    shell = f"cd {shlex.quote(SCRATCH)}; {setting}{command}"
    done = subprocess.run(
        ["runuser", "-u", USER, "--", "bash", "-c", shell],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.decode()


def record(name: str, command: str, *, job_id: str = "", conf: str | None = None) -> None:
    status, output = run(command, conf=conf)
    recording = {"command": command, "job_id": job_id, "status": status, "output": output}
    text = json.dumps(recording, indent=1, ensure_ascii=True) + "\n"
    (HERE / f"{name}.json").write_text(text)
    print(f"{name}: {status} {output.splitlines()[:1]}")


def submit(options: str, script: str = "true", *, log: str = "/dev/null") -> str:
    """Submit a job and return its id."""
    body = f"#!/bin/bash\n{script}\n"
    status, output = run(
        f"sbatch --parsable --output={log} --job-name=recorded {options} <<<{shlex.quote(body)}"
    )
    if status:
        raise RuntimeError(output)
    return output.strip()


def wait(job_id: str, states: str, seconds: int = 150) -> None:
    """Wait until squeue shows every element of a job in one of some states."""
    for _ in range(seconds * 2):
        shown = run(f"squeue --noheader --states=all --format=%T --jobs={job_id}")[1].split()
        if shown and all(re.fullmatch(states, state) for state in shown):
            return
        time.sleep(0.5)
    raise TimeoutError(f"{job_id} is {shown}, not {states}")


def poll_commands(job_id: str) -> tuple[str, str]:
    """Return squeue's and sacct's command lines as our programs build them."""
    program = build_poll(PollRequest(queued=(job_id,), accounted=(job_id,)))
    asked = dict(re.findall(r"^ask (\w+) slurm (.*)$", program, re.MULTILINE))
    settings = "SLURM_TIME_FORMAT=%s SLURM_BITSTR_LEN=0"
    return f"{settings} {asked['squeue']}", f"{settings} {asked['sacct']}"


def record_job(name: str, job_id: str) -> None:
    squeue, sacct = poll_commands(job_id)
    record(f"squeue-{name}", squeue, job_id=job_id)
    record(f"sacct-{name}", sacct, job_id=job_id)


ENDED = "COMPLETED|FAILED|CANCELLED|TIMEOUT|OUT_OF_MEMORY"
SPARSE = "1,5,8,11,17,21,24,28,33,39,41,47,52,58,61,67,71,77,83,88,91,95,102,111,119,127,133,147"


def record_queued() -> None:
    held = submit("--hold --time=10")
    array = submit("--hold --array=0-9%2")
    sparse = submit(f"--hold --array={SPARSE}")
    named = submit('--hold --job-name="a b\'c ä"')
    down = submit("--partition=down")
    time.sleep(3)
    record_job("held", held)
    record_job("array-held", array)
    record_job("array-element-held", f"{array}_3")
    record_job("array-sparse-held", sparse)
    record_job("array-sparse-element-held", f"{sparse}_147")
    record_job("name-with-space", named)
    record_job("partition-down", down)
    for job_id in (held, array, sparse, named, down):
        run(f"scancel {job_id}")
    time.sleep(2)
    record_job("cancelled-in-queue", held)
    record_job("array-cancelled-in-queue", array)


def record_ended() -> None:
    jobs = {
        "completed": submit(""),
        "exit-3": submit("", "exit 3"),
        "exit-126": submit("", "/etc/passwd"),
        "exit-127": submit("", "no-such-command"),
        "exit-137": submit("", "exit 137"),
        "exit-200": submit("", "exit 200"),
        "signal-9": submit("", "kill -9 $$"),
        "signal-15": submit("", "kill -15 $$"),
        "signal-11": submit("", "bash -c 'kill -11 $$'"),
        "no-output-directory": submit("", log="/no/such/directory/log"),
        "timeout": submit("--time=1", "sleep 300"),
        "out-of-memory": submit("--mem=64M", "python3 -c 'x = bytearray(10**9); print(len(x))'"),
        "steps": submit(
            "--nodes=2 --ntasks=3",
            "srun python3 -c 'import time; x = bytearray(5 * 10**7); t = time.time()\n"
            "while time.time() < t + 6: pass'\nsrun --ntasks=1 --nodes=1 sleep 1",
        ),
        "array": submit("--array=1-3", "exit $((SLURM_ARRAY_TASK_ID == 2 ? 5 : 0))"),
    }
    for job_id in jobs.values():
        wait(job_id, ENDED)
    time.sleep(5)
    for name, job_id in jobs.items():
        record_job(name, job_id)


def record_running() -> None:
    job = submit("--time=10 --requeue", "sleep 600", log=f"'{SCRATCH}/with space/%j.log'")
    cancelled = submit("--time=10", "sleep 600")
    array = submit("--array=1-4%2", "sleep 600")
    wait(job, "RUNNING")
    wait(cancelled, "RUNNING")
    wait(array, "RUNNING|PENDING")
    time.sleep(3)
    record_job("running", job)
    record_job("array-running", array)
    record("scontrol-running", f"scontrol --oneliner show job {job}", job_id=job)
    run(f"scontrol requeue {job}")
    time.sleep(1)
    record_job("requeued", job)
    run(f"scancel {job} {array}; scancel {cancelled}; scancel {job}")
    wait(cancelled, ENDED)
    time.sleep(3)
    record_job("cancelled", cancelled)
    record_job("array-cancelled", array)
    record("scancel-ended", f"scancel -- {cancelled}", job_id=cancelled)


def record_unknown() -> None:
    squeue, sacct = poll_commands("4000000")
    record("squeue-unknown", squeue)
    record("squeue-unknown-alone", squeue.replace("4000000,4000000", "4000000"))
    record("sacct-unknown", sacct)
    record("scancel-unknown", "scancel -- 4000000")
    record("scontrol-unknown", "scontrol --oneliner show job 4000000")


SBATCH = "sbatch --parsable --output=/dev/null --job-name=recorded"
REFUSED = {
    "account": "--account=no_such_account",
    "partition": "--partition=no_such_partition",
    "partition-restricted": "--partition=restricted",
    "time-of-partition": "--partition=test --time=1-0",
    "time-syntax": "--time=soon",
    "memory-of-partition": "--mem=2T",
    "memory-syntax": "--mem=lots",
    "nodes-of-partition": "--nodes=9",
    "cpus-of-partition": "--cpus-per-task=999",
    "gres": "--gres=quantum:1",
    "gpus": "--partition=gpu --gpus=99",
    "constraint": "--constraint=no_such_feature",
    "array": "--array=0-4000000",
    "option": "--no-such-option",
    "reservation": "--reservation=no_such_reservation",
    "licenses": "--licenses=no_such_license",
    "nodelist": "--nodelist=no_such_node",
    "begin": "--begin=someday",
}


def record_submissions() -> None:
    script = shlex.quote("#!/bin/bash\ntrue\n")
    for name, options in REFUSED.items():
        record(f"sbatch-{name}", f"{SBATCH} {options} <<<{script}")
    record("sbatch-accepted", f"{SBATCH} <<<{script}")
    record("sbatch-dos", f"printf '#!/bin/bash\\r\\ntrue\\r\\n' | {SBATCH}")
    record("sbatch-no-shebang", f"echo true | {SBATCH}")
    record("sbatch-empty", f"{SBATCH} </dev/null")
    record("sbatch-missing-file", f"{SBATCH} /no/such/script")


def record_outages() -> None:
    squeue, sacct = poll_commands("1000")
    with broken_configurations() as (no_controller, no_database, no_accounting):
        record("squeue-no-controller", squeue, conf=no_controller)
        record("scancel-no-controller", "scancel -- 1000", conf=no_controller)
        record(
            "sbatch-no-controller",
            "sbatch --parsable <<<'#!/bin/bash'",
            conf=no_controller,
        )
        record("sacct-no-database", sacct, conf=no_database)
        record("sacct-no-accounting", sacct, conf=no_accounting)
        record("squeue-no-configuration", squeue, conf="/no/such/slurm.conf")


@contextmanager
def broken_configurations() -> Iterator[tuple[str, str, str]]:
    """Write a slurm.conf that names ports on which nobody answers; the cluster itself runs on."""
    real = Path(FACTS["slurm_conf"]).read_text()
    services = FACTS["services"]
    controller, database = services["slurmctld"]["port"], services["slurmdbd"]["port"]
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        no_controller, no_database, no_accounting = (
            Path(directory) / name for name in ("controller", "database", "accounting")
        )
        no_controller.write_text(
            real.replace(f"SlurmctldPort={controller}", "SlurmctldPort=1\nMessageTimeout=5")
        )
        no_database.write_text(
            real.replace(f"AccountingStoragePort={database}", "AccountingStoragePort=1")
        )
        no_accounting.write_text(
            re.sub(r"(?m)^AccountingStorage(?!Type).*$", "", real).replace(
                "AccountingStorageType=accounting_storage/slurmdbd",
                "AccountingStorageType=accounting_storage/none",
            )
        )
        yield str(no_controller), str(no_database), str(no_accounting)


def record_site_facts() -> None:
    with broken_configurations() as (no_controller, no_database, no_accounting):
        record_program("site-facts", build_site_facts())
        record_program("site-facts-no-controller", build_site_facts(), conf=no_controller)
        record_program("site-facts-no-database", build_site_facts(), conf=no_database)
        record_program("site-facts-no-accounting", build_site_facts(), conf=no_accounting)


def record_program(name: str, body: str, *, conf: str | None = None) -> None:
    """Record the answer to a program as it travels; its mark is ``@mark``."""
    setup = f"export SLURM_CONF={shlex.quote(conf or FACTS['slurm_conf'])}"
    done = subprocess.run(
        ["runuser", "-u", USER, "--", "bash", "-c", INTERPRETER],
        input=build_program(body, mark="@mark", setup=setup).encode(),
        stdout=subprocess.PIPE,
        check=False,
    )
    recording = {"command": body, "status": done.returncode, "output": done.stdout.decode()}
    text = json.dumps(recording, indent=1, ensure_ascii=True) + "\n"
    (HERE / f"{name}.json").write_text(text)
    print(f"{name}: {done.returncode}")


PARTS = {
    "unknown": record_unknown,
    "submissions": record_submissions,
    "outages": record_outages,
    "site_facts": record_site_facts,
    "queued": record_queued,
    "running": record_running,
    "ended": record_ended,
}


def main(parts: list[str]) -> None:
    HERE.mkdir(exist_ok=True)
    run("mkdir -p 'with space'")
    try:
        for part in parts or PARTS:
            PARTS[part]()
    finally:
        run("rm -rf 'with space'")
        # Jobs of these tests alone, whatever else the user runs.
        run("scancel --name=recorded")


if __name__ == "__main__":
    main(sys.argv[1:])
