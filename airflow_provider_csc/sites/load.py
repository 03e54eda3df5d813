"""Find profiles: those that are shipped, and the user's own, which may extend them."""

from __future__ import annotations

import difflib
import functools
import typing
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.notation import shown
from airflow_provider_csc.sites.document import Document, DocumentError, Place, read_document

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

    from airflow_provider_csc.sites.document import Path as PathInside
    from airflow_provider_csc.sites.model import SiteProfile

SHIPPED = "shipped"
"""Where profiles come from that are part of this package, as `find_profiles` says."""

_LARGEST_BYTES = 1_000_000
_MOST_EXTENDED = 10
_MOST_TOLD = 10


def list_profiles(folders: Sequence[str] = ()) -> list[str]:
    """Return the names of all profiles, the user's own and the shipped ones."""
    return sorted(_find(folders))


def find_profile(name: str, folders: Sequence[str] = ()) -> str:
    """
    Return the path of a profile's file, or `SHIPPED`.

    :raises ConfigError: for a name that is not known.
    """
    path = _locate(name, folders)
    return SHIPPED if path == _find_shipped().get(name) else str(path)


def load_profile(name: str, folders: Sequence[str] = ()) -> SiteProfile:
    """
    Return a profile by its name.

    A file ``NAME.yaml`` in one of the folders, the first of which win, comes before the shipped one
    of that name, and may extend it (``extends: NAME``): what it says replaces what is there,
    mappings are merged, and null takes something away. A file is read again when it has changed.

    :raises ConfigError: for a name that is not known, and a file that is no profile.
    """
    from airflow_provider_csc.sites.model import SiteProfile  # noqa: PLC0415 - needs pydantic

    document = _resolve(name, folders)
    return _validate(SiteProfile, document, {**document.values, "name": name})


def _resolve(name: str, folders: Sequence[str]) -> Document:
    """Return what a profile's file says, and all those say that it extends."""
    document = _read(_locate(name, folders))
    _check_name(name, document)
    chain = [document]
    while "extends" in (document := chain[-1]).values:
        chain.append(_read_extended(document, folders))
        if len(chain) > _MOST_EXTENDED or any(chain[-1] is each for each in chain[:-1]):
            place = document.places[("extends",)]
            parent = document.values["extends"]
            raise _error(place, "extends", parent, "It extends itself. Name another profile.")
    values: dict[str, Any] = {}
    places: dict[PathInside, Place] = {}
    for each in reversed(chain):
        values = _merge(values, each.values)
        places |= each.places
    values.pop("extends", None)
    return Document(values, places)


def _read_extended(document: Document, folders: Sequence[str]) -> Document:
    parent, place = document.values["extends"], document.places[("extends",)]
    if not isinstance(parent, str):
        raise _error(place, "extends", parent, "Name one profile.")
    # A file extends the shipped one of its own name.
    own = Path(place.file).stem == parent
    try:
        return _read(_locate(parent, () if own else folders))
    except ConfigError as error:
        if "path" in error.details:
            raise
        raise _error(place, "extends", parent, error.message) from error


def _check_name(name: str, document: Document) -> None:
    own = document.values.get("name", name)
    if own != name:
        place = document.places[("name",)]
        raise _error(place, "name", own, f"Its file's name says {name!r}. Leave one of them out.")


def _locate(name: str, folders: Sequence[str]) -> Path:
    known = _find(folders)
    try:
        return known[name]
    except KeyError:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(sorted(known))}."
        away = [each for each in folders if not Path(each).expanduser().is_dir()]
        if away:
            hint += f" Of [csc] sites_folder there is no {', '.join(away)} on this machine."
        raise ConfigError(
            f"site: there is no profile {shown(name)}. {hint}",
            field="site",
            value=name,
            remedy=hint,
        ) from None


def _find(folders: Sequence[str]) -> dict[str, Path]:
    known = {**_find_shipped()}
    for folder in reversed(folders):
        known.update(_find_in(folder))
    return known


def _find_shipped() -> dict[str, Path]:
    return _find_in(str(files("airflow_provider_csc.sites") / "profiles"))


