"""Parts cover an object without gap or overlap, and there are never too many."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_csc.allas.endpoints import (
    MAX_PARTS,
    MAX_SINGLE_PUT_BYTES,
    MIN_PART_BYTES,
)
from airflow_provider_csc.allas.parts import (
    MAX_OBJECT_BYTES,
    MIB,
    MOST_PARTS,
    PART_BYTES,
    ETag,
    choose_part_size,
    cut,
    etag_of_parts,
    guess_part_sizes,
    parse_etag,
)
from airflow_provider_csc.notation import NotationError

SIZES = st.integers(0, MAX_OBJECT_BYTES)


@given(size=SIZES, wanted=st.integers(MIN_PART_BYTES, 5 * 1024**3))
@example(size=PART_BYTES * MOST_PARTS, wanted=PART_BYTES)
@example(size=PART_BYTES * MOST_PARTS + 1, wanted=PART_BYTES)
@example(size=MAX_OBJECT_BYTES, wanted=MIN_PART_BYTES)
def test_there_are_never_more_parts_than_the_protocol_allows(size: int, wanted: int) -> None:
    part_size = choose_part_size(size, wanted=wanted)
    assert part_size % MIB == 0
    assert wanted <= part_size
    assert -(-size // part_size) <= MAX_PARTS
    assert -(-size // part_size) <= MOST_PARTS or part_size == MAX_SINGLE_PUT_BYTES
    assert part_size == wanted + -wanted % MIB or size > wanted * MOST_PARTS


@given(size=st.integers(0, 5000), part_size=st.integers(1, 700))
@example(size=0, part_size=7)
@example(size=14, part_size=7)
def test_parts_cover_every_byte_once(size: int, part_size: int) -> None:
    parts = list(cut(size, part_size))
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert [byte for part in parts for byte in range(part.offset, part.offset + part.size)] == list(
        range(size)
    )
    assert all(part.size == part_size for part in parts[:-1])
    assert parts[-1].size > 0 or size == 0


@pytest.mark.parametrize("size", [-1, MAX_OBJECT_BYTES + 1])
def test_what_s3_does_not_store_is_refused(size: int) -> None:
    with pytest.raises(NotationError, match="5 TiB"):
        choose_part_size(size)


@pytest.mark.parametrize("wanted", [0, MIN_PART_BYTES - 1, 5 * 1024**3 + 1])
def test_parts_that_s3_does_not_take_are_refused(wanted: int) -> None:
    with pytest.raises(NotationError, match="between 5 MiB and 5 GiB"):
        choose_part_size(1, wanted=wanted)


MD5 = "d41d8cd98f00b204e9800998ecf8427e"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (MD5, ETag(MD5)),
        (f'"{MD5}"', ETag(MD5)),
        (f'"{MD5}-12"', ETag(MD5, 12)),
        (f"{MD5}-10000", ETag(MD5, 10_000)),
        (f"{MD5}-0", None),
        (f"{MD5}-", None),
        (MD5[:-1], None),
        (MD5.upper(), None),
        ("", None),
        ("0x8D9", None),
    ],
)
def test_an_etag_is_read_or_known_to_say_nothing(text: str, read: ETag | None) -> None:
    assert parse_etag(text) == read


def test_the_etag_of_parts_is_made_of_their_digests() -> None:
    """The MD5 of the digests, a hyphen, and how many they are."""
    digests = [hashlib.md5(bytes(5 * MIB)).digest(), hashlib.md5(b"x").digest()]
    whole = hashlib.md5(b"".join(digests)).hexdigest()
    assert str(etag_of_parts(digests)) == f"{whole}-2"
    assert parse_etag(str(etag_of_parts(digests))) == etag_of_parts(digests)


# ---- parts of other programs ----


@pytest.mark.parametrize(
    ("size", "part_size"),
    [
        (40 * MIB + 3, 5 * MIB),
        (40 * MIB + 3, 8 * MIB),
        (40 * MIB + 3, 15 * MIB),
        (200 * MIB, 32 * MIB),
        (10**9, 7_000_000),
        (20 * 1024**3, 5000 * MIB),
    ],
)
def test_the_part_size_of_an_upload_is_among_the_guesses(size: int, part_size: int) -> None:
    parts = len(list(cut(size, part_size)))
    guesses = list(guess_part_sizes(size, parts))
    assert part_size in guesses
    assert len(guesses) == len(set(guesses))
    # Each of them makes so many parts.
    assert {len(list(cut(size, guess))) for guess in guesses} == {parts}


def test_what_an_object_says_itself_comes_first() -> None:
    assert next(guess_part_sizes(40 * MIB, 5, told=9 * MIB)) == 9 * MIB
    # Unless it cannot be true.
    assert next(guess_part_sizes(40 * MIB, 5, told=MIB)) == 8 * MIB
    assert list(guess_part_sizes(123, 1)) == [123]
