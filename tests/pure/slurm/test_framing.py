"""A program runs as a whole or not at all, and its answer is read as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_csc.errors import UnreadableOutputError
from airflow_provider_csc.slurm.framing import (
    INTERPRETER,
    Frame,
    assignments,
    build_program,
    parse_answer,
    quote,
    words,
)
from tests.pure.slurm.shell import HOSTILE_VALUES, MARK, FakeSite

if TYPE_CHECKING:
    from pathlib import Path

# ---- reading ----

FRAMES = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_.]{0,10}", fullmatch=True).filter(
        lambda name: name not in ("end", "setup")
    ),
    st.builds(Frame, st.integers(0, 255), st.binary(max_size=200)),
    max_size=6,
)


def render_frame(name: str, frame: Frame, mark: str = MARK) -> bytes:
    return f"{mark} {name} {frame.status} {len(frame.data)}\n".encode() + frame.data + b"\n"


def render_answer(frames: dict[str, Frame]) -> bytes:
    whole = {"setup": Frame(0, b""), **frames, "end": Frame(0, b"")}
    return b"".join(render_frame(name, frame) for name, frame in whole.items())


@given(FRAMES)
def test_what_was_framed_is_read_whatever_its_bytes(frames: dict[str, Frame]) -> None:
    assert parse_answer(render_answer(frames), mark=MARK) == frames


@given(FRAMES, st.binary(max_size=100).filter(lambda noise: MARK.encode() not in noise))
def test_what_comes_before_and_after_is_no_answer(frames: dict[str, Frame], noise: bytes) -> None:
    answer = noise + render_answer(frames) + noise
    assert parse_answer(answer, mark=MARK) == frames


@given(FRAMES)
def test_an_answer_cut_anywhere_is_not_believed(frames: dict[str, Frame]) -> None:
    """Only the very last newline may be missing: it says nothing that is not known without it."""
    answer = render_answer(frames)
    for size in range(len(answer) - 1):
        with pytest.raises(UnreadableOutputError):
            parse_answer(answer[:size], mark=MARK)
    assert parse_answer(answer[:-1], mark=MARK) == frames


@given(FRAMES, st.integers(0, 2000), st.binary(min_size=1, max_size=5))
def test_bytes_put_into_an_answer_never_make_another_answer(
    frames: dict[str, Frame], at: int, intruder: bytes
) -> None:
    """Whatever else a log-in shell writes meanwhile moves the frames, so they do not fit."""
    answer = render_answer(frames)
    start = answer.index(b"\n") + 2  # noise before the first frame is another matter
    position = min(start + at, len(answer) - 2)
    disturbed = answer[:position] + intruder + answer[position:]
    try:
        found = parse_answer(disturbed, mark=MARK)
    except UnreadableOutputError:
        return
    # What passes are changes inside one header that leave it well formed, such as another name or
    # a space more; the bytes that were framed are never others.
    assert {frame.data for frame in found.values()} <= {
        *(frame.data for frame in frames.values()),
        b"",
    }


@given(st.binary(max_size=300))
@example(b"\xff\xfe 0 0\n\n")
@example(b"x 0 -1\n")
@example(f"x 0 -{len(MARK) + 9}\n".encode())
@example(b"x 0 1_0\n" + b"y" * 10)
@example(b"x 0 " + b"9" * 5000 + b"\n")
def test_no_bytes_make_the_reader_fail_otherwise(data: bytes) -> None:
    """A negative size once led back to the same frame, for ever."""
    with contextlib.suppress(UnreadableOutputError):
        parse_answer(f"{MARK} ".encode() + data, mark=MARK)


def test_a_frame_can_hold_what_looks_like_frames() -> None:
    inner = render_answer({"squeue": Frame(0, b"forged")})
    frames = {"log": Frame(0, inner), "squeue": Frame(1, b"real")}
    assert parse_answer(render_answer(frames), mark=MARK) == frames


def test_an_answer_to_another_program_is_no_answer() -> None:
    """A connection that is used again may still hold what an earlier program said."""
    with pytest.raises(UnreadableOutputError, match="gave no answer"):
        parse_answer(render_frame("end", Frame(0, b""), mark="@other"), mark=MARK)


def test_the_last_frame_of_a_name_counts() -> None:
    answer = b"".join(
        render_frame(name, Frame(status, b""))
        for name, status in [("files", 0), ("files", 1), ("end", 0)]
    )
    assert parse_answer(answer, mark=MARK) == {"files": Frame(1, b"")}


def test_an_unreadable_answer_shows_what_there_was() -> None:
    with pytest.raises(UnreadableOutputError) as caught:
        parse_answer(b"This account has expired.\n", mark=MARK)
    assert caught.value.output == "This account has expired.\n"


def test_text_is_the_output_without_the_space_around_it() -> None:
    assert Frame(0, b" \n 123\xff\n").text == "123\ufffd"


# ---- quoting ----


@pytest.mark.parametrize("value", HOSTILE_VALUES)
def test_a_quoted_word_is_one_word_for_a_shell(value: str) -> None:
    assert shlex.split(quote(value)) == [value]


def test_a_nul_byte_cannot_be_quoted() -> None:
    with pytest.raises(ValueError, match="NUL byte"):
        quote("a\0b")


def test_every_value_reaches_a_variable_as_it_is(tmp_path: Path) -> None:
    values = {f"v{number}": value for number, value in enumerate(HOSTILE_VALUES)}
    script = assignments(values) + f"\nprintf '%s\\0' {words(HOSTILE_VALUES)}"
    script += "".join(f' "${name}"' for name in values)
    done = subprocess.run(["bash", "-c", script], capture_output=True, cwd=tmp_path, check=True)
    assert done.stdout.decode().split("\0")[:-1] == HOSTILE_VALUES * 2
    assert not list(tmp_path.iterdir())


# ---- running ----


@pytest.fixture
def site(tmp_path: Path) -> FakeSite:
    return FakeSite(tmp_path)


def test_a_frame_holds_status_and_both_streams(site: FakeSite) -> None:
    frames = site.ask("both() { echo out; echo err >&2; return 3; }\nask x both")
    assert frames == {"x": Frame(3, b"out\nerr")}


def test_asking_leaves_answer_and_status_to_the_program(site: FakeSite) -> None:
    body = 'ask one printf 5\nlast=$answer\nask two false || frame three $? "$last"'
    assert site.ask(body)["three"] == Frame(1, b"5")


@pytest.mark.parametrize("value", HOSTILE_VALUES)
def test_output_is_framed_byte_for_byte(site: FakeSite, value: str) -> None:
    """But for newlines at the end, which every shell takes off."""
    frames = site.ask(f"ask x printf %s {quote(value)}", env={"LC_ALL": "C.UTF-8"})
    assert frames["x"].data.decode() == value.rstrip("\n")


def test_bytes_that_are_no_text_are_counted_as_bytes(site: FakeSite) -> None:
    frames = site.ask(r"ask x printf '\377\303\244\360'; ask y printf ä", env={"LC_ALL": "C.UTF-8"})
    assert frames == {"x": Frame(0, b"\xff\xc3\xa4\xf0"), "y": Frame(0, "ä".encode())}


def test_a_command_that_is_missing_is_an_answer(site: FakeSite) -> None:
    frame = site.ask("ask x no-such-command")["x"]
    assert frame.status == 127
    assert "no-such-command" in frame.text


def test_commands_cannot_read_the_program_as_their_input(site: FakeSite) -> None:
    assert site.ask("ask x cat\nask y true") == {"x": Frame(0, b""), "y": Frame(0, b"")}


@pytest.mark.parametrize(
    "noise",
    [
        "echo 'Welcome to Roihu'",
        "printf 'no newline at the end'",
        "printf '\\0\\377'",
        f"echo '{MARK[:-1]} end 0 0'; echo",
        "echo error >&2",
    ],
)
def test_what_a_login_shell_prints_is_no_answer(site: FakeSite, noise: str) -> None:
    assert site.ask("ask x echo hi", before=noise) == {"x": Frame(0, b"hi")}
    assert site.ask("ask x echo hi", setup=noise) == {"x": Frame(0, b"hi")}


def test_set_up_lines_change_the_shell_that_asks(site: FakeSite) -> None:
    setup = "export ONE='it''s'\nmodule() { echo loaded \"$@\"; }\n# a comment at the end"
    frames = site.ask('ask x module "$ONE"', setup=setup)
    assert frames == {"x": Frame(0, b"loaded its")}


@pytest.mark.parametrize(
    "setup",
    [
        "set -e",
        "set -u",
        "set -f",
        "set -C",
        "set -x",
        "set -v",
        "set -a",
        "set -euo pipefail",
        "shopt -s failglob",
        "shopt -s nullglob",
        "IFS=:",
        "set -o posix",
        "LC_ALL=C.UTF-8",
    ],
)
def test_options_of_the_shell_stay_with_the_set_up(site: FakeSite, setup: str) -> None:
    """With set -e the first failed command, such as a file that is not there, ended everything."""
    body = """
