"""
What a task keeps in Airflow's task state store (3.3 or later) from one try to the next.

Nothing depends on it: that a job is found again is the business of the cluster (see `submitter`).
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from airflow_provider_csc.slurm.submission import Submission

_KEY = "slurm"
_log = logging.getLogger(__name__)


def remember(
    context: Context,
    submission: Submission,
    options: Mapping[str, object] | None,
    changes: Mapping[str, str],
) -> None:
    """Put down which job is the task's, what its author asked, and what a policy made of that."""
    store = context.get("task_state_store")
    if store is None:
        return
    try:
        store.set(
            _KEY,
            {
                "job_id": submission.job_id,
                "run_dir": submission.run_dir,
                "options": _as_text(options),
                "changes": [f"{name}={value}" for name, value in changes.items()],
            },
        )
    except Exception as error:  # noqa: BLE001 - whatever it is, the job is submitted
        _log.debug("The task state store took nothing: %s", error)


def recall_changes(context: Context, options: Mapping[str, object] | None) -> dict[str, str]:
    """Return what a retry policy changed in an earlier try that asked for these same options."""
    store = context.get("task_state_store")
    if store is None:
        return {}
    try:
        known = store.get(_KEY)
    except Exception as error:  # noqa: BLE001 - the task goes on with what its author asked for
        _log.debug("The task state store gave nothing: %s", error)
        return {}
    if not isinstance(known, dict) or known.get("options") != _as_text(options):
        return {}
    changed = known.get("changes")
    texts = [str(each) for each in changed] if isinstance(changed, list) else []
    pairs = [each.partition("=") for each in texts if "=" in each]
    return {name: value for name, _, value in pairs}


def _as_text(options: Mapping[str, object] | None) -> str:
    return json.dumps(options or {}, sort_keys=True, default=str)


_COSTS = "slurm_costs"


def remember_costs(context: Context, units: float) -> None:
    """Put down what the jobs of this try have cost; XComs are gone when the next one begins."""
    store = context.get("task_state_store")
    if store is None:
        return
    try:
        tries = _read_costs(store.get(_COSTS))
        store.set(_COSTS, {**tries, str(context["ti"].try_number): units})
    except Exception as error:  # noqa: BLE001 - whatever it is, the job has run
        _log.debug("The task state store took nothing: %s", error)


def recall_costs(context: Context) -> float:
    """Return what the tries before this one have cost; 0 where nothing is known of them."""
    store = context.get("task_state_store")
    if store is None:
        return 0.0
    try:
        tries = _read_costs(store.get(_COSTS))
    except Exception as error:  # noqa: BLE001 - the task goes on with what it knows itself
        _log.debug("The task state store gave nothing: %s", error)
        return 0.0
    return sum(units for name, units in tries.items() if name != str(context["ti"].try_number))


def _read_costs(value: object) -> dict[str, float]:
    pairs = value.items() if isinstance(value, dict) else ()
    return {str(name): units for name, units in pairs if isinstance(units, (int, float))}
