"""
The script of the job that builds an environment.

It builds in a directory of its own, tries what it has built, writes a record, and puts the result
in place by the rename of a link. Whatever ends it takes away what is not in place, and its lock.
"""

from __future__ import annotations

import inspect
import json
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_csc.environments import verifier
from airflow_provider_csc.environments.commands import OWNER
from airflow_provider_csc.environments.layout import (
    BUILDS_DIR,
    INHERITED_FILE,
    LOCK_SUFFIX,
    MARK,
    RECORD_FILE,
    USED_FILE,
    VERSIONS_FILE,
    entry_name,
)
from airflow_provider_csc.slurm.batch import at_home
from airflow_provider_csc.slurm.framing import quote, words

if TYPE_CHECKING:
    from airflow_provider_csc.environments.recipe import PythonEnvironment


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """
    What is built, where, for whom.

    ``cache_dir`` is where pip, uv and apptainer keep what they fetched; ``key`` tells whose lock it
    is.
    """

    recipe: PythonEnvironment
    prefix: str
    architecture: str
    key: str
    cache_dir: str

    @property
    def path(self) -> str:
        """Where the environment is found when it is built."""
        name = entry_name(self.recipe.name, self.architecture, self.recipe.short_hash)
        return posixpath.join(self.prefix.rstrip("/") or "/", name)


# `step` runs a command in the background: bash hears a signal while it waits, not while a command
# runs in front. What pip and the others print is the job's log.
_HEAD = """\
#!/bin/bash
# Builds the Python environment {title}.
set -Eeu -o pipefail
final={final}
builds={builds}
build=$builds/{entry}.$SLURM_JOB_ID
work=$build.work
lock=$final{lock_suffix}
key={key}
owner={owner}
hash={hash}
started=$(date +%s)
child=
in_place=

say() {{ printf 'environment: %s\\n' "$*"; }}
give_up() {{ printf 'environment: %s\\n' "$*" >&2; exit 1; }}
is_complete() {{ grep -q -F -- "\\"$hash\\"" "$final/{record}" 2>/dev/null; }}
leave() {{
  local status=$1
  set +e
  trap '' HUP INT TERM
  trap - EXIT
  if [ -n "$child" ]; then
    kill -s TERM "$child" 2>/dev/null
    wait "$child" 2>/dev/null
  fi
  [ -n "$in_place" ] || rm -rf -- "$build"
  rm -rf -- "$work"
  [ "$(readlink -- "$lock")" != "$owner" ] || rm -f -- "$lock"
  exit "$status"
}}
step() {{
  local status=0
  say "$1"
  shift
  "$@" <&0 &
  child=$!
  wait "$child" || status=$?
  child=
  return "$status"
}}
trap 'leave "$?"' EXIT
trap 'exit 143' HUP INT TERM

if is_complete; then
  say "$final is there already."
  exit 0
fi
[ "$(uname -m)" = {architecture} ] || give_up "this node, $(hostname), is $(uname -m), and the \\
environment is to be for {architecture}. Say architecture='$(uname -m)', or take another partition."
# Of an earlier start of this very job.
rm -rf -- "$build" "$work"
mkdir -p -- "$work"
cache={cache}
mkdir -p -- "$cache"
export PYTHONNOUSERSITE=1 PIP_CACHE_DIR=$cache/pip UV_CACHE_DIR=$cache/uv UV_LINK_MODE=copy \\
  UV_PYTHON_DOWNLOADS=never APPTAINER_CACHEDIR=$cache/apptainer \\
  SINGULARITY_CACHEDIR=$cache/apptainer
unset VIRTUAL_ENV PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT \\
  PIP_REQUIRE_VIRTUALENV BASH_ENV
"""

_MAKE_VENV = """
python=$build/bin/python
step 'makes a virtual environment' {interpreter} -m venv {options}"$build"
"""
_MAKE_UV_VENV = """
python=$build/bin/python
command -v uv >/dev/null ||
  give_up "there is no uv on $(hostname). Add a module that has it, or say installer='pip'."
interpreter=$(command -v {interpreter}) || give_up "there is no "{interpreter}" on $(hostname)."
step 'makes a virtual environment with uv' uv venv --no-progress --no-project \\
  --python "$interpreter" {options}"$build"
"""
_PIP = '"$python" -m pip install --no-input --disable-pip-version-check --progress-bar off'
_UV = 'uv pip install --no-progress --color never --python "$python"'

# A venv that sees other packages also sees how these fit together, which it cannot mend.
_CHECK = """
if ! step 'asks whether the versions fit together' {check}; then
  {otherwise}
fi
"""
_CHECKS = {
    "pip": '"$python" -m pip --disable-pip-version-check check',
    "uv": 'uv pip check --python "$python"',
}
_OTHERWISE = {
    False: "give_up 'they do not, so it is thrown away.'",
    True: "say 'they do not. With system_site_packages that may lie in the modules; it is kept.'",
}

