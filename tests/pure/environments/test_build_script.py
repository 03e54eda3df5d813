"""The build script, run by a real bash with a real Python, without any network."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_csc.environments.build_script import BuildPlan, render_build_script
from airflow_provider_csc.environments.recipe import read_recipe
from airflow_provider_csc.environments.report import parse_record
from tests.support.wheels import write_wheel

HERE = platform.machine()
KEY = "af00000000000000000000"


@dataclass
class Site:
    """A prefix, a folder of wheels, and stand-ins for programs that are not on this machine."""

    root: Path
    job: int = 100
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A name that a shell would take apart.
        self.prefix = self.root / "the 'prefix'"
        self.wheels = self.root / "wheels"
        self.bin = self.root / "bin"
        for each in (self.prefix, self.wheels, self.bin):
            each.mkdir()

    def plan(self, architecture: str = HERE, **recipe: Any) -> BuildPlan:
        return BuildPlan(
            recipe=read_recipe({"python": sys.executable, **recipe}),
            prefix=str(self.prefix),
            architecture=architecture,
            key=KEY,
            cache_dir=str(self.root / "cache"),
        )

    def venv(self, *packages: str, **recipe: Any) -> BuildPlan:
        # uv, because it takes a tenth of pip's time.
        local = {"no_index": True, "find_links": [str(self.wheels)], "installer": "uv"}
        return self.plan(packages=list(packages), **{**local, **recipe})

    def build(self, plan: BuildPlan, **env: str) -> subprocess.CompletedProcess[str]:
        self.job += 1
        return subprocess.run(
            ["bash", "-c", render_build_script(plan)],
            env={
                "PATH": f"{self.bin}:{os.environ['PATH']}",
                "HOME": str(self.root),
                "SLURM_JOB_ID": str(self.job),
                **env,
            },
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
        )

    def stand_in(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" >{self.root}/{name}.argv\n{text}\n')
        path.chmod(0o755)

    def argv(self, name: str) -> list[str]:
        return (self.root / f"{name}.argv").read_text().splitlines()

    def left(self) -> list[str]:
        """What lies below the prefix, locks and half builds too."""
        builds = self.prefix / ".builds"
        inside = [each.name for each in builds.iterdir()] if builds.exists() else []
        return sorted([each.name for each in self.prefix.iterdir() if each != builds] + inside)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_what_is_built_can_be_used_and_says_what_it_is(site: Site) -> None:
    write_wheel(site.wheels, "alpha", "1.5", needs=["beta>=2"])
    write_wheel(site.wheels, "beta", "2.0")
    plan = site.venv("alpha", name="tools")

    done = site.build(plan)

    assert done.returncode == 0, done.stdout + done.stderr
    path = Path(plan.path)
    record = parse_record((path / "csc-environment.json").read_bytes())
    assert record is not None
    assert (record.content_hash, record.job_id) == (plan.recipe.content_hash, "101")
    assert (record.architecture, record.recipe["name"]) == (HERE, "tools")
    assert record.files > 10
    assert record.bytes > 1000
    versions = (path / "csc-requirements.txt").read_text().splitlines()
    assert {"alpha==1.5", "beta==2.0"} <= set(versions)
    program = "import alpha, beta; print(alpha.VERSION, beta.VERSION)"
    used = ["bash", "-c", '. "$0/bin/activate"; python -c "$1"', str(path), program]
    assert subprocess.check_output(used, text=True) == "1.5 2.0\n"
    assert "environment: imported alpha" in done.stdout
    assert site.left() == [f"{path.name}", f"{path.name}.101"]


def test_its_programs_name_the_place_where_they_are(site: Site) -> None:
    plan = site.venv(installer="pip")
    site.build(plan)

    first = Path(plan.path, "bin/pip").read_bytes()

    assert f"{site.prefix}/.builds/".encode() in first


def test_what_is_there_is_not_built_again(site: Site) -> None:
    plan = site.venv()
    site.build(plan)

    done = site.build(plan)

    assert (done.returncode, site.left()) == (
        0,
        sorted([Path(plan.path).name, f"{Path(plan.path).name}.101"]),
    )
    assert "is there already" in done.stdout


@pytest.mark.parametrize(
    ("packages", "code", "words"),
    [
        (["missing"], "", "missing"),
        (["alpha"], "import no_such_module", "alpha cannot be imported: ModuleNotFoundError"),
        (["alpha"], "raise SystemExit(0)", "alpha cannot be imported: SystemExit"),
    ],
)
def test_a_build_that_fails_leaves_nothing_and_says_why(
    site: Site, packages: list[str], code: str, words: str
) -> None:
    write_wheel(site.wheels, "alpha", code=code)

    done = site.build(site.venv(*packages))

    assert done.returncode != 0
    assert words in done.stdout + done.stderr
    assert site.left() == []


def test_versions_that_do_not_fit_together_are_found(site: Site) -> None:
    write_wheel(site.wheels, "alpha", needs=["beta>=2"])
    done = site.build(site.venv(lock="alpha==1.0"))

    assert done.returncode != 0
    assert "alpha" in done.stdout + done.stderr
    assert "they do not, so it is thrown away" in done.stderr
    assert site.left() == []


def test_a_lock_with_a_wrong_hash_installs_nothing(site: Site) -> None:
    write_wheel(site.wheels, "alpha")
    wrong = f"alpha==1.0 --hash=sha256:{'0' * 64}"

    done = site.build(site.venv(lock=wrong))

    assert done.returncode != 0
    assert "hash mismatch" in (done.stdout + done.stderr).lower()
    assert site.left() == []


def test_what_imports_names_is_tried_and_nothing_else(site: Site) -> None:
    write_wheel(site.wheels, "alpha", code="import no_such_module")

    assert site.build(site.venv("alpha", imports=[])).returncode == 0
    assert site.build(site.venv("alpha", python="python3", imports=["alpha"])).returncode != 0


def test_what_an_import_prints_is_not_taken_for_ours(site: Site) -> None:
    write_wheel(site.wheels, "alpha", code="print('own evil==6.6.6')")
    plan = site.venv("alpha")

    assert site.build(plan).returncode == 0
    assert "evil" not in Path(plan.path, "csc-requirements.txt").read_text()


def test_a_signal_takes_away_what_is_half_built(site: Site) -> None:
    write_wheel(
        site.wheels,
        "alpha",
        code="import os, signal, time\nos.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(60)",
    )

    done = site.build(site.venv("alpha"))

    assert done.returncode == 143
    assert site.left() == []


def test_the_lock_of_the_build_is_released_and_no_other(site: Site) -> None:
    plan = site.venv()
    owner = subprocess.check_output(["id", "-un"], text=True).strip()
    lock = Path(f"{plan.path}.lock")
    lock.symlink_to(f"{KEY}@{owner}")
    site.build(plan)
    assert not lock.is_symlink()

    lock.symlink_to(f"af11111111111111111111@{owner}")
    site.build(plan)
    assert lock.is_symlink()


def test_a_node_of_another_kind_is_refused_before_anything_is_built(site: Site) -> None:
    done = site.build(site.plan(architecture="aarch128"))

    assert done.returncode == 1
    assert "architecture='" in done.stderr
    assert not (site.prefix / ".builds").exists()


def test_a_job_on_a_node_of_another_kind_is_stopped_when_it_activates(site: Site) -> None:
    plan = site.venv()
    site.build(plan)
    activate = Path(plan.path, "bin/activate")
    activate.write_text(activate.read_text().replace(HERE, "aarch128", 1))

    done = subprocess.run(
        ["bash", "-c", '. "$0" && echo on', activate], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert "which this node is not" in done.stderr


def test_tykky_is_asked_for_what_the_recipe_says(site: Site) -> None:
    body = f"""
