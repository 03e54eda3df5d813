"""
Access keys in the files of aws, s3cmd and rclone, as allas-conf, lumio-conf and people write them.

What the writers do (CSCfi/allas-cli-utils, allas_conf, August 2026; LUMI-O-tools of
Lumi-supercomputer, June 2025): allas-conf puts ``AWS_ACCESS_KEY_ID`` in capitals into
~/.aws/credentials and the endpoint into ~/.aws/config, a file ~/.s3cfg_project_<n> for each project
with a link ~/.s3cfg to the last, and two remotes into rclone.conf; lumio-conf names the endpoint in
a section ``[services …]`` of ~/.aws/config. Which program a file is for follows from the names of
its options.
"""

from __future__ import annotations

import configparser
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from airflow_provider_csc.errors import ConfigError

Sections = Mapping[str, Mapping[str, str]]
"""A file's options by section; the names of options in small letters."""

_NO_SECTION: Final = "\0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """What one profile of a file says; ``endpoint_url`` where it does."""

    profile: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    endpoint_url: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Words:
    """How a program names what it needs."""

    access_key: str
    secret_key: str
    session_token: str
    endpoint: str


# AWS CLI, "Configuration and credential file settings"; rclone.org/s3; s3cmd, S3/Config.py 2.4.
_AWS: Final = _Words(
    access_key="aws_access_key_id",
    secret_key="aws_secret_access_key",  # noqa: S106 - the name of an option
    session_token="aws_session_token",  # noqa: S106 - likewise
    endpoint="endpoint_url",
)
_RCLONE: Final = _Words(
    access_key="access_key_id",
    secret_key="secret_access_key",  # noqa: S106 - likewise
    session_token="session_token",  # noqa: S106 - likewise
    endpoint="endpoint",
)
_S3CMD: Final = _Words(
    access_key="access_key",
    secret_key="secret_key",  # noqa: S106 - likewise
    session_token="access_token",  # noqa: S106 - likewise
    endpoint="host_base",
)
_PROGRAMS: Final = (_AWS, _RCLONE, _S3CMD)


def parse_sections(text: str, path: str) -> Sections:
    """
    Read a file's sections; a value is taken to the letter, also its ``%``.

    Raises ConfigError, which repeats none of the file's lines: they hold secrets.
    """
    if "RCLONE_ENCRYPT_V" in text[:200]:
        raise _error(path, "is encrypted by rclone. Name a file that holds the keys in clear.")
    parser = configparser.RawConfigParser(
        delimiters=("=",), default_section=_NO_SECTION, interpolation=None
    )
    try:
        parser.read_string(text)
    # None of these becomes the cause of ours: their texts are lines of the file.
    except (configparser.DuplicateSectionError, configparser.DuplicateOptionError) as error:
        raise _error(path, f"has a name for the second time in line {error.lineno}.") from None
    except configparser.Error as error:
        raise _error(
            path, f"cannot be read: line {_find_line(error)} is neither [profile] nor name = value."
        ) from None
    return {
        name.removeprefix("profile "): {
            option: value.strip() for option, value in parser[name].items()
        }
        for name in parser.sections()
    }


def _find_line(error: configparser.Error) -> int:
    if isinstance(error, configparser.MissingSectionHeaderError):
        return error.lineno
    errors: list[tuple[int, str]] = getattr(error, "errors", [])
    return errors[0][0] if errors else 1


def choose_keys(
    sections: Sections, path: str, profile: str | None = None, config: Sections | None = None
) -> Keys:
    """
    Return the keys of a profile.

    Without its name: of ``[default]``, else of the only one there is. ``config`` are the sections
    of the ~/.aws/config beside the file. Raises ConfigError with the names of the profiles.
    """
    profiles = {name: _read_profile(name, options, config) for name, options in sections.items()}
    found = {name: keys for name, keys in profiles.items() if isinstance(keys, Keys)}
    problems = {name: text for name, text in profiles.items() if isinstance(text, str) and text}
    if profile is not None:
        if profile in found:
            return found[profile]
        raise _error(path, _describe_absent(profile, sections, problems, found), profile)
    if not found:
        what = "; ".join(f"[{name}] {problem}" for name, problem in problems.items())
        raise _error(
            path,
            f"holds no S3 keys{f': {what}' if what else ''}. "
            "Write them with allas-conf --mode S3 (Allas) or lumio-conf (LUMI-O).",
        )
    if "default" in found:
        return found["default"]
    different = {(keys.access_key, keys.secret_key, keys.endpoint_url) for keys in found.values()}
    if len(different) > 1:
        raise _error(
            path,
            f"holds keys of several profiles, {_list(found)}. Name one of them in the field "
            "Profile.",
        )
    return next(iter(found.values()))


def _describe_absent(
    profile: str, sections: Sections, problems: Mapping[str, str], found: Mapping[str, Keys]
) -> str:
    if profile in sections:
        problem = problems.get(profile, "holds no S3 keys")
        return f"cannot serve: [{profile}] {problem}.{_hint(profile, found)}"
    return f"has no profile [{profile}].{_hint(profile, found)}"


def _hint(profile: str, found: Mapping[str, Keys]) -> str:
    if not found:
        return " It holds no S3 keys at all; allas-conf --mode S3 and lumio-conf write them."
    near = difflib.get_close_matches(profile, found, n=1)
    return f" Did you mean [{near[0]}]?" if near else f" Keys are in {_list(found)}."


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(f"[{name}]" for name in names)


def _read_profile(name: str, options: Mapping[str, str], config: Sections | None) -> Keys | str:
    """Return the keys of a section, or why it has none; "" where it is about something else."""
    kind = options.get("type", "s3")
    if kind != "s3":
        return f"is a remote of type {kind!r}, which has no S3 keys"
    for words in _PROGRAMS:
        if words.access_key in options or words.secret_key in options:
            break
    else:
        return "takes its keys from the environment" if "env_auth" in options else ""
    access_key, secret_key = options.get(words.access_key), options.get(words.secret_key)
    if not access_key or not secret_key:
        absent = words.secret_key if access_key else words.access_key
        return f"has no {absent}"
    endpoint = options.get(words.endpoint)
    if words is _AWS and not endpoint:
        endpoint = _find_aws_endpoint(name, options, config or {})
    return Keys(
        profile=name,
        access_key=access_key,
        secret_key=secret_key,
        session_token=options.get(words.session_token) or None,
        endpoint_url=_complete_url(endpoint, options),
    )


def _find_aws_endpoint(name: str, options: Mapping[str, str], config: Sections) -> str | None:
    """Return the endpoint of S3 in the AWS CLI's order: of the service, then of the profile."""
    own = config.get(name, {})
    services = options.get("services") or own.get("services")
    for line in config.get(f"services {services}", {}).get("s3", "").splitlines():
        option, _, value = line.partition("=")
        if option.strip() == "endpoint_url":
            return value.strip()
    return own.get("endpoint_url")


def _complete_url(endpoint: str | None, options: Mapping[str, str]) -> str | None:
    """Add the scheme, which s3cmd and rclone leave out."""
    if not endpoint or "://" in endpoint:
        return endpoint or None
    is_plain = options.get("use_https", "True").lower() in ("false", "no", "off", "0")
    return f"{'http' if is_plain else 'https'}://{endpoint}"


def _error(path: str, problem: str, profile: str | None = None) -> ConfigError:
    return ConfigError(f"Credentials file {path} {problem}", path=path, profile=profile)
