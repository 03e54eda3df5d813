"""The programs of a submission, run by a real bash beside fake Slurm commands that take notes."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import struct
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from airflow_provider_csc.slurm.framing import INTERPRETER, Frame, build_program, quote
from airflow_provider_csc.slurm.identity import TaskIdentity
from airflow_provider_csc.slurm.submit_commands import (
    GIVEN_UP,
    PRUNE,
    SubmitRequest,
    build_discard,
    build_give_up,
    build_look_up,
    build_show_job,
    build_submit,
)
from tests.pure.slurm.shell import HOSTILE_NAMES, HOSTILE_VALUES, FakeSite, list_files

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "af0123456789abcdef0123.1"
NOBODY = 0xFFFFFFFF  # of an ACL entry that names no one


@pytest.fixture
def site(tmp_path: Path) -> FakeSite:
    site = FakeSite(tmp_path / "site")
    site.command("sbatch", "echo 4711")
    return site


def request(base_dir: str, **changes: object) -> SubmitRequest:
    values: dict[str, object] = {
        "token": TOKEN,
        "base_dir": base_dir,
        "work_dir": None,
        "script": "#!/bin/bash\n",
        "batch": "#!/bin/bash --login\n",
        "options": (),
        "own_output": True,
        "asks_paths": False,
        **changes,
    }
    return SubmitRequest(**values)  # type: ignore[arg-type]


# ---- submitting ----


def test_a_submission_leaves_a_private_directory_with_the_script_and_the_id(
    site: FakeSite, tmp_path: Path
) -> None:
    base = tmp_path / "made" / "on" / "demand"
    script = "#!/bin/bash\n# it's 100% $HOME\necho `x` \\\n\n"
    frames = site.ask(build_submit(request(str(base), script=script, batch="#!batch\n")))
    run_dir = base / TOKEN
    assert frames["run_dir"].text == str(run_dir)
    assert frames["sbatch"] == Frame(0, b"4711")
    assert (run_dir / "script").read_text() == script
    assert (run_dir / "batch.sh").read_text() == "#!batch\n"
    assert (run_dir / "job_id").read_text() == "4711\n"
    assert (run_dir / "identity.json").read_text() == "{}"
    assert list_files(run_dir) == {"script", "batch.sh", "identity.json", "job_id"}
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((run_dir / "script").stat().st_mode) == 0o700


def test_sbatch_gets_options_batch_script_and_run_directory(site: FakeSite, tmp_path: Path) -> None:
    options = ("--time=1", *(f"--comment={value}" for value in HOSTILE_VALUES))
    site.ask(build_submit(request(str(tmp_path / "base"), options=options)))
    run_dir = str(tmp_path / "base" / TOKEN)
    (call,) = site.calls("sbatch")
    assert call.args == [
        *("--parsable", *options),
        *(f"--output={run_dir}/stdout.log", f"{run_dir}/batch.sh", run_dir),
    ]
    assert call.cwd == run_dir
    assert not list(tmp_path.rglob("pwned"))


def test_the_job_gets_the_users_umask_and_not_ours(site: FakeSite, tmp_path: Path) -> None:
    """Slurm gives a job the umask of sbatch; with ours, a project could not read its results."""
    site.ask(build_submit(request(str(tmp_path))), setup="umask 0027")
    assert site.calls("sbatch")[0].umask == "0027"


def test_the_job_gets_the_set_ups_environment_and_nothing_of_ours(
    site: FakeSite, tmp_path: Path
) -> None:
    site.ask(build_submit(request(str(tmp_path))), setup="set -a; PROJECT=2001234")
    env = site.calls("sbatch")[0].env
    assert env.pop("PROJECT") == "2001234"
    assert env.keys() <= {"HOME", "PATH", "LANG", "PWD", "OLDPWD", "SHLVL", "_"}


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_directories_of_any_name_are_used_as_they_are(
    site: FakeSite, tmp_path: Path, name: str
) -> None:
    base, work = tmp_path / f"base {name}", tmp_path / "work" / name
    work.mkdir(parents=True)
    frames = site.ask(build_submit(request(str(base), work_dir=str(work))))
    run_dir = base / TOKEN
    (call,) = site.calls("sbatch")
    assert call.cwd == str(work)
    assert call.args[1] == f"--chdir={work}"
    assert call.args[-2:] == [f"{run_dir}/batch.sh", str(run_dir)]
    assert frames["work_dir"].data.decode() == str(work)
    assert (run_dir / "job_id").read_text() == "4711\n"
    assert not list(tmp_path.rglob("*pwned*")) or "pwned" in name
    assert list_files(site.home) == set()


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("100%", "100%%"),
        ("%j%x", "%%j%%x"),
        ("back\\slash", "back\\\\slash"),
        ("back\\slash%j", "back\\\\slash%j"),
    ],
)
def test_slurm_replaces_nothing_in_the_logs_path(
    site: FakeSite, tmp_path: Path, name: str, pattern: str
) -> None:
    """Tried on 22.05: a backslash anywhere turns replacing off, and is itself taken away."""
    site.ask(build_submit(request(str(tmp_path / name))))
    output = next(arg for arg in site.calls("sbatch")[0].args if arg.startswith("--output="))
    assert output == f"--output={tmp_path}/{pattern}/{TOKEN}/stdout.log"


def test_a_home_relative_directory_is_below_the_home(site: FakeSite) -> None:
    (site.home / "work").mkdir()
    site.ask(build_submit(request("~/runs", work_dir="~/work")))
    assert (site.home / "runs" / TOKEN / "job_id").exists()
    assert site.calls("sbatch")[0].cwd == str(site.home / "work")
    site.ask(build_submit(request("~/other", work_dir="~")))
    assert site.calls("sbatch")[1].cwd == str(site.home)


def test_output_of_the_users_choice_is_left_to_them(site: FakeSite, tmp_path: Path) -> None:
    site.ask(build_submit(request(str(tmp_path), own_output=False)))
    assert not [arg for arg in site.calls("sbatch")[0].args if arg.startswith("--output")]


def test_slurm_is_asked_where_chosen_output_goes(site: FakeSite, tmp_path: Path) -> None:
    site.command("sbatch", "echo '4711;testcluster'")
    site.command("scontrol", "echo 'JobId=4711 StdErr=/x StdOut=/y Power='")
    frames = site.ask(build_submit(request(str(tmp_path), asks_paths=True)))
    assert site.calls("scontrol")[0].args == ["--oneliner", "show", "job", "4711"]
    assert frames["paths"].text == "JobId=4711 StdErr=/x StdOut=/y Power="
    recorded = (tmp_path / TOKEN / "job_id").read_text()
    assert recorded == "4711;testcluster\n\nJobId=4711 StdErr=/x StdOut=/y Power=\n"


def test_the_job_id_is_found_among_what_else_sbatch_prints(site: FakeSite, tmp_path: Path) -> None:
    site.command("sbatch", "echo 'sbatch: lua: 2 hints' >&2; echo 4711; echo 'Bye at 12'")
    site.ask(build_submit(request(str(tmp_path))))
    assert (tmp_path / TOKEN / "job_id").read_text() == "4711\n"


def test_a_second_submission_of_a_token_finds_the_first(site: FakeSite, tmp_path: Path) -> None:
    site.ask(build_submit(request(str(tmp_path))))
    frames = site.ask(build_submit(request(str(tmp_path), script="#!other\n")))
    assert len(site.calls("sbatch")) == 1
    assert frames["existing"] == Frame(0, b"4711")
    assert "sbatch" not in frames
    assert (tmp_path / TOKEN / "script").read_text() == "#!/bin/bash\n"


def test_of_many_submissions_at_once_one_reaches_slurm(site: FakeSite, tmp_path: Path) -> None:
    program = build_submit(request(str(tmp_path)))
    body = f"go() {{\n{program}\n}}\n" + "go >/dev/null &\n" * 8 + "wait\n"
    site.ask(body)
    assert len(site.calls("sbatch")) == 1


def test_few_programs_are_started_for_a_submission(site: FakeSite, tmp_path: Path) -> None:
    """Each is a process of a node that everybody shares; that is most of the time it takes."""
    started = tmp_path / "started"
    usual = ("cat", "chmod", "cp", "date", "dirname", "env", "grep", "head", "id", "ln", "ls")
    more = ("mkdir", "mktemp", "mv", "rm", "rmdir", "sed", "sort", "stat", "tail", "timeout", "tr")
    for name in (*usual, *more):
        program = site.bin / name
        program.write_text(f'#!/bin/sh\necho {name} >>{started}\nexec {shutil.which(name)} "$@"\n')
        program.chmod(0o755)
    (site.bin / "sbatch").write_text(f"#!/bin/sh\necho sbatch >>{started}\necho 4711\n")
    frames = site.ask(build_submit(request(str(tmp_path)), run_seconds=1))
    assert frames["sbatch"] == Frame(0, b"4711")
    assert started.read_text().split() == [*("mkdir", "chmod", "timeout", "sbatch", "ln", "rm")]


@pytest.mark.parametrize("program", ["chmod", "mktemp"])
def test_files_that_could_not_be_written_as_a_whole_are_no_claim(
    site: FakeSite, tmp_path: Path, program: str
) -> None:
    site.command("chmod", "echo 'chmod: No space left on device' >&2; exit 1")
    site.command(program, "echo 'No space left on device' >&2; exit 1")
    frames = site.ask(build_submit(request(str(tmp_path))))
    assert "No space left on device" in frames["files"].text
    assert not site.calls("sbatch")
    site.ask(build_discard(str(tmp_path / TOKEN)))
    assert list_files(tmp_path) & {TOKEN} == set()


def test_nobody_else_is_let_in_by_the_defaults_of_the_directory_above(
    site: FakeSite, tmp_path: Path
) -> None:
    """Where a directory has a default ACL the umask does not count (acl(5))."""
    entries = [(1, 7, NOBODY), (4, 7, NOBODY), (0x20, 7, NOBODY)]
    default = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in entries)
    with contextlib.suppress(OSError):  # a file system without ACLs
        os.setxattr(tmp_path, "system.posix_acl_default", default)
    site.ask(build_submit(request(str(tmp_path))))
    assert stat.S_IMODE((tmp_path / TOKEN).stat().st_mode) == 0o700


def test_what_another_wrote_into_our_claim_is_never_half_replaced(
    site: FakeSite, tmp_path: Path
) -> None:
    """The step hung so long after its claim that another took it over, and its job runs."""
    run_dir = tmp_path / TOKEN
    old = "#!/bin/bash\nold\n"
    (tmp_path / "old").write_text(old)
    links = " ".join(f"{run_dir}/{name}" for name in ("script", "batch.sh"))
    site.command(
        "mkdir", f'/bin/mkdir "$@" && for name in {links}; do ln {tmp_path}/old $name; done'
    )
    assert site.ask(build_submit(request(str(tmp_path))))["sbatch"] == Frame(0, b"4711")
    assert (tmp_path / "old").read_text() == old
    assert (run_dir / "script").read_text() == "#!/bin/bash\n"
    assert (run_dir / "batch.sh").read_text() == "#!/bin/bash --login\n"
    assert stat.S_IMODE((run_dir / "script").stat().st_mode) == 0o700
    assert list_files(run_dir) == {"script", "batch.sh", "identity.json", "job_id"}


@pytest.mark.parametrize("place", [*HOSTILE_NAMES, "", "..", "a b/c"])
def test_the_directory_above_is_that_of_dirname(site: FakeSite, place: str) -> None:
    paths = [f"/{place}", f"//{place}//x//", f"{place}/", place, f"./{place}/..", f"/a/{place}/b"]
    body = PRUNE + "".join(
        f'parent found {quote(path)}; frame ours.{number} 0 "$found"\n'
        f"ask theirs.{number} dirname -- {quote(path)}\n"
        for number, path in enumerate(paths)
    )
    frames = site.ask(body)
    for number in range(len(paths)):
        assert frames[f"ours.{number}"] == frames[f"theirs.{number}"]


def test_a_claim_without_an_id_is_shown_as_one(site: FakeSite, tmp_path: Path) -> None:
    (tmp_path / TOKEN).mkdir()
    frames = site.ask(build_submit(request(str(tmp_path))))
    assert frames["existing"].status == 1
    assert site.calls("sbatch") == []


def test_a_missing_work_directory_is_told_before_anything_is_made(
    site: FakeSite, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    frames = site.ask(build_submit(request(str(base), work_dir="/no/such/directory")))
    assert frames["work_dir"].status == 1
    assert "/no/such/directory: No such file or directory" in frames["work_dir"].text
    assert not base.exists()
    assert site.calls("sbatch") == []


def test_a_base_that_cannot_be_made_is_told(site: FakeSite, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    frames = site.ask(build_submit(request(str(tmp_path / "file" / "base"))))
    assert frames["base"].status == 1
    assert "Not a directory" in frames["base"].text
    assert site.calls("sbatch") == []


def test_a_run_directory_that_cannot_be_made_is_told(site: FakeSite, tmp_path: Path) -> None:
    (tmp_path / TOKEN).write_text("a file is in the way")
    frames = site.ask(build_submit(request(str(tmp_path))))
    assert frames["claim"].status == 1
    assert "existing" not in frames
    assert site.calls("sbatch") == []


def test_files_that_cannot_be_written_are_told(site: FakeSite, tmp_path: Path) -> None:
    """As over quota: the directory was made, and nothing fits into it."""
    frames = site.ask(build_submit(request(str(tmp_path))), setup="ulimit -f 0; trap '' XFSZ")
    assert frames["files"].status != 0
    assert "File too large" in frames["files"].text
    assert site.calls("sbatch") == []


def test_a_refusal_is_answered_and_records_nothing(site: FakeSite, tmp_path: Path) -> None:
    site.command("sbatch", "echo 'sbatch: error: no' >&2; exit 1")
    frames = site.ask(build_submit(request(str(tmp_path), asks_paths=True)))
    assert frames["sbatch"] == Frame(1, b"sbatch: error: no")
    assert not (tmp_path / TOKEN / "job_id").exists()
    assert site.calls("scontrol") == []


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_what_was_made_for_nothing_is_removed(site: FakeSite, tmp_path: Path, name: str) -> None:
    base = tmp_path / name / "below" / name
    site.command("sbatch", "echo 'sbatch: error: no' >&2; exit 1")
    made = site.ask(build_submit(request(f"{base}//")))["new_base"].data.decode()
    assert made == str(tmp_path / name)
    site.ask(build_discard(f"{base}/{TOKEN}", made))
    assert {path.name for path in tmp_path.iterdir()} == {"site"}
    assert list_files(site.home) == set()


@pytest.mark.parametrize("others", [set(), {"other"}], ids=["empty", "used"])
def test_a_base_that_was_there_stays(site: FakeSite, tmp_path: Path, others: set[str]) -> None:
    """An empty one, too: a new one would not have its group and modes."""
    base = tmp_path / "base"
    base.mkdir()
    for name in others:
        (base / name).touch()
    site.command("sbatch", "echo 'sbatch: error: no' >&2; exit 1")
    frames = site.ask(build_submit(request(str(base))))
    assert frames["new_base"].data == b""
    site.ask(build_discard(f"{base}/{TOKEN}", ""))
    assert list_files(base) == others


def test_a_new_base_that_somebody_else_uses_by_now_stays(site: FakeSite, tmp_path: Path) -> None:
    base = tmp_path / "base"
    site.command("sbatch", "echo 'sbatch: error: no' >&2; exit 1")
    made = site.ask(build_submit(request(str(base))))["new_base"].data.decode()
    (base / "other").touch()
    site.ask(build_discard(f"{base}/{TOKEN}", made))
    assert list_files(base) == {"other"}


# ---- looking up ----

KEY = TOKEN.partition(".")[0]


def look_up(base: str, *names: str) -> str:
    return build_look_up(base_dir=base, key=KEY, names=names, since=1_700_000_000)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_run_directories_of_a_task_are_found_wherever_they_are(
    site: FakeSite, tmp_path: Path, name: str
) -> None:
    base = tmp_path / name
    for number in (1, 2, 10):
        (base / f"{KEY}.{number}").mkdir(parents=True)
    (base / "af99999999999999999999.1").mkdir()
    (base / f"{KEY}.1" / "job_id").write_text("4711")
    (base / f"{KEY}.1" / "exit.json").write_text("{}")
    frames = site.ask(look_up(str(base), "x.af0.1"), setup="set -f")
    assert {frame for frame in frames if frame.startswith("dir.")} == {"dir.1", "dir.2", "dir.10"}
    assert frames["dir.10"].data.decode() == f"{base}/{KEY}.10"
    assert frames["job_id.1"] == Frame(0, b"4711")
    assert frames["exit.1"] == Frame(0, b"{}")
    assert frames["job_id.2"].status == 1
    assert int(frames["clock"].text) - int(frames["made.2"].text) in range(60)
    assert list_files(site.home) == set()


def test_a_task_without_directories_is_asked_about_all_the_same(site: FakeSite) -> None:
    frames = site.ask(look_up("~/none", "x.af0.1"))
    assert not [frame for frame in frames if frame.startswith("dir.")]
    assert frames["squeue"] == frames["sacct"] == Frame(0, b"")


def test_slurm_is_asked_by_user_and_by_name(site: FakeSite) -> None:
    site.ask(look_up("~", "my job.af0.1", "my job.af0.2"))
    assert site.calls("squeue")[0].args[-1] == "--me"
    args = site.calls("sacct")[0].args
    assert "--allocations" in args
    assert "--name=my job.af0.1,my job.af0.2" in args
    since = next(arg for arg in args if arg.startswith("--starttime="))
    assert since.startswith("--starttime=2023-11-1")


def test_more_names_than_an_argument_holds_are_not_asked_for(site: FakeSite) -> None:
    site.ask(look_up("~", *(f"{'x' * 200}.{KEY}.{number}" for number in range(1, 900))))
    assert not [arg for arg in site.calls("sacct")[0].args if arg.startswith("--name")]


@pytest.mark.parametrize("label", ["it's", 'a"b', "a`b", "[1-3]"])
def test_a_name_that_sacct_would_misread_is_not_asked_for(site: FakeSite, label: str) -> None:
    """Tried on 22.05: a job named a'b is not found by --name=a'b."""
    site.ask(look_up("~", f"{label}.af0.1"))
    assert not [arg for arg in site.calls("sacct")[0].args if arg.startswith("--name")]


# ---- what is made twice, cut off, killed or left behind ----

REFUSE = "echo 'sbatch: error: Invalid account' >&2; exit 1"


def take_over(base: Path, **changes: object) -> str:
    return build_submit(request(str(base), **changes), takes_over=True)


def test_filters_in_a_users_environment_reach_the_job_and_not_our_questions(site: FakeSite) -> None:
    setup = "export SQUEUE_PARTITION=gpu SQUEUE_NAMES=x SBATCH_ACCOUNT=mine"
    site.ask(look_up("~", "x.af0.1"), setup=setup)
    site.ask(build_submit(request("~/base")), setup=setup)
    (squeue,) = site.calls("squeue")
    assert not [each for each in squeue.env if each.startswith("SQUEUE")]
    job = site.calls("sbatch")[0].env
    assert (job["SBATCH_ACCOUNT"], job["SQUEUE_PARTITION"]) == ("mine", "gpu")
    assert "SLURM_TIME_FORMAT" not in job


def test_a_program_that_is_cut_anywhere_does_nothing(site: FakeSite, tmp_path: Path) -> None:
    """As when the connection is lost while it is sent; bash gets only the beginning of it."""
    program = build_program(build_submit(request(str(tmp_path / "base"))), mark="@m")
    for size in range(0, len(program) - len("} </dev/null\n"), 97):
        site.run(program[:size])
    site.run(program[: -len("} </dev/null\n")])
    assert site.calls("sbatch") == []
    assert not (tmp_path / "base").exists()


def test_an_answer_nobody_listens_to_does_not_keep_the_id_from_being_recorded(
    site: FakeSite, tmp_path: Path
) -> None:
    site.command("sbatch", "sleep 0.3; echo 4711")
    process = subprocess.Popen(
        ["/bin/sh", "-c", INTERPRETER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=site.home,
        env={"HOME": str(site.home), "PATH": f"{site.bin}:{os.environ['PATH']}"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(build_program(build_submit(request(str(tmp_path))), mark="@m").encode())
    process.stdin.close()
    while not (tmp_path / TOKEN / "batch.sh").exists():
        time.sleep(0.01)
    process.stdout.close()
    process.stderr.close()
    process.wait(10)
    assert (tmp_path / TOKEN / "job_id").read_text() == "4711\n"


def test_an_sbatch_without_an_id_records_none(site: FakeSite, tmp_path: Path) -> None:
    """A site's own sbatch may print something else; an empty record would stop the job itself."""
    site.command("sbatch", "echo Submitted batch job 4711")
    site.ask(build_submit(request(str(tmp_path), asks_paths=True)))
    assert not (tmp_path / TOKEN / "job_id").exists()
    assert (tmp_path / TOKEN / "no_verdict").read_text() == "Submitted batch job 4711"


