"""A Python function as a job's script: run by a real bash and every Python of this machine."""

from __future__ import annotations

import ast
import base64
import datetime as dt
import json
import math
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.errors import (
    ConfigError,
    JobExitCodeError,
    JobNoResultError,
    SiteUnavailableError,
)
from airflow_provider_csc.slurm import python_runner, python_task
from airflow_provider_csc.slurm.batch import check_script
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.python_runner import UnfitError, to_json
from airflow_provider_csc.slurm.python_task import (
    Failed,
    PythonCall,
    Returned,
    build_function_error,
    build_listing,
    build_no_result_error,
    check_function,
    check_python,
    fill_in_context,
    parse_listing,
    parse_outcome,
    render_python_script,
)
from airflow_provider_csc.slurm.result import JobResult
from tests.pure.slurm.shell import HOSTILE_NAMES, HOSTILE_VALUES
from tests.support.pythons import PYTHONS, USABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from types_of_nobody import Annotated  # type: ignore[import-not-found]

HERE = sys.executable
FACTOR = 3
NAMES = {"left": ["ä", 1.5, None, True]}
THREAD = threading.Lock()
NOT_A_NUMBER = math.nan


def helper(x: int) -> int:
    return x


@dataclass
class Ended:
    """What became of a script."""

    status: int
    stdout: str
    stderr: str
    outcome: Returned | Failed | None
    files: list[str]

    @property
    def value(self) -> Any:
        assert isinstance(self.outcome, Returned), (self.outcome, self.stderr)
        return self.outcome.value

    @property
    def failed(self) -> Failed:
        assert isinstance(self.outcome, Failed), self.outcome
        return self.outcome


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Ended]:
    """Run a call as the batch script does: the script lies in the run directory."""

    def run(
        function: Any,
        *args: Any,
        python: Any = HERE,
        serializer: str = "json",
        directory: Path = tmp_path,
        environ: Mapping[str, str] = os.environ,
        edit: Callable[[str], str] = str,
        **kwargs: Any,
    ) -> Ended:
        call = PythonCall(
            function=function, args=args, kwargs=kwargs, serializer=serializer, python=python
        )
        script = directory / "script"
        script.write_text(edit(check_script("script", render_python_script(call))))
        script.chmod(0o700)
        done = subprocess.run(
            [script], capture_output=True, cwd="/", env=dict(environ), check=False, timeout=60
        )
        result = directory / "result.json"
        return Ended(
            done.returncode,
            done.stdout.decode(),
            done.stderr.decode(),
            parse_outcome(result.read_bytes()) if result.exists() else None,
            sorted(each.name for each in directory.iterdir()),
        )

    return run


def add(a: int, b: int = 2, *more: int, c: int = 4, **others: Any) -> dict[str, Any]:
    import sys

    print("adding", a)
    print("to stderr", file=sys.stderr)
    return {"sum": (a + b + c) * FACTOR, "more": more, "others": others, "names": NAMES}


# ---- what works ----


@pytest.mark.parametrize("python", USABLE.values(), ids=map(str, USABLE))
def test_every_python_from_3_6_on_runs_a_function(run: Any, python: Path) -> None:
    done = run(add, 1, python=str(python), z="ü")

    assert done.value == {"sum": 21, "more": [], "others": {"z": "ü"}, "names": NAMES}
    assert (done.status, done.stdout, done.stderr) == (0, "adding 1\n", "to stderr\n")
    assert done.files == ["result.json", "script"]


@pytest.mark.parametrize("python", USABLE.values(), ids=map(str, USABLE))
def test_every_python_tells_what_a_function_raised(run: Any, python: Path) -> None:
    def fails(n: int) -> None:
        # a comment
        text = """
not indented
"""
        if n:
            fails(n - 1)
        raise ValueError("no " + text.strip())

    done = run(fails, 1, python=str(python))

    assert done.status == 1
    assert (done.failed.kind, done.failed.type) == ("raised", "ValueError")
    assert done.failed.message == "no not indented"
    line = fails.__code__.co_firstlineno + 7
    assert f'{__file__}", line {line - 1}, in fails\n    fails(n - 1)' in done.failed.traceback
    assert done.failed.traceback in done.stderr
    assert "runner" not in done.failed.traceback
    assert done.failed.traceback.startswith("Traceback (most recent call last):\n  File")


