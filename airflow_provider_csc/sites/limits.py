"""The limits on billing units that a task can be given, checked while a DAG is parsed."""

from __future__ import annotations

from collections.abc import Mapping

from airflow_provider_csc.errors import ConfigError

TASK_FIELD = "max_billing_units"
RUN_FIELD = "max_billing_units_per_run"


def check_limit(field: str, limit: object) -> None:
    """
    Check that a limit is a number of units, or one for each unit where that may be.

    :raises ConfigError: for anything else.
    """
    if isinstance(limit, Mapping) and field == RUN_FIELD:
        numbers = list(limit.values())
        is_named = bool(limit) and all(isinstance(name, str) for name in limit)
    else:
        numbers, is_named = [limit], True
    if not is_named or not all(map(_is_amount, numbers)):
        several = ", or one by unit, as {'CPU BU': 500}" if field == RUN_FIELD else ""
        raise ConfigError(
            f"{field}: {limit!r} is no number of billing units. Give one above 0, as 100{several}.",
            field=field,
            value=limit,
        )


def _is_amount(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e15  # noqa: PLR2004
