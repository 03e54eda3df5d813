"""Turn what a DAG author wrote into one submission, or say what is wrong with it."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.notation import shown
from airflow_provider_csc.slurm.array_logs import expand_pattern
from airflow_provider_csc.slurm.array_parts import ArrayPart, format_part, promise
from airflow_provider_csc.slurm.arrays import parse_array
from airflow_provider_csc.slurm.batch import (
    check_remote_path,
    check_script,
    parse_environment,
    render_batch_script,
    render_command,
    render_exports,
)
from airflow_provider_csc.slurm.identity import build_job_name
from airflow_provider_csc.slurm.option_names import override_options
from airflow_provider_csc.slurm.option_table import CONTRADICTIONS
from airflow_provider_csc.slurm.options import (
    check_contradictions,
    option_arguments,
    parse_options,
)
from airflow_provider_csc.slurm.script_options import check_script_options, read_script_options
from airflow_provider_csc.slurm.sources import check_source, check_template_file
from airflow_provider_csc.slurm.submit_commands import SubmitRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_csc.slurm.arrays import ArraySpec
    from airflow_provider_csc.slurm.identity import TaskIdentity

# Options that say where the job's output goes; with any of them the place is the user's.
_OUTPUT = ("output", "error")


@dataclass(frozen=True, slots=True)
class Stage:
    """
    The program by which a job stages files, and how long (seconds) it waits for their URLs.

    Where the log-in node stages, before and after the job, there is no program.
    """

    helper: str
    timeout: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """
    What a DAG author asked for; exactly one of the first three is given.

    ``resources`` become options of the site, see `sites.placement`; ``changes`` are options that a
    retry policy asks for instead of those. ``architecture`` is what the environment is built for,
    where that is known.
    """

    command: str | Sequence[str] | None = None
    script: str | None = None
    remote_script: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    resources: Mapping[str, object] | None = None
    changes: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, object] | None = None
    modules: Sequence[str] | None = None
    environment: str | None = None
    architecture: str | None = None
    work_dir: str | None = None
    job_name: str | None = None
    array_logs: str = "failed"
    stage: Stage | None = None


def check_spec(spec: JobSpec) -> None:
    """
    Check everything that can be checked without the cluster.

    :raises ConfigError: names the field, the value and the remedy.
    """
    check_source(command=spec.command, script=spec.script, remote_script=spec.remote_script)
    _check_types(spec)
    _check_characters(spec)
    _check_command(spec.command)
    if spec.script is not None:
        check_template_file(spec.script)
        check_script("script", spec.script)
    if spec.remote_script is not None:
        check_remote_path("remote_script", spec.remote_script)
    if spec.work_dir is not None:
        check_remote_path("work_dir", spec.work_dir)
    if spec.job_name is not None:
        check_job_name("job_name", spec.job_name)
    parse_options(spec.options)
    parse_environment(env=spec.env, modules=spec.modules, path=spec.environment)


_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "command": ((str, list, tuple), "text, or a list of a program and its arguments"),
    "script": ((str,), "text"),
    "remote_script": ((str,), "text; convert a Path with str()"),
    "options": ((Mapping,), "a dict, as {'mem': '4G'}"),
    "env": ((Mapping,), "a dict, as {'NAME': 'value'}"),
    "modules": ((list, tuple), "a list, as ['gcc/15.2.0']"),
    "environment": ((str,), "text; convert a Path with str()"),
    "work_dir": ((str,), "text; convert a Path with str()"),
    "job_name": ((str,), "text"),
}


def _check_types(spec: JobSpec) -> None:
    for name, (types, wanted) in _TYPES.items():
        value = getattr(spec, name)
        if value is not None and not isinstance(value, types):
            raise ConfigError(
                f"{name}: {shown(value)} is of type {type(value).__name__}; give {wanted}.",
                field=name,
                value=value,
            )


def _check_characters(spec: JobSpec) -> None:
    for each in fields(spec):
        value = getattr(spec, each.name) if each.name != "stage" else None
        try:
            json.dumps(value, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"{each.name}: {error.object[error.start]!r} in it is half a character, which no "
                "file can hold. Decode the text it came from as UTF-8.",
                field=each.name,
                value=ascii(value)[:200],
            ) from error


def _check_command(command: str | Sequence[str] | None) -> None:
    if command is None:
        return
    words = [command] if isinstance(command, str) else list(command)
    if not words or not str(words[0]).strip():
        raise ConfigError(
            f"command: {command!r} is empty. Give a shell command, or a program and its arguments.",
            field="command",
            value=command,
        )
    bad = next((word for word in words if not isinstance(word, str) or "\0" in word), None)
    if bad is not None:
        raise ConfigError(
            f"command: {bad!r} is not text without NUL bytes. Convert it with str().",
            field="command",
            value=bad,
        )


def check_job_name(field_name: str, name: str) -> str:
    """
    Return a job name that squeue and sacct can look up.

    :raises ConfigError: for an empty one, a comma (their --name takes a list), a control character.
    """
    if not name.strip() or "," in name or any(ord(character) < 32 for character in name):  # noqa: PLR2004
        raise ConfigError(
            f"{field_name}: {name!r} cannot be a job name here: it must not be empty and must not "
            "hold a comma or a control character, or Slurm could not look the job up by its name.",
            field=field_name,
            value=name,
        )
    return name


def build_request(
    spec: JobSpec,
    identity: TaskIdentity,
    *,
    script: str,
    defaults: Mapping[str, str | None],
    base_dir: str,
    part: ArrayPart | None = None,
    is_shared: bool = False,
) -> tuple[SubmitRequest, str]:
    """
    Return the submission and the readable part of its job name.

    One that ``is_shared`` can be submitted together with others (see `coalescing`).

    ``script`` is the text of whichever source the spec names; ``defaults`` are options that the
    connection and its site say. Of an array only ``part`` is submitted, where it is given.

    :raises ConfigError: for options that cannot be, in the task or in the script's own lines.
    """
    own = read_script_options(script)
    check_script_options(own, script_field="remote_script" if spec.remote_script else "script")
    options = parse_options(override_options(spec.options, spec.changes))
    chosen = {**own.options, **options}
    check_contradictions(chosen)
    if is_shared:
        _refuse_array_of_arrays(chosen)
    whole = _read_array(chosen)
    part = part or (ArrayPart(spec=whole) if whole else None)
    if spec.stage and (whole or is_shared):
        _refuse_staging(chosen)
    if whole:
        _check_array_output(chosen, spec.array_logs, base_dir)
    if own.is_heterogeneous:
        raise ConfigError(
            "script: '#SBATCH hetjob' makes a job of several components, which cannot be followed "
            "as one task yet. Submit the components as tasks of their own.",
            field="script",
            value="#SBATCH hetjob",
        )
    options |= _pick_defaults(defaults, chosen)
    asked = option_arguments({**own.options, **options})
    label = check_job_name(
        "job_name", spec.job_name or _text(own.options.get("job-name")) or identity.default_label
    )
    # A requeued job must not truncate what is already in the task's log.
    if "open-mode" not in chosen:
        options["open-mode"] = "append"
    if part is not None:
        options["array"] = part.slurm_spec
    options["job-name"] = build_job_name(label, identity.token)
    environment = parse_environment(env=spec.env, modules=spec.modules, path=spec.environment)
    request = SubmitRequest(
        token=identity.token,
        base_dir=base_dir,
        work_dir=_choose_work_dir(spec, _text(own.options.get("chdir"))),
        script=script,
        batch=render_batch_script(
            directives=own.lines,
            environment=environment,
            promised=promise(whole, part) if whole and part else None,
            is_shared=is_shared,
            staging_timeout=spec.stage.timeout if spec.stage and spec.stage.helper else None,
        ),
        helper=spec.stage.helper if spec.stage else "",
        exports=render_exports(environment.env) if is_shared else "",
        options=tuple(option_arguments(options)),
        own_output="output" not in chosen,
        # Of an array Slurm tells the paths of one task or the other.
        asks_paths=any(name in chosen for name in _OUTPUT) and not whole,
        asked=tuple(asked),
        identity=identity.to_json(array=format_part(part) if part else ""),
        run_started=identity.run_started,
        array=format_part(part) if part else "",
        architecture=spec.architecture,
    )
    return request, label


def _pick_defaults(
    defaults: Mapping[str, str | None], chosen: Mapping[str, str | bool]
) -> dict[str, str | bool]:
    """Return the defaults that neither the task nor its script says, nor something against it."""
    picked: dict[str, str | bool] = {}
    for name, value in parse_options(defaults).items():
        against = {other for group in CONTRADICTIONS if name in group for other in group}
        if name not in chosen and not against & set(chosen):
            picked[name] = value
    return picked


def add_site_environment(
    spec: JobSpec, *, env: Mapping[str, str], module_paths: Sequence[str]
) -> JobSpec:
    """Return what is asked for with what its site has all jobs prepare, before their own."""
    return replace(
        spec,
        env={**env, **(spec.env or {})},
        modules=[*(f"use {path}" for path in module_paths), *(spec.modules or ())],
    )


def _text(value: str | bool | None) -> str | None:  # noqa: FBT001 - an option's value
    return value if isinstance(value, str) else None


def _read_array(chosen: Mapping[str, str | bool]) -> ArraySpec | None:
    """Return the array that is asked for, if one is; its text was checked with the options."""
    text = _text(chosen.get("array"))
    return parse_array(text) if text else None


def _check_array_output(chosen: Mapping[str, str | bool], array_logs: str, base_dir: str) -> None:
    """
    Refuse an array whose logs could not be told apart, or not be followed.

    :raises ConfigError: naming the option, and what to write.
    """
    if "\\" in base_dir:
        raise ConfigError(
            f"work_dir of the connection: {base_dir!r} holds a backslash, which keeps Slurm from "
            "giving each task of an array a log of its own. Name another directory.",
            field="work_dir",
            value=base_dir,
        )
    for name in _OUTPUT if array_logs == "all" else ():
        pattern = _text(chosen.get(name))
        expanded = pattern and {expand_pattern(pattern, "1", slurm_id) for slurm_id in (0, 1)}
        if pattern and pattern != "/dev/null" and (not expanded or len(expanded - {None}) < 2):  # noqa: PLR2004
            raise ConfigError(
                f"array_logs: 'all' follows one file for each task, and --{name}={pattern} does "
                "not name such files. Use %A and %a in it, as 'log-%A_%a.txt', leave it out, or "
                "ask for array_logs='failed'.",
                field="array_logs",
                value=array_logs,
            )


def _refuse_array_of_arrays(options: Mapping[str, object]) -> None:
    if "array" in options:
        raise ConfigError(
            f"coalesce: the array {options['array']} cannot be an element of another array. Leave "
            "`array` out and use .expand(), or leave coalesce=True out.",
            field="coalesce",
            value=options["array"],
        )


def _refuse_staging(options: Mapping[str, object]) -> None:
    what = f"the array {options['array']}" if "array" in options else "coalesce=True"
    raise ConfigError(
        f"inputs, outputs: {what} makes one job of several, which would all fetch and deliver the "
        "same files. Leave it out and use .expand(), or have the jobs share files that another "
        "task has staged.",
        field="inputs",
        value=options.get("array"),
    )


def _choose_work_dir(spec: JobSpec, own_choice: str | None) -> str | None:
    """
    Return the directory the job starts in; None is its run directory.

    A script on the cluster starts beside itself; its own ``--chdir`` is meant from there.
    """
    if spec.work_dir is not None or spec.remote_script is None:
        return spec.work_dir
    beside = posixpath.dirname(spec.remote_script)
    return posixpath.join(beside, own_choice) if own_choice else beside


def read_source(spec: JobSpec, remote_text: str | None = None) -> str:
    """
    Return the script the job runs.

    :raises ConfigError: when it cannot be run.
    """
    if spec.remote_script is not None:
        return check_script("remote_script", remote_text or "")
    if spec.script is not None:
        return check_script("script", spec.script)
    return check_script("command", render_command(spec.command or ""))