def test_the_far_end_is_written_in_what_python_3_6_knows() -> None:
    text = Path(python_runner.__file__).read_text()

    ast.parse(text, feature_version=(3, 6))


def test_variables_around_a_function_go_along_as_data(run: Any) -> None:
    around = {"deep": [1, {"x": None}]}
    count = 5

    def uses(y: int) -> Any:
        class Inner:
            factor = FACTOR

            def get(self) -> int:
                return self.factor * count

        return [around, [Inner().get() + y + each for each in range(2)], len(NAMES)]

    assert run(uses, 1).value == [around, [16, 17], 1]


def test_annotations_and_decorators_are_not_evaluated_there(run: Any) -> None:
    def registered(function: Any) -> Any:
        return function

    @registered
    def typed(x: Annotated = 1, *a: Annotated, k: Annotated = 2, **o: Annotated) -> Annotated:
        y: Annotated = x

        def inner(z: Annotated) -> Annotated:
            return z

        return inner(y) + k

    assert run(typed).value == 3


def test_defaults_hold_also_where_a_function_calls_itself(run: Any) -> None:
    start = 7

    def climb(n: int, top: int = start, *, step: int = FACTOR) -> list[int]:
        return [n, top, step] if n >= top else climb(n + step)

    assert run(climb, 0).value == [9, 7, 3]
    assert run(climb, 0, 5, step=4).value == [7, 7, 3]


def test_a_class_that_looks_for_its_module_finds_it(run: Any) -> None:
    def typed() -> Any:
        import typing

        class Point(typing.NamedTuple):
            x: int

        return [typing.get_type_hints(Point) == {"x": int}, Point.__module__, __name__]

    assert run(typed).value == [True, "slurm_task", "slurm_task"]


@pytest.mark.parametrize(
    "text", [*HOSTILE_VALUES, "#SBATCH --mem=1\n", "# payload", "\n\n", "漢字"]
)
def test_no_argument_is_read_by_a_shell(run: Any, text: str) -> None:
    def give(x: Any, **y: Any) -> Any:
        return [x, y]

    assert run(give, text, **{text: text}).value == [
        text,
        {text: text},
    ]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_the_run_directory_may_have_any_name(run: Any, tmp_path: Path, name: str) -> None:
    directory = tmp_path / "in" / name.replace("/", "_").replace("~", "_~")
    directory.mkdir(parents=True)

    done = run(add, 1, directory=directory)

    assert done.value["sum"] == 21
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_lines_are_seen_when_they_are_written_and_in_utf8(run: Any, tmp_path: Path) -> None:
    def speaks(path: str) -> int:
        import os

        print("ä 漢字 \udc80")
        with os.fdopen(os.open(path, os.O_RDONLY)) as file:
            seen = file.read()
        os.write(1, ("seen: " + seen).encode())
        return len(seen)

    log = tmp_path / "log"
    call = PythonCall(function=speaks, args=[str(log)], kwargs={}, python=HERE)
    script = tmp_path / "script"
    script.write_text(render_python_script(call))
    with log.open("wb") as file:
        subprocess.run(
            ["bash", script], stdout=file, env={"PATH": os.defpath, "LC_ALL": "C"}, check=True
        )

    assert parse_outcome((tmp_path / "result.json").read_bytes()) == Returned(
        len("ä 漢字 \\udc80\n")
    )


