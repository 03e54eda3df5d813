"""
Load a configuration from where it lies: a dict, a text, a file, or an object of Allas.

In a notebook, without any Airflow::

    from airflow_provider_csc.hooks.configs import load_configs

    load_configs("configs.yaml")
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from airflow_provider_csc.errors import ConfigError, ObjectChangedError
from airflow_provider_csc.notation import NotationError, shown

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_csc.configs.models import Configs, JobConfig, Model
    from airflow_provider_csc.transport.base import SiteSettings

    Source = Mapping[str, Any] | str | os.PathLike[str] | Model
    ModelT = TypeVar("ModelT", bound=Model)

OBJECT: Final = ("s3://", "s3a://", "s3n://")


def load_configs(
    source: Source,
    *,
    context: Mapping[str, Any] | None = None,
    slurm_conn_id: str | None = None,
    allas_conn_id: str | None = "allas_default",
) -> Configs:
    """
    Return an environment: `Configs`.

    :param source: a dict, the text of a YAML document, a path (a str that ends with ``.yaml`` or
        ``.yml``, or a Path), or ``s3://bucket/key``.
    :param context: what templates and placeholders know: a dict, or Airflow's own context.
    :param slurm_conn_id: the connection whose log-in, account and host placeholders mean. With it
        none may be left; without it those that are known, as ``(csc-user)``, stay as they are.
    :param allas_conn_id: the connection to the store of an object.
    :raises ConfigError: for all that is wrong, with file, line, column and field.
    """
    from airflow_provider_csc.configs.models import Configs

    return _load(Configs, source, context, slurm_conn_id, allas_conn_id)


def load_job(
    source: Source,
    *,
    context: Mapping[str, Any] | None = None,
    slurm_conn_id: str | None = None,
    allas_conn_id: str | None = "allas_default",
) -> JobConfig:
    """Return a job: `JobConfig`. Takes and raises what `load_configs` does."""
    from airflow_provider_csc.configs.models import JobConfig

    return _load(JobConfig, source, context, slurm_conn_id, allas_conn_id)


def load_task_config(
    source: Mapping[str, Any] | str,
    *,
    name: str,
    context: Context,
    slurm_conn_id: str,
    key: str,
) -> JobConfig:
    """
    Return what the configuration of a task says, whose templates Airflow has rendered.

    The connection is only looked at where a placeholder may mean it.

    :raises ConfigError: for all that is wrong, also for what cannot be filled in.
    """
    from airflow_provider_csc.configs.models import JobConfig
    from airflow_provider_csc.configs.reading import read_model

    known: dict[str, object] = {**context, "key": key}
    job = read_model(JobConfig, source, name=name, context=known, is_rendered=True)
    if not job.placeholders:
        return job
    known = {**_ask_connection(slurm_conn_id), **known}
    return read_model(
        JobConfig, source, name=name, context=known, is_rendered=True, must_close=True
    )


def _load(
    model: type[ModelT],
    source: Source,
    context: Mapping[str, Any] | None,
    slurm_conn_id: str | None,
    allas_conn_id: str | None,
) -> ModelT:
    from airflow_provider_csc.configs.reading import read_model

    name, said = _read(source, allas_conn_id)
    known = {**_ask_connection(slurm_conn_id), **(context or {})}
    return read_model(model, said, name=name, context=known, must_close=slurm_conn_id is not None)


def _read(source: Source, allas_conn_id: str | None) -> tuple[str, Mapping[str, Any] | str]:
    """Return what errors call a source, and what it says."""
    from airflow_provider_csc.configs.keys import is_file_name

    match source:
        case str() if source.startswith(OBJECT) and "\n" not in source:
            return source, _decode(source, _read_object(source, allas_conn_id))
        case str() if is_file_name(source):
            return source, _decode(source, _read_file(Path(source)))
        case str():
            return "configs", source
        case os.PathLike():
            return str(source), _decode(str(source), _read_file(Path(source)))
        case Mapping():
            return "configs", source
        case _ if hasattr(source, "model_dump"):
            return "configs", source.model_dump()
        case _:
            raise ConfigError(
                f"configs: {shown(source)} is of type {type(source).__name__}. Give a dict, the "
                "text of a YAML document, a path, or 's3://bucket/key'.",
                field="",
                value=shown(source),
            )


def _read_file(path: Path) -> bytes:
    from airflow_provider_csc.yaml_text import MAX_BYTES

    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{path}: it cannot be read ({reason}). A relative path is looked for in {Path.cwd()}.",
            field="",
            value=str(path),
            file=str(path),
        ) from error


def _read_object(uri: str, allas_conn_id: str | None) -> bytes:
    """
    Return what an object holds.

    :raises AllasError: where the store does not tell.
    """
    from airflow_provider_csc.allas.names import parse_uri  # noqa: PLC0415
    from airflow_provider_csc.hooks.allas import AllasHook  # noqa: PLC0415
    from airflow_provider_csc.yaml_text import MAX_BYTES

    try:
        name = parse_uri(uri)
    except NotationError as error:
        raise ConfigError(str(error), field="", value=uri, file=uri) from error
    store = AllasHook(allas_conn_id).get_store()
    item = store.head(name.bucket, name.key) if name.key else None
    if item is None:
        raise ConfigError(f"{uri}: there is no such object.", field="", value=uri, file=uri)
    if item.size > MAX_BYTES:
        return b" " * (MAX_BYTES + 1)
    data = store.read_end(name.bucket, item, item.size) if item.size else b""
    if len(data) != item.size:
        raise ObjectChangedError(f"{uri}: it was overwritten while it was read.", uri=uri)
    return data


def _decode(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{name}:{line}: it is no text in UTF-8. Convert it.",
            field="",
            file=name,
            line=line,
        ) from error


def _ask_connection(slurm_conn_id: str | None) -> dict[str, str]:
    if slurm_conn_id is None:
        return {}
    from airflow_provider_csc.hooks.slurm import SlurmHook  # noqa: PLC0415

    return describe_site(SlurmHook(slurm_conn_id).get_settings())


def describe_site(settings: SiteSettings) -> dict[str, str]:
    """Return what a connection says for placeholders."""
    target = settings.ssh.target
    told = {"csc_user": target.username, "project": settings.account, "host": target.host}
    return {name: value for name, value in told.items() if value is not None}
