"""The file of URLs that the helper reads: fields between tabs, its last line ``end``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_csc.staging.declarations import Declared
    from airflow_provider_csc.staging.plan import Fetch

_NOTHING = "-"
# Their other name, and the form with OpenSSL's own additions, are read as well (curl's OpenSSL).
_CERTIFICATE = re.compile(
    rb"-----BEGIN (X509 |TRUSTED |)CERTIFICATE-----.*?-----END \1CERTIFICATE-----", re.DOTALL
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Get:
    """A file to fetch, and the URL that reads it."""

    fetch: Fetch
    url: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """
    An output, and the URLs that write it: one for a small file, one for each part of a large one.

    A tree has the address and the fields of a form, which takes any name below its key.
    """

    declared: Declared
    url: str = field(repr=False)
    part_urls: Sequence[str] = field(default=(), repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """
    How the helper works; sizes in bytes.

    Of objects, ``piece`` is read in one request; files of more than ``single`` are sent in parts;
    ``most`` is what a file of a tree may have. ``ca_bundle`` is text in base64, one line.
    """

    parallel: int = 8
    piece: int = 64 * 1024**2
    single: int = 32 * 1024**2
    most: int = 5 * 1024**3
    on_failure: bool = False
    is_insecure: bool = False
    ca_bundle: str = ""


def render_manifest(
    epoch: str, gets: Sequence[Get] = (), puts: Sequence[Put] = (), manner: Manner | None = None
) -> str:
    """Return the file for the start of a job that calls itself ``epoch``."""
    known = manner or Manner()
    lines = [
        _first(epoch),
        _line("set", "parallel", known.parallel),
        _line("set", "piece", known.piece),
        _line("set", "single", known.single),
        _line("set", "most", known.most),
        _line("set", "on_failure", int(known.on_failure)),
    ]
    if known.is_insecure:
        lines.append(_line("set", "insecure", 1))
    if known.ca_bundle:
        lines.append(_line("cacert", known.ca_bundle))
    for get in gets:
        steps = ",".join(map(str, get.fetch.steps))
        lines.append(
            _line("get", f"./{get.fetch.path}", get.fetch.size, get.fetch.etag, steps, get.url)
        )
    for put in puts:
        lines += _render_put(put)
    lines.append("end")
    return "\n".join(lines) + "\n"


def render_refusal(epoch: str, reason: str) -> str:
    """Return the file that ends a job which waits for URLs that cannot be issued."""
    text = " ".join(reason.split())
    return f"{_first(epoch)}\n{_line('error', text)}\nend\n"


def certificates_in(text: bytes) -> bytes:
    """Return the certificates of a PEM file, without what else is in it (keys, comments)."""
    return b"".join(found[0] + b"\n" for found in _CERTIFICATE.finditer(text))


def _render_put(put: Put) -> list[str]:
    declared = put.declared
    kind = "put" if put.form is None else "tree"
    optional = int(declared.optional)
    lines = [_line(kind, declared.place, optional, put.url, declared.name.key)]
    lines += [_line("field", f"{name}={value}") for name, value in (put.form or {}).items()]
    return lines + [_line("part", url) for url in put.part_urls]


def _first(epoch: str) -> str:
    return f"csc-staging 1 {epoch}"


def _line(*fields: object) -> str:
    # An empty field would be none to the shell, and its neighbour take its place.
    return "\t".join(str(value) or _NOTHING for value in fields)
