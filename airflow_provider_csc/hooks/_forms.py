"""
The connection forms, as Airflow 3.1 asks hook classes for them.

Airflow 3.2 and later draw the forms from provider info and never call this. Both come from one
table, :mod:`airflow_provider_csc.get_provider_info`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from airflow_provider_csc.get_provider_info import ALLAS_CONNECTION, SLURM_CONNECTION

_CONNECTIONS: dict[str, dict[str, Any]] = {"slurm": SLURM_CONNECTION, "allas": ALLAS_CONNECTION}


def build_form_widgets(connection_type: str) -> dict[str, Any]:
    """
    Build one wtforms field per extra field of a connection type, in the form's order.

    Raises ImportError where wtforms is missing; Airflow 3.1 catches that (it does the same import
    itself just before) and then shows the extra fields as JSON.
    """
    fields = _CONNECTIONS[connection_type]["conn-fields"]
    return {name: _build_widget(field) for name, field in fields.items()}


def build_field_behaviour(connection_type: str) -> dict[str, Any]:
    """Build what hooks call ``ui_field_behaviour``: hidden, renamed and explained fields."""
    behaviour = _CONNECTIONS[connection_type]["ui-field-behaviour"]
    return {name.replace("-", "_"): value for name, value in behaviour.items()}


def _build_widget(field: dict[str, Any]) -> Any:
    schema = field["schema"]
    widget = _choose_field_class(schema)(
        field["label"], description=field["description"], default=schema.get("default")
    )
    # Airflow's page never sees wtforms: while it collects the forms, the field classes are
    # stand-ins around a Param (api_fastapi/core_api/services/ui/connections.py, 3.1.0). The Param's
    # JSON schema is what the form is drawn from, so ours goes there whole.
    param = getattr(widget, "param", None)
    if param is not None:
        param.schema.update(schema)
    return widget


def _choose_field_class(schema: dict[str, Any]) -> Any:
    """Choose among the four classes Airflow admits; imported late, as Airflow swaps them."""
    wtforms = import_module("wtforms")
    if schema.get("format") == "password":
        return wtforms.PasswordField
    kinds = {"boolean": wtforms.BooleanField, "integer": wtforms.IntegerField}
    return kinds.get(schema["type"][0], wtforms.StringField)
