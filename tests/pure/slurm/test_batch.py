"""The batch script runs the user's script untouched, and tells the truth about how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.slurm.batch import (
    Environment,
    ExitRecord,
    check_remote_path,
    check_script,
    parse_environment,
    parse_exit_record,
    parse_module,
    render_batch_script,
    render_command,
    render_exports,
)
from tests.pure.slurm.shell import HOSTILE_NAMES, HOSTILE_VALUES

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    ("name", "directives", "environment"),
    [
        ("minimal", [], Environment()),
        (
            "everything",
            ["#SBATCH --time=10", "#SBATCH --comment={braces}"],
            Environment(
                env={"PLAIN": "1", "HOSTILE": "it's $(touch pwned)\n`x`"},
                modules=["use /appl/modules", "gcc/15.2.0", "load python-data"],
                path="/projappl/project_2001234/it's mine/",
            ),
        ),
    ],
)
def test_the_script_is_the_one_that_was_reviewed(
    name: str, directives: list[str], environment: Environment
) -> None:
    """Run with CSC_UPDATE_GOLDEN=1 to write the files anew, and review the difference."""
    golden = GOLDEN / f"{name}.sh"
    text = render_batch_script(directives=directives, environment=environment)
    if os.environ.get("CSC_UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


def test_the_script_that_several_tasks_share_is_the_one_that_was_reviewed() -> None:
    golden = GOLDEN / "shared.sh"
    environment = Environment(env={"A": "not in the script"}, modules=["gcc"])
    text = render_batch_script(directives=[], environment=environment, is_shared=True)
    if os.environ.get("CSC_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
    assert "not in the script" not in text


# ---- run by a real bash ----


@dataclass
class Job:
    """One run of a batch script, as slurmd starts it."""

    run_dir: Path
    process: subprocess.Popen[bytes]

    def wait(self) -> int:
        return self.process.wait(timeout=20)

    @property
    def log(self) -> str:
        return (self.run_dir / "stdout.log").read_bytes().decode()

    @property
    def record(self) -> dict[str, Any] | None:
        path = self.run_dir / "exit.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    def wait_for(self, text: str) -> None:
        for _ in range(1000):
            if text in self.log:
                return
            time.sleep(0.01)
        raise TimeoutError(self.log)


class Starter:
    """Starts batch scripts below a directory, with a home of their own."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.home.mkdir()
        self._options: list[str] = []

    def profile(self, text: str) -> None:
        """Start as a log-in shell, as slurmd does; this machine's own modules are taken away."""
        self._options = ["--login"]
        (self.home / ".bash_profile").write_text(f"unset BASH_ENV; unset -f module ml\n{text}\n")

    def start(
        self,
        script: str,
        *,
        name: str = "af0.1",
        environment: Environment | None = None,
        inherited: dict[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
        mode: str = "wb",
    ) -> Job:
        run_dir = self.home.parent / "jobs" / name
        run_dir.mkdir(parents=True, exist_ok=True)
        text = render_batch_script(directives=[], environment=environment or Environment())
        (run_dir / "batch.sh").write_text(text)
        (run_dir / "script").write_text(script)
        (run_dir / "script").chmod(0o700)
        with (run_dir / "stdout.log").open(mode) as log:
            process = subprocess.Popen(
                ["/bin/bash", *self._options, str(run_dir / "batch.sh"), str(run_dir)],
                stdin=stdin,
                stdout=log if stdout is None else stdout,
                stderr=log,
                cwd=self.home,
                env={
                    "HOME": str(self.home),
                    "PATH": os.environ["PATH"],
                    "SLURM_JOB_ID": "4711",
                    "SLURMD_NODENAME": "c1",
                    **(inherited or {}),
                },
            )
        return Job(run_dir, process)


@pytest.fixture
def starter(tmp_path: Path) -> Starter:
    return Starter(tmp_path)


@pytest.mark.parametrize("code", [0, 1, 3, 126, 127, 200, 255])
def test_the_exit_code_is_the_users(starter: Starter, code: int) -> None:
    job = starter.start(f"#!/bin/bash\nexit {code}\n")
    assert job.wait() == code
    assert job.record is not None
    assert job.record["exit_code"] == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGUSR1])