_TYKKY = """
python=$build/tykky/bin/python
mkdir -p -- "$build/bin"
command -v {program} >/dev/null ||
  give_up "there is no {program} on $(hostname). Add the module that has it, as 'load tykky'."
step 'builds with tykky' {program} new {options}--prefix "$build/tykky" {file}
printf 'export PATH=%q:"$PATH"\\n' "$build/tykky/bin" >"$build/bin/activate"
"""

_CONTAINER = """
python=$build/bin/python3
mkdir -p -- "$build/bin"
program=$(command -v apptainer || command -v singularity) ||
  give_up "there is neither apptainer nor singularity on $(hostname)."
{fetch}
image={image}
[ -r "$image" ] || give_up "the image $image cannot be read."
cat >"$build/bin/csc-in-image" <<'{end}'
#!/bin/bash
# Runs the program that it is called as in the image.
here=$(dirname -- "$(readlink -f -- "$0")")
runner=$(command -v apptainer || command -v singularity) || exit 127
bind={bind}
[ -n "$bind" ] || bind=$(csc-common-bind 2>/dev/null)
program=${{0##*/}}
[ "$program" != python ] || program=python3
exec "$runner" exec {gpu}${{bind:+--bind="$bind"}} "$(<"$here/csc-image")" "$program" "$@"
{end}
chmod 755 "$build/bin/csc-in-image"
printf '%s\\n' "$image" >"$build/bin/csc-image"
for each in python python3 {commands}; do ln -s csc-in-image "$build/bin/$each"; done
printf 'export PATH=%q:"$PATH"\\n' "$build/bin" >"$build/bin/activate"
"""

_VERIFY = """
verify() {{
  exec "$python" -X utf8 -B - {wanted} >"$work/facts" <<'{end}'
{verifier}
{end}
}}
if ! step 'tries to import what was asked for' verify; then
  sed -n 's/^problem /environment: /p' "$work/facts" >&2
  give_up 'what was built does not work, so it is thrown away.'
fi
sed -n 's/^imported /environment: imported /p' "$work/facts"
"""

# What a job sources begins with a look whether its node can run the environment.
_FINISH = """
guard() {{
  printf 'if [ "$(uname -m)" != {architecture} ]; then\\n'
  printf '  printf "%%s\\\\n" %q >&2\\n  return 1\\nfi\\n' \\
    "The Python environment $final is for {architecture}, which this node is not."
  printf 'export PYTHONNOUSERSITE=1\\ntouch -c -- %q 2>/dev/null || :\\n' "$build/{used}"
}}
{{ guard; cat "$build/bin/activate"; }} >"$work/activate"
cat "$work/activate" >"$build/bin/activate"
sed -n 's/^own //p' "$work/facts" >"$build/{versions}"
sed -n 's/^inherited //p' "$work/facts" >"$build/{inherited}"
version=$(sed -n 's/^python //p' "$work/facts")
: >"$build/{used}"
size=$(find "$build" -printf '%s\\n' | awk '{{ s += $1 }} END {{ printf "%d %.0f", NR + 1, s }}')
ended=$(date +%s)
printf '{{"made_by": "{mark}", "hash": "%s", "job_id": "%s", "architecture": "%s", ' \\
  "$hash" "$SLURM_JOB_ID" {architecture} >"$work/record"
printf '"python": "%s", "files": %d, "bytes": %d, "seconds": %d, "built": %d, "recipe": %s}}\\n' \\
  "$version" "${{size% *}}" "${{size#* }}" "$((ended - started))" "$ended" {recipe} >>"$work/record"
if is_complete; then
  say "another job has built it meanwhile: $final stays as it is."
  exit 0
fi
mv -- "$work/record" "$build/{record}"
ln -s -- {builds_dir}/"${{build##*/}}" "$work/link"
in_place=1
mv -f -T -- "$work/link" "$final"
say "$final is built: Python $version, ${{size% *}} files, ${{size#* }} bytes, \\
$((ended - started)) s."
sed 's/^/environment: has /' "$build/{versions}"
for each in csc-workspaces lumi-quota; do
  if command -v "$each" >/dev/null; then timeout 60 "$each" || :; fi
done
"""


def render_build_script(plan: BuildPlan) -> str:
    """Return the text of the job's script."""
    render = {"venv": _render_venv, "tykky": _render_tykky, "container": _render_container}
    parts = (_render_head, render[plan.recipe.backend], _render_verify, _render_finish)
    return "".join(part(plan) for part in parts)


