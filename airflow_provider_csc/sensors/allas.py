"""Wait for objects in Allas, LUMI-O or any other Ceph object store."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSkipException,
    BaseSensorOperator,
    conf,
)
from airflow.sdk import PokeReturnValue

from airflow_provider_csc.allas.objects import read_pattern
from airflow_provider_csc.errors import AllasError, ConfigError, from_payload
from airflow_provider_csc.notation import NotationError, is_whole_number, shown
from airflow_provider_csc.triggers._settling import SETTLE_SECONDS

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_csc.allas.objects import ObjectFacts
    from airflow_provider_csc.client.listing import Log
    from airflow_provider_csc.client.object_wait import ObjectWaiter
    from airflow_provider_csc.triggers.allas import AllasObjectTrigger


class AllasObjectSensor(BaseSensorOperator):
    """
    Wait until objects are there: one or many, at rest, or with a content that says so.

    All conditions that are given must hold at once. However many sensors wait for objects of one
    bucket below one prefix, a triggerer lists it once per interval. While the store gives no answer
    the sensor goes on waiting until its ``timeout``; a wrong key, a bucket of somebody else or none
    fail it at once and without a retry (or skip it, with ``soft_fail``).

    Returns the objects, in the order of their keys: a list of ``{"uri", "key", "size", "etag",
    "last_modified"}``.

    :param key: ``s3://bucket/key``, or a key of ``bucket_name``. ``*`` and ``?`` stand for
        characters other than a slash, ``**`` for any; ``[*]`` is a star. All below a prefix that
        ends with a slash is meant by it. (templated)
    :param bucket_name: the bucket, where the key is no URI; by default the connection's own.
        (templated)
    :param min_count: how many objects must meet the condition. (templated)
    :param inactivity_period: for how long (seconds, or a timedelta) none of them may have been
        written, nor seen to be added or deleted. (templated)
    :param json_condition: what each object's JSON must say, as ``{"status": "done", "run.epoch":
        {">=": 10}}``; comparisons are ==, !=, <, <=, >, >=, in, contains and exists. What is larger
        than 1 MiB or no JSON does not meet it. (templated)
    :param wildcards: with False, the key is taken to the letter.
    :param max_results: how many objects are returned at the most.
    :param allas_conn_id: the connection. (templated)
    :param deferrable: wait in the triggerer; otherwise ``mode`` is poke or reschedule as in every
        sensor.
    """

    template_fields = (
        "key",
        "bucket_name",
        "min_count",
        "inactivity_period",
        "json_condition",
        "allas_conn_id",
    )
    template_fields_renderers = {"json_condition": "json"}  # noqa: RUF012 - as Airflow declares it
    ui_color = "#e8f1fa"

    def __init__(  # noqa: PLR0913 - one argument for each thing a user may want
        self,
        *,
        key: str,
        bucket_name: str | None = None,
        min_count: int | str = 1,
        inactivity_period: float | str | timedelta = 0.0,
        json_condition: dict[str, Any] | None = None,
        wildcards: bool = True,
        max_results: int = 1000,
        allas_conn_id: str | None = "allas_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.key = key
        self.bucket_name = bucket_name
        self.min_count = min_count
        self.inactivity_period = inactivity_period
        self.json_condition = json_condition
        self.wildcards = wildcards
        self.max_results = max_results
        self.allas_conn_id = allas_conn_id
        self.deferrable = deferrable
        # Between two pokes of one process: what is known of documents, and what was told.
        self._waiter: ObjectWaiter | None = None

    def execute(self, context: Context) -> Any:
        """Defer, or poke."""
        if not self.deferrable:
            return super().execute(context)
        try:
            trigger = self._build_trigger()
        except AirflowFailException as error:
            # Only what happens after a deferral does Airflow turn into a skip.
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(str(error)) from error
            raise
        limit = min(timedelta(seconds=self.timeout), self.execution_timeout or timedelta.max)
        return self.defer(
            trigger=trigger,
            method_name=self.execute_complete.__name__,
            # What the first look finds is told late, and still in time.
            timeout=max(limit, timedelta(seconds=2 * SETTLE_SECONDS)),
        )

    def execute_complete(
        self,
        context: Context,  # noqa: ARG002 - Airflow hands it over
        event: dict[str, Any],
    ) -> list[ObjectFacts]:
        """Take up the trigger's event."""
        if "error" in event:
            error = from_payload(event["error"])
            raise AirflowFailException(error.message) from error
        return self._finish(event["count"], event["objects"])

    def poke(self, context: Context) -> bool | PokeReturnValue:  # noqa: ARG002
        """Look once."""
        from airflow_provider_csc.sync import run_sync  # noqa: PLC0415 - costs time in a DAG file

        trigger = self._build_trigger()
        try:
            self._waiter = self._waiter or _open_waiter(trigger, self.log)
            found = run_sync(self._waiter.look())
        except (ConfigError, AllasError) as error:
            raise AirflowFailException(error.message) from error
        if found is None:
            return False
        return PokeReturnValue(is_done=True, xcom_value=self._finish(found.count, found.objects))

    def _build_trigger(self) -> AllasObjectTrigger:
        from airflow_provider_csc.triggers.allas import AllasObjectTrigger  # noqa: PLC0415 - heavy

        try:
            bucket, pattern = read_pattern(self.key, self.bucket_name, has_wildcards=self.wildcards)
            trigger = AllasObjectTrigger(
                allas_conn_id=self.allas_conn_id,
                bucket_name=bucket,
                key=pattern.text,
                wildcards=self.wildcards,
                min_count=_read_count("min_count", self.min_count),
                inactivity_period=_read_seconds(self.inactivity_period),
                json_condition=self.json_condition,
                max_results=_read_count("max_results", self.max_results),
                poll_interval=self.poke_interval,
            )
            # Out of sight of the task it would be told late.
            trigger.build_wait()
        except NotationError as error:
            raise AirflowFailException(str(error)) from error
        return trigger

    def _finish(self, count: int, objects: list[ObjectFacts]) -> list[ObjectFacts]:
        self.log.info("%d %s there.", count, "object is" if count == 1 else "objects are")
        if count > len(objects):
            self.log.info("Only the first %d are returned (max_results).", len(objects))
        _note_lineage(self, objects)
        return objects


