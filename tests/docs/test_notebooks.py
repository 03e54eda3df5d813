"""The notebooks of docs/ run as they stand, and print what the pages say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"


def outputs(notebook: dict[str, Any]) -> dict[str, str]:
    """What each cell shows as plain text, by the cell's id."""
    found = {}
    for cell in notebook["cells"]:
        texts = [
            "".join(each.get("text", each.get("data", {}).get("text/plain", "")))
            for each in cell.get("outputs", [])
        ]
        found[cell["id"]] = "".join(texts)
    return found


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """In a process of its own, whose kernel answers on sockets that nobody closes in time."""
    made = tmp_path_factory.mktemp("notebooks") / "configs.ipynb"
    program = [sys.executable, "-m", "papermill", "--cwd", str(NOTEBOOKS), "--no-progress-bar"]

    done = subprocess.run(
        [*program, str(NOTEBOOKS / "configs.ipynb"), str(made)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    return outputs(json.loads(made.read_text()))


def test_three_lines_show_an_environment_as_the_yaml_people_know(shown: dict[str, str]) -> None:
    lines = shown["three-lines"].splitlines()

    assert lines[:2] == ["Configs", "modules: [gcc, openmpi, openblas, csc-tools, StdEnv]"]
    assert lines[-1] == "# to be filled in: (csc-user)"


def test_it_goes_back_into_the_dict_it_came_from(shown: dict[str, str]) -> None:
    assert shown["round-trip"] == "True"


def test_a_placeholder_is_filled_in_from_what_is_handed_in(shown: dict[str, str]) -> None:
    assert shown["filled"] == "'/users/alice/exp-venv'"


def test_mistakes_are_shown_with_line_column_field_and_the_nearest(shown: dict[str, str]) -> None:
    assert "configs:2:3: venv.nme: there is no key 'nme'. Did you mean 'name'?" in shown["mistake"]
    assert "configs:3:9: venv.path: the placeholder (csc-usr) is unknown" in shown["mistake"]
    assert "Did you mean (csc-user)?" in shown["mistake"]


def test_the_three_lines_are_three() -> None:
    (cell,) = (
        cell
        for cell in json.loads((NOTEBOOKS / "configs.ipynb").read_text())["cells"]
        if cell["id"] == "three-lines"
    )

    assert len([line for line in cell["source"] if line.strip()]) == 3