while [ $# -gt 1 ]; do case $1 in --prefix) prefix=$2 ;; esac; shift; done
cp "$1" {site.root}/given
mkdir -p "$prefix/bin" && ln -s {sys.executable} "$prefix/bin/python"
"""
    site.stand_in("conda-containerize", body)
    conda = "dependencies:\n  - numpy\n"

    done = site.build(
        BuildPlan(
            recipe=read_recipe({"backend": "tykky", "conda": conda, "imports": ["json"]}),
            prefix=str(site.prefix),
            architecture=HERE,
            key=KEY,
            cache_dir=str(site.root / "cache"),
        )
    )

    assert done.returncode == 0, done.stderr
    argv = site.argv("conda-containerize")
    assert argv[:3] == ["new", "--mamba", "--prefix"]
    assert argv[3].endswith(".101/tykky")
    assert (site.root / "given").read_text() == conda


def container(site: Site, image: str, **recipe: Any) -> BuildPlan:
    given = {"backend": "container", "image": image, "imports": ["json"], **recipe}
    return BuildPlan(
        recipe=read_recipe(given),
        prefix=str(site.prefix),
        architecture=HERE,
        key=KEY,
        cache_dir=str(site.root / "cache"),
    )


@pytest.fixture
def apptainer(site: Site) -> None:
    site.stand_in(
        "apptainer",
        """
case $1 in
  pull) echo image >"$2" ;;
  exec) shift; while [[ $1 == --* ]]; do shift; done; shift; PATH=/usr/bin:/bin exec "$@" ;;
