"""The package as Airflow sees it once it is installed; run with each supported Airflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from airflow_provider_csc.get_provider_info import get_provider_info
from airflow_provider_csc.sites.load import list_profiles
from airflow_provider_csc.transport.connection import ConnectionFields, parse_connection

READ_FORMS = """
import json
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
forms = {m.connection_type: m.model_dump(mode="json") for m in HookMetaService.hook_meta_data()}
print("\\n" + json.dumps({name: forms.get(name) for name in ("slurm", "allas")}))
"""

READ_PROVIDER = """
import json
from airflow.providers_manager import ProvidersManager
from airflow.configuration import conf
manager = ProvidersManager()
manager.initialize_providers_configuration()
provider = manager.providers["airflow-provider-csc"]
links = [name for name in manager.extra_links_class_names if name.startswith("airflow_provider_csc")]
hooks = {name: manager.hooks[name] for name in ("slurm", "allas")}
print("\\n" + json.dumps({
    "version": provider.version,
    "links": links,
    "hooks": {name: hook and [hook.hook_class_name, hook.connection_id_attribute_name,
                              hook.hook_name, hook.connection_testable]
              for name, hook in hooks.items()},
    "deployment": conf.get("csc", "deployment", fallback=None),
}))
"""

CONNECTIONS = {c["connection-type"]: c for c in get_provider_info()["connection-types"]}

MODULES = [
    module
    for kind in ("hooks", "operators", "sensors", "triggers")
    for entry in get_provider_info()[kind]
    for module in entry["python-modules"]
]
CLASSES = [
    *(connection["hook-class-name"] for connection in CONNECTIONS.values()),
    *get_provider_info()["extra-links"],
]
DECORATORS = {each["name"]: each["class-name"] for each in get_provider_info()["task-decorators"]}


def ask_airflow(script: str, home: Path) -> dict[str, Any]:
    """Run a script in a process of its own, as Airflow's own processes start, read its JSON."""
    assert list(metadata.entry_points(group="apache_airflow_provider", name="provider_info")), (
        "no provider is installed in this environment"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "AIRFLOW_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return ask_airflow(READ_FORMS, tmp_path_factory.mktemp("forms"))


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return ask_airflow(READ_PROVIDER, tmp_path_factory.mktemp("provider"))


def test_the_package_is_installed_with_its_entry_point() -> None:
    """Everything below asks Airflow, which finds providers by their installed entry point."""
    found = metadata.distribution("airflow-provider-csc").entry_points
    values = [entry.value for entry in found if entry.group == "apache_airflow_provider"]
    assert values == ["airflow_provider_csc.get_provider_info:get_provider_info"]


def test_provider_info_is_valid_for_this_airflow() -> None:
    airflow = Path(import_module("airflow").__file__).parent
    schema = json.loads((airflow / "provider_info.schema.json").read_text())
    problems = [error.message for error in Draft7Validator(schema).iter_errors(get_provider_info())]
    assert problems == []


def test_provider_info_is_json() -> None:
    assert json.loads(json.dumps(get_provider_info())) == get_provider_info()


def test_reading_provider_info_imports_nothing() -> None:
    before = "import sys; names = set(sys.modules)"
    read = "import airflow_provider_csc.get_provider_info as g; g.get_provider_info()"
    after = "print(sorted(set(sys.modules) - names))"
    root = Path(import_module("airflow_provider_csc").__file__).parents[1]
    answer = subprocess.run(
        [sys.executable, "-S", "-c", f"{before}; {read}; {after}"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == str(
        ["__future__", "airflow_provider_csc", "airflow_provider_csc.get_provider_info"]
    )


@pytest.mark.parametrize("module", MODULES)
def test_every_listed_module_can_be_imported(module: str) -> None:
    import_module(module)


@pytest.mark.parametrize("path", CLASSES)
def test_every_listed_class_exists(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert isinstance(getattr(import_module(module), name), type)


@pytest.mark.parametrize(("name", "path"), DECORATORS.items())
def test_airflow_finds_every_decorator(name: str, path: str) -> None:
    from airflow.sdk import task

    module, _, function = path.rpartition(".")
    assert getattr(task, name) is getattr(import_module(module), function)


@pytest.mark.parametrize("kind", CONNECTIONS)
def test_the_hook_and_provider_info_agree(kind: str) -> None:
    module, _, name = CONNECTIONS[kind]["hook-class-name"].rpartition(".")
    hook = getattr(import_module(module), name)
    assert (hook.conn_type, hook.hook_name) == (kind, CONNECTIONS[kind]["hook-name"])
    assert hook.default_conn_name == f"{kind}_default"
    assert hook.conn_name_attr == f"{kind}_conn_id"


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, c in CONNECTIONS.items() for name in c["conn-fields"]]
)
def test_every_field_explains_itself(kind: str, name: str) -> None:
    field = CONNECTIONS[kind]["conn-fields"][name]
    assert field["label"][0].isupper()
    assert len(field["description"]) > 30
    assert "null" in field["schema"]["type"], "a field without null would be required"


@pytest.mark.parametrize("path", get_provider_info()["cli"])
def test_every_function_of_commands_gives_some(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert [group.name for group in getattr(import_module(module), name)()] == ["csc"]


@pytest.mark.skipif(
    metadata.version("apache-airflow-core") < "3.2", reason="providers have no commands there"
)
def test_airflow_has_the_commands(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "airflow", "csc", "sites", "list", "--output", "json"],
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert {row["name"] for row in json.loads(answer.stdout)} == set(list_profiles())


class RecordingExtra(dict[str, Any]):
    """An empty extra that remembers which names were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def get(self, key: str, default: object = None) -> object:
        self.asked.add(key)
        return default


def test_the_slurm_form_offers_exactly_what_the_code_reads() -> None:
    extra = RecordingExtra()
    parse_connection(ConnectionFields(conn_id="c", conn_type="slurm", host="h", extra=extra))
    of_ssh_connections_only = {"conn_timeout"}
    assert set(CONNECTIONS["slurm"]["conn-fields"]) == extra.asked - of_ssh_connections_only


def test_what_is_secret_is_masked() -> None:
    """A passphrase is never seen; a key text is masked by its name once it is stored."""
    from airflow.providers.common.compat.sdk import redact

    fields = CONNECTIONS["slurm"]["conn-fields"]
    assert fields["private_key_passphrase"]["schema"]["format"] == "password"
    assert fields["private_key"]["schema"]["format"] == "multiline"
    shown = redact({"private_key": "KEY-TEXT", "private_key_passphrase": "PHRASE"})
    assert shown == {"private_key": "***", "private_key_passphrase": "***"}


@pytest.mark.parametrize("kind", CONNECTIONS)
def test_airflow_draws_the_form_with_every_field(forms: dict[str, Any], kind: str) -> None:
    drawn = forms[kind]
    described = CONNECTIONS[kind]
    assert drawn["hook_name"] == described["hook-name"]
    assert list(drawn["extra_fields"]) == list(described["conn-fields"])
    for name, field in described["conn-fields"].items():
        shown = drawn["extra_fields"][name]
        assert shown["description"] == field["description"]
        assert shown["value"] == field["schema"].get("default")
        assert {**shown["schema"], "default": None} == {
            **field["schema"],
            "title": field["label"],
            "default": None,
        }


@pytest.mark.parametrize("kind", CONNECTIONS)
def test_airflow_renames_and_hides_the_standard_fields(forms: dict[str, Any], kind: str) -> None:
    standard = forms[kind]["standard_fields"]
    behaviour = CONNECTIONS[kind]["ui-field-behaviour"]
    for name in behaviour["hidden-fields"]:
        assert standard["url_schema" if name == "schema" else name]["hidden"] is True
    for name, label in behaviour["relabeling"].items():
        assert standard[name]["title"] == label
    for name, text in behaviour["placeholders"].items():
        assert standard[name]["placeholder"] == text


def test_airflow_lists_the_provider(provider: dict[str, Any]) -> None:
    assert provider["version"] == metadata.version("airflow-provider-csc")
    assert provider["links"] == ["airflow_provider_csc.links.slurm.SlurmJobLink"]
    assert provider["deployment"] == ""


@pytest.mark.parametrize("kind", CONNECTIONS)
def test_airflow_can_test_the_connection(provider: dict[str, Any], kind: str) -> None:
    described = CONNECTIONS[kind]
    assert provider["hooks"][kind] == [
        described["hook-class-name"],
        f"{kind}_conn_id",
        described["hook-name"],
        True,
    ]
