"""
Run a Python function on the cluster: the far end of `python_task`, which ships this file's text.

It needs Python 3.6 and its standard library, so it is written in what 3.6 knows, and imports
nothing of this package. It reads the function and its arguments from the job's script, between
`PAYLOAD_MARK` and the next empty line, and leaves one JSON document, written as a whole or not at
all: ``{"value": ...}``, or ``{"error": {"kind", "type", "message", "traceback"}}`` with one of the
kinds below.
"""

import __future__

import ast
import base64
import io
import json
import linecache
import math
import os
import pickle
import sys
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

PAYLOAD_MARK = "# The function and its arguments, as JSON in base64:"
# The function could not be run here at all; it raised; or what it returned is no result.
SETUP, RAISED, RESULT = "setup", "raised", "result"
MODULE = "slurm_task"

_MAX_TRACEBACK = 50000
_MAX_MESSAGE = 10000

Call = Tuple[Callable[..., Any], List[Any], Dict[str, Any]]


class UnfitError(TypeError):
    """A value that JSON cannot carry; the message says which part of it, and why."""


class SetupError(Exception):
    """The function cannot be run here; the message says why, and what to do."""


def to_json(value: Any, path: str) -> Any:
    """
    Return a value as JSON has it: any mapping as a dict, any sequence as a list.

    :raises UnfitError: naming the part by ``path``, where JSON has no such value.
    """
    try:
        return _to_json(value, path)
    except RecursionError:
        raise UnfitError(f"{path} is nested too deeply, or holds itself") from None


