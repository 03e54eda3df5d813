"""Until when a certificate is valid is read where it lies, and told to whom it concerns."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.transport.base import Hop, Secret, SshSettings
from airflow_provider_csc.transport.certificates import (
    Certificate,
    describe_shown,
    parse_certificate,
    read_certificate,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = asyncssh.generate_private_key("ssh-ed25519")
CA = asyncssh.generate_private_key("ssh-ed25519")
# 2026-11-22 10:00:00 UTC
NOON, HOUR, MINUTE = 1_795_341_600, 3600, 60


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path


def line(end: int, *, start: int = 0, key: asyncssh.SSHKey = KEY, names: Any = ("alice",)) -> str:
    signed = CA.generate_user_certificate(
        key, "test", principals=list(names), valid_after=start, valid_before=end
    )
    return signed.export_certificate().decode()


def settings(**changes: Any) -> SshSettings:
    return SshSettings(target=Hop(host="roihu-cpu.csc.fi", username="alice"), **changes)


def certificate(end: int = NOON, **changes: Any) -> Certificate:
    values: dict[str, Any] = {
        "valid_after": 0,
        "valid_before": end,
        "principals": ("alice",),
        "place": "at /keys/id-cert.pub",
    }
    return Certificate(**(values | changes))


def test_a_certificate_is_read() -> None:
    text = line(NOON, start=NOON - HOUR, names=("alice", "bob"))
    assert parse_certificate(text.encode(), "there") == Certificate(
        valid_after=NOON - HOUR, valid_before=NOON, principals=("alice", "bob"), place="there"
    )


@pytest.mark.parametrize(
    ("changes", "now", "said"),
    [
        ({}, NOON - 1, "Its certificate is valid until 2026-11-22 10:00:00 UTC for alice."),
        (
            {},
            NOON,
            (
                "Its certificate EXPIRED on 2026-11-22 10:00:00 UTC; renew it at /keys/id-cert.pub. "
                "Sign the public key anew (for CSC's Roihu in MyCSC, Profile, SSH PUBLIC KEYS, or with "
                "csc_cert.py)."
            ),
        ),
        (
            {"valid_after": NOON - MINUTE},
            NOON - HOUR,
            (
                "Its certificate is not valid before 2026-11-22 09:59:00 UTC; wait, or check the "
                "clock of this machine."
            ),
        ),
        (
            {"end": 2**64 - 1, "principals": ()},
            NOON,
            "Its certificate never expires; it is for any user.",
        ),
    ],
)
def test_a_certificate_is_described(changes: dict[str, Any], now: int, said: str) -> None:
    assert certificate(**changes).describe(now) == said


def test_the_test_of_a_connection_warns_in_the_last_hour() -> None:
    whole = "Its certificate is valid until 2026-11-22 10:00:00 UTC for alice."
    assert certificate().describe_rest(NOON - HOUR) == whole
    late = certificate().describe_rest(NOON - HOUR + 1)
    assert late.startswith(f"{whole} WARNING: that is in 59 min 59 s. Sign the public key anew")
    assert "WARNING" not in certificate().describe_rest(NOON + 1)


@pytest.mark.parametrize(
    ("left", "ends_by", "is_told"),
    [
        (2 * HOUR, None, False),
        (2 * HOUR - 1, None, True),
        (24 * HOUR, 24 * HOUR, False),
        (24 * HOUR, 24 * HOUR + 1, True),
        (MINUTE, 0, True),
        (-MINUTE, None, True),
    ],
)
def test_a_task_is_warned_of_a_certificate_that_ends_too_early(
    left: int, ends_by: int | None, is_told: bool
) -> None:
    now = NOON - left
    told = certificate().warn(now, None if ends_by is None else now + ends_by)
    assert bool(told) is is_told
    assert not told or "csc_cert.py), and put it at /keys/id-cert.pub" in told


def test_a_warning_says_until_when_and_how_long_the_job_may_run() -> None:
    told = certificate().warn(NOON - 24 * HOUR, NOON + HOUR)
    assert told.startswith(
        "The SSH certificate is valid until 2026-11-22 10:00:00 UTC, 24 h 0 min more, and the job "
        "may run until 2026-11-22 11:00:00 UTC. Sign the public key anew"
    )
    assert "EXPIRED on 2026-11-22 10:00:00 UTC; the connection" in certificate().warn(NOON + 1)


@pytest.mark.parametrize("end", [2**64 - 1, 2**60, 253_402_300_800])
def test_one_that_never_expires_is_no_matter(end: int) -> None:
    assert certificate(end=end).warn(NOON, NOON + 10**9) == ""
    assert "never expires" in certificate(end=end).describe(NOON)
    assert "9999" in certificate(end=end, valid_after=end - 1).describe(NOON)


@pytest.mark.asyncio
async def test_it_is_read_where_it_lies(home: Path) -> None:
    (home / "id").write_text("not read")
    beside = settings(key_file="~/id")
    assert await read_certificate(beside) is None
    (home / "id-cert.pub").write_text(line(NOON))
    found = await read_certificate(beside)
    assert found is not None
    assert (found.valid_before, found.place) == (NOON, "at ~/id-cert.pub")
    (home / "other").write_text(line(NOON + 1))
    named = await read_certificate(settings(key_file="~/id", certificate_file="~/other"))
    assert named is not None
    assert (named.valid_before, named.place) == (NOON + 1, "at ~/other")
    given = await read_certificate(
        settings(private_key=Secret(value="k"), certificate=line(NOON + 2))
    )
    assert given is not None
    assert (given.valid_before, given.place) == (NOON + 2, "in the connection")


@pytest.mark.asyncio
async def test_what_is_no_certificate_is_none_and_what_cannot_be_read_is_an_error(
    home: Path,
) -> None:
    plain = KEY.export_public_key().decode()
    for text in ("", "half of one", line(NOON)[:80], plain):
        (home / "id-cert.pub").write_text(text)
        assert await read_certificate(settings(key_file=str(home / "id"))) is None
    with pytest.raises(ConfigError):
        await read_certificate(settings(key_file="~/id", certificate_file="/no/such"))
    for path in ("~nobody-here/id", str(home / ("x" * 300))):
        with pytest.raises(ConfigError, match=r"certificate_file: .* cannot be read"):
            await read_certificate(settings(key_file=path))


@pytest.mark.asyncio
async def test_of_the_default_keys_the_one_counts_that_is_valid_longest(home: Path) -> None:
    assert await read_certificate(settings()) is None
    (home / ".ssh").mkdir()
    for name, end in (("id_rsa", NOON), ("id_ed25519", NOON + 1), ("id_ecdsa", NOON - 1)):
        (home / ".ssh" / f"{name}-cert.pub").write_text(line(end))
    found = await read_certificate(settings())
    assert found is not None
    assert found.place == f"at {home}/.ssh/id_ed25519-cert.pub"


@pytest.fixture
def agent(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An SSH agent of the test's own."""
    socket = home / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    # 1 is that it holds no key, 2 that it does not answer yet.
    while subprocess.run(["ssh-add", "-l"], check=False, capture_output=True).returncode != 1:
        assert process.poll() is None
    yield
    process.terminate()
    process.wait(10)


