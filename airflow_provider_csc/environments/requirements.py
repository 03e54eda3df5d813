"""Read the lines of a requirements file, and nothing else that pip would read in one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.notation import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from packaging.requirements import Requirement as Parsed

_HASH = re.compile(r"\s--hash[= ]([a-z0-9]+:[A-Za-z0-9+/=_-]+)")
_COMMENT = re.compile(r"(^|\s)#.*$")
_CONTINUED = re.compile(r"\\\n")
# user:password@ in any URL, and any user of a URL that a password would belong to.
_PASSWORD = re.compile(r"://[^/\s@]*:[^/\s@]*@|\bhttps?://[^/\s@]+@")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One line: the name of a distribution, the text for pip, and the hashes it may have."""

    name: str
    text: str
    hashes: tuple[str, ...] = ()
    is_conditional: bool = False
    is_exact: bool = False

    @property
    def line(self) -> str:
        """The line as a requirements file has it."""
        return " ".join([self.text, *(f"--hash={each}" for each in self.hashes)])


def read_packages(field: str, packages: Sequence[str]) -> tuple[Requirement, ...]:
    """
    Return a list of specifiers, each as ``numpy``, ``numpy>=2`` or ``name @ https://...``.

    :raises ConfigError: naming the one that is none.
    """
    for each in packages:
        if not isinstance(each, str) or "\n" in each:
            raise _refusal(field, each, "is no package specifier", "Write 'numpy>=2'.")
    return tuple(_read_line(field, each) for each in packages)


def read_requirements(field: str, text: str) -> tuple[Requirement, ...]:
    """
    Return the lines of a requirements file; comments are left out.

    :raises ConfigError: naming the line that is none; options are fields of a recipe.
    """
    return tuple(_read_line(field, line) for line in _lines(text))


def read_lock(field: str, text: str) -> tuple[Requirement, ...]:
    """
    Return the lines of a lock file in the form of a requirements file, each of one version.

    :raises ConfigError: for a line that leaves the version open, or no line at all.
    """
    if re.search(r"^(lock-version|version) *= ", text, re.MULTILINE):
        raise _refusal(
            field, text, "is a lock file in TOML",
            "Export it: uv export --format requirements-txt, or pip-compile.",
        )  # fmt: skip
    lines = read_requirements(field, text)
    if not lines:
        raise _refusal(field, text, "locks nothing", "Write 'numpy==2.1.0', a line for each.")
    for each in lines:
        if not each.is_exact:
            raise _refusal(
                field, each.text, "leaves the version open",
                "A lock file says 'name==version' in each line; use requirements otherwise.",
            )  # fmt: skip
    hashed = [each for each in lines if each.hashes]
    if hashed and len(hashed) < len(lines):
        bare = next(each for each in lines if not each.hashes)
        raise _refusal(
            field, bare.text, "has no hash, where other lines have", "Give all of them, or none."
        )
    return lines


def check_no_password(field: str, text: str) -> None:
    """
    Refuse a user or a password in a URL, which would stand in the build script.

    :raises ConfigError: without the password.
    """
    if found := _PASSWORD.search(text):
        place = text[: found.start()].count("\n") + 1
        raise ConfigError(
            f"{field}: the URL in line {place} holds a user or a password, which would stand in "
            "the job's script. Leave it out, and put it into ~/.netrc or ~/.config/pip/pip.conf "
            "on the cluster (mode 0600).",
            field=field,
        )


def _lines(text: str) -> Iterator[str]:
    for line in _CONTINUED.sub(" ", text.replace("\r\n", "\n")).splitlines():
        if stripped := _COMMENT.sub("", line).strip():
            yield stripped


def _read_line(field: str, line: str) -> Requirement:
    check_no_password(field, line)
    if line.startswith("-"):
        raise _refusal(
            field, line, "is an option of pip, not a requirement",
            "A recipe says such things by index_url, extra_index_urls, find_links, no_index; files "
            "that other files name are not sent along, so write their lines here.",
        )  # fmt: skip
    hashes = tuple(_HASH.findall(line))
    return _describe(field, _HASH.sub("", line).strip(), hashes)


def _describe(field: str, text: str, hashes: tuple[str, ...]) -> Requirement:
    parsed = _parse(field, text)
    versions = list(parsed.specifier)
    is_exact = parsed.url is not None or (
        len(versions) == 1
        and versions[0].operator in ("==", "===")
        and not versions[0].version.endswith(".*")
    )
    return Requirement(
        name=parsed.name,
        text=str(parsed),
        hashes=hashes,
        is_conditional=parsed.marker is not None,
        is_exact=is_exact,
    )


def _parse(field: str, text: str) -> Parsed:
    from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415

    if not text.isprintable():
        raise _refusal(field, text, "holds a control character", "Write it as plain text.")
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        why = str(error).partition("\n")[0].rstrip(".")
        raise _refusal(
            field, text, f"is no package specifier ({why})",
            "Write 'numpy', 'numpy>=2,<3', or 'name @ https://host/file.whl'.",
        ) from error  # fmt: skip


def _refusal(field: str, value: object, problem: str, remedy: str) -> ConfigError:
    return ConfigError(f"{field}: {shown(value)} {problem}. {remedy}", field=field, value=value)