def test_the_paths_are_no_substitute_for_an_id_that_could_not_be_recorded(
    site: FakeSite, tmp_path: Path
) -> None:
    """The first line of job_id decides which job runs."""
    run_dir = tmp_path / TOKEN
    site.command("sbatch", f"chmod 500 {run_dir}; mv {run_dir} {run_dir}-; echo 4711")
    site.command("scontrol", f"mv {run_dir}- {run_dir}; chmod 700 {run_dir}; echo JobId=4711")
    frames = site.ask(build_submit(request(str(tmp_path), asks_paths=True)))
    assert frames["record"].status != 0
    assert not (run_dir / "job_id").exists()


def test_a_claim_is_taken_over_in_the_same_directory(site: FakeSite, tmp_path: Path) -> None:
    site.command("sbatch", "echo 'sbatch: error: Socket timed out' >&2; exit 1")
    site.ask(build_submit(request(str(tmp_path))))
    assert "timed out" in (tmp_path / TOKEN / "no_verdict").read_text()
    site.command("sbatch", "echo 4711")
    assert site.ask(take_over(tmp_path))["sbatch"] == Frame(0, b"4711")
    assert list_files(tmp_path / TOKEN) == {"script", "batch.sh", "identity.json", "job_id"}


def test_a_take_over_makes_the_directory_where_it_is_gone(site: FakeSite, tmp_path: Path) -> None:
    assert site.ask(take_over(tmp_path / "base"))["sbatch"] == Frame(0, b"4711")
    assert (tmp_path / "base" / TOKEN / "job_id").read_text() == "4711\n"


