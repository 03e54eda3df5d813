"""What a job's inputs and outputs are, as a DAG author writes them."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

from airflow_provider_csc.allas.names import MAX_NAME_BYTES, ObjectName, parse_uri
from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.notation import NotationError, shown

Field = Literal["inputs", "outputs"]

_KEYS = ("url", "path", "optional")
_FORM = (
    "Write a URL, as 's3://bucket/key' or 's3://bucket/prefix/', or a dict, as "
    "{'url': 's3://bucket/key', 'path': 'data/file.csv'}."
)
# The files of a run directory, in which a job starts that was given no other directory.
_RESERVED = (
    *("script", "batch.sh", "job_id", "job_id.*", "no_verdict", "cancel", "identity.json"),
    *("exports.sh", "log_offsets*", "exit.*json*", "stdout*.log", "result.json*", "verdict*"),
    *("stage.sh", "staging.*", "members", "array_name"),
)


class Staged(TypedDict):
    """
    One input or output; a plain dict, so that templates are filled in wherever they stand.

    ``url`` is ``s3://bucket/key``, or with a slash at its end all below a prefix. ``path`` is where
    that is in the job's working directory; by default, its own last name. An input that is
    ``optional`` need not be there, an output need not be written.
    """

    url: str
    path: NotRequired[str]
    optional: NotRequired[bool]


Entry = str | Staged


@dataclass(frozen=True, slots=True)
class Declared:
    """
    One checked entry.

    A tree's path ends with a slash, or is empty for the working directory itself, and its key ends
    with one too, or is empty for the whole bucket.
    """

    name: ObjectName
    path: str
    optional: bool = False

    @property
    def is_tree(self) -> bool:
        """Whether it means all below a prefix and a directory."""
        return self.name.is_prefix

    @property
    def place(self) -> str:
        """Its path as the helper takes it, which never looks like an option."""
        return f"./{self.path}"

    def to_payload(self) -> dict[str, str | bool]:
        """Return plain JSON values; `read_declared` reads them."""
        return {"url": str(self.name), "path": self.path or "./", "optional": self.optional}


def read_declared(field: Field, entries: object, *, in_run_dir: bool = False) -> list[Declared]:
    """
    Read what stands in ``inputs`` or ``outputs``.

    ``in_run_dir`` says that the job starts in its run directory, whose own files must stay.

    :raises ConfigError: naming the entry, what is wrong with it, and what to write.
    """
    if entries is None:
        return []
    if isinstance(entries, (str, Mapping)) or not isinstance(entries, Sequence):
        raise _error(field, entries, "is no list", f"{_FORM} Several make a list.")
    found = [_read_entry(f"{field}[{n}]", entry, field) for n, entry in enumerate(entries)]
    _refuse_conflicts(field, found)
    if in_run_dir:
        for number, each in enumerate(found):
            _check_reserved(f"{field}[{number}]", each.path, is_output=field == "outputs")
    return found


def is_template(entry: object) -> bool:
    """Whether an entry, or a list of them, can only be read once it was rendered."""
    match entry:
        case str():
            return "{{" in entry or "{%" in entry
        case Mapping():
            return any(is_template(value) for value in entry.values())
        case Sequence():
            return any(is_template(value) for value in entry)
        # What else can be rendered is an XCom to be.
        case _:
            return hasattr(entry, "resolve")


def check_path(place: str, path: str, *, in_run_dir: bool) -> None:
    """Refuse a file of a tree that cannot be one, or would replace one of the run directory's."""
    if any(ord(character) < 32 for character in path):  # noqa: PLR2004 - control characters
        raise _error(place, path, "holds a control character", "Rename the object.")
    if in_run_dir:
        _check_reserved(place, path, is_output=False)


def _read_entry(place: str, entry: object, field: Field) -> Declared:
    if isinstance(entry, str):
        entry = {"url": entry}
    if not isinstance(entry, Mapping):
        raise _error(place, entry, "is neither a URL nor a dict", _FORM)
    for key in entry:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(_KEYS)}."
            raise _error(place, entry, f"has a key {key!r} that means nothing", hint)
    optional = entry.get("optional", False)
    if not isinstance(optional, bool):
        raise _error(f"{place}.optional", optional, "is neither True nor False", "Write True.")
    name = _read_url(place, entry.get("url"))
    path = entry.get("path")
    if path is not None and not isinstance(path, str):
        raise _error(f"{place}.path", path, "is not text", "Write it as 'data/file.csv'.")
    return _match(place, name, path, field=field, optional=optional)