def test_death_by_a_signal_is_recorded_as_every_shell_tells_it(
    starter: Starter, number: signal.Signals
) -> None:
    job = starter.start(f"#!/bin/bash\nulimit -c 0\nkill -{number.value} $$\n")
    assert job.wait() == 128 + number.value
    assert job.record is not None
    assert job.record["exit_code"] == 128 + number.value


def test_an_interpreter_that_is_missing_is_recorded(starter: Starter) -> None:
    job = starter.start("#!/no/such/interpreter\n")
    assert job.wait() in (126, 127)
    assert "/script: " in job.log
    assert job.record is not None
    assert job.record["exit_code"] in (126, 127)


def test_the_record_says_which_job_ran_where_and_when(starter: Starter) -> None:
    before = int(time.time())
    job = starter.start("#!/bin/bash\nsleep 0.1\n")
    job.wait()
    record = parse_exit_record((job.run_dir / "exit.json").read_bytes())
    assert record is not None
    assert (record.job_id, record.nodes, record.exit_code) == ("4711", "c1", 0)
    assert before <= record.started <= record.ended <= time.time()


def test_nothing_but_the_record_is_left(starter: Starter) -> None:
    job = starter.start("#!/bin/bash\n")
    job.wait()
    names = {path.name for path in job.run_dir.iterdir()}
    assert names == {"batch.sh", "script", "stdout.log", "exit.json", "job_id"}


def test_the_record_of_an_earlier_run_is_gone_before_the_script_starts(starter: Starter) -> None:
    """A requeued job runs again in the same directory."""
    starter.start("#!/bin/bash\nexit 3\n").wait()
    job = starter.start("#!/bin/bash\n[ ! -e ../jobs/af0.1/exit.json ] || exit 9\n")
    assert job.wait() == 0


def test_no_record_is_written_before_the_script_has_ended(starter: Starter) -> None:
    job = starter.start("#!/bin/bash\necho ready\nsleep 60\n")
    job.wait_for("ready")
    assert job.record is None
    job.process.send_signal(signal.SIGTERM)
    job.wait()


def test_a_script_that_removes_its_run_directory_keeps_its_exit_code(starter: Starter) -> None:
    job = starter.start("#!/bin/bash\nrm -rf ../jobs\nexit 5\n")
    assert job.wait() == 5


HANDED_ON = ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "URG", "XCPU"]


@pytest.mark.parametrize("name", HANDED_ON)
def test_a_signal_to_the_batch_shell_reaches_the_script(starter: Starter, name: str) -> None:
    """Slurm sends sbatch --signal=B:... and, with proctrack/cgroup, SIGTERM to that shell alone."""
    job = starter.start(
        f"#!/bin/bash\ntrap 'echo caught; exit 42' {name}\necho ready\n"
        "while :; do sleep 0.05; done\n"
    )
    job.wait_for("ready")
    job.process.send_signal(getattr(signal, f"SIG{name}"))
    assert job.wait() == 42
    assert job.record is not None
    assert job.record["exit_code"] == 42


@pytest.mark.parametrize("name", HANDED_ON)
def test_the_script_starts_with_no_signal_ignored(starter: Starter, name: str) -> None:
    """Bash would ignore SIGINT and SIGQUIT in what it runs in the background."""
    job = starter.start(
        "#!/usr/bin/env python3\nimport signal\n"
        f"print(signal.getsignal(signal.SIG{name}) is signal.SIG_IGN)\n"
    )
    job.wait()
    assert job.log == "False\n"


def test_a_script_that_survives_its_signals_is_waited_for(starter: Starter) -> None:
    job = starter.start(
        "#!/bin/bash\ncount=0\ntrap 'count=$((count + 1)); echo caught $count' USR1\necho ready\n"
        "while [ $count -lt 3 ]; do sleep 0.02; done\nexit 4\n"
    )
    job.wait_for("ready")
    for number in range(1, 4):
        job.process.send_signal(signal.SIGUSR1)
        job.wait_for(f"caught {number}")
    assert job.wait() == 4
    assert job.record is not None
    assert job.record["exit_code"] == 4