def test_a_signal_reaches_python_itself(tmp_path: Path) -> None:
    def waits(path: str) -> str:
        import os
        import signal
        import time

        def leave(*_: object) -> None:
            raise KeyError("told to end")

        signal.signal(signal.SIGTERM, leave)
        os.write(os.open(path, os.O_CREAT | os.O_WRONLY), str(os.getpid()).encode())
        time.sleep(60)
        return "never"

    ready = tmp_path / "ready"
    call = PythonCall(function=waits, args=[str(ready)], kwargs={}, python=HERE)
    script = tmp_path / "script"
    script.write_text(render_python_script(call))
    process = subprocess.Popen(["bash", script], stderr=subprocess.DEVNULL)
    while not ready.exists() or not ready.read_text():
        time.sleep(0.02)
    assert int(ready.read_text()) == process.pid
    process.terminate()

    assert process.wait(30) == 1
    outcome = parse_outcome((tmp_path / "result.json").read_bytes())
    assert isinstance(outcome, Failed)
    assert (outcome.type, outcome.message) == ("KeyError", "'told to end'")


def test_a_program_may_start_the_interpreter(run: Any) -> None:
    done = run(add, 1, python=["env", "--", "COLOUR=b l", HERE])

    assert done.value["sum"] == 21


def test_the_first_of_several_processes_gives_the_result(run: Any, tmp_path: Path) -> None:
    def rank() -> Any:
        import os

        return os.environ["SLURM_PROCID"]

    many = tmp_path / "srun"
    many.write_text('#!/bin/sh\nfor n in 0 1 2; do SLURM_PROCID=$n "$@"; done\n')
    many.chmod(0o755)
    directory = tmp_path / "d"
    directory.mkdir()

    assert run(rank, python=[str(many), HERE], directory=directory).value == "0"


@pytest.mark.parametrize("order", ["0 1", "1 0"])
def test_what_one_of_several_processes_raises_is_not_lost(
    run: Any, tmp_path: Path, order: str
) -> None:
    def fails_elsewhere() -> None:
        import os

        if os.environ["SLURM_PROCID"] == "1":
            raise RuntimeError("one of two")

    many = tmp_path / "srun"
    many.write_text(f'#!/bin/sh\nfor n in {order}; do SLURM_PROCID=$n "$@"; done\n')
    many.chmod(0o755)
    directory = tmp_path / "d"
    directory.mkdir()

    failed = run(fails_elsewhere, python=[str(many), HERE], directory=directory).failed

    assert failed.message == "one of two"


def test_an_interpreter_below_home_is_found(run: Any, tmp_path: Path) -> None:
    (tmp_path / "my python").symlink_to(USABLE[sys.version_info[:2]])
    environ = {**os.environ, "HOME": str(tmp_path)}

    assert run(add, 1, python="~/my python", environ=environ).value["sum"] == 21


# ---- what does not, on the cluster ----


def give(kind: str) -> Any:
    import datetime as dt
    import pathlib

    class Odd:
        pass

    endless = []
    endless.append(endless)
    values = {
        "nan": {"loss": [1.0, float("nan")]},
        "inf": float("-inf"),
        "time": {"when": dt.datetime.fromtimestamp(0, dt.timezone.utc)},  # noqa: UP017 - Python 3.6
        "set": [{1}],
        "bytes": b"x",
        "path": pathlib.Path("/x"),
        "key": {"a": {1: 2}},
        "class": Odd(),
        "half": ["\ud800"],
        "endless": endless,
        "large": "x" * 2000000,
    }
    return values[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", "result['loss'][1] is nan"),
        ("inf", "result is -inf"),
        ("time", "result['when'] is of type datetime.datetime"),
        ("set", "result[0] is of type set"),
        ("bytes", "result is of type bytes"),
        ("path", "result is of type pathlib"),
        ("key", "result['a'] has the key 1, of type int"),
        ("class", "result is of type slurm_task.give.<locals>.Odd"),
        ("half", "result[0] is text with half a character"),
        ("endless", "result is nested too deeply, or holds itself"),
        ("large", "result is 2000013 bytes of JSON, and 1048576 are taken"),
    ],
)
@pytest.mark.parametrize("python", [min(USABLE.items())[1], Path(HERE)])
def test_a_result_that_is_no_json_is_named_where_it_is(
    run: Any, kind: str, words: str, python: Path
) -> None:
    done = run(give, kind, python=str(python))

    assert (done.status, done.failed.kind) == (1, "result")
    assert words in done.failed.message
    assert words in done.stderr


