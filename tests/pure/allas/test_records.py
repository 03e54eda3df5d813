"""The rules of records: what metadata says, and what became of a write whose answer was lost."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.allas.records import (
    ABSENT,
    MAX_METADATA_BYTES,
    MAX_RECENT,
    MAX_WRITER_BYTES,
    EtagForm,
    Fate,
    Stamp,
    Verdict,
    Write,
    WriteId,
    build_body,
    build_history_key,
    build_history_metadata,
    build_line,
    build_metadata,
    build_stamp,
    choose_pause,
    is_history_key,
    judge_refusal,
    judge_write,
    parse_metadata,
    parse_modified,
    shorten_writer,
)

BORN = dt.datetime(2026, 11, 21, 22, 43, 0, tzinfo=dt.UTC)
LINE = build_line(BORN, "abcdef01")


def stamp_of(*writes: tuple[str, int], line: str = LINE, root: str = ABSENT) -> Stamp:
    """The stamp after these writes, of one line from its beginning."""
    stamp: Stamp | None = None
    for session, number in writes:
        stamp = build_stamp(stamp, root, line, session, WriteId(session, number))
    assert stamp is not None
    return stamp


# Metadata


def test_metadata_says_what_the_stamp_does() -> None:
    stamp = stamp_of(("a", 1), ("b", 7), ("a", 2))
    assert build_metadata(stamp) == {
        "csc-version": "3",
        "csc-writer": "a",
        "csc-line": f"{LINE} none",
        "csc-recent": "a.2 b.7",
    }
    assert parse_metadata(build_metadata(stamp), build_body("1", stamp.write_id)) == stamp


@given(st.text(min_size=1))
def test_every_name_of_a_writer_becomes_ascii_that_fits(name: str) -> None:
    name = name.encode(errors="replace").decode()
    writer = shorten_writer(name)
    stamp = build_stamp(None, ABSENT, LINE, writer, WriteId("a", 1))
    metadata = build_metadata(stamp)
    assert metadata["csc-writer"].isascii()
    assert metadata["csc-writer"].isprintable()
    assert len(metadata["csc-writer"]) <= MAX_WRITER_BYTES
    read = parse_metadata(metadata, build_body("1", stamp.write_id))
    assert read is not None
    assert read.writer == writer


def test_the_largest_metadata_fits_where_s3_ends() -> None:
    writes = [("x" * 8, n) for n in range(1)] + [(f"{n:08}", 10**6) for n in range(300)]
    stamp = stamp_of(*writes, root="d" * 36)
    stamp = Stamp(
        version=10**9,
        writer=shorten_writer("ä" * 500),
        line=stamp.line,
        root=stamp.root,
        recent=stamp.recent,
    )
    metadata = build_history_metadata(stamp, BORN)
    assert sum(len(name) + len(value) for name, value in metadata.items()) < MAX_METADATA_BYTES
    assert parse_metadata(metadata, build_body("1", stamp.write_id)) == stamp
    assert parse_modified(metadata) == BORN


@pytest.mark.parametrize(
    "changed",
    [
        {"csc-version": "x"},
        {"csc-version": "0"},
        {"csc-line": "nonsense none"},
        {"csc-line": LINE},
        {"csc-recent": ""},
        {"csc-recent": "a.b c"},
        {"csc-recent": "other.9"},
    ],
)
def test_metadata_that_is_not_ours_is_none(changed: dict[str, str]) -> None:
    stamp = stamp_of(("a", 1))
    body = build_body("1", stamp.write_id)
    assert parse_metadata(build_metadata(stamp) | changed, body) is None


def test_no_metadata_or_another_content_is_no_stamp() -> None:
    stamp = stamp_of(("a", 1))
    assert parse_metadata({}, b"1") is None
    assert parse_metadata(build_metadata(stamp), b"1") is None
    assert parse_metadata(build_metadata(stamp), build_body("1", WriteId("a", 2))) is None
    assert parse_modified({}) is None


def test_the_blanks_of_a_body_are_nothing_but_blanks() -> None:
    body = build_body('{"a":1}', WriteId("a", 1))
    assert body.strip() == b'{"a":1}'
    assert body != build_body('{"a":1}', WriteId("a", 2))


# Fates


def write_of(base: Stamp | None, session: str, number: int, etag: str = "base") -> Write:
    base_etag = etag if base else ABSENT
    line = build_line(BORN, "12345678")
    stamp = build_stamp(base, base_etag, line, session, WriteId(session, number))
    return Write(stamp=stamp, base_etag=base_etag, base=base)


@given(
    before=st.lists(st.integers(0, 150), min_size=1, max_size=40),
    after=st.lists(st.integers(0, 150), min_size=1, max_size=220),
    is_stored=st.booleans(),
    is_old_session=st.booleans(),
)
def test_a_lost_write_is_told_from_what_is_there_later(
    before: list[int], after: list[int], *, is_stored: bool, is_old_session: bool
) -> None:
    """For any writes of up to 151 sessions before and after; my own session is one or is new."""
    numbers = dict.fromkeys(range(151), 0)

    def add(stamp: Stamp | None, session: int) -> Stamp:
        numbers[session] += 1
        return build_stamp(stamp, ABSENT, LINE, "w", WriteId(f"s{session}", numbers[session]))

    base: Stamp | None = None
    for session in before:
        base = add(base, session)
    assert base is not None
    mine = f"s{before[0]}" if is_old_session else "mine"
    write = write_of(base, mine, 1000)
    now = write.stamp if is_stored else base
    for session in after:
        if f"s{session}" != mine:
            now = add(now, session)
    if now is base:
        return
    fate = judge_write(write, "now", now)
    sessions = {f"s{session}" for session in after}
    if len(sessions) <= MAX_RECENT - 1:
        assert fate is (Fate.STORED if is_stored else Fate.SUPERSEDED)
    else:
        right = Fate.STORED if is_stored else Fate.SUPERSEDED
        assert fate in (right, Fate.UNKNOWN)


def test_an_unchanged_object_leaves_it_open() -> None:
    base = stamp_of(("a", 1))
    assert judge_write(write_of(base, "me", 1), "base", base) is Fate.OPEN
    assert judge_write(write_of(None, "me", 1), ABSENT, None) is Fate.OPEN


def test_who_created_the_object_first_has_superseded_ours() -> None:
    write = write_of(None, "me", 1)
    other = stamp_of(("a", 1), ("b", 1))
    assert judge_write(write, "now", other) is Fate.SUPERSEDED


def test_what_was_built_upon_our_creation_shows_it() -> None:
    write = write_of(None, "me", 1)
    later = write.stamp
    for number in range(300):
        later = build_stamp(later, ABSENT, "unused", "w", WriteId(f"s{number}", 1))
    assert later.find("me") is None
    assert judge_write(write, "now", later) is Fate.STORED


def test_a_rival_upon_the_same_foreign_value_has_superseded_ours() -> None:
    write = Write(
        stamp=build_stamp(None, "foreign", LINE, "w", WriteId("me", 1)),
        base_etag="foreign",
        base=None,
    )
    rival = stamp_of(("a", 1), line=build_line(BORN, "99"), root="foreign")
    assert judge_write(write, "now", rival) is Fate.SUPERSEDED
    elsewhere = stamp_of(("a", 1), line=build_line(BORN, "99"), root="another")
    assert judge_write(write, "now", elsewhere) is Fate.UNKNOWN


def test_a_write_without_a_stamp_or_a_deletion_hides_ours() -> None:
    write = write_of(stamp_of(("a", 1)), "me", 1)
    assert judge_write(write, "now", None) is Fate.UNKNOWN
    assert judge_write(write, ABSENT, None) is Fate.UNKNOWN
    other_line = stamp_of(("a", 1), line=build_line(BORN, "99"))
    assert judge_write(write, "now", other_line) is Fate.UNKNOWN


def test_a_session_that_went_on_without_us_is_a_riddle() -> None:
    base = stamp_of(("a", 1))
    write = write_of(base, "me", 1)
    later = build_stamp(base, ABSENT, LINE, "w", WriteId("me", 2))
    assert judge_write(write, "now", later) is Fate.UNKNOWN


# Answers, conditions, pauses


@pytest.mark.parametrize(
    ("code", "status", "verdict"),
    [
        ("PreconditionFailed", 412, Verdict.CONFLICT),
        ("ConditionalRequestConflict", 409, Verdict.CONFLICT),
        ("NoSuchKey", 404, Verdict.CONFLICT),
        ("404", 404, Verdict.REFUSED),
        ("NoSuchBucket", 404, Verdict.REFUSED),
        ("UnknownError", 500, Verdict.LOST),
        ("SlowDown", 503, Verdict.LOST),
        ("RequestTimeout", 408, Verdict.LOST),
        ("AccessDenied", 403, Verdict.REFUSED),
        ("QuotaExceeded", 403, Verdict.REFUSED),
        ("EntityTooLarge", 400, Verdict.REFUSED),
    ],
)
def test_a_refusal_is_a_conflict_a_riddle_or_final(
    code: str, status: int, verdict: Verdict
) -> None:
    assert judge_refusal(code, status) is verdict


def test_etags_are_sent_in_quotes_or_bare() -> None:
    assert [form.render("abc") for form in EtagForm] == ['"abc"', "abc"]


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_pauses_are_drawn_from_zero_to_a_bound_that_grows(conflicts: int, drawn: float) -> None:
    pause = choose_pause(conflicts, drawn)
    assert 0 <= pause <= 1.0
    assert choose_pause(0, 1.0) < choose_pause(3, 1.0) <= choose_pause(30, 1.0)


# History


def test_keys_of_old_versions_sort_as_the_versions_followed() -> None:
    foreign = build_history_key("h/", "0123456789ab", BORN, None)
    first = stamp_of(("a", 1), root="0123456789ab")
    stamps = [stamp_of(*[("a", n) for n in range(1, count + 1)]) for count in (1, 2, 12)]
    later = stamp_of(("a", 1), line=build_line(BORN + dt.timedelta(seconds=1), "00"))
    keys = [
        foreign,
        *(build_history_key("h/", "x", BORN, stamp) for stamp in stamps),
        build_history_key("h/", "x", BORN, later),
    ]
    assert keys == sorted(keys)
    assert all(is_history_key("h/", key) for key in keys)
    assert first.root == "0123456789ab"


@pytest.mark.parametrize("key", ["h/x.json", "h/", "g/20261121T224300Z-1-ab-0000000001.json"])
def test_other_objects_below_the_prefix_are_not_versions(key: str) -> None:
    assert not is_history_key("h/", key)
