"""The limits on billing units that a task can be given."""

from __future__ import annotations

from collections.abc import Mapping

from airflow_provider_csc.errors import ConfigError

TASK_FIELD = "max_billing_units"
RUN_FIELD = "max_billing_units_per_run"
_MOST = 1e15

Limit = float | Mapping[str, float]


def read_limit(field: str, value: object) -> float:
    """
    Return a number of units; as text, too, as templates give it.

    :raises ConfigError: for anything else.
    """
    number = _number(value)
    if number is None:
        raise _error(field, value)
    return number


def read_run_limit(value: object) -> Limit:
    """
    Return a number of units, or one for each unit.

    :raises ConfigError: for anything else.
    """
    if not isinstance(value, Mapping):
        return read_limit(RUN_FIELD, value)
    found = {str(unit): _number(each) for unit, each in value.items()}
    numbers = {unit: number for unit, number in found.items() if number is not None}
    if not found or len(numbers) < len(found):
        raise _error(RUN_FIELD, value)
    return numbers


def check_limits(task: object, run: object) -> None:
    """
    Refuse what is no limit, as far as no template can change it.

    :raises ConfigError: naming it, and what can be written.
    """
    if task is not None and not _is_template(task):
        read_limit(TASK_FIELD, task)
    if run is not None and not _is_template(run):
        read_run_limit(run)


def _is_template(value: object) -> bool:
    values = value.values() if isinstance(value, Mapping) else (value,)
    return any(isinstance(each, str) and ("{{" in each or "{%" in each) for each in values)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 < number < _MOST else None


def _error(field: str, value: object) -> ConfigError:
    several = ", or one by unit, as {'CPU BU': 500}" if field == RUN_FIELD else ""
    return ConfigError(
        f"{field}: {value!r} is no number of billing units. Give one above 0, as 100{several}.",
        field=field,
        value=value,
    )