def test_a_result_of_the_largest_size_is_taken(run: Any) -> None:
    def large(n: int) -> str:
        return "x" * n

    size = python_task.RESULT_LIMIT - len('{"value": ""}')
    assert len(run(large, size).value) == size
    assert run(large, size + 1).failed.kind == "result"


@pytest.mark.parametrize(("code", "status"), [(0, 1), (3, 3), ("words", 1), (300, 1), (-1, 1)])
def test_sys_exit_is_no_success(run: Any, code: Any, status: int) -> None:
    def leave(code: Any) -> None:
        import sys

        sys.exit(code)

    done = run(leave, code)

    assert done.status == status
    assert (done.failed.type, done.failed.message) == ("SystemExit", str(code))


def test_who_leaves_at_once_leaves_no_result_and_none_of_an_earlier_run(run: Any) -> None:
    def leave(now: bool) -> None:
        import os

        if now:
            os._exit(0)

    assert run(leave, False).value is None
    done = run(leave, True)

    assert (done.status, done.outcome) == (0, None)
    assert done.files == ["script"]


def test_an_exception_that_cannot_be_shown_is_told_all_the_same(run: Any) -> None:
    def fails() -> None:
        class OddError(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        raise OddError

    failed = run(fails).failed

    assert failed.type == "slurm_task.fails.<locals>.OddError"
    assert failed.message == "(its text cannot be shown)"


def test_the_text_of_an_exception_has_a_limit_and_is_text(run: Any) -> None:
    def fails() -> None:
        raise ValueError("\ud800" + "x" * 3000000)

    failed = run(fails).failed

    assert failed.message.startswith("\\ud800xxx")
    assert len(failed.message) + len(failed.traceback) < 100000


def test_causes_are_part_of_the_traceback(run: Any) -> None:
    def fails() -> None:
        try:
            {}["x"]
        except KeyError as error:
            raise ValueError("bad") from error

    shown = run(fails).failed.traceback

    assert "KeyError: 'x'" in shown
    assert "direct cause" in shown
    assert '{}["x"]' in shown


def test_a_missing_interpreter_says_so(run: Any) -> None:
    done = run(add, 1, python='/no/such/"py\\thon"')

    assert done.status == 127
    assert done.failed.kind == "setup"
    assert '/no/such/"py\\thon" is no Python on ' in done.failed.message
    assert "python=" in done.failed.message
    assert done.failed.message in done.stderr


@pytest.mark.parametrize(
    "says", ["", "echo hello", "echo 3.x.1", "exit 3", "echo 'ä\"\\' >&2; exit 1"]
)
def test_a_program_that_is_no_interpreter_says_so(run: Any, tmp_path: Path, says: str) -> None:
    fake = tmp_path / "fake"
    fake.write_text(f"#!/bin/sh\n{says}\n")
    fake.chmod(0o755)

    done = run(add, 1, python=str(fake))

    assert (done.status, done.failed.kind) == (127, "setup")
    assert "is no Python on" in done.failed.message


@pytest.mark.parametrize("version", ["2.7.18", "3.5.9", "0.9.9"])
def test_an_interpreter_that_is_too_old_says_so(run: Any, tmp_path: Path, version: str) -> None:
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\necho a banner\necho {version}\n")
    fake.chmod(0o755)

    done = run(add, 1, python=str(fake))

    assert (done.status, done.failed.kind) == (1, "setup")
    assert f"is Python {version}; 3.6 is the oldest" in done.failed.message


@pytest.mark.parametrize(
    "python", [path for version, path in PYTHONS.items() if version < (3, 6)] or ["/bin/false"]
)
def test_what_is_really_too_old_is_refused(run: Any, python: Path | str) -> None:
    done = run(add, 1, python=str(python))

    assert done.failed.kind == "setup"


def test_syntax_that_the_cluster_does_not_know_is_named(run: Any, tmp_path: Path) -> None:
    def new(x: int) -> int:
        return x + 1

    def spoil(script: str) -> str:
        head, _, rest = script.partition(f"\n{python_runner.PAYLOAD_MARK}\n")
        encoded, _, tail = rest.partition("\n\n")
        payload = json.loads(base64.b64decode(encoded))
        payload["source"] = payload["source"].replace("x + 1", "x +* 1")
        encoded = base64.b64encode(json.dumps(payload).encode()).decode()
        return f"{head}\n{python_runner.PAYLOAD_MARK}\n{encoded}\n\n{tail}"

    failed = run(new, 1, edit=spoil).failed

    line = new.__code__.co_firstlineno + 1
    assert failed.kind == "setup"
    assert f"which does not know what stands in {__file__}, line {line}" in failed.message


def test_a_result_that_cannot_be_written_is_no_success(run: Any, tmp_path: Path) -> None:
    def in_the_way() -> int:
        return 1

    (tmp_path / "result.json").mkdir()
    (tmp_path / "result.json" / "x").touch()
    call = PythonCall(function=in_the_way, args=[], kwargs={}, python=HERE)
    (tmp_path / "script").write_text(render_python_script(call))

    done = subprocess.run(["bash", tmp_path / "script"], capture_output=True, check=False)

    assert done.returncode != 0
    assert b"result.json" in done.stderr


# ---- cloudpickle ----


def test_with_cloudpickle_helpers_and_closures_go_along(run: Any) -> None:
    inside = {1, 2}

    def call(x: Any) -> Any:
        return [helper(len(inside)), x.isoformat(), FACTOR]

    # Nothing of the tests can be imported there.
    done = run(
        call,
        dt.date(2026, 1, 2),
        serializer="cloudpickle",
        edit=lambda script: script.replace(
            'if __name__ == "__main__":', f'sys.modules["{__name__}"] = None\nif True:'
        ),
    )

    assert done.value == [2, "2026-01-02", 3]


def test_pickling_by_value_lasts_no_longer_than_it_is_needed(run: Any) -> None:
    import cloudpickle

    before = set(cloudpickle.list_registry_pickle_by_value())
    run(add, 1, serializer="cloudpickle")

    assert set(cloudpickle.list_registry_pickle_by_value()) == before


OTHERS = {version: path for version, path in USABLE.items() if version != sys.version_info[:2]}


def test_another_version_of_python_unpickles_nothing(run: Any, tmp_path: Path) -> None:
    def never(path: str) -> None:
        import pathlib

        pathlib.Path(path).touch()

    trace = tmp_path / "trace"
    there = f"{sys.version_info[0]}.{sys.version_info[1]}"
    lie = "import sys; sys.version_info = (3, 6, 1, 'final', 0); code = sys.argv[2]; "
    fake = tmp_path / "python"
    fake.write_text(
        f'#!/bin/sh\n[ "$1" != -S ] || {{ echo 3.6.1; exit; }}\n'
        f'exec {HERE} -c "{lie}sys.argv[1:] = sys.argv[3:]; exec(code)" "$@"\n'
    )
    fake.chmod(0o755)

    done = run(never, str(trace), python=str(fake), serializer="cloudpickle")

    assert (done.status, done.failed.kind) == (1, "setup")
    assert f"pickled by Python {there}" in done.failed.message
    assert "is Python 3.6" in done.failed.message
    assert "serializer='json'" in done.failed.message
    assert not trace.exists()


@pytest.mark.parametrize("python", OTHERS.values(), ids=map(str, OTHERS))
def test_every_other_python_here_refuses_to_unpickle(run: Any, python: Path) -> None:
    failed = run(add, 1, python=str(python), serializer="cloudpickle").failed

    assert failed.kind == "setup"
    assert "needs the same version" in failed.message


def test_a_missing_cloudpickle_on_the_cluster_is_named(run: Any) -> None:
    bare = ["env", "PYTHONSAFEPATH=1", HERE, "-S"]

    failed = run(add, 1, python=bare, serializer="cloudpickle").failed

    assert failed.kind == "setup"
    assert "has no cloudpickle" in failed.message


def test_a_missing_cloudpickle_at_airflows_end_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)

    with pytest.raises(ConfigError, match=r"serializer.*Install it there, or use 'json'"):
        render(add, 1, serializer="cloudpickle")


