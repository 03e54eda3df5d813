"""Recipes: what is refused, and when two of them are the same."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_csc.environments.recipe import PythonEnvironment, read_recipe
from airflow_provider_csc.environments.requirements import read_lock, read_requirements
from airflow_provider_csc.errors import ConfigError

HASHED = "numpy==2.1.0 \\\n  --hash=sha256:aa \\\n  --hash=sha256:bb"


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"package": ["numpy"]}, ["'package'", "'packages'"]),
        ({"packages": "numpy"}, ["packages", "'numpy'", "list"]),
        ({"packages": ["numpy=2"]}, ["packages", "numpy=2", "numpy>=2"]),
        ({"packages": ["numpy; rm -rf ~"]}, ["packages", "rm -rf"]),
        ({"packages": ["$(touch x)"]}, ["packages", "$(touch x)"]),
        ({"packages": ["--index-url=http://x"]}, ["packages", "option of pip", "index_url"]),
        ({"packages": ["./local.whl"]}, ["packages", "./local.whl", "name @"]),
        ({"packages": ["a"], "lock": "b==1"}, ["lock", "beside packages"]),
        ({"requirements": "-r other.txt"}, ["requirements", "-r other.txt", "write their lines"]),
        ({"lock": "numpy>=2"}, ["lock", "numpy>=2", "name==version"]),
        ({"lock": "numpy==2.*"}, ["lock", "numpy==2.*", "open"]),
        ({"lock": "# nothing\n"}, ["lock", "nothing"]),
        ({"lock": f"{HASHED}\nscipy==1.0"}, ["lock", "scipy==1.0", "no hash"]),
        ({"lock": 'version = 1\n[[package]]\nname = "a"'}, ["lock", "TOML", "uv export"]),
        ({"backend": "conda"}, ["backend", "'conda'", "'tykky'"]),
        ({"backend": "tykky"}, ["backend", "nothing to install", "conda"]),
        ({"backend": "container"}, ["image", "docker://"]),
        ({"backend": "container", "image": "x.sif"}, ["image", "x.sif", "absolute"]),
        ({"backend": "container", "image": "/x.sif", "packages": ["a"]}, ["packages", "venv"]),
        ({"conda": "dependencies: []"}, ["conda", "'venv'", "tykky"]),
        ({"installer": "poetry"}, ["installer", "'poetry'", "'uv'"]),
        ({"name": "../x"}, ["name", "'../x'", "letters"]),
        ({"name": "a b"}, ["name", "'a b'"]),
        ({"python": "python3 -c"}, ["python", "python3.12"]),
        ({"python": "bin/python"}, ["python", "absolute"]),
        ({"modules": ["a", ""]}, ["modules", "names no module"]),
        ({"system_site_packages": "yes"}, ["system_site_packages", "True"]),
        ({"index_url": "host/simple"}, ["index_url", "https://"]),
        ({"index_url": "https://h/a b"}, ["index_url", "no URL"]),
        ({"find_links": ["wheels"]}, ["find_links", "wheels", "absolute"]),
        ({"imports": ["os; x"]}, ["imports", "numpy.linalg"]),
        ({"backend": "container", "image": "/x", "commands": ["a/b"]}, ["commands", "torchrun"]),
    ],
)
def test_what_cannot_be_is_refused_by_field_value_and_remedy(
    recipe: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_recipe(recipe)

    assert [word for word in words if word not in caught.value.message] == []


@pytest.mark.parametrize(
    "recipe",
    [
        {"index_url": "https://me:hunter2@host/simple"},
        {"index_url": "https://hunter2@host/simple"},
        {"extra_index_urls": ["https://me:hunter2@host/simple"]},
        {"find_links": ["https://me:hunter2@host/wheels"]},
        {"packages": ["a @ https://me:hunter2@host/a.whl"]},
        {"requirements": "numpy\na @ git+https://hunter2@host/a"},
        {"requirements": "--index-url https://me:hunter2@host/simple"},
        {"backend": "tykky", "conda": "channels:\n - https://me:hunter2@host/conda"},
        {"backend": "container", "image": "docker://me:hunter2@host/x"},
    ],
)
def test_a_password_is_refused_and_not_repeated(recipe: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_recipe(recipe)

    assert "hunter2" not in caught.value.message
    assert "hunter2" not in str(caught.value.details)
    assert "netrc" in caught.value.message


def test_a_user_without_a_password_is_no_secret() -> None:
    recipe = read_recipe({"packages": ["a @ git+ssh://git@github.com/x/a"]})

    assert [each.name for each in recipe.installed] == ["a"]


def test_lines_that_mean_the_same_are_the_same() -> None:
    by_file = read_recipe({"requirements": "# tools\nscipy >= 1\n\nnumpy  # fast\n"})
    by_list = read_recipe({"packages": ["numpy", "scipy>=1"]})

    assert by_file.content_hash == by_list.content_hash


@pytest.mark.parametrize(
    "change",
    [
        {"packages": ["numpy>=2"]},
        {"packages": ["numpy", "scipy"]},
        {"modules": ["python-data/3.11"]},
        {"python": "python3.12"},
        {"system_site_packages": True},
        {"installer": "uv"},
        {"index_url": "https://host/simple"},
        {"find_links": ["/projappl/wheels"]},
        {"no_index": True},
        {"backend": "tykky"},
    ],
)
def test_whatever_may_change_the_content_changes_the_hash(change: dict[str, Any]) -> None:
    base = {"packages": ["numpy"]}

    assert read_recipe({**base, **change}).content_hash != read_recipe(base).content_hash


def test_a_lock_is_another_content_than_the_same_lines_as_requirements() -> None:
    lock, lines = read_recipe({"lock": "a==1"}), read_recipe({"requirements": "a==1"})

    assert lock.content_hash != lines.content_hash


def test_the_name_and_the_trial_are_no_content() -> None:
    named = read_recipe({"name": "torch", "packages": ["numpy"], "imports": ["numpy.linalg"]})

    assert named.content_hash == read_recipe({"packages": ["numpy"]}).content_hash


def test_the_hash_stays_what_it_was_in_earlier_versions() -> None:
    """Else all environments would be built anew with a new version of this package."""
    recipe = read_recipe({"packages": ["numpy>=2"], "modules": ["python-data"]})

    assert recipe.short_hash == "dcca3764cad2"


def test_a_recipe_travels_as_plain_values() -> None:
    recipe = PythonEnvironment(name="x", packages=("numpy",), imports=())

    assert recipe.to_payload() == {
        "name": "x",
        "backend": "venv",
        "packages": ["numpy"],
        "imports": [],
    }
    assert read_recipe(recipe.to_payload()) == read_recipe(recipe)


def test_hashes_of_a_lock_are_kept() -> None:
    (locked,) = read_lock("lock", HASHED)

    assert locked.line == "numpy==2.1.0 --hash=sha256:aa --hash=sha256:bb"


def test_a_line_with_a_condition_need_not_be_installed() -> None:
    plain, conditional = read_requirements("r", "a\nb ; python_version < '3'")

    assert (plain.is_conditional, conditional.is_conditional) == (False, True)


def test_only_a_virtual_environment_needs_its_modules_at_run_time() -> None:
    venv = read_recipe({"modules": ["python-data"]})
    tykky = read_recipe({"backend": "tykky", "packages": ["a"], "modules": ["tykky"]})

    assert (venv.modules_in_use, tykky.modules_in_use) == (("python-data",), ())
