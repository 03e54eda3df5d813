"""docker/compose.yaml and its images keep to their rules; no Docker is asked."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).parents[2]
DOCKER = CHECKOUT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILES = sorted((DOCKER / "images").glob("*/Dockerfile"))
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(line.split("==")[0]): line.split("==")[1]
    for line in (CHECKOUT / "constraints.txt").read_text().splitlines()
    if "==" in line
}

# What docker-compose 1.29 and `docker compose` understand alike. Not here: version and name at the top
# (one of them refuses or warns), deploy (1.29 leaves it out without a word).
TOP_LEVEL = {"services", "networks", "volumes", "secrets"}
SERVICE_KEYS = {
    "build", "cap_add", "cap_drop", "command", "depends_on", "environment", "extra_hosts",
    "healthcheck", "hostname", "image", "init", "logging", "mem_limit", "networks", "pids_limit",
    "ports", "profiles", "restart", "secrets", "security_opt", "stop_grace_period", "stop_signal",
    "volumes",
}  # fmt: skip
CLUSTER = {"munge", "mariadb", "slurmdbd", "slurmctld", "login", "c1", "c2", "c3", "c4", "ceph"}
AIRFLOW = {"prepare", "postgresql", "api-server", "scheduler", "dag-processor", "triggerer"}
CELERY = {"redis", "worker", "flower"}
SECRET_NAME = re.compile(r"KEY|SECRET|PASSWORD|TOKEN|BASIC_AUTH|SQL_ALCHEMY_CONN|BROKER|BACKEND")
each_service = pytest.mark.parametrize("name", SERVICES)


def test_only_what_both_composes_know_is_used() -> None:
    used = {name for name in COMPOSE if not name.startswith("x-")}
    assert used == TOP_LEVEL
    for name, service in SERVICES.items():
        assert set(service) <= SERVICE_KEYS, name


def test_profiles_are_the_whole_the_whole_with_celery_and_the_cluster() -> None:
    profiles = {
        profile: {name for name, service in SERVICES.items() if profile in service["profiles"]}
        for profile in ("airflow", "celery", "cluster")
    }
    assert profiles == {
        "airflow": CLUSTER | AIRFLOW,
        "celery": CLUSTER | AIRFLOW | CELERY,
        "cluster": CLUSTER,
    }


@each_service
def test_ports_are_published_to_this_machine_only(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:(\$\{[A-Z0-9_]+:-\d+\}|\d+):\d+", port), port


@each_service
def test_a_service_has_limits_a_restart_policy_and_a_health_check(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert service["pids_limit"] > 0
    assert service["logging"]["options"]["max-size"]
    if name == "prepare":  # which ends
        assert (service["restart"], service["healthcheck"]) == ("on-failure", {"disable": True})
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert service["healthcheck"]["retries"] > 1


@each_service
def test_a_service_waits_only_for_what_its_profiles_start(name: str) -> None:
    service = SERVICES[name]
    for other, how in service.get("depends_on", {}).items():
        assert set(service["profiles"]) <= set(SERVICES[other]["profiles"]), other
        ends = other == "prepare"
        assert how == {"condition": f"service_{'completed_successfully' if ends else 'healthy'}"}


@pytest.mark.parametrize("name", sorted((AIRFLOW | CELERY) - CLUSTER))
def test_airflow_and_its_databases_have_no_capabilities(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@each_service
def test_no_secret_stands_in_the_file(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if SECRET_NAME.search(variable) and not variable.endswith("_FILE"):
            assert variable.endswith("_CMD"), variable
            assert re.fullmatch(r"cat /run/secrets/[a-z_]+", value), variable


@each_service
def test_a_secret_that_is_read_is_mounted(name: str) -> None:
    service = SERVICES[name]
    mounted = set(service.get("secrets", ()))
    needed = set(re.findall(r"/run/secrets/([\w.]+)", json.dumps(service)))
    assert needed <= mounted
    assert mounted <= set(COMPOSE["secrets"])


def test_secrets_are_files_in_a_directory_that_is_never_committed_nor_built_in() -> None:
    files = [secret["file"] for secret in COMPOSE["secrets"].values()]
    assert all(file.startswith("./secrets/airflow/") for file in files)
    assert "/docker/secrets/" in (CHECKOUT / ".gitignore").read_text().splitlines()
    assert "docker/secrets" in (CHECKOUT / ".dockerignore").read_text().splitlines()


def test_each_secret_is_made() -> None:
    script = (DOCKER / "images/cluster/make-secrets").read_text()
    made = set(re.findall(r"(?:put |airflow/)([\w.]+)", script))
    assert set(COMPOSE["secrets"]) <= made


@each_service
def test_an_image_has_the_versions_of_this_provider_and_of_airflow(name: str) -> None:
    tag = SERVICES[name]["image"].split(":")[1]
    assert tag.endswith(PROJECT["version"])
    if "/airflow:" in SERVICES[name]["image"]:
        assert tag == f"{PINS['apache-airflow']}-{PROJECT['version']}"


def test_each_image_is_built_by_one_service() -> None:
    used = {service["image"] for service in SERVICES.values()}
    built = [service["image"] for service in SERVICES.values() if "build" in service]
    assert sorted(built) == sorted(used)


def test_the_scripts_name_the_images_that_are_built() -> None:
    script = (DOCKER / "stack").read_text()
    images = dict(re.findall(r"^([A-Z]+)_(?:IMAGE|BASE)=(\S+)$", script, re.MULTILINE))
    assert images["SLURM"] == SERVICES["munge"]["image"]
    arguments = SERVICES["prepare"]["build"]["args"]
    assert arguments["AIRFLOW_BASE"] == f"${{AIRFLOW_BASE:-{images['OFFICIAL']}}}"
    airflow = PINS["apache-airflow"]
    assert images["OFFICIAL"].startswith(f"apache/airflow:{airflow}-")
    assert images["DEBIAN"].endswith(f":{airflow}")
    dockerfile = (DOCKER / "images/airflow/Dockerfile").read_text()
    assert f"ARG AIRFLOW_BASE={images['OFFICIAL']}\n" in dockerfile


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_an_image_begins_with_debian_or_airflow(path: Path) -> None:
    (base,) = re.findall(r"^FROM (\S+)", path.read_text(), re.MULTILINE)
    assert base == ("${AIRFLOW_BASE}" if path.parent.name == "airflow" else "debian:bookworm")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_an_image_runs_as_a_user_of_its_own(path: Path) -> None:
    """The cluster's services change their user themselves, as natively."""
    users = re.findall(r"^USER (\S+)", path.read_text(), re.MULTILINE)
    last = {"cluster": None, "postgresql": "postgres", "redis": "redis"}
    assert (users[-1] if users else None) == last.get(path.parent.name, "airflow")


def test_nodes_have_names_and_addresses_of_their_own() -> None:
    nodes = [SERVICES[name] for name in ("c1", "c2", "c3", "c4")]
    addresses = [node["networks"]["cluster"]["ipv4_address"] for node in nodes]
    assert len(set(addresses)) == 4
    hosts = dict(host.split(":", 1) for host in SERVICES["login"]["extra_hosts"])
    assert [hosts[node["hostname"]] for node in nodes] == addresses


def test_the_image_gets_what_the_provider_needs_in_the_versions_that_are_tested() -> None:
    lines = (DOCKER / "images/airflow/requirements.txt").read_text().splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        assert str(requirement.specifier) == f"=={PINS[name]}"
    # These Apache's image has already, and airflow-debian, in versions of their own.
    there = {
        "apache-airflow", "apache-airflow-providers-amazon", "apache-airflow-providers-ssh",
        "apache-airflow-providers-common-compat", "jinja2", "packaging", "pydantic", "pyyaml",
    }  # fmt: skip
    needed = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert needed - there <= {canonicalize_name(requirement.name) for requirement in wanted}