def test_what_cannot_be_pickled_is_refused() -> None:
    def locked() -> Any:
        return THREAD

    with pytest.raises(ConfigError, match=r"locked.*cannot be pickled.*lock"):
        render(locked, serializer="cloudpickle")


def test_a_module_that_is_not_on_the_cluster_is_named(run: Any) -> None:
    def uses() -> Any:
        return ConfigError

    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    failed = run(
        uses,
        python=["env", "-C", "/", HERE],
        serializer="cloudpickle",
        environ=environ,
        edit=lambda script: script.replace(
            'if __name__ == "__main__":', 'sys.modules["airflow_provider_csc"] = None\nif True:'
        ),
    ).failed

    assert failed.kind == "setup"
    assert "airflow_provider_csc" in failed.message


# ---- what is refused before anything is sent ----


def render(function: Any, *args: Any, **kwargs: Any) -> str:
    options = {name: kwargs.pop(name) for name in ("serializer", "python") if name in kwargs}
    return render_python_script(PythonCall(function=function, args=args, kwargs=kwargs, **options))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "argument x is of type datetime.datetime"),
        ({"a": {1: 2}}, "argument x['a'] has the key 1"),
        ([math.inf], "argument x[0] is inf"),
        (b"x", "argument x is of type bytes"),
    ],
)
def test_an_argument_that_is_no_json_is_named(value: Any, words: str) -> None:
    def takes(x: Any) -> None:
        pass

    for call in (lambda: render(takes, value), lambda: render(takes, x=value)):
        with pytest.raises(ConfigError, match="cloudpickle") as caught:
            call()
        assert words in str(caught.value)


