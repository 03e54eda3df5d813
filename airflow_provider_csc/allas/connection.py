"""
What a connection's fields mean for the client that talks to the object store.

Two kinds of connection come in: our own type ``allas``, and the Amazon provider's ``aws`` when it
names an endpoint. Both come out as the *extra* of an ``aws`` connection, the vocabulary in which
the Amazon provider's hooks take their settings (Amazon provider docs, "Amazon Web Services
Connection"), completed with what Ceph needs.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from airflow_provider_csc.allas.endpoints import ALLAS, CUSTOM, PRESETS, Endpoint
from airflow_provider_csc.errors import ConfigError

if TYPE_CHECKING:
    from airflow_provider_csc.allas.credentials import Keys

FORM_FIELDS: Final = (
    "endpoint",
    "endpoint_url",
    "bucket_name",
    "project",
    "region_name",
    "addressing_style",
    "ca_bundle",
    "credentials_file",
    "profile",
)

_KEY_FIELDS: Final = ("credentials_file", "profile")

AMAZON_FIELDS: Final = ("verify", "config_kwargs", "service_config")
"""Extras of the Amazon provider that mean the same here and are handed on."""

ADDRESSING_STYLES: Final = ("path", "virtual", "auto")

CLIENT_CONFIG: Final[Mapping[str, object]] = {
    # botocore signs links for an endpoint like ours with version 2 by default, which covers the
    # Content-Type that urllib, curl --data and browsers add: Ceph 16.2 answers their PUT with 403.
    "signature_version": "s3v4",
    # botocore since 1.36 sends checksums nobody asked for, over https as a trailer of a chunked
    # body: Ceph 16.2 answers each upload with 411 MissingContentLength. CSC's user guide turns both
    # off too (data/Allas/using_allas/python_boto3.md). tests/cluster/test_allas.py shows all this.
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
    "retries": {"mode": "standard", "total_max_attempts": 5},
    "connect_timeout": 10,
    "read_timeout": 60,
}
"""botocore settings (``botocore.config.Config``) for every client; times in seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """A connection as Airflow stores it; ``extra`` is its JSON object."""

    conn_id: str
    conn_type: str
    login: str | None
    password: str | None = field(repr=False)
    extra: Mapping[str, object] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeySource:
    """The file a connection takes its keys from, and the profile in it where one is named."""

    path: str
    profile: str | None


def find_key_source(fields: Fields) -> KeySource | None:
    """
    Return where the keys are, when they are not in the connection itself.

    No file is looked for that the connection does not name.
    """
    texts = _read_texts(fields, {name: fields.extra.get(name) or None for name in _KEY_FIELDS})
    path, profile = texts.get("credentials_file"), texts.get("profile")
    if path is None:
        if profile is not None:
            raise _config_error(
                fields,
                "has a profile and no credentials_file. Name the file, for example "
                "~/.aws/credentials, ~/.s3cfg or ~/.config/rclone/rclone.conf.",
                "credentials_file",
            )
        return None
    if fields.conn_type != "allas":
        raise _config_error(
            fields,
            f"is of type {fields.conn_type!r}, which knows no credentials_file. Make its type "
            "Allas (S3), or use what the Amazon provider has for it (profile_name).",
            "credentials_file",
        )
    if fields.login or fields.password:
        raise _config_error(
            fields,
            "has keys in login or password and names a credentials_file too. Remove one of them.",
            "credentials_file",
        )
    if not path.startswith(("/", "~")):
        raise _config_error(
            fields,
            f"has credentials_file {path!r}, which is relative. Begin it with / or ~/.",
            "credentials_file",
        )
    return KeySource(path=path, profile=profile)


def build_aws_extra(fields: Fields, keys: Keys | None = None) -> dict[str, object]:
    """
    Build the extra of the equivalent ``aws`` connection; ``keys`` are those of its file.

    Raises ConfigError when the connection is of another type, lacks a key, or contradicts itself.
    """
    match fields.conn_type:
        case "allas":
            return _from_allas(fields, keys)
        case "aws":
            return _from_aws(fields)
        case other:
            raise _config_error(
                fields,
                f"is of type {other!r}, not 'allas'. Change its type to Allas (S3) under "
                "Admin > Connections, or name another connection in allas_conn_id.",
                "conn_type",
            )