def test_a_script_without_a_trap_dies_by_the_signal_handed_on(starter: Starter) -> None:
    job = starter.start("#!/bin/bash\necho ready\nexec sleep 60\n")
    job.wait_for("ready")
    job.process.send_signal(signal.SIGTERM)
    assert job.wait() == 128 + signal.SIGTERM
    assert job.record is not None
    assert job.record["exit_code"] == 128 + signal.SIGTERM


def test_children_left_in_the_background_are_not_waited_for(starter: Starter) -> None:
    """Slurm ends them with the job."""
    job = starter.start("#!/bin/bash\nsleep 30 >/dev/null 2>&1 &\necho $!\nexit 6\n")
    began = time.monotonic()
    assert job.wait() == 6
    assert time.monotonic() - began < 10
    os.kill(int(job.log), signal.SIGKILL)


def test_standard_input_reaches_the_script(starter: Starter) -> None:
    job = starter.start("#!/bin/bash\ncat\n", stdin=subprocess.PIPE)
    assert job.process.stdin is not None
    job.process.stdin.write(b"some input")
    job.process.stdin.close()
    job.wait()
    assert job.log == "some input"


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_run_directory_of_any_name_works(starter: Starter, name: str, tmp_path: Path) -> None:
    job = starter.start("#!/bin/bash\nexit 3\n", name=f"{name}/af0.1")
    assert job.wait() == 3
    assert job.record is not None
    assert not list(tmp_path.rglob("pwned"))


# ---- what it records besides ----


def test_the_record_tells_how_long_the_log_is(starter: Starter) -> None:
    job = starter.start("#!/bin/bash\necho out\necho error >&2\n")
    job.wait()
    assert job.record is not None
    size = len("out\nerror\n")
    assert (job.record["stdout_bytes"], job.record["stderr_bytes"]) == (size, size)


@pytest.mark.parametrize(("stdout", "expected"), [(subprocess.PIPE, -1), (subprocess.DEVNULL, -1)])
def test_what_is_no_file_has_no_size(starter: Starter, stdout: int, expected: int) -> None:
    job = starter.start("#!/bin/bash\necho out\necho error >&2\n", stdout=stdout)
    job.process.communicate()
    assert job.record is not None
    assert job.record["stdout_bytes"] == expected
    assert job.record["stderr_bytes"] == len("error\n")


def test_a_log_that_is_appended_to_counts_as_a_whole(starter: Starter) -> None:
    starter.start("#!/bin/bash\necho first\n").wait()
    job = starter.start("#!/bin/bash\necho second\n", mode="ab")
    job.wait()
    assert job.record is not None
    assert job.record["stdout_bytes"] == len("first\nsecond\n")


@pytest.mark.parametrize(("count", "expected"), [({}, 0), ({"SLURM_RESTART_COUNT": "2"}, 2)])
def test_the_record_tells_how_often_the_job_was_requeued(
    starter: Starter, count: dict[str, str], expected: int
) -> None:
    job = starter.start("#!/bin/bash\n", inherited=count)
    job.wait()
    record = parse_exit_record((job.run_dir / "exit.json").read_bytes())
    assert record is not None
    assert record.restarts == expected


# ---- endings that are not the script's own ----


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "XCPU"])
def test_a_signal_before_the_script_began_is_recorded(starter: Starter, name: str) -> None:
    starter.profile("module() { echo loading; /bin/sleep 0.5; }")
    environment = Environment(modules=["gcc"])
    job = starter.start("#!/bin/bash\ntouch ran\n", environment=environment)
    job.wait_for("loading")
    number = getattr(signal, f"SIG{name}")
    job.process.send_signal(number)
    assert job.wait() == 128 + number
    assert job.record is not None
    assert job.record["exit_code"] == 128 + number
    assert not (starter.home / "ran").exists()