def test_all_variables_that_are_no_data_are_named_at_once() -> None:
    def uses() -> Any:
        return [math.pi, helper(1), Ended, THREAD, NOT_A_NUMBER, __file__, later]

    with pytest.raises(ConfigError) as caught:
        render(uses)
    later = 1

    for words in (
        *("math is a module", "helper is a function", "Ended is a class", "THREAD is of type"),
        *("NOT_A_NUMBER is nan", "__file__ is about the DAG file", "later has no value yet"),
        *("inside the function", "serializer='cloudpickle'"),
    ):
        assert words in str(caught.value)


def test_an_attribute_or_a_local_name_is_no_variable() -> None:
    def uses(x: Any) -> Any:
        import json as helper

        class Made:
            THREAD = 1
            other = THREAD

        return [x.math, x.THREAD, helper, Made]

    assert render(uses, 1)


def test_a_default_that_is_no_json_is_named() -> None:
    def takes(x: Any = dt.date(2026, 1, 1)) -> None:
        pass

    with pytest.raises(ConfigError, match=r"the default of x is of type datetime\.date"):
        render(takes)


def test_a_variable_of_an_enclosing_function_cannot_be_assigned_to() -> None:
    n = 0

    def counts() -> None:
        nonlocal n
        n += 1

    with pytest.raises(ConfigError, match="nonlocal 'n'"):
        render(counts)


def test_a_function_that_another_decorator_wraps_is_refused() -> None:
    def twice(function: Any) -> Any:
        @wraps(function)
        def wrapper(*args: Any) -> Any:
            return function(*args) * 2

        return wrapper

    @twice
    def one() -> int:
        return 1

    with pytest.raises(ConfigError, match="another decorator"):
        render(one)


def test_with_cloudpickle_other_decorators_go_along(run: Any) -> None:
    def twice(function: Any) -> Any:
        @wraps(function)
        def wrapper(*args: Any) -> Any:
            return function(*args) * 2

        return wrapper

    @twice
    def one() -> int:
        return 1

    assert run(one, serializer="cloudpickle").value == 2