def _read_url(place: str, url: object) -> ObjectName:
    if not isinstance(url, str):
        raise _error(f"{place}.url", url, "is no URL", _FORM)
    try:
        name = parse_uri(url)
    except NotationError as error:
        raise ConfigError(f"{place}: {error}", field=place, value=url) from None
    if any(ord(character) < 32 for character in name.key):  # noqa: PLR2004 - control characters
        raise _error(place, url, "holds a control character", "Give the object another name.")
    return name


def _match(
    place: str, name: ObjectName, path: str | None, *, field: Field, optional: bool
) -> Declared:
    """Let one side say what the other leaves open: the last name, and whether it is a tree."""
    own = name.key.rstrip("/").rpartition("/")[2]
    if path is None:
        if not own:
            problem = "means a whole bucket, which has no name of its own"
            raise _error(place, str(name), problem, "Say where it goes, as 'path': 'data/'.")
        path = f"{own}/" if name.is_prefix else own
    is_directory = path in ("", ".") or path.endswith(("/", "/."))
    checked = _check_relative(f"{place}.path", path)
    last = checked.rpartition("/")[2]
    if is_directory and not name.is_prefix:
        if field == "outputs":
            name = ObjectName(name.bucket, f"{name.key}/")
        else:
            checked, is_directory = f"{checked}/{own}".lstrip("/"), False
    elif name.is_prefix and not is_directory:
        if field == "outputs":
            name = ObjectName(name.bucket, name.key + last)
        else:
            is_directory = True
    if is_directory and checked:
        checked = f"{checked}/"
    _check_relative(f"{place}.path", checked or ".")
    return Declared(name, checked, optional)


def _check_relative(place: str, path: str) -> str:
    """Return a path without what says nothing (``./``, double slashes); refuse one that leads out.

    :raises ConfigError: for an absolute one, and for ``..``.
    """
    remedy = "Give one below the job's working directory, as 'data/file.csv'."
    if path.startswith(("/", "~")):
        raise _error(place, path, "is not relative", remedy)
    if any(ord(character) < 32 for character in path):  # noqa: PLR2004 - control characters
        raise _error(place, path, "holds a control character", remedy)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _error(place, path, "leads out of the job's working directory", remedy)
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        raise _error(place, path, "is not Unicode", remedy) from None
    if any(size > MAX_NAME_BYTES for size in sizes):
        raise _error(place, path, f"has a name of more than {MAX_NAME_BYTES} bytes", remedy)
    return "/".join(parts)


def _check_reserved(place: str, path: str, *, is_output: bool) -> None:
    top = path.partition("/")[0]
    is_file = "/" not in path
    if is_output and not path:
        raise _error(
            place,
            "./",
            "means the whole run directory, with the files by which this job is followed",
            "Have the job write below a directory of its own, as 'results/', or set work_dir.",
        )
    if is_file and any(fnmatch.fnmatchcase(top, pattern) for pattern in _RESERVED):
        raise _error(
            place,
            path,
            "is the name of a file by which this job is followed, in its run directory",
            "Choose another path, as 'data/' before it, or set work_dir.",
        )


def _refuse_conflicts(field: Field, found: Sequence[Declared]) -> None:
    """Refuse two that would be one file or object, and a file that were a directory as well."""
    is_conflict = _is_one_file if field == "inputs" else _is_one_object
    for number, each in enumerate(found):
        for earlier, other in enumerate(found[:number]):
            if is_conflict(each, other) or is_conflict(other, each):
                raise ConfigError(
                    f"{field}[{number}] ({each.name}, {each.place!r}) and {field}[{earlier}] "
                    f"({other.name}, {other.place!r}) would write one "
                    f"{'file' if field == 'inputs' else 'object'}, or one within the other. Choose "
                    "different ones.",
                    field=f"{field}[{number}]",
                    value=each.to_payload(),
                )


def _is_one_file(each: Declared, other: Declared) -> bool:
    # Trees may share a directory: what they hold is compared when it is known.
    is_same = each.path == other.path and not each.is_tree
    return is_same or (not each.is_tree and other.path.startswith(f"{each.path}/"))


def _is_one_object(each: Declared, other: Declared) -> bool:
    if each.name.bucket != other.name.bucket:
        return False
    is_within = each.is_tree and other.name.key.startswith(each.name.key)
    return is_within or each.name.key == other.name.key


def _error(place: str, value: object, problem: str, remedy: str) -> ConfigError:
    return ConfigError(f"{place}: {shown(value)} {problem}. {remedy}", field=place, value=value)