def test_an_environment_that_ends_the_shell_is_recorded(starter: Starter, tmp_path: Path) -> None:
    activate = tmp_path / "env" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text("exit 7\n")
    environment = Environment(path=str(activate.parent.parent))
    job = starter.start("#!/bin/bash\ntouch ran\n", environment=environment)
    assert job.wait() == 7
    assert job.record is not None
    assert job.record["exit_code"] == 7
    assert not (starter.home / "ran").exists()


# ---- a kill that gives the job some time ----

STUBBORN = (
    "#!/bin/bash\ntrap 'echo caught' TERM\necho ready $$\n"
    "for i in $(seq 200); do sleep 0.05; done\n"
)


def commands(where: Path, scancel: str) -> dict[str, str]:
    """A PATH on which scancel is what a test says."""
    (where / "bin").mkdir()
    path = where / "bin" / "scancel"
    path.write_text(f"#!/bin/bash\n{scancel}\n")
    path.chmod(0o700)
    return {"PATH": f"{path.parent}:{os.environ['PATH']}"}


def test_a_job_is_cancelled_by_itself_when_its_grace_is_over(
    starter: Starter, tmp_path: Path
) -> None:
    job = starter.start(STUBBORN, inherited=commands(tmp_path, f'echo "$@" >{tmp_path}/called'))
    job.wait_for("ready")
    (job.run_dir / "cancel").write_text("0.5")
    began = time.monotonic()
    job.process.send_signal(signal.SIGTERM)
    job.wait_for("caught")
    while not (tmp_path / "called").exists():
        assert time.monotonic() - began < 10
        time.sleep(0.02)
    assert time.monotonic() - began >= 0.5
    assert (tmp_path / "called").read_text() == "4711\n"
    os.kill(int(job.log.split()[1]), signal.SIGKILL)
    assert job.wait() == 128 + signal.SIGKILL


def test_where_a_node_may_not_cancel_the_script_is_killed(starter: Starter, tmp_path: Path) -> None:
    job = starter.start(STUBBORN, inherited=commands(tmp_path, "exit 1"))
    job.wait_for("ready")
    (job.run_dir / "cancel").write_text("0.2\n")
    job.process.send_signal(signal.SIGTERM)
    assert job.wait() == 128 + signal.SIGKILL
    assert job.record is not None
    assert job.record["exit_code"] == 128 + signal.SIGKILL


def test_without_a_kill_a_signal_ends_nothing_by_itself(starter: Starter, tmp_path: Path) -> None:
    script = STUBBORN.replace("seq 200", "seq 20")
    job = starter.start(script, inherited=commands(tmp_path, f"touch {tmp_path}/called"))
    job.wait_for("ready")
    job.process.send_signal(signal.SIGTERM)
    assert job.wait() == 0
    assert not (tmp_path / "called").exists()


def test_a_grace_delays_no_job_that_ends_by_itself(starter: Starter, tmp_path: Path) -> None:
    job = starter.start(
        "#!/bin/bash\ntrap 'exit 4' TERM\necho ready\nwhile :; do sleep 0.02; done\n",
        inherited=commands(tmp_path, f"touch {tmp_path}/called"),
    )
    job.wait_for("ready")
    (job.run_dir / "cancel").write_text("1")
    began = time.monotonic()
    job.process.send_signal(signal.SIGTERM)
    assert job.wait() == 4
    assert time.monotonic() - began < 0.9
    left = subprocess.run(["pgrep", "-f", str(job.run_dir)], capture_output=True, check=False)
    assert left.stdout == b""
    time.sleep(1.2)
    assert not (tmp_path / "called").exists()


# ---- of one submission one job runs ----


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("job_id", "4710\n"),
        ("job_id", "4710;federated\n"),
        ("job_id", "given up for af0.2\n"),
        ("cancel", "0\n"),
    ],
)
def test_a_job_that_is_not_the_one_runs_nothing(
    starter: Starter, tmp_path: Path, file: str, text: str
) -> None:
    run_dir = starter.home.parent / "jobs" / "af0.1"
    run_dir.mkdir(parents=True)
    (run_dir / file).write_text(text)
    job = starter.start(
        "#!/bin/bash\ntouch ran\n", inherited=commands(tmp_path, f'echo "$@" >{tmp_path}/called')
    )
    assert job.wait() == 1
    assert "job 4711 does nothing" in job.log
    assert (tmp_path / "called").read_text() == "4711\n"
    assert not (run_dir / "ran").exists()
    assert job.record is None


