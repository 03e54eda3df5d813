"""Know when Airflow has stored a trigger's event: from Airflow 3.3 itself, or by asking around."""

from __future__ import annotations

import asyncio

from asgiref.sync import sync_to_async

from airflow_provider_csc.task_state import WANTED_OF_TRIGGER, Standing, TaskName, ask_standing

# The triggerer's async process hands events to the one with the database once a second, and that
# one stores what it was handed before it reads on. An answer to a question that was asked later
# proves that it has; three of them, that the event was not still on its way to being handed over.
_ANSWERS = 3
_PAUSE_SECONDS = 2.0
_NOBODY = TaskName(dag_id="-", run_id="-", task_id="-", map_index=-1)


async def until_stored() -> None:
    """Return when the event that was yielded last is in Airflow's database (before Airflow 3.3)."""
    answers = 0
    while answers < _ANSWERS:
        await asyncio.sleep(_PAUSE_SECONDS)
        # Shielded, because Airflow 3.1 reads its next answer wrongly when one is given up.
        asked = asyncio.ensure_future(sync_to_async(ask_standing)(_NOBODY, live=WANTED_OF_TRIGGER))
        answers += await asyncio.shield(asked) is not Standing.UNKNOWN
