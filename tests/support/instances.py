"""Mapped instances of a coalesced task, as workers and one triggerer run them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout, TaskDeferred

from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.triggers.slurm_submit import SlurmSubmitTrigger
from tests.support.task import build_context, first_event, stored

if TYPE_CHECKING:
    from collections.abc import Sequence


def operator(index: int, **arguments: Any) -> SlurmSubmitOperator:
    given: dict[str, Any] = {
        "task_id": "work",
        "command": "echo $ME",
        "env": {"ME": index},
        "deferrable": True,
        "coalesce": True,
        "coalesce_seconds": 0.3,
        "poll_interval": 0.2,
    }
    return SlurmSubmitOperator(**given | arguments)


class Instances:
    """Mapped instances of one task, each with a context of its own."""

    def __init__(self, count: int, *, run_id: str, try_number: int = 1, **arguments: Any) -> None:
        self.operators = [operator(index, **arguments) for index in range(count)]
        self.contexts: list[Any] = [
            build_context(
                one,
                run_id=run_id,
                map_index=index,
                try_number=try_number,
                max_tries=try_number - 1,
            )
            for index, one in enumerate(self.operators)
        ]

    def defer(self) -> list[SlurmSubmitTrigger]:
        """Do as their workers do; the triggers as the triggerer builds them."""
        found = []
        for one, context in zip(self.operators, self.contexts, strict=True):
            with pytest.raises(TaskDeferred) as caught:
                one.execute(context)
            assert caught.value.method_name == "execute_complete"
            trigger = stored(caught.value.trigger)
            assert isinstance(trigger, SlurmSubmitTrigger)
            found.append(trigger)
        return found

    def keep(self, indices: Sequence[int]) -> None:
        """Go on with some of them, as when a user clears these alone."""
        self.operators = [self.operators[index] for index in indices]
        self.contexts = [self.contexts[index] for index in indices]

    def complete(self, events: Sequence[Any]) -> list[Any]:
        """Do as the workers do that are woken; errors are returned."""
        found: list[Any] = []
        for one, context, event in zip(self.operators, self.contexts, events, strict=True):
            try:
                found.append(one.execute_complete(context, json.loads(json.dumps(event))))
            except (Exception, AirflowTaskTimeout) as error:  # noqa: BLE001
                found.append(error)
        return found


def run_all(triggers: Sequence[SlurmSubmitTrigger]) -> list[Any]:
    """As one triggerer does: all on one event loop."""

    async def main() -> list[Any]:
        events = [first_event(trigger) for trigger in triggers]
        return await asyncio.wait_for(asyncio.gather(*events), 180)

    return asyncio.run(main())