def test_a_function_without_a_source_is_refused() -> None:
    space: dict[str, Any] = {}
    exec("def made(): return 1", space)

    with pytest.raises(ConfigError, match=r"made: its source was not found"):
        render(space["made"])


def test_what_is_too_large_is_named_with_its_size() -> None:
    def takes(x: Any, y: Any, *z: Any) -> None:
        pass

    with pytest.raises(ConfigError, match=r"takes.*[67]\.\d MiB.*argument y \(5\.0 MiB\).*Allas"):
        render(takes, "x", y="y" * 5 * 1024 * 1024)
    with pytest.raises(ConfigError, match=r"argument number 1 \(5\.0 MiB\)"):
        render(takes, "x", "y" * 5 * 1024 * 1024)
    with pytest.raises(ConfigError, match=r"makes a script of .* 4 MiB is the limit\. Put"):
        render(takes, "x", "y" * 5 * 1024 * 1024, serializer="cloudpickle")


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("", "names no interpreter"),
        ([], "names no interpreter"),
        (None, "names no interpreter"),
        ([3], "names no interpreter"),
        ("-m", "names no interpreter"),
        ("py\nthon", "names no interpreter"),
        ("bin/python", "absolute"),
    ],
)
def test_an_interpreter_that_cannot_be_one_is_refused(python: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_python(python)


@pytest.mark.parametrize(
    "python", ["python3", "/usr/bin/py thon", "~/venv/bin/python", ["a", "-n", "b"]]
)
def test_an_interpreter_that_may_be_one_is_taken(python: Any) -> None:
    check_python(python)


def test_another_serializer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"serializer: 'pickle' is none"):
        render(add, 1, serializer="pickle")


class OnlyCallable:
    def __call__(self) -> None:
        pass


async def waits() -> None:
    pass


def yields() -> Any:
    yield 1


