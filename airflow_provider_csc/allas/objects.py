"""What a listing says of an object, and which objects a pattern means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypedDict

from airflow_provider_csc.allas.names import ObjectName, check_bucket, check_key, parse_uri
from airflow_provider_csc.notation import NotationError, shown

if TYPE_CHECKING:
    from datetime import datetime

OWN_DIRECTORY: Final = ".airflow-csc/"
"""Where this package keeps what it notes in a bucket; no pattern matches anything below it."""


class ObjectFacts(TypedDict):
    """An object as plain JSON, as it is in XComs and asset events."""

    uri: str
    key: str
    size: int
    etag: str
    last_modified: str


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One row of a listing; ``etag`` is without its quotes."""

    key: str
    size: int
    etag: str
    last_modified: datetime

    def to_facts(self, bucket: str) -> ObjectFacts:
        """Return plain JSON values."""
        return ObjectFacts(
            uri=str(ObjectName(bucket, self.key)),
            key=self.key,
            size=self.size,
            etag=self.etag,
            last_modified=self.last_modified.astimezone(UTC).isoformat(timespec="milliseconds"),
        )


@dataclass(frozen=True)
class KeyPattern:
    """
    Which keys are meant: one to the letter, all below a prefix, or those a wildcard fits.

    ``*`` and ``?`` stand for characters other than a slash, ``**`` for any, ``**/`` also for no
    directory at all; ``[abc]``, ``[0-9]`` and ``[!x]`` for one character, so ``[*]`` is a star.
    A text that is empty or ends with a slash means all below it. Keys that end with a slash, as
    browsers make them for directories, fit no wildcard.
    """

    text: str
    has_wildcards: bool = True

    @cached_property
    def exact(self) -> str | None:
        """The one key that is meant, if it is one."""
        _prefix, regex, literal = self._compiled
        return literal if regex is None else None

    @cached_property
    def prefix(self) -> str:
        """What all of them begin with; of one key, the directory it is in."""
        prefix, regex, literal = self._compiled
        return prefix if regex is not None else literal[: literal.rfind("/") + 1]

    def matches(self, key: str) -> bool:
        """Whether this key is meant."""
        _prefix, regex, literal = self._compiled
        if regex is None:
            return key == literal
        return (
            regex.fullmatch(key) is not None
            and not key.endswith("/")
            and not key.startswith(OWN_DIRECTORY)
        )

    @cached_property
    def _compiled(self) -> tuple[str, re.Pattern[str] | None, str]:
        if not self.has_wildcards:
            return "", None, self.text
        if not self.text or self.text.endswith("/"):
            return _compile(self.text + "**")
        return _compile(self.text)


def read_pattern(
    key: str, bucket_name: str | None = None, *, has_wildcards: bool = True
) -> tuple[str | None, KeyPattern]:
    """Read a bucket and a pattern from two arguments, the first of which may be a whole URI."""
    if not isinstance(key, str):
        raise NotationError(f"{shown(key)} is no key", "For example: in/*.csv")
    if "://" in key:
        if bucket_name:
            raise NotationError(
                "a bucket is given twice, in the key and by its name", "Leave out one of them."
            )
        name = parse_uri(key)
        bucket_name, key = name.bucket, name.key
    elif bucket_name:
        check_bucket(bucket_name)
    if key:
        check_key(key)
    elif not has_wildcards:
        raise NotationError("there is no key", "Name one, or allow wildcards for a whole bucket.")
    return bucket_name, KeyPattern(key, has_wildcards)


_TOKEN: Final = re.compile(
    r"(?P<trees>(?:(?<=/)|^)\*\*/)|(?P<any>\*\*+)|(?P<some>\*)|(?P<one>\?)"
    r"|\[(?P<no>[!^]?)(?P<set>\]?[^\]]*)\]",
    re.DOTALL,
)


def _compile(text: str) -> tuple[str, re.Pattern[str] | None, str]:
    """Return the prefix without wildcards, the expression if there are any, else the text."""
    regex, literal, prefix = "", "", None
    position = 0
    for match in _TOKEN.finditer(text):
        between = text[position : match.start()]
        position = match.end()
        regex, literal = regex + re.escape(between), literal + between
        chosen = match["set"]
        if chosen is not None and len(chosen) == 1 and not match["no"]:
            regex, literal = regex + re.escape(chosen), literal + chosen
            continue
        prefix = literal if prefix is None else prefix
        regex += _translate(match)
    rest = text[position:]
    if prefix is None:
        return "", None, literal + rest
    return prefix, re.compile(regex + re.escape(rest), re.DOTALL), ""


def _translate(match: re.Match[str]) -> str:
    match match.lastgroup:
        case "trees":
            return "(?:.*/)?"
        case "any":
            return ".*"
        case "some":
            return "[^/]*"
        case "one":
            return "[^/]"
        case _:
            if not match["set"]:
                return re.escape(match[0])
            members = _MEMBERS.sub(_translate_member, match["set"])
            return f"[^{members}/]" if match["no"] else f"(?!/)[{members}]"


_MEMBERS: Final = re.compile(r"(?P<low>.)-(?P<high>.)|.", re.DOTALL)


def _translate_member(match: re.Match[str]) -> str:
    low, high = match["low"], match["high"]
    if low is None:
        return re.escape(match[0])
    if low > high:
        raise NotationError(
            f"{match[0]!r} is no set of characters, for it ends before it begins",
            "For example: [a-z]",
        )
    return f"{re.escape(low)}-{re.escape(high)}"