class Elements:
    """Starts elements of arrays whose jobs are to be those of one run directory."""

    def __init__(self, starter: Starter, where: Path) -> None:
        self.home = starter.home
        self.environment = {"HOME": str(self.home), **commands(where, "exit 0")}
        self.run_dir = where / "af0.1"
        self.run_dir.mkdir()
        (self.run_dir / "exports.sh").write_text(render_exports({}))

    def run(self, job_id: int) -> int:
        """Run the first element of one array to its end."""
        array = self.run_dir.parent / f"af{job_id}.1"
        array.mkdir(exist_ok=True)
        text = render_batch_script(directives=[], environment=Environment(), is_shared=True)
        (array / "batch.sh").write_text(text)
        (array / "members").write_text(f"{self.run_dir}\n")
        (array / "script").write_text(f"#!/bin/bash\necho array {job_id} ran\n")
        (array / "script").chmod(0o700)
        element = {
            "SLURM_JOB_ID": str(job_id + 1),
            "SLURM_ARRAY_JOB_ID": str(job_id),
            "SLURM_ARRAY_TASK_ID": "0",
        }
        with (array / "0.log").open("wb") as log:
            done = subprocess.run(
                ["/bin/bash", str(array / "batch.sh"), str(array), "members"],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**self.environment, **element},
                check=False,
            )
        return done.returncode


def test_only_the_element_that_runs_is_read(starter: Starter, tmp_path: Path) -> None:
    """One of an array that was thought lost may start first; its log says that it does nothing."""
    elements = Elements(starter, tmp_path)
    log = elements.run_dir / "stdout.log"
    (elements.run_dir / "job_id").write_text("4720_0\n")

    assert elements.run(4710) == 1
    assert not log.exists()
    log.write_text("what somebody else left")
    assert elements.run(4720) == 0
    assert log.read_text() == "array 4720 ran\n"
    assert not log.is_symlink()
    assert elements.run(4710) == 1
    assert log.read_text() == "array 4720 ran\n"


def test_an_element_that_was_requeued_writes_to_the_same_log(
    starter: Starter, tmp_path: Path
) -> None:
    elements = Elements(starter, tmp_path)
    log = elements.run_dir / "stdout.log"
    assert [elements.run(4720), elements.run(4720)] == [0, 0]
    assert log.read_text() == "array 4720 ran\n"
    assert not log.is_symlink()


@pytest.mark.parametrize("text", ["4711\n", "4711;roihu\nmore\n", "\n", ""])
def test_a_job_that_is_the_one_or_that_no_id_speaks_against_runs(
    starter: Starter, text: str
) -> None:
    run_dir = starter.home.parent / "jobs" / "af0.1"
    run_dir.mkdir(parents=True)
    (run_dir / "job_id").write_text(text)
    assert starter.start("#!/bin/bash\nexit 0\n").wait() == 0


# ---- its environment ----

DUMP = "#!/bin/bash\nenv -0 >env\n"


def read_env(starter: Starter) -> dict[str, str]:
    text = (starter.home / "env").read_bytes().decode()
    return dict(item.split("=", 1) for item in text.split("\0") if item)


def test_variables_reach_the_script_whatever_they_hold(starter: Starter) -> None:
    env = {f"V{number}": value for number, value in enumerate(HOSTILE_VALUES)}
    assert starter.start(DUMP, environment=Environment(env=env)).wait() == 0
    found = read_env(starter)
    assert {name: found[name] for name in env} == env
    assert not list(starter.home.parent.rglob("pwned"))


