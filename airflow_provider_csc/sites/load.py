"""Find profiles: those that are shipped, and the user's own, which may extend them."""

from __future__ import annotations

import difflib
import functools
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.notation import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from airflow_provider_csc.sites.model import SiteProfile

_LARGEST_BYTES = 1_000_000
_MOST_EXTENDED = 10


def list_profiles(folders: Sequence[str] = ()) -> list[str]:
    """Return the names of all profiles, the user's own and the shipped ones."""
    return sorted({*_find_shipped(), *(name for each in folders for name in _find_in(each))})


@functools.cache
def load_profile(name: str, folders: tuple[str, ...] = ()) -> SiteProfile:
    """
    Return a profile by its name.

    A file ``NAME.yaml`` in one of the folders comes before the shipped one of that name, and may
    extend it (``extends: NAME``): what it says replaces what is there, mappings are merged, and
    null takes something away.

    :raises ConfigError: for a name that is not known, and a file that is no profile.
    """
    from airflow_provider_csc.sites.model import SiteProfile  # noqa: PLC0415 - needs pydantic

    path, values = _resolve(name, folders)
    return _validate(SiteProfile, path, {**values, "name": name})


def _resolve(name: str, folders: Sequence[str]) -> tuple[str, dict[str, Any]]:
    path, values = _read(_locate(name, folders))
    seen = [path]
    while (parent := values.pop("extends", None)) is not None:
        if not isinstance(parent, str) or len(seen) > _MOST_EXTENDED:
            raise _error(path, "extends", parent, "Name one profile, which does not extend this.")
        # A file extends the shipped one of its own name.
        own = Path(seen[-1]).stem == parent
        found, base = _read(_locate(parent, () if own else folders))
        if found in seen:
            raise _error(path, "extends", parent, "It extends itself. Name another profile.")
        seen.append(found)
        values = _merge(base, values)
    return path, values


def _locate(name: str, folders: Sequence[str]) -> Path:
    known = {**_find_shipped()}
    for folder in reversed(folders):
        known.update(_find_in(folder))
    try:
        return known[name]
    except KeyError:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(sorted(known))}."
        raise ConfigError(
            f"site: there is no profile {shown(name)}. {hint}", field="site", value=name
        ) from None


def _find_shipped() -> dict[str, Path]:
    return _find_in(str(files("airflow_provider_csc.sites") / "profiles"))


def _find_in(folder: str) -> dict[str, Path]:
    return {path.stem: path for path in _list_files(Path(folder).expanduser())}


def _list_files(folder: Path) -> Iterator[Path]:
    for ending in ("*.yml", "*.yaml"):
        yield from sorted(folder.glob(ending))


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    import yaml

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _error(str(path), "site", path.stem, f"It cannot be read: {error}.") from error
    if len(text) > _LARGEST_BYTES:
        raise _error(str(path), "site", path.stem, "It is too large for a profile.")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _error(str(path), "site", path.stem, f"It is no YAML: {error}.") from error
    if not isinstance(values, dict):
        raise _error(str(path), "site", path.stem, "Write a mapping, as in the shipped ones.")
    return str(path), values


def _merge(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**base}
    for name, value in values.items():
        there = merged.get(name)
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict) and isinstance(there, dict):
            merged[name] = _merge(there, value)
        else:
            merged[name] = value
    return merged


def _validate(model: type[SiteProfile], path: str, values: dict[str, Any]) -> SiteProfile:
    from pydantic import ValidationError  # noqa: PLC0415 - as above

    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise _error(path, field or "profile", first["input"], f"{first['msg']}.") from error


def _error(path: str, field: str, value: object, remedy: str) -> ConfigError:
    return ConfigError(
        f"Site profile {path}, field {field}: {shown(value)} cannot be. {remedy}",
        field=field,
        value=value,
        path=path,
    )