def test_a_take_over_submits_nothing_once_there_is_an_id(site: FakeSite, tmp_path: Path) -> None:
    site.ask(build_submit(request(str(tmp_path))))
    assert site.ask(take_over(tmp_path))["existing"] == Frame(0, b"4711")
    assert len(site.calls("sbatch")) == 1


def test_a_take_over_never_shows_half_a_script(site: FakeSite, tmp_path: Path) -> None:
    """The job of the first submission may be running it at this moment."""
    run_dir = tmp_path / TOKEN
    run_dir.mkdir()
    (run_dir / "script").write_text("#!/bin/bash\nold\n")
    with (run_dir / "script").open() as held:
        site.ask(take_over(tmp_path))
        assert held.read() == "#!/bin/bash\nold\n"
    assert (run_dir / "script").read_text() == "#!/bin/bash\n"


def test_of_two_submissions_the_one_recorded_first_stands(site: FakeSite, tmp_path: Path) -> None:
    """The first sbatch was thought lost, and its job started and wrote its id down after all."""
    (tmp_path / TOKEN).mkdir()
    site.command("sbatch", f"echo 4711 >{tmp_path / TOKEN}/job_id; echo 4712")
    frames = site.ask(take_over(tmp_path))
    assert frames["existing"] == Frame(0, b"4711")
    assert [call.args for call in site.calls("scancel")] == [["--", "4712"]]
    assert (tmp_path / TOKEN / "job_id").read_text() == "4711\n"


