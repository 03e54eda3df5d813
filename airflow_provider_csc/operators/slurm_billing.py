"""Add up what the jobs of a DAG run cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_csc.parking import name_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class SlurmBillingSummaryOperator(BaseOperator):
    """
    Return what the Slurm tasks of this DAG run have cost, each and together.

    Put it behind them. It runs whatever became of them (``trigger_rule="all_done"``), because a job
    that failed has cost something, too. Nothing is asked of a site: each task says itself what it
    cost, where its connection names a site.

    Returns a dict: ``units``, by unit what all have cost (``actual``, None where that is not known
    of all) and can cost at the most (``at_most``); ``tasks``, a dict for each task instance; and
    ``unknown``, the task instances that ran and say nothing.

    :param task_ids: count only these tasks; default: all of the DAG that submit jobs.
    """

    ui_color = "#e8f1fa"

    def __init__(self, *, task_ids: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**{"trigger_rule": "all_done", **kwargs})
        self.task_ids = task_ids

    def execute(self, context: Context) -> dict[str, Any]:
        """Ask Airflow for what each task said, and add it up."""
        from airflow_provider_csc.operators._costs import costing_tasks  # noqa: PLC0415
        from airflow_provider_csc.run_costs import (  # noqa: PLC0415 - not to show a DAG
            ask_costs,
            find_silent,
            render_costs,
            summarise,
        )
        from airflow_provider_csc.upstreams import RunName, ask_states  # noqa: PLC0415

        name = name_task(context)
        run = RunName(name["dag_id"], name["run_id"])
        task_ids = self.task_ids or costing_tasks(self.get_dag())
        costs = ask_costs(run, task_ids)
        silent = find_silent(ask_states(run, task_ids), costs)
        summary = summarise(costs, silent)
        if costs:
            self.log.info("What the jobs of this DAG run cost:\n%s", render_costs(costs))
        for unit, sums in summary["units"].items():
            self.log.info("Together: %s, of at most %s.", *_told(sums, unit))
        if silent:
            self.log.warning("Of these nothing is known: %s.", ", ".join(summary["unknown"]))
        return summary


def _told(sums: dict[str, float | None], unit: str) -> tuple[str, str]:
    from airflow_provider_csc.sites.estimate import format_units  # noqa: PLC0415 - as above

    actual, most = (
        "?" if sums[name] is None else f"{format_units(sums[name] or 0)} {unit}"
        for name in ("actual", "at_most")
    )
    return actual, most