def _render_head(plan: BuildPlan) -> str:
    recipe = plan.recipe
    return _HEAD.format(
        title=f"{recipe.name} ({recipe.backend})",
        final=at_home(plan.path),
        builds=at_home(posixpath.join(plan.prefix.rstrip("/") or "/", BUILDS_DIR)),
        entry=entry_name(recipe.name, plan.architecture, recipe.short_hash),
        lock_suffix=LOCK_SUFFIX,
        key=quote(plan.key),
        owner=OWNER,
        hash=recipe.content_hash,
        record=RECORD_FILE,
        architecture=plan.architecture,
        cache=at_home(plan.cache_dir.rstrip("/")),
    )


def _render_venv(plan: BuildPlan) -> str:
    recipe = plan.recipe
    make = _MAKE_UV_VENV if recipe.installer == "uv" else _MAKE_VENV
    made = make.format(
        interpreter=at_home(recipe.python),
        options="--system-site-packages " if recipe.system_site_packages else "",
    )
    check = _CHECK.format(
        check=_CHECKS[recipe.installer], otherwise=_OTHERWISE[recipe.system_site_packages]
    )
    return f"{made}{_render_install(recipe)}{check}"


def _render_install(recipe: PythonEnvironment) -> str:
    lines = recipe.installed
    if not lines:
        return ""
    command = _UV if recipe.installer == "uv" else _PIP
    options = words([*_index_options(recipe), *_lock_options(recipe)])
    return (
        f"{_render_file('requirements.txt', _requirements_text(recipe), recipe)}"
        f"step 'installs {len(lines)} requirements' \\\n"
        f'  {command} {options} -r "$work/requirements.txt"\n'
    )


def _requirements_text(recipe: PythonEnvironment) -> str:
    return "".join(f"{each.line}\n" for each in recipe.installed)


def _index_options(recipe: PythonEnvironment) -> list[str]:
    options = ["--no-index"] if recipe.no_index else []
    options += ["--index-url", recipe.index_url] if recipe.index_url else []
    for url in recipe.extra_index_urls:
        options += ["--extra-index-url", url]
    for place in recipe.find_links:
        options += ["--find-links", place]
    return options


def _lock_options(recipe: PythonEnvironment) -> list[str]:
    if recipe.lock is None:
        return []
    is_hashed = all(each.hashes for each in recipe.installed)
    return ["--no-deps", *(["--require-hashes"] if is_hashed else [])]


def _render_tykky(plan: BuildPlan) -> str:
    recipe = plan.recipe
    options = ["--uv"] if recipe.installer == "uv" else []
    files, program, file = "", "pip-containerize", '"$work/requirements.txt"'
    if recipe.installed:
        files += _render_file("requirements.txt", _requirements_text(recipe), recipe)
    if recipe.conda is not None:
        files += _render_file("environment.yml", recipe.conda, recipe)
        program, file = "conda-containerize", '"$work/environment.yml"'
        options = options or ["--mamba"]
        options += ["-r", '"$work/requirements.txt"'] if recipe.installed else []
    options += ["--slim"] if recipe.slim else []
    given = "".join(f"{each} " for each in options)
    return files + _TYKKY.format(program=program, options=given, file=file)


def _render_container(plan: BuildPlan) -> str:
    recipe = plan.recipe
    image = recipe.image or ""
    fetch = f'step \'fetches the image\' "$program" pull "$build/image.sif" {quote(image)}'
    return _CONTAINER.format(
        fetch=fetch if recipe.is_image_uri else ":",
        image="$build/image.sif" if recipe.is_image_uri else at_home(image),
        bind=quote(recipe.bind or ""),
        gpu=f"--{recipe.gpu} " if recipe.gpu else "",
        commands=words(recipe.commands),
        end=_end_of(recipe),
    )


def _render_verify(plan: BuildPlan) -> str:
    recipe = plan.recipe
    names = [(each.name, each.is_conditional) for each in recipe.installed]
    wanted = {"distributions": names, "imports": recipe.imports}
    return _VERIFY.format(
        end=_end_of(recipe),
        verifier=inspect.getsource(verifier).rstrip(),
        wanted=quote(json.dumps(wanted)),
    )


def _render_finish(plan: BuildPlan) -> str:
    return _FINISH.format(
        versions=VERSIONS_FILE,
        inherited=INHERITED_FILE,
        used=USED_FILE,
        record=RECORD_FILE,
        mark=MARK,
        architecture=plan.architecture,
        recipe=quote(json.dumps(plan.recipe.to_payload())),
        builds_dir=BUILDS_DIR,
    )


def _render_file(name: str, text: str, recipe: PythonEnvironment) -> str:
    end = _end_of(recipe)
    return f"cat >\"$work/{name}\" <<'{end}'\n{text.rstrip()}\n{end}\n"


def _end_of(recipe: PythonEnvironment) -> str:
    """Return a line that ends a text, and that no text in a recipe can hold: it is its own hash."""
    return f"END_{recipe.short_hash}"