def _to_json(value: Any, path: str) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UnfitError(f"{path} is {float(value)!r}, which JSON has no number for")
        return value
    if isinstance(value, str):
        return _whole_text(value, path)
    if isinstance(value, Mapping):
        return {_key(key, path): _to_json(each, _at(path, key)) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        return [_to_json(each, _at(path, n)) for n, each in enumerate(value)]
    raise UnfitError(f"{path} is of type {type_name(type(value))}")


def _at(path: str, key: Any) -> str:
    return f"{path}[{key!r}]"


def _key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise UnfitError(
            f"{path} has the key {key!r}, of type {type_name(type(key))}; JSON's keys are text"
        )
    return _whole_text(key, "a key of " + path)


def _whole_text(text: str, path: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnfitError(f"{path} is text with half a character in it") from None
    return text


def type_name(kind: type) -> str:
    """Return the name of a type with its module, as a reader looks for it."""
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def main(script: str) -> int:
    """Run the function that a script holds; return the exit code."""
    _write_lines_at_once()
    payload = read_payload(script)
    place = Path(script).absolute().with_name(payload["result_file"])
    sys.argv[:] = [payload["name"]]
    try:
        function, args, kwargs = load(payload)
    except SetupError as error:
        return _refuse(place, SETUP, str(error))
    try:
        value = function(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - also sys.exit(): there is no result
        return _tell_exception(place, error)
    try:
        document = _encode(value, payload["result_limit"])
    except UnfitError as error:
        return _refuse(place, RESULT, str(error))
    # With srun there are several of these: the result is that of the first, unless one has failed.
    if os.environ.get("SLURM_PROCID", "0") == "0" and not place.is_file():
        leave(place, document)
    return 0


def _write_lines_at_once() -> None:
    """Let each line be seen when it is written, in UTF-8, though it goes into a file."""
    for name in ("stdout", "stderr"):
        raw = getattr(sys, name).detach()
        text = io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=True)
        setattr(sys, name, text)


def read_payload(script: str) -> Dict[str, Any]:
    """Return what `python_task` put into the script."""
    text = Path(script).read_text(encoding="utf-8")
    encoded = text.split("\n" + PAYLOAD_MARK + "\n")[1].split("\n\n")[0]
    payload: Dict[str, Any] = json.loads(base64.b64decode(encoded).decode())
    return payload


def load(payload: Dict[str, Any]) -> Call:
    """
    Return the function, its positional and its named arguments.

    :raises SetupError: when it cannot be run by this Python.
    """
    if payload["serializer"] == "cloudpickle":
        return _unpickle(payload)
    return _build(payload), payload["args"], payload["kwargs"]


def _unpickle(payload: Dict[str, Any]) -> Call:
    here, there = "{}.{}".format(*sys.version_info[:2]), payload["python"]
    if here != there:
        raise SetupError(
            f"it was pickled by Python {there}, and {sys.executable} is Python {here}: cloudpickle "
            "needs the same version at both ends. Choose another with python=, environment= or "
            "modules=, or say serializer='json'"
        )
    try:
        import cloudpickle  # noqa: PLC0415 - only here it is needed
    except ImportError as error:
        raise SetupError(
            f"{sys.executable} has no cloudpickle ({error}). Install it into that environment, or "
            "say serializer='json'"
        ) from error
    try:
        # What the task itself sent along in its own script; nothing else is ever unpickled.
        call: Call = pickle.loads(base64.b64decode(payload["pickle"]))  # noqa: S301
    except Exception as error:
        ends = f"{cloudpickle.__version__} here and {payload['cloudpickle']} at Airflow's end"
        raise SetupError(
            f"it cannot be unpickled by {sys.executable}: {type_name(type(error))}: {error}. The "
            f"modules it uses must be there; cloudpickle is {ends}"
        ) from error
    return call


def _build(payload: Dict[str, Any]) -> Callable[..., Any]:
    """Make the function from its source, in a module that holds the variables it names."""
    source, first, path = payload["source"], payload["line"], payload["file"]
    indented = source[:1].isspace()
    try:
        tree: Any = ast.parse(f"if True:\n{source}" if indented else source, path)
    except SyntaxError as error:
        line = (error.lineno or 1) + first - (2 if indented else 1)
        version = "{}.{}.{}".format(*sys.version_info[:3])
        raise SetupError(
            f"{sys.executable} is Python {version}, which does not know what stands in {path}, "
            f"line {line}: {error.msg}"
        ) from error
    tree.body = [_strip(tree.body[0].body[0] if indented else tree.body[0])]
    ast.increment_lineno(tree, first - (2 if indented else 1))
    # A traceback shows lines of the DAG file, which is not here.
    lines = [""] * (first - 1) + source.splitlines(keepends=True)
    linecache.cache[path] = (len(source), None, lines, path)
    flags = 0
    if payload["annotations_are_text"] and hasattr(__future__, "annotations"):
        flags = __future__.annotations.compiler_flag
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    module.__dict__.update(payload["variables"])
    # The user's own function, as its author wrote it.
    code = compile(tree, path, "exec", flags, dont_inherit=True)
    exec(code, module.__dict__)  # noqa: S102
    function: Any = module.__dict__[payload["name"]]
    function.__defaults__ = tuple(payload["defaults"]) or None
    function.__kwdefaults__ = payload["keyword_defaults"] or None
    return function  # type: ignore[no-any-return] # what the source makes of it


def _strip(definition: Any) -> ast.stmt:
    """Take from a function what is evaluated where it is defined: that was done, elsewhere."""
    arguments = definition.args
    definition.decorator_list, definition.returns = [], None
    every = arguments.args + arguments.kwonlyargs + getattr(arguments, "posonlyargs", [])
    for each in every + [one for one in (arguments.vararg, arguments.kwarg) if one]:
        each.annotation = None
    arguments.defaults = [_none(each) for each in arguments.defaults]
    arguments.kw_defaults = [each and _none(each) for each in arguments.kw_defaults]
    return definition  # type: ignore[no-any-return] # of any Python's ast


def _none(node: ast.expr) -> ast.expr:
    return ast.copy_location(ast.parse("None", mode="eval").body, node)


def _encode(value: Any, limit: int) -> bytes:
    """
    Return the document of a result.

    :raises UnfitError: for a value that is no JSON, or that is too large.
    """
    plain = to_json(value, "result")
    try:
        document = json.dumps({"value": plain}, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise UnfitError(f"result cannot be written as JSON: {error}") from None
    if len(document) > limit:
        raise UnfitError(f"result is {len(document)} bytes of JSON, and {limit} are taken")
    return document


def _tell_exception(place: Path, error: BaseException) -> int:
    # The first frame is this file's.
    frames = error.__traceback__ and error.__traceback__.tb_next
    shown = "".join(traceback.format_exception(type(error), error, frames))
    sys.stderr.write(shown)
    _leave_error(place, RAISED, _text_of(error), type_name(type(error)), shown)
    code = error.code if isinstance(error, SystemExit) else None
    return code if isinstance(code, int) and 0 < code < 256 else 1  # noqa: PLR2004 - exit codes


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a user's own __str__ may do anything
        return "(its text cannot be shown)"


def _refuse(place: Path, kind: str, message: str) -> int:
    sys.stderr.write(f"airflow-provider-csc: {message}\n")
    _leave_error(place, kind, message, None, "")
    return 1


def _leave_error(
    place: Path, kind: str, message: str, error_type: Optional[str], shown: str
) -> None:
    error = {
        "kind": kind,
        "type": error_type,
        "message": _clean(message[:_MAX_MESSAGE]),
        "traceback": _clean(shown[-_MAX_TRACEBACK:]),
    }
    leave(place, json.dumps({"error": error}).encode())


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def leave(place: Path, document: bytes) -> None:
    """Write the document, as a whole or not at all."""
    own = place.with_name(f"{place.name}.{os.uname().nodename}.{os.getpid()}")
    own.write_bytes(document)
    own.replace(place)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