def _open_waiter(trigger: AllasObjectTrigger, log: Log) -> ObjectWaiter:
    from airflow_provider_csc.client.object_wait import ObjectWaiter  # noqa: PLC0415 - heavy
    from airflow_provider_csc.hooks._object_store import open_store  # noqa: PLC0415 - heavy

    store, bucket = open_store(trigger.allas_conn_id, trigger.bucket_name)
    # A process that looks once may be the only look there is (mode="reschedule"), so it reads all.
    return ObjectWaiter(store, bucket, trigger.build_wait(max_reads=None), log)


def _note_lineage(sensor: AllasObjectSensor, objects: list[ObjectFacts]) -> None:
    """Tell Airflow's lineage collector what was found, as S3Hook tells what it reads."""
    from airflow.providers.common.compat.lineage.hook import (  # noqa: PLC0415 - costs time
        get_hook_lineage_collector,
    )

    collector = get_hook_lineage_collector()
    # The collector takes it as a name for who says so; its annotation knows hooks only.
    context = cast("Any", sensor)
    for each in objects:
        collector.add_input_asset(context=context, uri=each["uri"])


def _read_count(name: str, given: object) -> int:
    text = str(given).strip() if is_whole_number(given) or isinstance(given, str) else ""
    if not text.isdecimal() or int(text) < 1:
        raise NotationError(f"{name} is {shown(given)}", "Give a whole number of 1 or more.")
    return int(text)


def _read_seconds(given: object) -> float:
    if isinstance(given, timedelta):
        return given.total_seconds()
    try:
        seconds = float(given) if isinstance(given, (int, float, str)) else -1.0
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise NotationError(f"inactivity_period is {shown(given)}", "Give seconds, or a timedelta.")
    return seconds