def test_a_submission_that_comes_late_gives_way(site: FakeSite, tmp_path: Path) -> None:
    """The same the other way round: the second was recorded while the first sbatch hung."""
    run_dir = tmp_path / TOKEN
    site.command("sbatch", f"echo 4712 >{run_dir}/job_id; echo 4711")
    frames = site.ask(build_submit(request(str(tmp_path), asks_paths=True)))
    assert frames["existing"] == Frame(0, b"4712")
    assert [call.args for call in site.calls("scancel")] == [["--", "4711"]]


def test_a_kill_before_sbatch_submits_nothing(site: FakeSite, tmp_path: Path) -> None:
    (tmp_path / TOKEN).mkdir()
    (tmp_path / TOKEN / "cancel").touch()
    for program in (build_submit(request(str(tmp_path))), take_over(tmp_path)):
        assert "killed" in site.ask(program)
    assert site.calls("sbatch") == []


def test_a_kill_during_sbatch_cancels_the_job(site: FakeSite, tmp_path: Path) -> None:
    site.command("sbatch", f"touch {tmp_path / TOKEN}/cancel; echo 4711")
    assert site.ask(build_submit(request(str(tmp_path))))["killed"].status == 0
    assert [call.args for call in site.calls("scancel")] == [["--", "4711"]]


