"""An operator that knows what its jobs cost, and keeps within a limit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.errors import ConfigError, CscError
from airflow_provider_csc.operators._staging import StagingOperator
from airflow_provider_csc.parking import name_task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow.sdk import Context

    from airflow_provider_csc.run_costs import TaskCost
    from airflow_provider_csc.sites.budget import Spent
    from airflow_provider_csc.sites.estimate import Cost, Estimate, Unknown
    from airflow_provider_csc.sites.model import SiteProfile
    from airflow_provider_csc.slurm.attempt import Attempt
    from airflow_provider_csc.slurm.result import JobResult
    from airflow_provider_csc.slurm.submit_commands import SubmitRequest


class CostingOperator(StagingOperator):
    """
    Prices its jobs where the connection names a site; what it cannot price stays unknown.

    A subclass calls `_check_limits` while the DAG is parsed, has what `_pricing` returns called
    with what is about to be submitted, and calls `_price_after` with what became of it. Nothing
    here ends a task but a limit.
    """

    slurm_conn_id: str
    max_billing_units: float | str | None = None
    max_billing_units_per_run: float | str | Mapping[str, float | str] | None = None
    _site: str | None = None
    _profile: SiteProfile | None = None

    def _check_limits(self) -> None:
        from airflow_provider_csc.sites.limits import check_limits  # noqa: PLC0415 - few have one

        check_limits(self.max_billing_units, self.max_billing_units_per_run)

    @property
    def _is_limited(self) -> bool:
        return self.max_billing_units is not None or self.max_billing_units_per_run is not None

    def _pricing(
        self, context: Context, attempt: Attempt, site: str | None
    ) -> Callable[[SubmitRequest], None] | None:
        """
        Return what is done right before a submission: it raises where that would cost too much.

        :raises ConfigError: for a limit at a site of which no prices are known.
        """
        self._site = site
        if site is None and not self._is_limited:
            return None
        if site is None:
            raise ConfigError(
                f"max_billing_units: connection {self.slurm_conn_id!r} names no site, so that what "
                "a job there costs is not known. Name its profile in the connection's field Site, "
                "or leave the limit out. Nothing was submitted.",
                field="max_billing_units",
                value=self.max_billing_units or self.max_billing_units_per_run,
            )
        present = replace(attempt, site=site)
        return lambda request: self._price_before(
            context, replace(present, asked=tuple(request.asked))
        )

    def _price_before(self, context: Context, attempt: Attempt) -> None:
        """
        Say what the next job can cost, and see to it that this is within the limits.

        :raises ConfigError: where it is not, or where that cannot be told.
        """
        from airflow_provider_csc.sites.budget import check_run, check_task  # noqa: PLC0415
        from airflow_provider_csc.sites.estimate import Unknown  # noqa: PLC0415
        from airflow_provider_csc.sites.limits import (  # noqa: PLC0415
            TASK_FIELD,
            read_limit,
            read_run_limit,
        )

        estimate = self._estimate(attempt)
        if not isinstance(estimate, Unknown):
            self.log.info("The job costs %s.", estimate)
            self._send_units("estimated", estimate.units, estimate.unit)
        elif self._is_limited or self._is_priced(attempt):
            self.log.info("What the job can cost is not known: %s.", estimate.why)
        if self.max_billing_units is not None:
            limit = read_limit(TASK_FIELD, self.max_billing_units)
            check_task(limit, estimate, _spent(attempt))
        # Who tells the others first sees of two that submit at once at least the other.
        self._tell_cost(context, attempt, estimate, job_id=None)
        if self.max_billing_units_per_run is not None:
            try:
                run_limit = read_run_limit(self.max_billing_units_per_run)
                check_run(run_limit, estimate, self._ask_run(context, attempt))
            except ConfigError:
                self._tell_cost(context, attempt, None, job_id=None)
                raise

    def _is_priced(self, attempt: Attempt) -> bool:
        """Whether a job like this has a price here, by the partition that it names."""
        from airflow_provider_csc.slurm.options import read_arguments  # noqa: PLC0415

        # A profile that cannot be read is worth a line.
        is_billed = self._profile is None or bool(self._profile.billing)
        return is_billed and "partition" in read_arguments(attempt.asked)

    def _price_after(self, context: Context, result: JobResult, attempt: Attempt) -> Attempt:
        """Say what a job has cost, to whoever wants to know; return the attempt with that in it."""
        from airflow_provider_csc.hooks._stats import AirflowMeter  # noqa: PLC0415
        from airflow_provider_csc.operators._metrics import send_usage  # noqa: PLC0415

        if result.job_id in attempt.costs:
            return attempt
        send_usage(AirflowMeter(), result, self._tags)
        if attempt.site is None:
            return attempt
        from airflow_provider_csc.sites.estimate import Cost, Unknown  # noqa: PLC0415

        estimate = self._estimate(attempt)
        cost = self._find_cost(result, attempt)
        if isinstance(cost, Cost):
            self.log.info("Job %s used %s.", result.job_id, cost)
            self._send_units("actual", cost.units, cost.unit)
            told: tuple[float, int] | None = (cost.units, 1)
        else:
            self.log.info("What job %s used is not known: %s.", result.job_id, cost.why)
            told = None if isinstance(estimate, Unknown) else (estimate.units, 0)
        following = replace(attempt, costs={**attempt.costs, result.job_id: told})
        self._tell_cost(context, following, None, job_id=result.job_id)
        return following

    @property
    def _tags(self) -> dict[str, str]:
        return {"dag_id": self.dag_id, "task_id": self.task_id}

    def _send_units(self, kind: str, units: float, unit: str) -> None:
        from airflow_provider_csc.hooks._stats import AirflowMeter  # noqa: PLC0415

        AirflowMeter().gauge(f"slurm.billing_units.{kind}", units, {**self._tags, "unit": unit})

    def _find_cost(self, result: JobResult, attempt: Attempt) -> Cost | Unknown:
        """Return what a job has cost, all its runs together."""
        from airflow_provider_csc.sites.estimate import Unknown, compute_cost  # noqa: PLC0415
        from airflow_provider_csc.slurm.options import read_arguments  # noqa: PLC0415
        from airflow_provider_csc.slurm.tres import Share  # noqa: PLC0415

        try:
            shares = [Share(*each) for each in result.shares or ()]
            # Of a job that was requeued sacct shows the last run, unless it is asked for all.
            if (result.shares is None or result.restarts) and not result.without_accounting:
                from airflow_provider_csc.hooks.slurm import SlurmHook  # noqa: PLC0415

                shares = SlurmHook(self.slurm_conn_id).shares(result.job_id)
            elif result.shares is None:
                return Unknown("the site keeps no accounting")
            cost = compute_cost(shares, self._load_profile(attempt), read_arguments(attempt.asked))
        except CscError as error:
            return Unknown(error.message.removesuffix("."))
        return cost

    def _load_profile(self, attempt: Attempt) -> SiteProfile:
        if self._profile is not None:
            return self._profile
        from airflow_provider_csc.deployment import sites_folders  # noqa: PLC0415
        from airflow_provider_csc.sites.load import load_profile  # noqa: PLC0415

        self._profile = load_profile(attempt.site or "", sites_folders())
        return self._profile

    def _estimate(self, attempt: Attempt) -> Estimate | Unknown:
        """Return what the present job of a try can cost; of an array what is still to do."""
        from airflow_provider_csc.sites.estimate import (  # noqa: PLC0415
            Estimate,
            Unknown,
            estimate_worst_case,
        )
        from airflow_provider_csc.slurm.array_attempt import ArrayAttempt  # noqa: PLC0415
        from airflow_provider_csc.slurm.options import read_arguments  # noqa: PLC0415

        try:
            profile = self._load_profile(attempt)
        except CscError as error:
            return Unknown(error.message.removesuffix("."))
        estimate = estimate_worst_case(read_arguments(attempt.asked), profile)
        known = ArrayAttempt.from_payload(attempt.array) if attempt.array else None
        if isinstance(estimate, Estimate) and known and known.whole:
            return replace(estimate, tasks=len(known.todo))
        return estimate

    def _value_of(self, result: JobResult, attempt: Attempt) -> dict[str, Any]:
        """Return what the task returns."""
        from airflow_provider_csc.slurm.result import to_xcom  # noqa: PLC0415

        advice = self._advise(result, attempt)
        if advice:
            self.log.info("Job %s: %s.", result.job_id, "; ".join(advice))
        return {
            **to_xcom(result),
            "resubmissions": [dict(each) for each in attempt.history],
            "billing_units": self._describe_cost(attempt) if attempt.site else None,
            "advice": advice,
        }

    def _describe_cost(self, attempt: Attempt) -> dict[str, Any]:
        """Return what the result says of the costs of a try."""
        from airflow_provider_csc.sites.estimate import Estimate  # noqa: PLC0415

        estimate = self._estimate(replace(attempt, array=None))
        priced = estimate if isinstance(estimate, Estimate) else None
        is_known = bool(attempt.costs) and _is_exact(attempt)
        return {
            "estimated": round(priced.units, 4) if priced else None,
            "actual": round(_spent(attempt).units, 4) if is_known else None,
            "unit": priced.unit if priced else None,
        }

    def _advise(self, result: JobResult, attempt: Attempt) -> list[str]:
        from airflow_provider_csc.slurm.advice import advise  # noqa: PLC0415

        if attempt.site is None:
            return advise(result)
        try:
            partition = self._load_profile(attempt).partitions.get(result.partition or "")
        except CscError:
            partition = None
        if partition is None:
            return advise(result)
        if partition.hands_out_nodes:
            return []
        return advise(result, threads_per_core=partition.threads_per_core)

    def _ask_run(self, context: Context, attempt: Attempt) -> Mapping[str, Spent]:
        """Return what this DAG run has spent, and what it may yet spend on jobs that are there."""
        from airflow_provider_csc.run_costs import ask_costs, sum_up  # noqa: PLC0415
        from airflow_provider_csc.upstreams import Instance, RunName  # noqa: PLC0415

        name = name_task(context)
        run = RunName(name["dag_id"], name["run_id"])
        others = ask_costs(run, costing_tasks(self.get_dag(), self.task_id))
        mine = self._build_cost(context, attempt, None, job_id=None)
        me = Instance(name["task_id"], name["map_index"])
        known = [cost for cost in others if (cost["task_id"], cost["map_index"]) != me]
        return sum_up([*known, mine])

    def _tell_cost(
        self,
        context: Context,
        attempt: Attempt,
        estimate: Estimate | Unknown | None,
        *,
        job_id: str | None,
    ) -> None:
        """Push what this task instance costs; with an estimate, of a job that is to come."""
        from airflow_provider_csc.operators._task_state import remember_costs  # noqa: PLC0415
        from airflow_provider_csc.run_costs import KEY  # noqa: PLC0415

        cost = self._build_cost(context, attempt, estimate, job_id=job_id)
        context["ti"].xcom_push(key=KEY, value=dict(cost))
        if job_id is not None:
            remember_costs(context, _spent(attempt).units)

    def _build_cost(
        self,
        context: Context,
        attempt: Attempt,
        estimate: Estimate | Unknown | None,
        *,
        job_id: str | None,
    ) -> TaskCost:
        from airflow_provider_csc.operators._task_state import recall_costs  # noqa: PLC0415
        from airflow_provider_csc.sites.estimate import Estimate, Unknown  # noqa: PLC0415

        name = name_task(context)
        spent, earlier = _spent(attempt), recall_costs(context)
        of_job = self._estimate(attempt) if estimate is None else estimate
        expected = estimate.units if isinstance(estimate, Estimate) else 0.0
        unknown = [*spent.unknown, *([self.task_id] if isinstance(estimate, Unknown) else [])]
        return {
            "task_id": name["task_id"],
            "map_index": name["map_index"],
            "try_number": context["ti"].try_number,
            "job_id": job_id,
            "unit": of_job.unit if isinstance(of_job, Estimate) else None,
            "units": spent.units + earlier + expected,
            "expected": expected,
            "estimated": of_job.units if isinstance(of_job, Estimate) else None,
            "actual": spent.units + earlier if _is_exact(attempt) else None,
            "unknown": unknown,
        }


def _spent(attempt: Attempt) -> Spent:
    """Return what the jobs of a try that have ended have cost."""
    from airflow_provider_csc.sites.budget import Spent  # noqa: PLC0415

    known = [each[0] for each in attempt.costs.values() if each is not None]
    unknown = tuple(job_id for job_id, each in attempt.costs.items() if each is None)
    return Spent(units=sum(known), unknown=unknown)


def _is_exact(attempt: Attempt) -> bool:
    """Whether all of that is what they have cost, and not only the most they can have."""
    return all(each is not None and each[1] for each in attempt.costs.values())


def costing_tasks(dag: Any, own: str | None = None) -> Sequence[str]:
    """Return the ids of a DAG's tasks that submit jobs."""
    if dag is None:
        return [] if own is None else [own]
    return [task_id for task_id, task in dag.task_dict.items() if _is_costing(task)]


def _is_costing(task: object) -> bool:
    # A mapped task names the class of its instances.
    kind = getattr(task, "operator_class", type(task))
    return isinstance(kind, type) and issubclass(kind, CostingOperator)
