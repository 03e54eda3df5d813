"""Users of the cluster's object store that a test makes, limits and removes."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, kw_only=True)
class RgwUser:
    """A user of the object store; ``name`` is what the store calls it, ``tenant$uid`` or uid."""

    name: str
    access_key: str
    secret_key: str
    conf: Path

    def admin(self, *words: str) -> None:
        """Run radosgw-admin on this user."""
        run_admin(self.conf, *words, "--uid", self.name)

    def limit(self, scope: str, **most: int) -> None:
        """Set a quota: scope "user" or "bucket", ``max_size`` in bytes or ``max_objects``."""
        words = [f"--{name.replace('_', '-')}={number}" for name, number in most.items()]
        self.admin("quota", "set", f"--quota-scope={scope}", *words)
        self.admin("quota", "enable", f"--quota-scope={scope}")

    def add_key(self) -> RgwUser:
        """Return the same user with a second pair of keys."""
        access_key, secret_key = new_pair()
        pair = ("--access-key", access_key, "--secret-key", secret_key)
        self.admin("key", "create", "--key-type", "s3", *pair)
        return RgwUser(name=self.name, access_key=access_key, secret_key=secret_key, conf=self.conf)

    def remove_key(self) -> None:
        """Delete the keys, as their expiry on LUMI-O does."""
        self.admin("key", "rm", "--key-type", "s3", "--access-key", self.access_key)

    def as_connection(self, url: str, **extra: object) -> dict[str, Any]:
        """Return the fields of an Airflow connection."""
        return {
            "conn_type": "allas",
            "login": self.access_key,
            "password": self.secret_key,
            "extra": {"endpoint_url": url, **extra},
        }


def address_of(cluster: dict[str, Any]) -> tuple[str, int]:
    """Return host and port of the cluster's gateway."""
    url = urlsplit(cluster["s3_endpoint_url"])
    return url.hostname or "", url.port or 80


def new_pair() -> tuple[str, str]:
    return f"TEST{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30)


def run_admin(conf: Path, *words: str) -> None:
    command = ["radosgw-admin", "--conf", str(conf), "--name", "client.rgw", *words]
    subprocess.run(command, check=True, capture_output=True, text=True)


@contextlib.contextmanager
def rgw_user(
    cluster: dict[str, Any], *, tenant: str = "", max_buckets: int = 1000
) -> Iterator[RgwUser]:
    """Make a user with one pair of keys; removed afterwards with all that is theirs."""
    access_key, secret_key = new_pair()
    uid = f"test-{secrets.token_hex(4)}"
    user = RgwUser(
        name=f"{tenant}${uid}" if tenant else uid,
        access_key=access_key,
        secret_key=secret_key,
        conf=Path(cluster["cluster_dir"]) / "etc" / "ceph.conf",
    )
    pair = ("--access-key", access_key, "--secret-key", secret_key)
    user.admin(*("user", "create", "--display-name", uid, "--max-buckets", str(max_buckets)), *pair)
    try:
        yield user
    finally:
        user.admin("user", "rm", "--purge-data")


class Swift:
    """The other protocol of the same store, with version 1 of its log-in."""

    def __init__(self, cluster: dict[str, Any]) -> None:
        headers = {"X-Auth-User": cluster["swift_user"], "X-Auth-Key": cluster["swift_key"]}
        request = urllib.request.Request(cluster["swift_auth_url"], headers=headers)
        with urllib.request.urlopen(request) as answer:
            self._token = answer.headers["X-Auth-Token"]
            self._url = answer.headers["X-Storage-Url"]

    def put(self, path: str, data: bytes = b"", **headers: str) -> None:
        """Store an object, or make a container of a path without a slash."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(
            f"{self._url}/{path}",
            data,
            {"X-Auth-Token": self._token, "Content-Type": "text/plain", **named},
            method="PUT",
        )
        urllib.request.urlopen(request).close()

    def get(self, path: str) -> bytes:
        """Read an object."""
        request = urllib.request.Request(
            f"{self._url}/{path}", headers={"X-Auth-Token": self._token}
        )
        with urllib.request.urlopen(request) as answer:
            return bytes(answer.read())


def unfinished(client: Any, bucket: str) -> list[dict[str, Any]]:
    """Return the uploads in parts that nobody completed."""
    return list(client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()))