def test_a_kill_reaches_both_of_two_submissions(site: FakeSite, tmp_path: Path) -> None:
    run_dir = tmp_path / TOKEN
    site.command("sbatch", f"touch {run_dir}/cancel; echo 4712 >{run_dir}/job_id; echo 4711")
    site.ask(build_submit(request(str(tmp_path))))
    assert [call.args[-1] for call in site.calls("scancel")] == ["4711", "4712"]


def test_a_cancellation_that_fails_is_told(site: FakeSite, tmp_path: Path) -> None:
    site.command("sbatch", f"touch {tmp_path / TOKEN}/cancel; echo 4711")
    site.command("scancel", "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert site.ask(build_submit(request(str(tmp_path))))["killed"].status == 1


@pytest.mark.parametrize("room", ["files", "identity", "script"])
def test_what_does_not_fit_leaves_no_part_of_it(site: FakeSite, tmp_path: Path, room: str) -> None:
    changes = {"files": {}, "identity": {"identity": "x" * 4000}, "script": {"script": "x" * 4000}}
    setup = f"ulimit -f {0 if room == 'files' else 2}; trap '' XFSZ"
    frames = site.ask(build_submit(request(str(tmp_path), **changes[room])), setup=setup)
    assert frames["files"].status != 0
    assert site.calls("sbatch") == []
    assert not (tmp_path / TOKEN / "batch.sh").exists()
    site.ask(build_discard(str(tmp_path / TOKEN)))
    assert not (tmp_path / TOKEN).exists()


def test_a_directory_in_which_somebody_else_submits_is_not_discarded(
    site: FakeSite, tmp_path: Path
) -> None:
    """The one who was refused may be slow; by then another has taken over."""
    site.command("sbatch", REFUSE)
    site.ask(build_submit(request(str(tmp_path))))
    run_dir = tmp_path / TOKEN
    site.command("sbatch", f"cp -r {run_dir} {tmp_path}/meanwhile; echo 4711")
    site.ask(take_over(tmp_path))
    for path in (tmp_path / "meanwhile", run_dir):
        assert "discard" not in site.ask(build_discard(str(path)))
        assert (path / "batch.sh").exists()


# ---- what a deleted DAG run of the same id left ----

EARLIER, LATER = "2026-11-21T07:00:00+00:00", "2026-11-21T07:00:00.500000+00:00"


def of_run(base: Path, started: str) -> str:
    identity = TaskIdentity(
        dag_id='"run_started": "2099"',
        run_id="r",
        task_id="t",
        map_index=-1,
        try_number=1,
        first_try=1,
        run_started=started,
    )
    changes = {"identity": identity.to_json(), "run_started": started}
    return build_submit(request(str(base), **changes))


def test_the_directory_of_an_earlier_run_is_moved_aside_and_its_job_cancelled(
    site: FakeSite, tmp_path: Path
) -> None:
    site.ask(of_run(tmp_path, EARLIER))
    site.command("sbatch", "echo 4712")
    assert site.ask(of_run(tmp_path, LATER))["sbatch"] == Frame(0, b"4712")
    assert [call.args[-1] for call in site.calls("scancel")] == ["4711"]
    (aside,) = tmp_path.glob(f"{TOKEN}~*")
    assert (aside / "job_id").read_text() == "4711\n"


@pytest.mark.parametrize(
    "said", ["Invalid job id specified", "Job/step already completing or completed"]
)
def test_a_job_of_an_earlier_run_that_is_long_gone_is_no_obstacle(
    site: FakeSite, tmp_path: Path, said: str
) -> None:
    site.ask(of_run(tmp_path, EARLIER))
    site.command("scancel", f"echo 'scancel: error: Kill job error on job id 4711: {said}'; exit 1")
    assert "sbatch" in site.ask(of_run(tmp_path, LATER))


def test_a_job_of_an_earlier_run_that_cannot_be_cancelled_keeps_its_directory(
    site: FakeSite, tmp_path: Path
) -> None:
    site.ask(of_run(tmp_path, EARLIER))
    site.command("scancel", "echo 'Unable to contact slurm controller'; exit 1")
    frames = site.ask(of_run(tmp_path, LATER))
    assert frames["superseded"].status == 1
    assert len(site.calls("sbatch")) == 1
    assert [path.name for path in tmp_path.glob(f"{TOKEN}*")] == [TOKEN]


def test_the_directory_of_a_later_run_is_left_alone(site: FakeSite, tmp_path: Path) -> None:
    site.ask(of_run(tmp_path, LATER))
    assert site.ask(of_run(tmp_path, EARLIER))["newer"] == Frame(1, LATER.encode())
    assert len(site.calls("sbatch")) == 1
    assert site.calls("scancel") == []


def test_the_directory_of_the_same_run_is_its_own(site: FakeSite, tmp_path: Path) -> None:
    site.ask(of_run(tmp_path, EARLIER))
    assert site.ask(of_run(tmp_path, EARLIER))["existing"] == Frame(0, b"4711")


# ---- giving up a claim ----


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_claim_without_an_id_is_given_up_for_good(
    site: FakeSite, tmp_path: Path, name: str
) -> None:
    """Whatever sbatch of it may still be under way, its job gives way, and so does its caller."""
    base = tmp_path / name
    run_dir = base / TOKEN
    give_up = build_give_up([str(run_dir)], f"{KEY}.2")
    site.command("sbatch", f"bash -c \"$(cat '{site.home}/give_up')\"; echo 4711")
    (site.home / "give_up").write_text(
        'mark=@m; frame() { :; }; ask() { shift; "$@"; }\n' + give_up
    )
    frames = site.ask(build_submit(request(str(base))))
    assert frames["existing"].text == f"{GIVEN_UP} {KEY}.2"
    assert [call.args[-1] for call in site.calls("scancel")] == ["4711"]
    assert site.ask(take_over(base))["existing"].text == f"{GIVEN_UP} {KEY}.2"
    assert len(site.calls("sbatch")) == 1


def test_a_claim_that_has_an_id_by_now_is_not_given_up(site: FakeSite, tmp_path: Path) -> None:
    site.ask(build_submit(request(str(tmp_path))))
    frames = site.ask(build_give_up([str(tmp_path / TOKEN)], f"{KEY}.2"))
    assert frames == {"given_up.0": Frame(0, b"4711")}
    assert (tmp_path / TOKEN / "job_id").read_text() == "4711\n"


def test_a_claim_that_is_gone_needs_no_giving_up(site: FakeSite, tmp_path: Path) -> None:
    frames = site.ask(build_give_up([str(tmp_path / TOKEN)], f"{KEY}.2"))
    assert frames == {"given_up.0": Frame(0, b"")}


def test_a_claim_that_cannot_be_given_up_is_told(site: FakeSite, tmp_path: Path) -> None:
    (tmp_path / TOKEN).mkdir()
    program = build_give_up([str(tmp_path / TOKEN)], f"{KEY}.2")
    frames = site.ask(program, setup="ulimit -f 0; trap '' XFSZ")
    assert frames["given_up.0"].status != 0
    assert "File too large" in frames["given_up.0"].text


def test_a_look_up_tells_of_runs_notes_and_lost_verdicts(site: FakeSite, tmp_path: Path) -> None:
    site.command("sbatch", "exit 1")
    site.ask(of_run(tmp_path, EARLIER))
    run_dir = tmp_path / TOKEN
    (run_dir / "verdict").write_text("UNKNOWN\n")
    shutil.copytree(run_dir, tmp_path / f"{KEY}.1.2")
    shutil.copytree(run_dir, tmp_path / f"{KEY}.1~123")
    os.utime(run_dir / "no_verdict", (0, time.time() - 100))
    frames = site.ask(look_up(str(tmp_path), "x.af0.1"))
    for suffix in ("1", "1.2"):
        assert frames[f"run.{suffix}"].text == EARLIER
        assert frames[f"verdict.{suffix}"].text == "UNKNOWN"
    age = int(frames["clock"].text) - int(frames["no_verdict.1"].text)
    assert age in range(99, 160)
    assert len([each for each in frames if each.startswith("dir.")]) == 2


def test_one_job_is_shown(site: FakeSite) -> None:
    site.command("scontrol", "echo JobId=5")
    assert site.ask(build_show_job("5"))["job"] == Frame(0, b"JobId=5")
    assert site.calls("scontrol")[0].args == ["--oneliner", "show", "job", "5"]


def test_a_home_with_blanks_is_one_place(site: FakeSite, tmp_path: Path) -> None:
    home = tmp_path / "my home $(touch pwned)"
    home.mkdir()
    env = {"HOME": str(home)}
    frames = site.ask(build_submit(request("~/my runs", work_dir="~")), env=env)
    run_dir = home / "my runs" / TOKEN
    assert frames["run_dir"].text == str(run_dir)
    assert site.calls("sbatch")[0].cwd == str(home)
    found = site.ask(look_up("~/my runs", "x.af0.1"), env=env)
    assert found["job_id.1"] == Frame(0, b"4711")
    assert list_files(site.home) == set()
