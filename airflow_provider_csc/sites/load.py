"""Find profiles: those that are shipped, and the user's own, which may extend them."""

from __future__ import annotations

import difflib
import functools
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.notation import shown
from airflow_provider_csc.sites.problems import Document, Place, explain, profile_error
from airflow_provider_csc.yaml_text import MAX_BYTES, YamlError, parse_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from airflow_provider_csc.sites.model import SiteProfile
    from airflow_provider_csc.yaml_text import Path as PathInside

SHIPPED = "shipped"
"""Where profiles come from that are part of this package, as `find_profiles` says."""

_MOST_EXTENDED = 10


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
            raise profile_error(
                place, "extends", parent, "It extends itself. Name another profile."
            )
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
        raise profile_error(place, "extends", parent, "Name one profile.")
    # A file extends the shipped one of its own name.
    own = Path(place.file).stem == parent
    try:
        return _read(_locate(parent, () if own else folders))
    except ConfigError as error:
        if "path" in error.details:
            raise
        raise profile_error(place, "extends", parent, error.message) from error


def _check_name(name: str, document: Document) -> None:
    own = document.values.get("name", name)
    if own != name:
        place = document.places[("name",)]
        raise profile_error(
            place, "name", own, f"Its file's name says {name!r}. Leave one of them out."
        )


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
            raise profile_error(
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
        if status.st_size > MAX_BYTES:
            raise profile_error(start, "site", path.stem, "It is too large for a profile.")
        document = _read_version(path, status.st_mtime_ns, status.st_size)
    except (OSError, UnicodeDecodeError) as error:
        raise profile_error(start, "site", path.stem, f"It cannot be read: {error}.") from error
    except YamlError as error:
        place = Place(str(path), *error.mark) if error.mark else start
        problem = f"{error.problem[:1].upper()}{error.problem[1:]}"
        raise profile_error(place, "site", path.stem, problem) from error
    if not isinstance(document.values, dict):
        raise profile_error(start, "site", path.stem, "Write a mapping, as in the shipped ones.")
    return document


@functools.lru_cache(maxsize=64)
def _read_version(path: Path, modified: int, size: int) -> Document:  # noqa: ARG001 - tell versions apart
    parsed = parse_yaml(path.read_text("utf-8"), is_exact=False)
    marks = {**parsed.marks, **parsed.key_marks}
    return Document(parsed.value, {each: Place(str(path), *mark) for each, mark in marks.items()})


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
        raise explain(model, document, error) from error
