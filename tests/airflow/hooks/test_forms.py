"""The forms as Airflow 3.1 asks for them; tests/package checks what each Airflow then draws."""

from __future__ import annotations

import pytest
import wtforms

from airflow_provider_csc.get_provider_info import ALLAS_CONNECTION, SLURM_CONNECTION
from airflow_provider_csc.hooks._forms import build_field_behaviour, build_form_widgets
from airflow_provider_csc.hooks.allas import AllasHook

CONNECTIONS = {"slurm": SLURM_CONNECTION, "allas": ALLAS_CONNECTION}


@pytest.mark.parametrize("kind", CONNECTIONS)
def test_every_field_of_the_table_has_a_widget_in_its_order(kind: str) -> None:
    assert list(build_form_widgets(kind)) == list(CONNECTIONS[kind]["conn-fields"])


@pytest.mark.parametrize(
    ("name", "field_class"),
    [
        ("key_file", wtforms.StringField),
        ("private_key", wtforms.StringField),
        ("private_key_passphrase", wtforms.PasswordField),
        ("no_host_key_check", wtforms.BooleanField),
        ("poll_interval_floor", wtforms.IntegerField),
    ],
)
def test_a_field_has_the_class_of_its_kind(name: str, field_class: type) -> None:
    assert build_form_widgets("slurm")[name].field_class is field_class


def test_a_widget_carries_label_help_and_default() -> None:
    widget = build_form_widgets("slurm")["no_host_key_check"]
    assert widget.args == ("Do not check the host key",)
    assert widget.kwargs["description"].startswith("Insecure: ")
    assert widget.kwargs["default"] is False


def test_behaviour_has_the_words_hooks_use() -> None:
    assert build_field_behaviour("allas") == {
        "hidden_fields": ["host", "schema"],
        "relabeling": {
            "login": "Access key",
            "password": "Secret key",
            "port": "Port (not used)",
        },
        "placeholders": ALLAS_CONNECTION["ui-field-behaviour"]["placeholders"],
    }


def test_the_hook_defines_both_methods_itself() -> None:
    """Airflow 3.1 looks into the class's own __dict__; an inherited form does not count."""
    assert {"get_connection_form_widgets", "get_ui_field_behaviour"} <= set(vars(AllasHook))
    assert AllasHook.get_ui_field_behaviour() == build_field_behaviour("allas")
    assert list(AllasHook.get_connection_form_widgets()) == list(ALLAS_CONNECTION["conn-fields"])
