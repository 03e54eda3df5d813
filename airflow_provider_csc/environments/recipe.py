"""What a Python environment is made of, and the hash that tells two of them apart."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from airflow_provider_csc.environments.requirements import (
    Requirement,
    check_no_password,
    read_lock,
    read_packages,
    read_requirements,
)
from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.notation import shown
from airflow_provider_csc.slurm.batch import check_remote_path, parse_module

Backend = Literal["venv", "tykky", "container"]
Installer = Literal["pip", "uv"]
Gpu = Literal["nv", "rocm"]

# Part of each hash: another way to build makes another environment.
_FORM = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_IMPORT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_PROGRAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_SHORT_HASH = 12
# Which fields say something of which backend; others are refused there.
_OF_PACKAGES = ("packages", "requirements", "lock")
_OF_INDEX = ("index_url", "extra_index_urls", "find_links", "no_index")
_FIELDS_OF: dict[str, tuple[str, ...]] = {
    "venv": (*_OF_PACKAGES, *_OF_INDEX, "modules", "python", "system_site_packages", "installer"),
    "tykky": (*_OF_PACKAGES, "modules", "conda", "installer", "slim"),
    "container": ("image", "modules", "bind", "gpu", "commands"),
}
_TEXTS = ("name", "requirements", "lock", "conda", "python", "image", "index_url", "bind")
_LISTS = ("packages", "modules", "extra_index_urls", "find_links", "commands", "imports")
_FLAGS = ("system_site_packages", "no_index", "slim")
_URI = re.compile(r"[a-z][a-z0-9+-]*://\S+")


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonEnvironment:
    """
    A recipe.

    ``backend`` is ``venv`` (made of the Python of ``modules``), ``tykky`` (CSC's containerised
    pip or conda environments) or ``container`` (an image, by its path on the cluster or a URI).

    What is installed: ``packages`` (a list of specifiers), ``requirements`` (the text of a
    requirements file), or ``lock`` (one where each line says a version; nothing else is installed,
    and with hashes nothing that differs). ``conda`` is the text of an environment.yml, for tykky.

    ``modules`` are loaded before it is built; those of a venv also before it is used.
    ``system_site_packages`` lets a venv see the packages of its modules. ``python`` is the
    interpreter that a venv is made by. ``imports`` are the modules that must be importable in the
    end; by default all of the packages that were asked for.

    ``commands`` are programs of an image that are to be found beside ``python3``; ``bind`` is
    apptainer's option, by default what ``csc-common-bind`` says; ``gpu`` is ``nv`` or ``rocm``.
    """

    name: str = "env"
    backend: Backend = "venv"
    packages: Sequence[str] = ()
    requirements: str | None = None
    lock: str | None = None
    modules: Sequence[str] = ()
    python: str = "python3"
    system_site_packages: bool = False
    installer: Installer = "pip"
    index_url: str | None = None
    extra_index_urls: Sequence[str] = ()
    find_links: Sequence[str] = ()
    no_index: bool = False
    conda: str | None = None
    slim: bool = False
    image: str | None = None
    bind: str | None = None
    gpu: Gpu | None = None
    commands: Sequence[str] = ()
    imports: Sequence[str] | None = None

    def to_payload(self) -> dict[str, Any]:
        """Return plain JSON values of what differs from the defaults."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value != getattr(_DEFAULT, name) or name in ("name", "backend")
        }

    @property
    def installed(self) -> tuple[Requirement, ...]:
        """What is asked for, one line each."""
        if self.lock is not None:
            return read_lock("lock", self.lock)
        if self.requirements is not None:
            return read_requirements("requirements", self.requirements)
        return read_packages("packages", self.packages)

    @property
    def is_image_uri(self) -> bool:
        """Whether the image is fetched, rather than a file that is there."""
        return self.image is not None and "://" in self.image

    @property
    def modules_in_use(self) -> tuple[str, ...]:
        """The modules that a job has to load before it uses the environment."""
        return tuple(self.modules) if self.backend == "venv" else ()

    @property
    def content_hash(self) -> str:
        """Tell this content from any other; the name is no part of it, nor is how it is tried."""
        told = {name: getattr(self, name) for name in _FIELDS_OF[self.backend]}
        told |= {"packages": sorted(each.line for each in self.installed)}
        told |= {"requirements": None, "lock": self.lock is not None}
        text = json.dumps(
            {"form": _FORM, "backend": self.backend, **told},
            sort_keys=True,
            separators=(",", ":"),
            default=list,
        )
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def short_hash(self) -> str:
        """As much of the hash as stands in a directory's name."""
        return self.content_hash[:_SHORT_HASH]


_DEFAULT = PythonEnvironment()


def read_recipe(given: object) -> PythonEnvironment:
    """
    Return a recipe, checked; ``given`` is one, or a mapping of its fields.

    :raises ConfigError: naming the field, the value and the remedy.
    """
    if isinstance(given, PythonEnvironment):
        given = given.to_payload()
    if not isinstance(given, Mapping):
        raise _refusal("recipe", given, "is no recipe", "Give a PythonEnvironment, or a dict.")
    known = [each.name for each in fields(PythonEnvironment)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}."
            raise _refusal("recipe", name, "is no field of an environment", hint)
    _check_types(given)
    values: dict[str, Any] = {
        name: tuple(each) if isinstance(each, list) else each for name, each in given.items()
    }
    recipe = PythonEnvironment(**values)
    _check(recipe, given)
    return recipe