@pytest.mark.parametrize(
    "name",
    [
        *("name", "status", "started", "run_dir", "child", "interrupted", "i", "HOSTNAME"),
        *("csc_run_dir", "csc_status", "csc_child", "csc_started", "SLURM_JOB_ID"),
        *("SLURMD_NODENAME", "BASH_ENV", "LANG", "LC_ALL", "HOME", "TMPDIR", "CDPATH"),
    ],
)
def test_a_variable_of_any_name_keeps_its_value_and_the_record_its_truth(
    starter: Starter, name: str
) -> None:
    """Were they set in the wrapper's own shell, `name` became XCPU and `status` the exit code."""
    environment = Environment(env={name: "/mine"})
    job = starter.start(DUMP + "exit 3\n", environment=environment)
    assert job.wait() == 3
    assert read_env(starter)[name] == "/mine"
    assert job.record is not None
    assert (job.record["job_id"], job.record["node"]) == ("4711", "c1")
    assert job.record["exit_code"] == 3


def test_a_path_of_the_users_does_not_take_the_wrappers_commands_away(starter: Starter) -> None:
    environment = Environment(env={"PATH": "/nowhere"})
    job = starter.start("#!/bin/bash\nexit 3\n", environment=environment)
    assert job.wait() == 3
    assert job.record is not None
    assert job.record["exit_code"] == 3


@pytest.mark.parametrize("name", ["name", "status", "child", "started", "run_dir", "record"])
def test_an_inherited_variable_is_not_touched(starter: Starter, name: str) -> None:
    starter.start(DUMP, inherited={name: "inherited"}).wait()
    assert read_env(starter)[name] == "inherited"


_NAMES = st.from_regex(r"[A-Z][A-Z0-9_]{0,9}", fullmatch=True).map("V_".__add__)
_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=50)


@given(st.dictionaries(_NAMES, _TEXTS, max_size=20))
def test_every_text_survives_the_export(env: dict[str, str]) -> None:
    text = render_batch_script(directives=[], environment=Environment(env=env))
    start = text[text.index("start() {") : text.index("csc_starting=1\n")]
    done = subprocess.run(
        ["/bin/bash", "-c", f"{start}\n(start /usr/bin/env)"],
        capture_output=True,
        env={"LC_ALL": "C.UTF-8"},
        check=True,
    )
    expected = {f"{name}={value}" for name, value in env.items()}
    assert all(item.encode() in done.stdout for item in expected)


# ---- its preparation ----

MODULE = 'module() { printf \'module %s\\n\' "$*" >>modules; [ "$2" != missing ]; }\n'


def test_modules_are_loaded_in_order(starter: Starter) -> None:
    starter.profile(MODULE)
    modules = ["use /appl/modules", "gcc/15.2.0", "load  a   b", "purge"]
    job = starter.start("#!/bin/bash\n", environment=Environment(modules=modules))
    assert job.wait() == 0
    assert (starter.home / "modules").read_text() == (
        "module use /appl/modules\nmodule load gcc/15.2.0\nmodule load a b\nmodule purge\n"
    )


def test_a_module_that_cannot_be_loaded_ends_the_job_before_the_script(starter: Starter) -> None:
    starter.profile(MODULE)
    environment = Environment(modules=["missing", "gcc"])
    job = starter.start("#!/bin/bash\ntouch ran\n", environment=environment)
    assert job.wait() == 1
    assert "this failed with status 1: module load missing" in job.log
    assert job.record is not None
    assert job.record["exit_code"] == 1
    assert not (starter.home / "ran").exists()
    assert "gcc" not in (starter.home / "modules").read_text()


def test_a_site_without_modules_is_told_so(starter: Starter) -> None:
    job = starter.start("#!/bin/bash\ntouch ran\n", environment=Environment(modules=["gcc"]))
    assert job.wait() == 127
    assert "has no `module` command in a login shell" in job.log
    assert job.record is not None
    assert job.record["exit_code"] == 127
    assert not (starter.home / "ran").exists()


