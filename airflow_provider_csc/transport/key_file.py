"""The file on this machine that a connection takes its access keys from."""

from __future__ import annotations

import logging
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from airflow_provider_csc.allas.credentials import Keys, choose_keys, parse_sections
from airflow_provider_csc.errors import ConfigError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from airflow_provider_csc.allas.connection import KeySource
    from airflow_provider_csc.allas.credentials import Sections

log = logging.getLogger(__name__)

LARGEST_BYTES: Final = 1_000_000
"""A file of keys has a few hundred bytes for each; what is larger is something else."""

AWS_CONFIG_NAMES: Final = ("config", "aws-config")
"""Beside the credentials: as the AWS CLI has it, and as lumio-conf calls it in other places."""

State = tuple[tuple[int, int, int] | None, ...]


class KeyFile:
    """
    The keys of one profile, read anew when the file changes; safe for threads.

    ``announce`` is called with new keys before anybody else has them.
    """

    def __init__(self, source: KeySource, announce: Callable[[Keys], None]) -> None:
        self._source = source
        self._announce = announce
        self._lock = threading.Lock()
        self._keys: Keys | None = None
        self._state: State | None = None
        self._is_open = False

    @property
    def path(self) -> str:
        """Where it is, as the connection says."""
        return self._source.path

    def read(self) -> Keys:
        """
        Return the keys as they are in the file now.

        Raises ConfigError when they cannot be had. Once they were, the last good ones serve while
        the file is away or half written: allas-conf writes it line by line.
        """
        with self._lock:
            path = self._find()
            state = tuple(map(_look, (path, *_find_configs(path))))
            if self._keys is None:
                self._keys = self._load(path)
            elif state != self._state:
                self._keys = self._reload(path, self._keys)
            self._state = state
            return self._keys

    def _find(self) -> Path:
        try:
            return Path(self._source.path).expanduser()
        except RuntimeError:
            raise self._error("cannot be found: this user has no home directory here") from None

    def _reload(self, path: Path, known: Keys) -> Keys:
        try:
            return self._load(path)
        except ConfigError as error:
            log.warning("%s The keys read before are used.", error.message)
            return known

    def _load(self, path: Path) -> Keys:
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise self._error("is no file")
            if status.st_size > LARGEST_BYTES:
                raise self._error(f"has {status.st_size:,} bytes, too many for a file of keys")
            text = path.read_text("utf-8-sig")
        except UnicodeDecodeError:
            raise self._error("is no text") from None
        except OSError as error:
            raise self._error(
                f"cannot be read on this machine ({error.strerror}). It must be there, for the "
                "user Airflow runs as, wherever tasks run and where connections are tested"
            ) from error
        self._warn_if_open(status)
        sections = parse_sections(text, self._source.path)
        is_aws = any("aws_access_key_id" in options for options in sections.values())
        configs = map(_read_config, _find_configs(path) if is_aws else ())
        config = next(filter(None, configs), None)
        keys = choose_keys(sections, self._source.path, self._source.profile, config)
        if keys != self._keys:
            self._announce(keys)
            log.info("Access keys are those of [%s] in %s.", keys.profile, self._source.path)
        return keys

    def _warn_if_open(self, status: os.stat_result) -> None:
        is_open = bool(status.st_mode & (stat.S_IRGRP | stat.S_IROTH))
        if is_open and not self._is_open:
            log.warning(
                "Credentials file %s can be read by other users of this machine. "
                "Close it with: chmod go-rwx %s",
                self._source.path,
                self._source.path,
            )
        self._is_open = is_open

    def _error(self, problem: str) -> ConfigError:
        return ConfigError(
            f"Credentials file {self._source.path} {problem}.",
            path=self._source.path,
            profile=self._source.profile,
        )


def _find_configs(path: Path) -> list[Path]:
    """Return where the AWS CLI's other file would be; rclone's and s3cmd's have no such one."""
    return [path.with_name(name) for name in AWS_CONFIG_NAMES if name != path.name]


def _look(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read_config(path: Path) -> Sections | None:
    """Read the endpoints beside the credentials; what is no such file has none."""
    if not path.is_file():
        return None
    try:
        return parse_sections(path.read_text("utf-8-sig")[:LARGEST_BYTES], str(path))
    except (OSError, UnicodeDecodeError, ConfigError):
        return None
