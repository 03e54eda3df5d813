"""Keys from a real file, while others rewrite it."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

import pytest

from airflow_provider_csc.allas.connection import KeySource
from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.transport.key_file import KeyFile

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_csc.allas.credentials import Keys

SECRET = "s3cr3t-never-shown"


def text(number: int = 1) -> str:
    """A file as allas-conf writes it; key and secret of one number belong together."""
    return f"[default]\nAWS_ACCESS_KEY_ID=KEY{number}\nAWS_SECRET_ACCESS_KEY={SECRET}{number}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "credentials"
    path.touch(0o600)
    path.write_text(text())
    return path


def open_file(path: Path | str, profile: str | None = None) -> tuple[KeyFile, list[Keys]]:
    announced: list[Keys] = []
    return KeyFile(KeySource(path=str(path), profile=profile), announced.append), announced


def rewrite(path: Path, content: str) -> None:
    """Change a file so that its time tells, on file systems of coarse time too."""
    before = path.stat().st_mtime_ns
    path.write_text(content)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def test_keys_are_announced_once_and_read_anew_when_the_file_changes(path: Path) -> None:
    file, announced = open_file(path)
    assert file.read() is file.read()
    rewrite(path, text(2))
    assert file.read().access_key == "KEY2"
    assert [keys.access_key for keys in announced] == ["KEY1", "KEY2"]


def test_a_link_that_is_turned_to_another_file_is_followed(tmp_path: Path, path: Path) -> None:
    """allas-conf makes ~/.s3cfg a link to the file of the last project."""
    (tmp_path / "other").write_text(text(2))
    link = tmp_path / "link"
    link.symlink_to(path)
    file, _ = open_file(link)
    assert file.read().access_key == "KEY1"
    link.unlink()
    link.symlink_to(tmp_path / "other")
    assert file.read().access_key == "KEY2"


def test_the_endpoint_comes_from_the_config_beside_it(path: Path) -> None:
    file, _ = open_file(path)
    assert file.read().endpoint_url is None
    path.with_name("config").write_text("[default]\nendpoint_url = https://a3s.fi\n")
    assert file.read().endpoint_url == "https://a3s.fi"


@pytest.mark.parametrize("name", ["config", "aws-config"])
def test_lumio_confs_names_of_that_file_are_known(path: Path, name: str) -> None:
    path.with_name(name).write_text("[default]\nendpoint_url = https://lumidata.eu\n")
    assert open_file(path)[0].read().endpoint_url == "https://lumidata.eu"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"no section\n", b"[default]\nregion = x\n"])
def test_what_is_no_config_of_aws_has_no_endpoint(path: Path, content: bytes) -> None:
    path.with_name("config").write_bytes(content)
    assert open_file(path)[0].read().endpoint_url is None


def test_a_file_of_s3cmd_has_no_config_beside_it(path: Path) -> None:
    path.with_name("config").write_text("[default]\nendpoint_url = https://other\n")
    path.write_text(f"[default]\naccess_key = KEY1\nsecret_key = {SECRET}\n")
    assert open_file(path)[0].read().endpoint_url is None


@pytest.mark.parametrize("content", ["", "[default]\nAWS_ACCESS_KEY_ID=KEY2\n", None])
def test_a_file_that_is_half_written_or_away_leaves_the_last_keys_in_use(
    path: Path, caplog: pytest.LogCaptureFixture, content: str | None
) -> None:
    file, _ = open_file(path)
    keys = file.read()
    if content is None:
        path.unlink()
    else:
        rewrite(path, content)
    assert file.read() is file.read() is keys
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "The keys read before are used." in warnings[0]
    path.write_text(text(3))
    assert file.read().access_key == "KEY3"


def test_a_pair_is_never_mixed_from_two_while_the_file_is_rewritten(path: Path) -> None:
    file, _ = open_file(path)
    file.read()
    mixed: list[tuple[str, str]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            keys = file.read()
            if keys.access_key.removeprefix("KEY") != keys.secret_key.removeprefix(SECRET):
                mixed.append((keys.access_key, keys.secret_key))

    watchers = [threading.Thread(target=watch) for _ in range(4)]
    for watcher in watchers:
        watcher.start()
    for number in range(200):
        path.write_text(text(number))
    done.set()
    for watcher in watchers:
        watcher.join()
    assert mixed == []
    rewrite(path, text(7))
    assert file.read().access_key == "KEY7"


@pytest.mark.parametrize(("mode", "is_warned"), [(0o600, False), (0o640, True), (0o604, True)])
def test_a_file_that_others_can_read_is_warned_of_once(
    path: Path, caplog: pytest.LogCaptureFixture, mode: int, is_warned: bool
) -> None:
    path.chmod(mode)
    file, _ = open_file(path)
    file.read()
    rewrite(path, text(2))
    file.read()
    warned = [r for r in caplog.records if f"chmod go-rwx {path}" in r.getMessage()]
    assert len(warned) == is_warned


def test_the_log_names_profile_and_file_and_no_key(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    open_file(path)[0].read()
    assert f"Access keys are those of [default] in {path}." in caplog.text
    assert SECRET not in caplog.text


def test_what_is_no_file_of_keys_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large").write_text("x" * 1_000_001)
    os.mkfifo(tmp_path / "pipe")
    for name, said in {
        "absent": "cannot be read on this machine (No such file or directory)",
        "": "is no file",
        "pipe": "is no file",
        "binary": "is no text",
        "large": "has 1,000,001 bytes",
    }.items():
        with pytest.raises(ConfigError) as caught:
            open_file(tmp_path / name)[0].read()
        assert said in caught.value.message
        assert str(tmp_path / name) in caught.value.message


def test_a_home_directory_may_be_meant(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(path.parent))
    assert open_file("~/credentials")[0].read().access_key == "KEY1"
    with pytest.raises(ConfigError, match="no home directory here"):
        open_file("~nobody-of-this-name/credentials")[0].read()
