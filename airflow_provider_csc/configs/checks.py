"""What the parts of a configuration are checked by, in which the core's own checks serve."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from airflow_provider_csc.configs.documents import Problem
from airflow_provider_csc.configs.keys import describe_unknown, nearest
from airflow_provider_csc.configs.placeholders import open_names
from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.notation import shown
from airflow_provider_csc.slurm import batch
from airflow_provider_csc.slurm.option_names import check_option_names
from airflow_provider_csc.slurm.options import parse_options
from airflow_provider_csc.slurm.plan import check_job_name as check_slurm_name
from airflow_provider_csc.slurm.sources import is_template_file
from airflow_provider_csc.staging.declarations import read_declared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from airflow_provider_csc.yaml_text import Path

_REFUSED = "refused"
_UNKNOWN = "unknown_key"
# What stands in a field after its own name: ``[0]``, ``['mem']``, ``.path``.
_STEP = re.compile(
    r"\[(?P<number>[0-9]+)\]|\[(?P<quote>['\"])(?P<key>.*?)(?P=quote)\]|\.(?P<name>\w+)"
)


def checked(check: Callable[[Any], object]) -> Callable[[Any], Any]:
    """
    Return a validator that leaves a value as it is, and refuses what a check of the core does.

    A value with placeholders in it is checked when these are filled in.
    """
    return checked_wholly(lambda value: None if open_names(value) else check(value))


def checked_wholly(check: Callable[[Any], object]) -> Callable[[Any], Any]:
    """Return the same of a check that knows placeholders itself."""

    def validate(value: Any) -> Any:
        _run(check, value)
        return value

    return validate


def _run(check: Callable[[Any], object], value: object) -> None:
    try:
        check(value)
    except ConfigError as error:
        raise refuse(_steps_of(error), _text_of(error), value) from error
    except RecursionError:
        raise refuse((), "it is nested too deep, or contains itself. Leave some out.", "") from None


def refuse(path: Path, text: str, value: object = None) -> ValidationError:
    """Return pydantic's error for a part of a value."""
    return _error("value", [(PydanticCustomError(_REFUSED, "{text}", {"text": text}), path, value)])


def _error(
    title: str, lines: Iterable[tuple[str | PydanticCustomError, Path, object]]
) -> ValidationError:
    details = [InitErrorDetails(type=kind, loc=loc, input=value) for kind, loc, value in lines]
    return ValidationError.from_exception_data(title, details)


def _steps_of(error: ConfigError) -> Path:
    """Return where in the value it is, from the field as the core names it: ``inputs[0].url``."""
    found = _STEP.finditer(str(error.details.get("field", "")))
    return tuple(
        int(step["number"]) if step["number"] else step["key"] or step["name"] for step in found
    )


def _text_of(error: ConfigError) -> str:
    field = str(error.details.get("field", ""))
    return error.message.removeprefix(f"{field}: ").removeprefix(f"{field} ")


def name_nearest(error: ValidationError, known: Iterable[str]) -> ValidationError:
    """Return the same error, in which an unknown key is told with the nearest that is known."""
    known, told = list(known), error.errors(include_url=False)
    strange = [each["loc"] for each in told if each["type"] == "extra_forbidden"]
    # What is written wrongly is not missing as well.
    meant = {(nearest(str(loc[0]), known),) for loc in strange if len(loc) == 1}
    return _error(
        error.title,
        [
            _line(each, known)
            for each in told
            if each["type"] != "missing" or each["loc"] not in meant
        ],
    )


def _line(each: Any, known: list[str]) -> tuple[str | PydanticCustomError, Path, object]:
    kind, loc = each["type"], each["loc"]
    if kind == "extra_forbidden" and len(loc) == 1:
        text = describe_unknown(loc[0], known)
        return PydanticCustomError(_UNKNOWN, "{text}", {"text": text}), loc, each["input"]
    if kind in (_REFUSED, _UNKNOWN):
        return PydanticCustomError(kind, "{text}", {"text": each["msg"]}), loc, each["input"]
    text = _plain_text(each)
    return PydanticCustomError(_REFUSED, "{text}", {"text": text}), loc, each["input"]


