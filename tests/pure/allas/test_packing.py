"""What an archive says of itself, how it is cut, and that none of its names leads anywhere else."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_csc.allas.endpoints import MAX_PARTS
from airflow_provider_csc.allas.packing import (
    SEAL_BYTES,
    Seal,
    TreeDigest,
    check_link,
    member_path,
    packed_bytes,
    parse_seal,
    render_seal,
)
from airflow_provider_csc.allas.parts import (
    MAX_OBJECT_BYTES,
    MIB,
    MOST_HELD_BYTES,
    MOST_PARTS,
    PART_BYTES,
    choose_packed_part_size,
    guess_part_sizes,
)
from airflow_provider_csc.allas.plan import Item
from airflow_provider_csc.notation import NotationError

GIB = 1024 * MIB

# ---- parts ----


@given(most=st.integers(0, 10 * MAX_OBJECT_BYTES))
@example(most=PART_BYTES // 2 * MOST_PARTS)
@example(most=PART_BYTES // 2 * MOST_PARTS + 1)
@example(most=MOST_HELD_BYTES * MOST_PARTS + 1)
@example(most=MOST_HELD_BYTES * MAX_PARTS)
def test_parts_of_what_is_packed_fit_into_memory_and_into_the_protocol(most: int) -> None:
    part_size = choose_packed_part_size(most)
    assert PART_BYTES // 2 <= part_size <= MOST_HELD_BYTES
    assert part_size % MIB == 0
    count = -(-most // part_size)
    assert count <= MOST_PARTS or part_size == MOST_HELD_BYTES
    assert count <= MAX_PARTS or most >= 625 * GIB


@pytest.mark.parametrize(
    ("most", "mib"), [(0, 16), (15 * GIB, 16), (40 * GIB, 41), (62 * GIB, 64), (2000 * GIB, 64)]
)
def test_parts_grow_with_what_may_become_of_a_tree(most: int, mib: int) -> None:
    assert choose_packed_part_size(most) == mib * MIB


@given(most=st.integers(1, 600 * GIB), share=st.floats(0.001, 1))
def test_who_verifies_a_packed_object_cuts_it_alike(most: int, share: float) -> None:
    """The object tells its part size, whatever became of what it could have become."""
    part_size, size = choose_packed_part_size(most), max(int(most * share), 1)
    parts = -(-size // part_size)
    assert next(guess_part_sizes(size, parts, told=part_size)) in (part_size, size)


@given(
    size=st.integers(0, 10**13), name=st.text(st.characters(exclude_characters="\0"), min_size=1)
)
def test_a_file_never_takes_more_than_was_counted(size: int, name: str) -> None:
    from airflow_provider_csc.store.pack import _header

    try:
        header = _header(Item(name, size, 1.0), b"0", 0o644)
    except UnicodeEncodeError:
        return  # surrogates; a tree has none
    assert len(header) + size + 511 < packed_bytes(Item(name, size)) + 1024


# ---- seals ----

SEAL = Seal(files=10**12, bytes=10**18, content="c" * 64, listing="f" * 64)


def test_a_seal_is_read_again() -> None:
    data = render_seal(SEAL)
    assert len(data) == SEAL_BYTES
    assert parse_seal(data) == SEAL


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(SEAL_BYTES),
        render_seal(SEAL)[:-1] + b"}",
        render_seal(SEAL).replace(b"airflow-provider-csc 1", b"airflow-provider-csc 2"),
        render_seal(SEAL).replace(b'"files": 1', b'"files": "'),
        render_seal(SEAL)[:8] + b"\xff" * (SEAL_BYTES - 8),
        render_seal(SEAL)[:8] + b"[]".ljust(SEAL_BYTES - 8),
    ],
)
def test_what_is_no_seal_of_ours_is_none(data: bytes) -> None:
    assert parse_seal(data) is None


def seal_of(*members: tuple[Item, bool, bytes]) -> Seal:
    digest = TreeDigest()
    for item, is_executable, content in members:
        digest.begin(item, is_executable=is_executable)
        digest.update(memoryview(content))
    return digest.seal()


PLAIN = (Item("a", 1, 5.5), False, b"x")


@pytest.mark.parametrize(
    ("other", "is_content", "is_listing"),
    [
        ((Item("a", 1, 5.9), False, b"x"), True, True),
        ((Item("a", 1, 6.0), False, b"x"), True, False),
        ((Item("a", 1, 5.5), True, b"x"), False, True),
        ((Item("a", 1, 5.5), False, b"y"), False, True),
        ((Item("b", 1, 5.5), False, b"x"), False, False),
        ((Item("a", 2, 5.5), False, b"xx"), False, False),
    ],
)
def test_a_seal_tells_what_changed(
    other: tuple[Item, bool, bytes], is_content: bool, is_listing: bool
) -> None:
    one, two = seal_of(PLAIN), seal_of(other)
    assert (one.content == two.content) is is_content
    assert (one.listing == two.listing) is is_listing


def test_contents_do_not_run_into_names() -> None:
    one = seal_of((Item("a", 1), False, b"x"), (Item("b", 0), False, b""))
    two = seal_of((Item("a", 11), False, b"xb\x000\0file\n"))
    assert one.content != two.content


# ---- names ----


@pytest.mark.parametrize(
    ("name", "path"),
    [("a/b", "a/b"), ("./a//b/", "a/b"), (".", ""), ("./", ""), ("a..b/...", "a..b/...")],
)
def test_names_become_paths(name: str, path: str) -> None:
    assert member_path(name) == path


@pytest.mark.parametrize("name", ["/a", "..", "../a", "a/../b", "a/..", "a\0b", "//a"])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(NotationError, match="outside of the directory"):
        member_path(name)


@pytest.mark.parametrize(
    ("path", "target"),
    [("l", "a"), ("a/l", "../b"), ("a/b/l", "../../c/d"), ("a/l", ".."), ("l", "./a/"), ("l", ".")],
)
def test_links_within_the_directory_are_taken(path: str, target: str) -> None:
    check_link(path, target)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("l", "/etc/passwd"),
        ("l", ".."),
        ("a/l", "../../x"),
        # Where a/b is a link to a/.., these are outside.
        ("l", "a/b/../.."),
        ("a/l", "b/../../.."),
        ("l", ""),
        ("l", "a\0"),
    ],
)
def test_links_that_may_lead_elsewhere_are_refused(path: str, target: str) -> None:
    with pytest.raises(NotationError, match="may lie outside"):
        check_link(path, target)


SEGMENTS = st.sampled_from(["..", "..", ".", "a", "b", "c"])
PATHS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4).map("/".join)
TARGETS = st.lists(SEGMENTS, min_size=1, max_size=6).map("/".join)


@given(links=st.lists(st.tuples(PATHS, TARGETS), max_size=6))
@example(links=[("a/b", "."), ("c", "a/b/b/b/../../..")])
def test_no_chain_of_links_leads_out(links: list[tuple[str, str]]) -> None:
    """Each is made, as the writer does it, where no other link leads to its place."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name).resolve() / "top"
        top.mkdir()
        for path, target in links:
            place = top / path
            try:
                check_link(path, target)
                place.parent.mkdir(parents=True, exist_ok=True)
                if os.path.realpath(place.parent) != str(place.parent):
                    continue
                place.symlink_to(target)
            except (NotationError, OSError):
                continue
        for place in top.rglob("*"):
            real = os.path.realpath(place)
            assert real == str(top) or real.startswith(f"{top}/")