esac""",
    )


@pytest.mark.usefixtures("apptainer")
def test_an_image_is_fetched_and_its_programs_are_found(site: Site) -> None:
    plan = container(site, "docker://python:3.12", commands=["torchrun"], gpu="nv", bind="/a,/b")

    done = site.build(plan)

    assert done.returncode == 0, done.stderr
    path = Path(plan.path)
    assert (path / "image.sif").read_text() == "image\n"
    assert (path / "bin/torchrun").is_symlink()
    environ = {"PATH": f"{path}/bin:{site.bin}:/usr/bin:/bin"}
    subprocess.check_output([path / "bin/python", "-c", "print(1)"], env=environ)
    assert site.argv("apptainer") == [
        *(
            "exec",
            "--nv",
            "--bind=/a,/b",
            f"{path.resolve()}/image.sif",
            "python3",
            "-c",
            "print(1)",
        )
    ]


@pytest.mark.usefixtures("apptainer")
def test_an_image_that_is_there_is_used_where_it_lies(site: Site) -> None:
    image = site.root / "my image.sif"
    image.write_text("image")
    plan = container(site, str(image))

    assert site.build(plan).returncode == 0
    assert site.argv("apptainer")[:2] == ["exec", str(image)]

    assert "cannot be read" in site.build(container(site, f"{image}x")).stderr


def test_a_recipe_is_never_run_by_the_shell(site: Site) -> None:
    evil = f"$(touch {site.root}/pwned)`touch {site.root}/pwned`'\"; touch {site.root}/pwned"
    conda = f"dependencies:\n - {evil}\nEND_x\n"
    recipe = read_recipe({"backend": "tykky", "conda": conda, "imports": []})
    script = render_build_script(
        BuildPlan(
            recipe=recipe,
            prefix=f"{site.prefix}/{evil.replace('/', '_')}",
            architecture=HERE,
            key=KEY,
            cache_dir=f"{site.root}/{evil.replace('/', '_')}",
        )
    )
    subprocess.run(
        ["bash", "-c", script],
        env={"PATH": os.environ["PATH"], "SLURM_JOB_ID": "1", "HOME": str(site.root)},
        capture_output=True,
        check=False,
    )

    assert not (site.root / "pwned").exists()
    assert json.dumps(conda) not in script.partition("cat >")[0]