_WANTED = {
    "string_type": "no text. Write it in quotes.",
    "list_type": "no list. Write it as [a, b].",
    "dict_type": "no mapping. Write it as {name: value}.",
    "model_type": "no mapping. Write it as {name: value}.",
    "string_unicode": "no Unicode. Decode the text it came from.",
}


def _plain_text(each: Any) -> str:
    if each["type"] == "missing":
        return "it is missing. Write it."
    wanted = _WANTED.get(each["type"])
    return f"{shown(each['input'])} is {wanted}" if wanted else f"{each['msg']}."


def problems_of(error: ValidationError) -> Iterator[Problem]:
    """Yield what is wrong, with the path to each."""
    for each in error.errors(include_url=False):
        loc = tuple(step for step in each["loc"] if step != "[key]")
        is_key = each["type"] == _UNKNOWN or loc != each["loc"]
        yield Problem(path=loc, text=each["msg"], value=each["input"], is_key=is_key)


def check_path(path: str) -> None:
    """Refuse what is no path on the cluster."""
    if "${" in path or path.startswith("$"):
        raise ConfigError(
            f"{shown(path)}: nobody fills in a shell's variables here. Write it in full, with a "
            "placeholder, as '/users/(csc-user)', or a template, as '{{ params.path }}'.",
            value=path,
        )
    batch.check_remote_path("path", path)


def check_name(name: str) -> None:
    """Refuse what is no name of a directory."""
    if not name.strip() or "/" in name or name in (".", "..") or not name.isprintable():
        raise ConfigError(
            f"{shown(name)} is no name of a directory. Write it without '/', as 'exp-venv'.",
            value=name,
        )


_REQUIREMENT = re.compile(r"[A-Za-z0-9./~]")


def check_package(package: str) -> None:
    """Refuse what pip would take for an option, or for nothing."""
    if not _REQUIREMENT.match(package) or not package.isprintable():
        raise ConfigError(
            f"{shown(package)} is no package. Write what pip takes, as 'ray[default]==2.9.0', "
            "without options.",
            value=package,
        )


def check_command(command: object) -> None:
    """Refuse what is neither a shell command nor a program and its arguments."""
    words = command if isinstance(command, list) else [command]
    texts = [each for each in words if isinstance(each, str) and "\0" not in each]
    if not texts or len(texts) < len(words) or not texts[0].strip():
        raise ConfigError(
            f"{shown(command)} is no command. Write text for a shell, or a list: a program and its "
            "arguments, all text.",
            value=command,
        )


def check_script(script: str) -> None:
    """Refuse what is no script, also the name of one."""
    if is_template_file(script):
        raise ConfigError(
            f"{shown(script)} names a file. Write the script itself (after '|'), name one on the "
            "cluster in remote_script, or give this name to the task's own script=.",
            value=script,
        )
    batch.check_script("script", script)


def check_options(options: object) -> None:
    """Refuse options that sbatch does not have, and values that it does not read."""
    named = _check_mapping(options)
    check_option_names(named)
    parse_options({key: value for key, value in named.items() if not open_names(value)})


def check_env(env: object) -> None:
    """Refuse what is no variable, or has no value that is plain text in every shell."""
    named = _check_mapping(env)
    for name, value in named.items():
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            raise ConfigError(
                f"{shown(value)} is no value of a variable. Write it in quotes, as the job is to "
                "see it.",
                field=f"env[{name!r}]",
                value=value,
            )
    batch.parse_environment(env=named, modules=None, path=None)


def _check_mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ConfigError(f"{shown(value)} is {_WANTED['dict_type']}", value=value)
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(f"the key {shown(key)} is no text. Write it in quotes.", value=key)
    return value


def check_inputs(entries: object) -> None:
    """Refuse what no job can fetch."""
    read_declared("inputs", entries)


def check_outputs(entries: object) -> None:
    """Refuse what no job can deliver."""
    read_declared("outputs", entries)


def check_job_name(name: str) -> None:
    """Refuse a name by which Slurm could not look the job up."""
    check_slurm_name("job_name", name)