def _check_types(given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if name in _TEXTS and not isinstance(value, str) and value is not None:
            raise _refusal(name, value, "is no text", "Write it as text; str() converts a Path.")
        is_list = isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)
        if name in _LISTS and not is_list and not (name == "imports" and value is None):
            raise _refusal(name, value, "is no list of texts", "Write for example ['a', 'b'].")
        if name in _FLAGS and not isinstance(value, bool):
            raise _refusal(name, value, "is neither True nor False", "Write one of the two.")


def _check(recipe: PythonEnvironment, given: Mapping[str, object]) -> None:
    _check_choice("backend", recipe.backend, get_args(Backend))
    _check_choice("installer", recipe.installer, get_args(Installer))
    if recipe.gpu is not None:
        _check_choice("gpu", recipe.gpu, get_args(Gpu))
    if not _NAME.fullmatch(recipe.name):
        raise _refusal(
            "name", recipe.name, "cannot be part of a directory's name",
            "Use at most 64 letters, digits, '.', '_' and '-', not beginning with a sign.",
        )  # fmt: skip
    _check_backend(recipe, given)
    for line in recipe.modules:
        parse_module(line)
    _check_sources(recipe)
    _check_installed(recipe)
    for name in ("index_url", "extra_index_urls", "find_links"):
        _check_places(name, getattr(recipe, name))
    for each in recipe.imports or ():
        if not _IMPORT.fullmatch(each):
            raise _refusal("imports", each, "is no module's name", "Write 'numpy.linalg'.")
    for each in recipe.commands:
        if not _PROGRAM.fullmatch(each):
            raise _refusal("commands", each, "is no program's name", "Write 'torchrun'.")
    _check_python(recipe.python)


def _check_installed(recipe: PythonEnvironment) -> None:
    """Read what is installed, which refuses what cannot be."""
    for each in recipe.installed:
        check_no_password("packages", each.text)


def _check_choice(field: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise _refusal(field, value, "is no choice", f"Write {' or '.join(map(repr, choices))}.")


def _check_backend(recipe: PythonEnvironment, given: Mapping[str, object]) -> None:
    allowed = {"name", "backend", "imports", *_FIELDS_OF[recipe.backend]}
    for name, value in given.items():
        if name not in allowed and value != getattr(_DEFAULT, name):
            of = ", ".join(one for one, names in _FIELDS_OF.items() if name in names)
            raise _refusal(
                name, value, f"says nothing of backend {recipe.backend!r}",
                f"It belongs to: {of}. Leave it out, or take another backend.",
            )  # fmt: skip


def _check_sources(recipe: PythonEnvironment) -> None:
    given = [name for name in _OF_PACKAGES if getattr(recipe, name)]
    # pip's files can be added to a conda environment.
    if len(given) > 1:
        raise _refusal(
            given[1], getattr(recipe, given[1]), f"is given beside {given[0]}", "Give one of them."
        )
    if recipe.backend == "container":
        _check_image(recipe.image)
    if recipe.conda is not None:
        if not recipe.conda.strip():
            raise _refusal("conda", recipe.conda, "is empty", "Give the text of environment.yml.")
        check_no_password("conda", recipe.conda)
        if "\0" in recipe.conda:
            raise _refusal("conda", recipe.conda, "holds a NUL byte", "Give a text.")
    if recipe.backend == "tykky" and recipe.conda is None and not given:
        raise _refusal(
            "backend", recipe.backend, "has nothing to install",
            "Give conda, packages, requirements or lock.",
        )  # fmt: skip


def _check_image(image: str | None) -> None:
    if image is None:
        raise _refusal(
            "image", image, "is missing",
            "Name the image: its path on the cluster, or a URI as 'docker://python:3.12'.",
        )  # fmt: skip
    check_no_password("image", image)
    if "://" not in image:
        check_remote_path("image", image)
    elif not _URI.fullmatch(image) or not image.isprintable():
        raise _refusal("image", image, "is no URI", "Write for example 'docker://python:3.12'.")


def _check_places(field: str, value: str | Sequence[str] | None) -> None:
    for each in [value] if isinstance(value, str) else value or ():
        check_no_password(field, each)
        if "://" in each and (not _URI.fullmatch(each) or not each.isprintable()):
            raise _refusal(field, each, "is no URL", "Write for example 'https://host/simple'.")
        if "://" not in each:
            if field != "find_links":
                raise _refusal(field, each, "is no URL", "Write 'https://host/simple'.")
            check_remote_path(field, each)


def _check_python(python: str) -> None:
    if "/" in python:
        check_remote_path("python", python)
    elif not _PROGRAM.fullmatch(python):
        raise _refusal(
            "python", python, "is no interpreter", "Write 'python3.12', or an absolute path."
        )


def _refusal(field: str, value: object, problem: str, remedy: str) -> ConfigError:
    return ConfigError(f"{field}: {shown(value)} {problem}. {remedy}", field=field, value=value)