@pytest.mark.asyncio
async def test_a_certificate_in_the_agent_is_found(agent: None, home: Path) -> None:
    assert await read_certificate(settings()) is None
    end = int(datetime.now(UTC).timestamp()) + HOUR
    (home / "id").write_bytes(KEY.export_private_key())
    (home / "id").chmod(0o600)
    (home / "id-cert.pub").write_text(line(end))
    subprocess.run(["ssh-add", "-q", str(home / "id")], check=True, capture_output=True)
    found = await read_certificate(settings())
    assert found is not None
    assert (found.valid_before, found.place) == (end, "into the SSH agent, with ssh-add")
    assert "is valid until" in await describe_shown(settings(), [])
    # Who gives a key of his own is not let in by what the agent holds.
    assert await read_certificate(settings(private_key=Secret(value="k"))) is None
    assert "no certificate" in await describe_shown(settings(), [KEY])


@pytest.mark.asyncio
async def test_an_agent_that_is_gone_holds_none(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(home / "nowhere"))
    assert await read_certificate(settings()) is None
    assert "no certificate" in await describe_shown(settings(), [])


@pytest.mark.parametrize(
    ("left", "limit", "said"),
    [
        (3 * HOUR, None, None),
        (3 * HOUR, 3 * HOUR, None),
        (HOUR, None, "is valid until 2026-11-22 10:00:00 UTC, 1 h 0 min more."),
        (
            3 * HOUR,
            4 * HOUR,
            (
                "is valid until 2026-11-22 10:00:00 UTC, 3 h 0 min more, and a job of now may run "
                "until 2026-11-22 11:00:00 UTC."
            ),
        ),
        (0, None, "EXPIRED on 2026-11-22 10:00:00 UTC."),
    ],
)
def test_before_a_job_it_is_said_whether_it_ends_too_early(
    left: int, limit: int | None, said: str | None
) -> None:
    finding = certificate().find_expiry(NOON - left, limit)

    assert (finding and finding.what) == (said and f"The SSH certificate {said}")
    if finding:
        assert finding.remedy.endswith("and put it at /keys/id-cert.pub.")
