"""The models: what an environment and a job are made of."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainValidator,
    SerializerFunctionWrapHandler,
    ValidationError,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from airflow_provider_csc.configs import checks
from airflow_provider_csc.configs.checks import checked, checked_wholly, refuse
from airflow_provider_csc.configs.placeholders import open_names
from airflow_provider_csc.sites.resources import read_resources
from airflow_provider_csc.slurm.batch import parse_module
from airflow_provider_csc.yaml_text import render_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

Module = Annotated[str, AfterValidator(checked(parse_module))]
RemotePath = Annotated[str, AfterValidator(checked(checks.check_path))]
DirectoryName = Annotated[str, AfterValidator(checked(checks.check_name))]
Package = Annotated[str, AfterValidator(checked(checks.check_package))]

_ENTRIES = {
    "type": "array",
    "items": {
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "properties": {
                    "url": {"type": "string"},
                    "path": {"type": "string"},
                    "optional": {"type": "boolean"},
                },
                "required": ["url"],
                "additionalProperties": False,
            },
        ]
    },
}
_VALUE = {"type": ["string", "number", "boolean", "array", "null"]}
Command = Annotated[
    str | list[str],
    PlainValidator(checked_wholly(checks.check_command)),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Options = Annotated[
    dict[str, Any],
    PlainValidator(checked_wholly(checks.check_options)),
    WithJsonSchema({"type": "object", "additionalProperties": _VALUE}),
]
Variables = Annotated[
    dict[str, str | int | float],
    PlainValidator(checked_wholly(checks.check_env)),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": ["string", "number"]}}),
]
Needs = Annotated[
    dict[str, Any],
    PlainValidator(checked(read_resources)),
    WithJsonSchema({"type": "object", "additionalProperties": _VALUE}),
]
Inputs = Annotated[
    list[str | dict[str, Any]],
    PlainValidator(checked(checks.check_inputs)),
    WithJsonSchema(_ENTRIES),
]
Outputs = Annotated[
    list[str | dict[str, Any]],
    PlainValidator(checked(checks.check_outputs)),
    WithJsonSchema(_ENTRIES),
]


class Model(BaseModel):
    """A mapping with known keys; what was not said is not written either."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="wrap")
    @classmethod
    def _name_nearest(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            raise checks.name_nearest(error, cls.model_fields) from None

    @model_serializer(mode="wrap")
    def _leave_out_what_was_not_said(
        self, handler: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if self._says(name)}

    def _says(self, name: str) -> bool:
        return name in self.model_fields_set

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Show what was said."""
        return ((name, value) for name, value in super().__repr_args__() if self._says(str(name)))

    def __str__(self) -> str:
        """Return it as YAML, and which placeholders are still to be filled in."""
        left = ", ".join(f"({name})" for name in self.placeholders)
        return self.to_yaml() + (f"# to be filled in: {left}\n" if left else "")

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: FBT001, ARG002 - IPython's
        """Show it in a notebook or a shell of IPython as the YAML people know."""
        printer.text(f"{type(self).__name__}\n{self}".rstrip())

    def _repr_html_(self) -> str:
        """Show it so where there is HTML."""
        return f"<b>{type(self).__name__}</b><pre>{escape(str(self))}</pre>"

    @property
    def placeholders(self) -> list[str]:
        """The names of the placeholders that are not filled in, as ``csc-user``."""
        return open_names(self.model_dump())

    def to_yaml(self) -> str:
        """Return the YAML text that is read as the same."""
        return render_yaml(self.model_dump())


class Venv(Model):
    """
    A virtual environment of Python on the cluster.

    It lies in the directory ``path``, in one of its own that is called ``name``. Its ``modules``
    are loaded before it is made and before it is activated, its ``packages`` are what pip installs.
    """

    name: DirectoryName = Field(description="Name of its own directory.")
    path: RemotePath = Field(description="Directory, on the cluster, that holds it.")
    modules: list[Module] = Field(default=[], description="As 'pytorch' or 'load pytorch/2.9'.")
    packages: list[Package] = Field(default=[], description="As pip takes them, without options.")

    @property
    def directory(self) -> str:
        """The directory to activate."""
        return f"{self.path.rstrip('/')}/{self.name}"


class Configs(Model):
    """An environment: modules that are loaded, and a virtual environment."""

    modules: list[Module] = Field(default=[], description="As 'gcc', 'load gcc/15' or 'use /path'.")
    venv: Venv | None = Field(default=None, description="Virtual environment to activate.")


class JobConfig(Configs):
    """A job, and its environment; what it leaves out its task says."""

    command: Command | None = Field(default=None, description="For a shell, or program and words.")
    script: Annotated[str, AfterValidator(checked_wholly(checks.check_script))] | None = Field(
        default=None, description="A whole batch script."
    )
    remote_script: RemotePath | None = Field(default=None, description="One on the cluster.")
    options: Options | None = Field(default=None, description="sbatch's long options.")
    env: Variables | None = Field(default=None, description="Environment variables; no secrets.")
    environment: RemotePath | None = Field(
        default=None, description="Directory of a virtual environment, in the place of venv."
    )
    work_dir: RemotePath | None = Field(default=None, description="Directory the job starts in.")
    job_name: Annotated[str, AfterValidator(checked(checks.check_job_name))] | None = Field(
        default=None, description="The readable part of its name."
    )
    inputs: Inputs | None = Field(default=None, description="What it fetches from Allas.")
    outputs: Outputs | None = Field(default=None, description="What it delivers to Allas.")
    resources: Needs | None = Field(
        default=None, description="What it needs, whatever the site; see docs/resources.md."
    )

    @model_validator(mode="after")
    def _check_choices(self) -> Self:
        sources = ("command", "script", "remote_script")
        for names in (sources, ("environment", "venv")):
            given = [name for name in names if getattr(self, name) is not None]
            if len(given) > 1:
                text = f"{given[0]} is given as well. Leave one of them out."
                raise refuse((given[1],), text, getattr(self, given[1]))
        return self
