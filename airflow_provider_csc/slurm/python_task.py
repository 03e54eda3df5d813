"""
Turn a call of a Python function into the script of a job, and read what it left.

The function travels as its source, which any Python can read, together with the values of the
variables it names; or, with cloudpickle, as an object, which only the same version of Python can
read. What comes back is JSON, and only read as such. `python_runner` is the other end.
"""

from __future__ import annotations
import __future__

import base64
import dis
import inspect
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.errors import (
    ConfigError,
    JobFunctionError,
    JobNoResultError,
    SiteUnavailableError,
)
from airflow_provider_csc.notation import shown
from airflow_provider_csc.slurm import python_runner
from airflow_provider_csc.slurm.batch import at_home, check_remote_path
from airflow_provider_csc.slurm.framing import quote
from airflow_provider_csc.slurm.python_runner import PAYLOAD_MARK, RAISED, UnfitError, to_json
from airflow_provider_csc.slurm.result import describe_result, to_xcom
from airflow_provider_csc.slurm.run_dir import RESULT_FILE, fill_names

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from airflow_provider_csc.slurm.framing import Frame
    from airflow_provider_csc.slurm.result import JobResult

SERIALIZERS = ("json", "cloudpickle")
# Of an XCom, which is kept in Airflow's database.
RESULT_LIMIT = 1024 * 1024
# What the runner adds to the texts of an error, which it cuts.
DOCUMENT_LIMIT = RESULT_LIMIT + 64 * 1024
# What the function may name of Airflow's context: those values that are text, and the params.
CONTEXT_NAMES = frozenset(
    {
        *("ds", "ds_nodash", "ts", "ts_nodash", "ts_nodash_with_tz"),
        *("run_id", "task_instance_key_str", "params"),
    }
)
_MAX_SCRIPT_BYTES = 4 * 1024 * 1024
_RUNNER_MARK = "# What runs it, with Python 3.6 or later:"
_WITH_CLOUDPICKLE = "or say serializer='cloudpickle'"