def test_a_virtual_environment_is_active_in_the_script(starter: Starter, tmp_path: Path) -> None:
    activate = tmp_path / "it's an env" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text("export VIRTUAL_ENV=active\n")
    environment = Environment(path=f"{activate.parent.parent}/")
    starter.start(DUMP, environment=environment).wait()
    assert read_env(starter)["VIRTUAL_ENV"] == "active"


def test_a_missing_virtual_environment_ends_the_job_before_the_script(starter: Starter) -> None:
    environment = Environment(path="/no/such/env")
    job = starter.start("#!/bin/bash\ntouch ran\n", environment=environment)
    assert job.wait() == 1
    assert "this failed with status 1: source /no/such/env/bin/activate" in job.log
    assert job.record is not None
    assert job.record["exit_code"] == 1
    assert not (starter.home / "ran").exists()


def test_the_users_variables_win_over_modules_and_environment(starter: Starter) -> None:
    starter.profile("module() { export TOOL=module; }")
    environment = Environment(env={"TOOL": "mine"}, modules=["tool"])
    starter.start(DUMP, environment=environment).wait()
    assert read_env(starter)["TOOL"] == "mine"


# ---- what is checked before ----


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("gcc/15.2.0", ["load", "gcc/15.2.0"]),
        ("load gcc", ["load", "gcc"]),
        ("  use   /appl/modules ", ["use", "/appl/modules"]),
        ("purge", ["purge"]),
        ("swap a b", ["swap", "a", "b"]),
        ("$(touch pwned)", ["load", "$(touch", "pwned)"]),
    ],
)
def test_a_module_line_is_read(line: str, words: list[str]) -> None:
    assert parse_module(line) == words


@pytest.mark.parametrize("line", ["", "   ", "gcc\nrm -rf ~", "gcc\x00", "\t"])
def test_a_module_line_that_names_none_is_refused(line: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^modules: .* names no module\. Write 'gcc/15"
    ) as caught:
        parse_environment(env=None, modules=[line], path=None)
    assert (caught.value.field, caught.value.value) == ("modules", line)


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "A\n", "$(id)", "Ä"])
def test_a_name_that_is_no_variable_is_refused(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^env: .* use letters, digits and underscores"
    ) as caught:
        parse_environment(env={name: "1"}, modules=None, path=None)
    assert caught.value.value == name


@pytest.mark.parametrize("value", [None, "a\0b"])
def test_a_value_that_no_variable_can_hold_is_refused(value: str | None) -> None:
    with pytest.raises(ConfigError, match=r"^env\['A'\] is .* give text without NUL") as caught:
        parse_environment(env={"A": value}, modules=None, path=None)
    assert caught.value.field == "env['A']"


def test_numbers_become_text() -> None:
    environment = parse_environment(env={"A": 1, "B": 1.5, "C": True}, modules=None, path=None)
    assert environment.env == {"A": "1", "B": "1.5", "C": "True"}


@pytest.mark.parametrize("path", ["/scratch/me", "~", "~/x", "/with space/é", "/$HOME", "/x\\y"])
def test_a_full_path_is_kept_as_it_is(path: str) -> None:
    assert check_remote_path("work_dir", path) == path


@pytest.mark.parametrize("path", ["", "relative", "./x", "~bob/x", "$HOME/x", "-x", " /x"])
def test_a_path_that_is_not_full_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"^work_dir: .* is not an absolute path") as caught:
        check_remote_path("work_dir", path)
    assert (caught.value.field, caught.value.value) == ("work_dir", path)


@pytest.mark.parametrize("path", ["/a\nb", "/a\0", "/a\r", "/\x1b"])
def test_a_path_with_a_control_character_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"control character.*Rename the directory\.$"):
        check_remote_path("work_dir", path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", r"the script is empty\. Give at least '#!/bin/bash' and one command\."),
        (" \n\n", "the script is empty"),
        ("#!/bin/bash\nech\0o\n", r"line 2 holds a NUL byte.*Give a text script\."),
        ("#!/bin/bash\r\necho\r\n", r"Windows line endings \(CR LF\); convert it.*dos2unix\."),
        ("echo hi\n", r"the first line is 'echo hi'; it must name the interpreter, as '#!/bin"),
        ("\n#!/bin/bash\n", "the first line is ''"),
        ("\ufeff#!/bin/bash\n", r"the first line is '\\ufeff#!/bin/bash'"),
        ("#!/bin/bash\n#" + "x" * 2**22, r"larger than the 4 MiB Slurm takes\. Ship the data"),
    ],
)
def test_a_script_that_cannot_run_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^script: .*{problem}") as caught:
        check_script("script", text)
    assert (caught.value.field, caught.value.value) == ("script", text[:200])


