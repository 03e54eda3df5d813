"""
docker/helm/values.yaml holds names of Secrets and no secret, and what the image and the guide say.

With HELM_CHART naming the directory of Airflow's unpacked chart, also what the chart accepts.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft7Validator

CHECKOUT = Path(__file__).parents[2]
TEXT = (CHECKOUT / "docker/helm/values.yaml").read_text()
VALUES: dict[str, Any] = yaml.safe_load(TEXT)
GUIDE = (CHECKOUT / "docs/installation.md").read_text()
CHART = os.environ.get("HELM_CHART")


def test_each_secret_that_is_named_is_made_in_the_guide() -> None:
    named = set(re.findall(r"[sS]ecretName: ([\w-]+)", TEXT))
    named |= {VALUES[name] for name in VALUES if name.endswith("SecretName")}
    made = re.findall(r"create secret generic ([\w-]+) (.*)", GUIDE)
    assert named == {name for name, _ in made}


def test_the_connections_are_environment_variables_from_secrets() -> None:
    found = {one["envName"]: one["secretKey"] for one in VALUES["secret"]}
    assert found == {
        "AIRFLOW_CONN_SLURM_DEFAULT": "slurm_default",
        "AIRFLOW_CONN_ALLAS_DEFAULT": "allas_default",
    }


def test_the_key_can_be_replaced_while_pods_run() -> None:
    """A file that is mounted with subPath goes on showing the old Secret."""
    mounts = {mount["name"]: mount for mount in VALUES["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in VALUES["volumes"]}
    assert all("subPath" not in mount for mount in mounts.values())
    assert f'"key_file": "{mounts["slurm-key"]["mountPath"]}/id_ed25519"' in GUIDE


def test_logs_go_to_allas_by_the_settings_of_the_guide() -> None:
    section = VALUES["config"]["logging"]
    for name, value in section.items():
        assert f"{name} = {value}" in GUIDE


def test_limits_fit_into_a_project_of_rahti_and_five_times_the_request() -> None:
    parts = [
        VALUES[name]["resources"]
        for name in ("apiServer", "scheduler", "dagProcessor", "triggerer")
    ]
    limits = [cores(part["limits"]["cpu"]) for part in parts]
    assert sum(limits) <= 4
    assert sum(gibibytes(part["limits"]["memory"]) for part in parts) <= 16
    for part in parts:
        assert cores(part["limits"]["cpu"]) <= 5 * cores(part["requests"]["cpu"])
        assert gibibytes(part["limits"]["memory"]) <= 5 * gibibytes(part["requests"]["memory"])


def test_the_guides_way_to_values_for_cscs_chart_gives_the_same_one_level_deeper() -> None:
    indented = "airflow:\n" + re.sub("^", "  ", TEXT, flags=re.MULTILINE)
    assert yaml.safe_load(indented) == {"airflow": VALUES}


if CHART:

    def test_the_chart_accepts_the_values() -> None:
        schema = json.loads((Path(CHART) / "values.schema.json").read_text())
        problems = Draft7Validator(schema).iter_errors(VALUES)
        assert [problem.message for problem in problems] == []

    def test_the_chart_knows_each_name() -> None:
        """A name that a schema leaves open may still be one that no template reads."""
        chart = yaml.safe_load((Path(CHART) / "values.yaml").read_text())
        assert unknown(VALUES, chart) == []


def unknown(values: dict[str, Any], known: dict[str, Any], path: str = "") -> list[str]:
    """List the names in nested values that the chart's own do not have; config is Airflow's."""
    found = []
    for name, value in values.items():
        if name not in known:
            found.append(path + name)
        elif isinstance(value, dict) and known[name] and path + name != "config":
            found += unknown(value, known[name], f"{path}{name}.")
    return found


def cores(text: str | int) -> float:
    return float(text[:-1]) / 1000 if str(text).endswith("m") else float(text)


def gibibytes(text: str) -> float:
    number, unit = float(text[:-2]), text[-2:]
    return number / 1024 if unit == "Mi" else number