def _find_in(folder: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _list_files(Path(folder).expanduser()):
        if path.stem in found:
            raise _error(
                Place(str(path), 1, 1),
                "name",
                path.stem,
                f"{found[path.stem].name} beside it has the same name. Remove one.",
            )
        found[path.stem] = path
    return found


def _list_files(folder: Path) -> Iterator[Path]:
    for ending in ("*.yml", "*.yaml"):
        yield from sorted(folder.glob(ending))


def _read(path: Path) -> Document:
    start = Place(str(path), 1, 1)
    try:
        status = path.stat()
        if status.st_size > _LARGEST_BYTES:
            raise _error(start, "site", path.stem, "It is too large for a profile.")
        document = _read_version(path, status.st_mtime_ns, status.st_size)
    except (OSError, UnicodeDecodeError) as error:
        raise _error(start, "site", path.stem, f"It cannot be read: {error}.") from error
    except DocumentError as error:
        raise _error(error.place, "site", path.stem, f"{error.problem}.") from error
    if not isinstance(document.values, dict):
        raise _error(start, "site", path.stem, "Write a mapping, as in the shipped ones.")
    return document


@functools.lru_cache(maxsize=64)
def _read_version(path: Path, modified: int, size: int) -> Document:  # noqa: ARG001 - tell versions apart
    return read_document(path.read_text("utf-8"), str(path))


def _merge(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping in which nothing is null, but for items of lists."""
    merged = {**base}
    for name, value in values.items():
        there = merged.get(name)
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            merged[name] = _merge(there if isinstance(there, dict) else {}, value)
        else:
            merged[name] = value
    return merged


def _validate(
    model: type[SiteProfile], document: Document, values: Mapping[str, Any]
) -> SiteProfile:
    from pydantic import ValidationError  # noqa: PLC0415 - as above

    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        errors = [_describe(model, document, problem) for problem in problems[:_MOST_TOLD]]
        more = len(problems) - len(errors)
        texts = [each.message for each in errors] + ([f"And {more} more."] if more else [])
        raise ConfigError("\n".join(texts), **errors[0].details) from error


def _describe(model: type[SiteProfile], document: Document, problem: ErrorDetails) -> ConfigError:
    # Of a key that is wrong itself pydantic says "[key]".
    path = tuple(part for part in problem["loc"] if part != "[key]")
    place = next(
        document.places[path[:end]]
        for end in range(len(path), -1, -1)
        if path[:end] in document.places
    )
    field = ".".join(str(part) for part in path) or "profile"
    if problem["type"] == "extra_forbidden":
        return _unknown(place, field, path, _known_fields(model, path[:-1]))
    if problem["type"] == "missing":
        return ConfigError(
            f"Site profile {place}: {field}: it is missing.",
            **_details(place, field, None),
        )
    remedy = problem["msg"].removeprefix("Value error, ").rstrip(".")
    return _error(place, field, problem["input"], f"{remedy[:1].upper()}{remedy[1:]}.")


def _unknown(
    place: Place, field: str, path: tuple[str | int, ...], known: Sequence[str]
) -> ConfigError:
    name = str(path[-1])
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}."
    return ConfigError(
        f"Site profile {place}: {field}: there is no such field. {hint}",
        **_details(place, field, name),
    )


def _known_fields(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """Return what may be said at a path that leads to a model, by the annotations of its fields."""
    at: Any = model
    for part in path:
        at = at.model_fields[part].annotation if hasattr(at, "model_fields") else _inner(at)
        at = next((each for each in (at, *typing.get_args(at)) if _leads_on(each)), at)
    return sorted(at.model_fields) if hasattr(at, "model_fields") else []


def _leads_on(annotation: Any) -> bool:
    return hasattr(annotation, "model_fields") or typing.get_origin(annotation) in (dict, tuple)


def _inner(annotation: Any) -> Any:
    """Return what a dict or a tuple holds."""
    arguments = [each for each in typing.get_args(annotation) if each is not Ellipsis]
    return arguments[-1]


def _error(place: Place, field: str, value: object, remedy: str) -> ConfigError:
    # A mapping that is wrong as a whole would hide what is said of it.
    what = "this" if isinstance(value, (dict, list)) else shown(value)
    return ConfigError(
        f"Site profile {place}: {field}: {what} cannot be. {remedy}",
        **_details(place, field, value),
    )


def _details(place: Place, field: str, value: object) -> dict[str, Any]:
    return {
        "field": field,
        "value": value,
        "path": place.file,
        "line": place.line,
        "column": place.column,
    }