@pytest.mark.parametrize(
    "text", ["#!/bin/bash", "#!/usr/bin/env python3\nprint('ü')\n", "#! /bin/sh\n"]
)
def test_a_script_that_can_run_is_kept_as_it_is(text: str) -> None:
    assert check_script("script", text) == text


def test_a_command_as_text_is_read_by_a_shell() -> None:
    assert render_command("echo $HOME | wc -c") == "#!/bin/bash\necho $HOME | wc -c\n"


def run_command(command: list[str], where: Path) -> subprocess.CompletedProcess[bytes]:
    script = where / "script"
    script.write_text(render_command(command))
    return subprocess.run(["/bin/bash", script], capture_output=True, cwd=where, check=False)


def test_a_command_as_a_list_is_read_by_no_shell(tmp_path: Path) -> None:
    done = run_command(["printf", "%s\\0", *HOSTILE_VALUES], tmp_path)
    assert done.stdout.decode().split("\0")[:-1] == HOSTILE_VALUES
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("program", ["-a", "-c", "--", "-l"])
def test_a_program_whose_name_begins_with_a_dash_is_no_option(tmp_path: Path, program: str) -> None:
    """`exec -c touch pwned` would have run touch."""
    done = run_command([program, "touch", "pwned"], tmp_path)
    assert done.returncode == 127
    assert not (tmp_path / "pwned").exists()


# ---- the record as it is read ----

RECORD = {"job_id": "4711", "exit_code": 3, "started": 1000, "ended": 1010, "node": "c1"}


def test_a_record_is_read() -> None:
    sizes = {"stdout_bytes": 7, "stderr_bytes": -1, "restarts": 1, "signals": 2}
    assert parse_exit_record(json.dumps({**RECORD, **sizes}).encode()) == ExitRecord(
        job_id="4711",
        exit_code=3,
        started=1000,
        ended=1010,
        nodes="c1",
        stdout_bytes=7,
        stderr_bytes=-1,
        restarts=1,
        signals=2,
    )


def test_a_record_of_an_older_version_is_read() -> None:
    assert parse_exit_record(json.dumps(RECORD).encode()) == ExitRecord(
        job_id="4711", exit_code=3, started=1000, ended=1010, nodes="c1"
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"cat: /x/exit.json: No such file or directory",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        *(json.dumps({**RECORD, "exit_code": code}).encode() for code in (-1, 256, "0", None, 0.0)),
        *(json.dumps({**RECORD, "exit_code": code}).encode() for code in (True, [], float("inf"))),
        *(json.dumps({**RECORD, "stdout_bytes": size}).encode() for size in (-2, "7", None, 1.0)),
        json.dumps({**RECORD, "restarts": -1}).encode(),
        *(json.dumps({**RECORD, "signals": count}).encode() for count in (-1, "0", None)),
        *(json.dumps({**RECORD, "started": when}).encode() for when in (-1, 10**18, "now")),
        *(
            json.dumps({name: value for name, value in RECORD.items() if name != missing}).encode()
            for missing in RECORD
        ),
    ],
)
def test_what_is_not_one_whole_record_is_none(data: bytes) -> None:
    assert parse_exit_record(data) is None


@pytest.mark.parametrize("size", range(len(json.dumps(RECORD))))
def test_a_record_that_was_cut_is_none(size: int) -> None:
    assert parse_exit_record(json.dumps(RECORD).encode()[:size]) is None


@given(st.binary())
def test_no_bytes_at_all_make_the_reader_fail(data: bytes) -> None:
    parse_exit_record(data)