# Python does not outlive `exec`, so it gets the signals that are meant for the job. A result that
# an earlier run of this job left, before it was requeued, must not be taken for this one's. What
# stands below `exec` is never read by bash.
_SCRIPT = r"""#!/bin/bash
# A Python function as a job of airflow-provider-csc (docs/python-tasks.md).
run_dir=${{0%/*}}
rm -f -- "$run_dir/@RESULT"
python=({python})

refuse() {{
  local LC_ALL=C text
  text=${{1//[![:print:]]/ }}
  printf 'airflow-provider-csc: %s\n' "$text" >&2
  text=${{text//\\/\\\\}}
  text=${{text//\"/\\\"}}
  printf '{{"error": {{"kind": "setup", "type": null, "message": "%s", "traceback": ""}}}}' \
    "$text" >"$run_dir/@RESULT.new" && mv -f -- "$run_dir/@RESULT.new" "$run_dir/@RESULT"
  exit "$2"
}}
ask_version='import sys; print("%d.%d.%d" % sys.version_info[:3])'
said=$("${{python[@]}}" -S -c "$ask_version" 2>&1 </dev/null)
status=$?
version=${{said##*$'\n'}}
if [ "$status" -ne 0 ] || ! [[ $version =~ ^([0-9]+)\.([0-9]+)\.[0-9]+$ ]]; then
  refuse "${{python[*]}} is no Python on $HOSTNAME (status $status): ${{said:-it said nothing}}. \
Name one with python=, or prepare it with modules= or environment=" 127
fi
if [ "${{BASH_REMATCH[1]}}" -lt 3 ] ||
  {{ [ "${{BASH_REMATCH[1]}}" -eq 3 ] && [ "${{BASH_REMATCH[2]}}" -lt 6 ]; }}; then
  refuse "${{python[*]}} on $HOSTNAME is Python $version; 3.6 is the oldest that can be used. \
Name another with python=, or prepare one with modules= or environment=" 1
fi
start='import sys; exec(open(sys.argv[1], encoding="utf-8").read().split({runner_mark})[1])'
exec -- "${{python[@]}}" -c "$start" "$0"

"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonCall:
    """
    A call of a function, and by what it is run: ``python`` is the name or path of an interpreter.

    Or a list: a program that starts one, its arguments, and the interpreter.
    """

    function: Any  # a FunctionType, which type checkers take for a method here
    args: Sequence[object] = ()
    kwargs: Mapping[str, object]
    serializer: str = "json"
    python: str | Sequence[str] = "python3"


def check_function(function: object, *, context_names: Collection[str] = ()) -> None:
    """
    Check what can be seen of a function without reading its source.

    ``context_names`` are all that Airflow has in its context.

    :raises ConfigError: naming the function and the remedy.
    """
    problem = _function_problem(function, context_names)
    if problem:
        name = getattr(function, "__qualname__", repr(function))
        raise ConfigError(f"{name}: {problem}", field="python_callable", value=name)


def _function_problem(function: object, context_names: Collection[str]) -> str | None:
    if not isinstance(function, FunctionType):
        return f"{shown(function)} is no function. Decorate one that is written with def."
    if function.__name__ == "<lambda>":
        return "a lambda cannot be run on a cluster. Write it with def."
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return "it yields, and a task has one result. Return a list."
    if inspect.iscoroutinefunction(function):
        return "it is async, and nobody awaits it on the cluster. Call asyncio.run in it."
    wanted = set(inspect.signature(function).parameters) & set(context_names)
    if missing := sorted(wanted - CONTEXT_NAMES):
        names = ", ".join(missing)
        allowed = ", ".join(sorted(CONTEXT_NAMES))
        return (
            f"{names} of Airflow's context cannot go to a cluster; {allowed} can. Give what you "
            "need of it as an argument: a template, as '{{ ti.try_number }}'."
        )
    return None


def check_python(python: object) -> None:
    """
    Check what is to run the function.

    :raises ConfigError: for anything but the name or path of an interpreter, or a list of words.
    """
    words = [python] if isinstance(python, str) else python
    if not isinstance(words, (list, tuple)) or not _is_command(words):
        raise ConfigError(
            f"python: {shown(python)} names no interpreter. Write 'python3', '/path/to/python', or "
            "a list, as ['apptainer', 'exec', '/path/to/image.sif', 'python3'].",
            field="python",
            value=python,
        )
    if "/" in words[0]:
        check_remote_path("python", words[0])


def _is_command(words: Sequence[object]) -> bool:
    texts = [word for word in words if isinstance(word, str) and word.isprintable()]
    return len(texts) == len(words) > 0 and bool(texts[0].strip()) and texts[0][0] != "-"


def check_serializer(serializer: object) -> None:
    """
    Check how the function is to travel.

    :raises ConfigError: for another word than json and cloudpickle.
    """
    if serializer not in SERIALIZERS:
        raise ConfigError(
            f"serializer: {shown(serializer)} is none; give 'json' (the function as source, its "
            "arguments as JSON) or 'cloudpickle'. A result is JSON in any case.",
            field="serializer",
            value=serializer,
        )


def check_options(options: object) -> None:
    """
    Refuse an array: of a function that runs many times, no one result is the task's.

    :raises ConfigError: naming the remedy.
    """
    if isinstance(options, Mapping) and "array" in options:
        raise ConfigError(
            "options['array']: @task.slurm runs its function once, and returns its result. Use "
            ".expand() for many.",
            field="options['array']",
            value=options["array"],
        )


def fill_in_context(
    function: FunctionType,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    context: Mapping[str, object],
) -> dict[str, object]:
    """
    Return the named arguments, with those from Airflow's context that the function names.

    :raises ConfigError: when this DAG run has none of that name.
    """
    signature = inspect.signature(function)
    given = signature.bind_partial(*args, **kwargs).arguments
    filled = dict(kwargs)
    for name, parameter in signature.parameters.items():
        if name not in CONTEXT_NAMES or name in given:
            continue
        if name in context:
            filled[name] = context[name]
        elif parameter.default is parameter.empty:
            raise ConfigError(
                f"{function.__qualname__}: this DAG run has no {name}, because it has no logical "
                f"date. Give it a default: {name}=None.",
                field=name,
            )
    return filled


def render_python_script(call: PythonCall) -> str:
    """
    Return the script that runs a function and leaves its result in the run directory.

    :raises ConfigError: naming what cannot be sent: the function, a variable, an argument.
    """
    check_python(call.python)
    check_serializer(call.serializer)
    describe = _pickle if call.serializer == "cloudpickle" else _describe
    payload = {
        "name": call.function.__name__,
        "serializer": call.serializer,
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "result_file": RESULT_FILE,
        "result_limit": RESULT_LIMIT,
        **describe(call),
    }
    encoded = base64.encodebytes(json.dumps(payload, allow_nan=False).encode()).decode()
    words = [call.python] if isinstance(call.python, str) else call.python
    head = fill_names(_SCRIPT).format(
        python=" ".join([at_home(words[0]), *map(quote, words[1:])]),
        runner_mark=json.dumps(f"\n{_RUNNER_MARK}\n"),
    )
    runner = inspect.getsource(python_runner)
    script = f"{head}{PAYLOAD_MARK}\n{encoded}\n{_RUNNER_MARK}\n{runner}"
    _check_size(call, len(script), payload)
    return script


def _describe(call: PythonCall) -> dict[str, Any]:
    """Return a function as its source and the values of the variables it names."""
    function = call.function
    _check_undecorated(function)
    source, line = _read_source(function)
    parameters = inspect.signature(function).parameters
    defaults = {
        name: _plain(each.default, f"the default of {name}", function)
        for name, each in parameters.items()
        if each.default is not each.empty
    }
    named = {name for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY}
    return {
        "source": source,
        "file": function.__code__.co_filename,
        "line": line,
        "annotations_are_text": bool(
            function.__code__.co_flags & __future__.annotations.compiler_flag
        ),
        "variables": _read_variables(function),
        "defaults": [value for name, value in defaults.items() if name not in named],
        "keyword_defaults": {name: defaults[name] for name in defaults if name in named},
        **_arguments(function, call),
    }


def _arguments(function: FunctionType, call: PythonCall) -> dict[str, Any]:
    names = [*inspect.signature(function).parameters]
    names += [f"number {number}" for number in range(len(names), len(call.args))]
    return {
        "args": [
            _plain(value, f"argument {name}", function)
            for name, value in zip(names, call.args, strict=False)
        ],
        "kwargs": {
            name: _plain(value, f"argument {name}", function) for name, value in call.kwargs.items()
        },
    }


def _plain(value: object, path: str, function: FunctionType) -> Any:
    try:
        return to_json(value, path)
    except UnfitError as error:
        raise ConfigError(
            f"{function.__qualname__}: {error}. Arguments and defaults go to the cluster as JSON: "
            f"convert it, as with .isoformat() or .tolist(), {_WITH_CLOUDPICKLE}.",
            field=path,
            value=shown(value),
        ) from error


def _check_undecorated(function: FunctionType) -> None:
    if hasattr(function, "__wrapped__"):
        raise ConfigError(
            f"{function.__qualname__}: another decorator stands below @task.slurm, and only the "
            f"function itself is shipped as source. Use what it does inside the function, "
            f"{_WITH_CLOUDPICKLE}.",
            field="python_callable",
            value=function.__qualname__,
        )


def _read_source(function: FunctionType) -> tuple[str, int]:
    """Return the lines of a function as they stand in its file, and the number of the first."""
    name = function.__qualname__
    try:
        lines, first = inspect.getsourcelines(function)
    except (OSError, TypeError) as error:
        raise ConfigError(
            f"{name}: its source was not found ({error}). Write it in the DAG file, "
            f"{_WITH_CLOUDPICKLE}.",
            field="python_callable",
            value=name,
        ) from error
    source = "".join(lines)
    try:
        compile(f"if True:\n{source}" if source[:1].isspace() else source, name, "exec")
    except SyntaxError as error:
        raise ConfigError(
            f"{name}: it cannot stand alone: {error.msg}. Give it what it needs as arguments, "
            f"{_WITH_CLOUDPICKLE}.",
            field="python_callable",
            value=name,
        ) from error
    return source, first


def _read_variables(function: FunctionType) -> dict[str, Any]:
    """
    Return the values of the variables that a function names and does not define.

    :raises ConfigError: naming all of those that are no data.
    """
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    own = {function.__code__.co_name, "__name__"}
    variables, problems = {}, []
    for name in sorted((_global_names(function.__code__) | set(cells)) - own):
        if name not in cells and name not in function.__globals__:
            continue  # a builtin, or what the function itself makes global
        try:
            value = cells[name].cell_contents if name in cells else function.__globals__[name]
            variables[name] = _read_variable(name, value)
        except ValueError:
            problems.append(f"{name} has no value yet")
        except UnfitError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(
            f"{function.__qualname__} names what cannot be shipped with its source: "
            f"{'; '.join(problems)}. Other variables go along as JSON. Import and define what it "
            f"needs inside the function, give data as arguments, {_WITH_CLOUDPICKLE}.",
            field="python_callable",
            value=function.__qualname__,
        )
    return variables


def _read_variable(name: str, value: object) -> Any:
    if name.startswith("__") and name.endswith("__"):
        raise UnfitError(f"{name} is about the DAG file, which is not on the cluster")
    for kind, is_of_kind in _KINDS.items():
        if is_of_kind(value):
            raise UnfitError(f"{name} is a {kind}")
    return to_json(value, name)


_KINDS: dict[str, Callable[[object], bool]] = {
    "module": inspect.ismodule,
    "class": inspect.isclass,
    "function": inspect.isroutine,
}
_GLOBAL_READS = {"LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS", "STORE_GLOBAL", "DELETE_GLOBAL"}


def _global_names(code: CodeType) -> set[str]:
    """Return the names that a piece of code, and what is defined in it, looks for outside."""
    steps = [*dis.get_instructions(code)]
    named = {step.argval for step in steps if step.opname in _GLOBAL_READS}
    # The body of a class looks among its own names first.
    made = {step.argval for step in steps if step.opname == "STORE_NAME"}
    named |= {step.argval for step in steps if step.opname == "LOAD_NAME"} - made
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return named.union(*map(_global_names, inner))


def _pickle(call: PythonCall) -> dict[str, Any]:
    """Return a function and its arguments as cloudpickle has them."""
    name = call.function.__qualname__
    try:
        import cloudpickle  # noqa: PLC0415 - only where it was asked for
    except ImportError as error:
        raise ConfigError(
            "serializer: 'cloudpickle' needs the package cloudpickle where Airflow's tasks run. "
            "Install it there, or use 'json'.",
            field="serializer",
            value="cloudpickle",
        ) from error
    module = sys.modules.get(call.function.__module__)
    # The DAG file is not on the cluster: what is defined in it travels along.
    is_by_name = module is not None and module.__name__ not in ("__main__", *_registered())
    if is_by_name:
        cloudpickle.register_pickle_by_value(module)
    try:
        data = cloudpickle.dumps((call.function, list(call.args), dict(call.kwargs)))
    except Exception as error:
        raise ConfigError(
            f"{name}: it cannot be pickled, or one of its arguments or variables cannot: {error}. "
            "Make what it needs inside the function, or give data.",
            field="python_callable",
            value=name,
        ) from error
    finally:
        if is_by_name:
            cloudpickle.unregister_pickle_by_value(module)
    return {"pickle": base64.b64encode(data).decode(), "cloudpickle": cloudpickle.__version__}


def _registered() -> set[str]:
    import cloudpickle  # noqa: PLC0415

    names: set[str] = cloudpickle.list_registry_pickle_by_value()
    return names


def _check_size(call: PythonCall, size: int, payload: Mapping[str, Any]) -> None:
    if size <= _MAX_SCRIPT_BYTES:
        return
    parts = {
        **{f"variable {name}": value for name, value in payload.get("variables", {}).items()},
        **{f"argument number {n}": value for n, value in enumerate(payload.get("args", ()))},
        **{f"argument {name}": value for name, value in payload.get("kwargs", {}).items()},
    }
    sizes = {name: len(json.dumps(value)) for name, value in parts.items()}
    largest = max(sizes, key=lambda name: sizes[name], default=None)
    hint = f" The largest part is {largest} ({_mebibytes(sizes[largest])})." if largest else ""
    raise ConfigError(
        f"{call.function.__qualname__}: with its arguments it makes a script of "
        f"{_mebibytes(size)}, and 4 MiB is the limit.{hint} Put data on the cluster, or into "
        "Allas, and give the function its path.",
        field="python_callable",
        value=call.function.__qualname__,
    )


def _mebibytes(size: int) -> str:
    return f"{size / 1024 / 1024:.1f} MiB"


# What `build_listing` ends with when the run directory is gone, and what held it is there.
_GONE = 44


def build_listing(run_dir: str) -> str:
    """Return the command that tells a run directory without a result from one out of reach."""
    base, _, name = run_dir.rstrip("/").rpartition("/")
    return (
        f"cd -- {quote(base or '/')} || exit\n"
        f"listed=$(LC_ALL=C ls -A -- {quote('./' + name)} 2>&1) || status=$?\n"
        "printf '%s\\n' \"$listed\"\n"
        f"case $listed in *'No such file or directory') exit {_GONE} ;; esac\n"
        "exit ${status-0}"
    )


def parse_listing(answer: Frame, run_dir: str) -> bool:
    """
    Return whether there is a result file.

    :raises SiteUnavailableError: when the directory cannot be looked at: nothing is known then.
    """
    if answer.status not in {0, _GONE}:
        raise SiteUnavailableError(
            f"{run_dir} cannot be looked at on the cluster: {answer.complaint}", path=run_dir
        )
    return answer.status == 0 and RESULT_FILE in answer.text.splitlines()


@dataclass(frozen=True, slots=True)
class Returned:
    """What a function returned."""

    value: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """
    Why there is no result: ``kind`` is a kind of `python_runner`.

    ``type`` names the type of the exception, where the function raised one.
    """

    kind: str
    type: str | None
    message: str
    traceback: str


def parse_outcome(data: bytes) -> Returned | Failed:
    """
    Read what a function left in its run directory.

    :raises ValueError: when that is not one whole document as `python_runner` writes it.
    """
    if len(data) > DOCUMENT_LIMIT:
        raise ValueError(f"it is larger than {DOCUMENT_LIMIT} bytes")
    try:
        document = json.loads(data, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    match document:
        case {"value": value}:
            return Returned(value)
        case {
            "error": {
                "kind": str(kind),
                "message": str(message),
                "traceback": str(shown_frames),
                **more,
            }
        }:
            error_type = more.get("type")
            return Failed(
                kind, error_type if isinstance(error_type, str) else None, message, shown_frames
            )
        case _:
            raise ValueError("it holds neither a value nor an error")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def build_function_error(name: str, result: JobResult, failed: Failed) -> JobFunctionError:
    """
    Return the error of a function that raised, could not be run, or returned no result.

    Its ``is_lasting`` says whether another run of it would end the same way.
    """
    frames = f"\n{failed.traceback.rstrip()}" if failed.traceback else ""
    return JobFunctionError(
        f"{_describe_failure(name, failed)} {describe_result(result)}{frames}",
        **_facts(result),
        failure="exit_code",
        exception_type=failed.type,
        exception_message=failed.message,
        traceback=failed.traceback,
        # An interpreter that one node lacks, another may have.
        is_lasting=failed.kind != RAISED and result.exit_code != _NOT_FOUND,
    )


_NOT_FOUND = 127


def _describe_failure(name: str, failed: Failed) -> str:
    match failed.kind:
        case python_runner.RAISED:
            return f"{name} raised {failed.type}: {failed.message}."
        case python_runner.RESULT:
            return (
                f"{name} ran, but {failed.message}. A result is JSON: None, bool, int, finite "
                "float, text, and lists and dicts of these. Convert it, as with .isoformat(), "
                "float() or .tolist(), or write a file and return its path."
            )
        case _:
            return f"{name} was not run: {failed.message}."


def build_no_result_error(name: str, result: JobResult, problem: str) -> JobNoResultError:
    """Return the error of a job that completed, though its function left no whole result."""
    contradiction = f"Slurm says {result.state}, but {name} left no result: {problem}"
    return JobNoResultError(
        f"Job {result.job_id} ended {result.state}, but {name} left no result: {problem}. It may "
        "have called os._exit, or replaced its process, or its run directory may be full or gone. "
        f"Its log: {result.stdout_path}.",
        **_facts(result),
        failure="contradiction",
        contradiction=contradiction,
    )


def _facts(result: JobResult) -> dict[str, Any]:
    return {**to_xcom(result), "limit": result.limit, "restarts": result.restarts}