async def yields_later() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda: 1, "lambda"),
        (OnlyCallable(), "no function"),
        (len, "no function"),
        (waits, "asyncio.run"),
        (yields, "Return a list"),
        (yields_later, "Return a list"),
    ],
)
def test_what_is_no_plain_function_is_refused(function: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_function(function)


# ---- the context ----


def test_what_the_context_has_of_text_goes_along() -> None:
    def named(x: int, ds: str, params: Any, run_id: str = "?") -> None:
        pass

    context = {"ds": "2026-01-01", "params": {"a": 1}, "run_id": "r", "ti": object()}

    assert fill_in_context(named, [1], {}, context) == {
        "ds": "2026-01-01",
        "params": {"a": 1},
        "run_id": "r",
    }
    assert fill_in_context(named, [1, "other"], {"run_id": "mine"}, context) == {
        "params": {"a": 1},
        "run_id": "mine",
    }


def test_a_run_without_a_logical_date_has_no_ds() -> None:
    def with_default(ds: Any = None) -> None:
        pass

    def without(ds: str) -> None:
        pass

    assert fill_in_context(with_default, [], {}, {}) == {}
    with pytest.raises(ConfigError, match=r"no ds.*logical date.*ds=None"):
        fill_in_context(without, [], {}, {})


def test_what_the_context_has_of_objects_is_refused() -> None:
    def named(ti: Any = None, dag_run: Any = None, ds: Any = None, mine: Any = None) -> None:
        pass

    with pytest.raises(ConfigError, match=r"dag_run, ti of Airflow's context.*run_id.*argument"):
        check_function(named, context_names={"ti", "dag_run", "ds", "conn"})


# ---- what comes back ----


def look(run_dir: Path | str) -> Frame:
    done = subprocess.run(
        ["bash", "-c", build_listing(str(run_dir))], capture_output=True, check=False
    )
    return Frame(done.returncode, done.stdout + done.stderr)


@pytest.mark.parametrize("name", [name for name in HOSTILE_NAMES if "/" not in name])
def test_a_run_directory_without_a_result_is_told_from_one_that_is_gone(
    tmp_path: Path, name: str
) -> None:
    run_dir = tmp_path / name

    assert parse_listing(look(run_dir), str(run_dir)) is False
    run_dir.mkdir()
    assert parse_listing(look(run_dir), str(run_dir)) is False
    (run_dir / "result.json").touch()
    assert parse_listing(look(run_dir), str(run_dir)) is True


def test_where_the_file_system_is_away_nothing_is_known(tmp_path: Path) -> None:
    run_dir = tmp_path / "not mounted" / "run"

    with pytest.raises(SiteUnavailableError, match="cannot be looked at"):
        parse_listing(look(run_dir), str(run_dir))


def test_a_run_directory_that_cannot_be_read_tells_nothing() -> None:
    answer = Frame(2, b"ls: cannot open directory './run': Input/output error")

    with pytest.raises(SiteUnavailableError, match="Input/output error"):
        parse_listing(answer, "/x/run")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"value": 1',
        b"[]",
        b"{}",
        b"null",
        b'{"value": NaN}',
        b'{"error": {}}',
        b'{"error": {"kind": 1, "message": "", "traceback": ""}}',
        b"\xff",
        b"[" * 200000,
        b'{"value": "' + b"x" * python_task.DOCUMENT_LIMIT + b'"}',
        base64.b64encode(b"pickle"),
        b"\x80\x04N.",
    ],
)
def test_what_is_no_whole_document_is_no_result(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_outcome(data)


@pytest.mark.parametrize("value", [None, 0, "", [], {}, {"error": 1}, [1.5, {"a": None}]])
def test_a_value_is_read_as_it_was_written(value: Any) -> None:
    assert parse_outcome(json.dumps({"value": value}).encode()) == Returned(value)


RESULT = JobResult(job_id="7", state="FAILED", exit_code=1, stdout_path="/log")


@pytest.mark.parametrize(
    ("failed", "exit_code", "words", "lasting"),
    [
        (
            Failed("raised", "ValueError", "bad", "Traceback\n  x\n"),
            1,
            "f raised ValueError: bad.",
            False,
        ),
        (
            Failed("result", None, "result is nan", ""),
            1,
            "f ran, but result is nan. A result",
            True,
        ),
        (Failed("setup", None, "too old", ""), 1, "f was not run: too old.", True),
        (Failed("setup", None, "no Python", ""), 127, "f was not run: no Python.", False),
        (Failed("unheard of", None, "x", ""), 1, "f was not run: x.", True),
    ],
)
def test_the_error_of_a_function_carries_what_is_known(
    failed: Failed, exit_code: int, words: str, lasting: bool
) -> None:
    result = JobResult.from_payload({**RESULT.to_payload(), "exit_code": exit_code})

    error = build_function_error("f", result, failed)

    assert isinstance(error, JobExitCodeError)
    assert str(error).startswith(words)
    assert "Job 7 ended FAILED" in str(error)
    assert str(error).endswith(failed.traceback.rstrip() or "Its log: /log.")
    assert (error.exception_type, error.exception_message) == (failed.type, failed.message)
    assert (error.traceback, error.is_lasting) == (failed.traceback, lasting)
    assert (error.job_id, error.failure, error.exit_code) == ("7", "exit_code", exit_code)


def test_a_job_without_a_result_contradicts_itself() -> None:
    result = JobResult(job_id="7", state="COMPLETED", stdout_path="/log")

    error = build_no_result_error("f", result, "there is no file")

    assert isinstance(error, JobNoResultError)
    assert error.failure == "contradiction"
    assert "f left no result: there is no file" in error.contradiction
    assert "os._exit" in str(error)


def test_mappings_and_sequences_of_any_kind_are_json() -> None:
    from collections import OrderedDict, UserDict, deque

    assert to_json((1, range(2), deque([3])), "x") == [1, [0, 1], [3]]
    assert to_json(UserDict(a=OrderedDict(b=None)), "x") == {"a": {"b": None}}
    with pytest.raises(UnfitError, match=r"x\[0\] is of type set"):
        to_json([set()], "x")
