"""Read in a task which objects the events of a watcher have brought, each once."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import get_current_context

from airflow_provider_csc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow.sdk import Asset, Context

    from airflow_provider_csc.allas.cursor import ChangedObject, ObjectsEvent

# How far the clocks of two triggerers may be apart.
_CLOCKS = timedelta(hours=1)


def read_objects(asset: Asset, context: Context | None = None) -> list[ChangedObject]:
    """
    Return the objects of the asset's events that this DAG run was started by.

    Events of `AllasObjectsTrigger` that an earlier event of the asset has brought already (the
    triggerer was killed before it could note that the first was stored) are left out, by Airflow's
    own record of events. So each version of an object is in the result of one DAG run, and also in
    that of each retry and each clearing of it.

    The task has to name the asset among its ``inlets``, which is what opens that record to it.
    ``context`` is the task's, by default the one that runs.
    """
    context = context or get_current_context()
    inlets = context["task"].inlets
    if asset not in inlets:
        raise ConfigError(
            f"The task does not name {asset.name!r} among its inlets, which read_objects needs to "
            "recognise repeated events. Write @task(inlets=[…]) with the asset.",
            asset=asset.name,
        )
    events: Mapping[Any, Any] = context["triggering_asset_events"]
    try:
        started_by = events[asset]
    except KeyError:
        # Started by hand, or by another asset.
        return []
    return [
        each
        for event in sorted(started_by, key=lambda event: cast("datetime", event.timestamp))
        if (payload := _read_payload(event)) is not None
        and not (payload["is_repeat"] and _is_known(payload, event, context, asset))
        for each in payload["objects"]
    ]


def _read_payload(event: Any) -> ObjectsEvent | None:
    """Return what a watcher of ours has told; None for an event of somebody else."""
    payload = (event.extra or {}).get("payload")
    if isinstance(payload, dict) and {"id", "planned_at", "is_repeat", "objects"} <= payload.keys():
        return cast("ObjectsEvent", payload)
    return None


def _is_known(payload: ObjectsEvent, event: Any, context: Context, asset: Asset) -> bool:
    """Whether an earlier event of the asset has the same id."""
    inlet_events: Mapping[Any, Any] = context["inlet_events"]
    stored: Any = inlet_events[asset]
    if hasattr(stored, "after"):  # Airflow 3.1 has a list of all events
        since = datetime.fromisoformat(payload["planned_at"]) - _CLOCKS
        # Of later ones Airflow may fail to tell: up to 3.3.2 it cannot answer with an event of
        # whose DAG runs one has not begun yet.
        stored = stored.after(since.isoformat()).before(event.timestamp.isoformat())
    return _has_earlier(stored, payload, event.timestamp)


def _has_earlier(stored: Iterable[Any], repeat: ObjectsEvent, moment: datetime) -> bool:
    # Numbers begin anew where a cursor is deleted, times do not.
    same = (repeat["id"], repeat["planned_at"])
    for each in stored:
        payload = _read_payload(each)
        if payload is None or each.timestamp >= moment:
            continue
        if (payload["id"], payload["planned_at"]) == same:
            return True
    return False