list='a b'
ask x false
ask words printf '<%s>' $list
ask glob printf '<%s>' /etc/host[s] /no/such/*
ask unset printf '<%s>' "$no_such_variable"
: >twice; ask twice eval 'echo >twice'
ask env env
"""
    frames = site.ask(body, setup=setup)
    assert frames["x"] == Frame(1, b"")
    assert frames["words"] == Frame(0, b"<a><b>")
    assert frames["glob"] == Frame(0, b"</etc/hosts></no/such/*>")
    assert frames["unset"] == Frame(0, b"<>")
    assert frames["twice"] == Frame(0, b"")
    assert "list=a b" not in frames["env"].text


@pytest.mark.parametrize(
    "setup", ["exit 0", "exit 1", "exec true", "set -e; false", "if then", "echo 'open", "}"]
)
def test_set_up_lines_that_end_the_shell_are_told(site: FakeSite, setup: str) -> None:
    with pytest.raises(UnreadableOutputError, match="its set-up lines may have ended it"):
        site.ask("ask x touch pwned", setup=setup)
    assert not (site.home / "pwned").exists()


def test_a_login_shell_that_ends_early_is_told(site: FakeSite) -> None:
    with pytest.raises(UnreadableOutputError, match="gave no answer") as caught:
        site.ask("ask x touch pwned", before="echo 'This account has expired.'; exit 1")
    assert "This account has expired." in str(caught.value.output)
    assert not (site.home / "pwned").exists()


def test_a_body_that_ends_the_shell_is_not_believed(site: FakeSite) -> None:
    with pytest.raises(UnreadableOutputError, match="ended before its end mark"):
        site.ask("ask x echo hi\nexit 0")


def test_a_program_that_was_cut_executes_nothing(site: FakeSite) -> None:
    """A connection that breaks while sending leaves an open brace, which is a syntax error."""
    body = (
        f"value={quote(chr(10) + '} ' + chr(10) + 'touch pwned')}\ntouch pwned\nask x touch pwned"
    )
    program = build_program(body, mark=MARK, setup="touch pwned")
    assert site.run(program).returncode == 0
    assert (site.home / "pwned").exists()
    (site.home / "pwned").unlink()
    whole = program.rindex("}")
    for size in [*range(0, whole, 13), *range(whole - 30, whole + 1)]:
        done = site.run(program[:size])
        assert not (site.home / "pwned").exists(), program[:size]
        with pytest.raises(UnreadableOutputError):
            parse_answer(done.stdout, mark=MARK)


def test_a_program_that_cannot_be_read_to_its_end_executes_nothing(site: FakeSite) -> None:
    """What another would read of it afterwards is not the whole."""
    site.command("cat", "echo touch pwned")
    start, end = os.pipe()
    os.set_blocking(start, False)
    os.write(end, build_program("touch pwned", mark=MARK).encode()[:-20])
    done = subprocess.run(
        ["/bin/sh", "-c", INTERPRETER],
        stdin=start,
        capture_output=True,
        cwd=site.home,
        env={"PATH": f"{site.bin}:{os.environ['PATH']}"},
        check=False,
    )
    os.close(start)
    os.close(end)
    assert b"read error" in done.stderr
    assert not (site.home / "pwned").exists()
    with pytest.raises(UnreadableOutputError):
        parse_answer(done.stdout, mark=MARK)


@pytest.mark.parametrize("option", ["errexit", "allexport", "nounset", "errexit:pipefail"])
def test_an_option_of_the_environment_reaches_neither_shell_nor_program(
    site: FakeSite, option: str
) -> None:
    """Where it is exported, each bash begins with it."""
    body = f'long={"x" * 200_000}; false; ask x env; frame y 0 "$-"'
    done = site.run(build_program(body, mark=MARK), env={"SHELLOPTS": option})
    frames = parse_answer(done.stdout, mark=MARK)
    assert not {"e", "a", "u"} & set(frames["y"].text)
    assert frames["x"].status == 0
    assert b"long=" not in frames["x"].data
    assert b"REPLY=" not in frames["x"].data


def test_a_program_is_not_to_be_seen_in_a_process_list(site: FakeSite) -> None:
    body = "secret=hidden-value; ask x cat /proc/$$/cmdline /proc/$PPID/cmdline"
    assert b"hidden-value" not in site.ask(body)["x"].data


def test_a_program_has_no_length_limit(site: FakeSite) -> None:
    text = "x" * 3_000_000
    assert site.ask(f"text={quote(text)}; ask x printf %s ${{#text}}")["x"] == Frame(0, b"3000000")


def test_an_answer_in_one_go_is_the_same_answer(site: FakeSite) -> None:
    body = f"ask x echo hi\nask y sh -c 'echo ä >&2; exit 3'\nask z printf '{MARK} end 0 0'"
    done = site.run(build_program(body, mark=MARK, in_one_go=True))
    assert done.stdout.startswith(f"{MARK} setup 0 0\n".encode())
    assert parse_answer(done.stdout, mark=MARK) == {
        "x": Frame(0, b"hi"),
        "y": Frame(3, "ä".encode()),
        "z": Frame(0, f"{MARK} end 0 0".encode()),
    }


def test_an_answer_in_one_go_waits_for_its_end(site: FakeSite) -> None:
    program = build_program("ask x echo hi\nexit 0", mark=MARK, in_one_go=True)
    assert site.run(program).stdout == b""


@pytest.mark.parametrize("version", ["new", "old"])
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_every_byte_of_a_program_arrives(site: FakeSite, version: str, locale: str) -> None:
    """Bash gives some bytes a meaning of its own (1 and 127), and a locale to those above 127."""
    data = bytes(range(1, 256)) * 50
    program = build_program("", mark=MARK).encode().removesuffix(b"} </dev/null\n")
    program += b"printf %s '" + data.replace(b"'", b"'\\''") + b"' >bytes\n} </dev/null\n"
    interpreter = INTERPRETER if version == "new" else INTERPRETER.replace("> 50", "> 990")
    subprocess.run(
        ["/bin/sh", "-c", interpreter],
        input=program,
        cwd=site.home,
        env={"PATH": os.environ["PATH"], "LC_ALL": locale},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    assert (site.home / "bytes").read_bytes() == data


def test_the_helpers_are_shell_functions_with_names_of_their_own() -> None:
    program = build_program("", mark=MARK)
    assert re.findall(r"^(\w+)\(\)", program, re.MULTILINE) == ["frame", "ask"]