def build_client_config(
    addressing_style: str, overrides: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Build the arguments of ``botocore.config.Config``; a connection's own settings win."""
    overrides = overrides or {}
    own_s3 = overrides.get("s3")
    s3 = {"addressing_style": addressing_style, **(own_s3 if isinstance(own_s3, Mapping) else {})}
    return {**CLIENT_CONFIG, **overrides, "s3": s3}


def _from_allas(fields: Fields, keys: Keys | None) -> dict[str, object]:
    extra = {name: value for name, value in fields.extra.items() if value not in (None, "")}
    _refuse_unknown(fields, extra)
    if keys is None:
        _require_keys(fields)
    endpoint = _choose_endpoint(fields, _read_texts(fields, extra), keys)
    style = _read_choice(fields, extra, "addressing_style", ADDRESSING_STYLES)
    aws_extra: dict[str, object] = {
        "endpoint_url": endpoint.url,
        "region_name": extra.get("region_name", endpoint.region_name),
        "config_kwargs": build_client_config(
            style or endpoint.addressing_style, _read_object(fields, extra, "config_kwargs")
        ),
        "service_config": _build_service_config(fields, extra),
    }
    optional = {
        "verify": extra.get("ca_bundle", extra.get("verify")),
        "project": extra.get("project"),
    }
    return aws_extra | {name: value for name, value in optional.items() if value is not None}


def _from_aws(fields: Fields) -> dict[str, object]:
    """
    Complete an Amazon connection; its credentials may come from anywhere that type allows.

    Without an endpoint the client would talk to Amazon, which nobody means who uses AllasHook.
    """
    extra = dict(fields.extra)
    s3_config = _read_object(fields, _read_object(fields, extra, "service_config"), "s3")
    if not (extra.get("endpoint_url") or s3_config.get("endpoint_url")):
        raise _config_error(
            fields,
            f"is of type 'aws' and names no endpoint_url, so it leads to Amazon. Add "
            f'"endpoint_url": "{ALLAS.url}" to its extra, or make its type Allas (S3).',
            "endpoint_url",
        )
    overrides = _read_object(fields, extra, "config_kwargs")
    return {
        "region_name": ALLAS.region_name,
        **extra,
        "config_kwargs": build_client_config(ALLAS.addressing_style, overrides),
    }


def _require_keys(fields: Fields) -> None:
    absent = [
        name
        for name, value in (
            ("login (the access key)", fields.login),
            ("password (the secret key)", fields.password),
        )
        if not (value or "").strip()
    ]
    if absent:
        raise _config_error(
            fields,
            f"has no {' and no '.join(absent)}. Make a pair with 'openstack ec2 credentials "
            "create' (Allas) or at https://auth.lumidata.eu (LUMI-O) and enter both, or name a "
            "credentials_file.",
            absent[0].split()[0],
        )


def _choose_endpoint(fields: Fields, extra: Mapping[str, str], keys: Keys | None) -> Endpoint:
    """Choose what the connection names, else what stands beside the keys in their file."""
    url, name = extra.get("endpoint_url"), extra.get("endpoint")
    choices = (*PRESETS, CUSTOM)
    if name is not None and name not in choices:
        raise _choice_error(fields, "endpoint", name, choices)
    if url is None:
        if name == CUSTOM:
            raise _config_error(
                fields, "has endpoint 'custom' and no endpoint_url. Enter the URL.", "endpoint_url"
            )
        if name is None and keys is not None and keys.endpoint_url is not None:
            return _adopt_endpoint(fields, keys.profile, keys.endpoint_url)
        return PRESETS[name or ALLAS.name]
    url = _check_url(fields, url)
    if name in PRESETS and url != PRESETS[name].url:
        raise _config_error(
            fields,
            f"has endpoint {name!r}, which is {PRESETS[name].url}, and endpoint_url {url!r}. "
            "Choose endpoint 'custom', or remove endpoint_url.",
            "endpoint_url",
        )
    return Endpoint(name=CUSTOM, url=url)


def _adopt_endpoint(fields: Fields, profile: str, url: str) -> Endpoint:
    if not _is_service_url(url):
        raise _config_error(
            fields,
            f"takes its endpoint from profile [{profile}] of its credentials_file, where it is not "
            "of the form https://host. Correct it there, or enter endpoint or endpoint_url.",
            "credentials_file",
        )
    url = url.rstrip("/")
    known = (endpoint for endpoint in PRESETS.values() if endpoint.url == url)
    return next(known, Endpoint(name=CUSTOM, url=url))


def _check_url(fields: Fields, url: str) -> str:
    """Return the URL without its last slash; the message never repeats it, it may hold a secret."""
    if not _is_service_url(url):
        raise _config_error(
            fields,
            "has an endpoint_url that is not of the form https://host or https://host:port.",
            "endpoint_url",
        )
    return url.rstrip("/")


def _is_service_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    superfluous = parts.username or parts.query or parts.fragment
    return parts.scheme in ("http", "https") and has_host and not superfluous


def _build_service_config(fields: Fields, extra: Mapping[str, object]) -> dict[str, object]:
    """Put the default bucket where S3Hook's ``provide_bucket_name`` looks for it."""
    service_config = dict(_read_object(fields, extra, "service_config"))
    bucket = extra.get("bucket_name")
    if bucket is None:
        return service_config
    s3 = {**_read_object(fields, service_config, "s3"), "bucket_name": bucket}
    return {**service_config, "s3": s3}


def _read_texts(fields: Fields, extra: Mapping[str, object]) -> dict[str, str]:
    texts = {}
    for name in FORM_FIELDS:
        value = extra.get(name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise _config_error(
                fields, f"has a {name} of type {type(value).__name__}; it must be text.", name
            )
        texts[name] = value
    return texts


def _read_choice(
    fields: Fields, extra: Mapping[str, object], name: str, choices: tuple[str, ...]
) -> str | None:
    value = extra.get(name)
    if value is None or value in choices:
        return None if value is None else str(value)
    raise _choice_error(fields, name, value, choices)


def _read_object(fields: Fields, holder: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = holder.get(name) or {}
    if not isinstance(value, Mapping):
        raise _config_error(
            fields, f"has a {name} of type {type(value).__name__}; it must be an object.", name
        )
    return value


def _refuse_unknown(fields: Fields, extra: Mapping[str, object]) -> None:
    known = (*FORM_FIELDS, *AMAZON_FIELDS)
    for name in extra:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(known)}."
            raise _config_error(fields, f"has an extra {name!r} that means nothing. {hint}", name)


def _choice_error(
    fields: Fields, name: str, value: object, choices: tuple[str, ...]
) -> ConfigError:
    return _config_error(
        fields, f"has {name} {value!r}; it can be {', '.join(map(repr, choices))}.", name
    )


def _config_error(fields: Fields, problem: str, name: str) -> ConfigError:
    return ConfigError(
        f"Connection {fields.conn_id!r} {problem}",
        conn_id=fields.conn_id,
        conn_type=fields.conn_type,
        field=name,
    )
