"""Records and leases: objects through which tasks, and programs beside Airflow, cooperate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic

from airflow_provider_csc.errors import RecordInvalidError
from airflow_provider_csc.hooks._writer import name_writer
from airflow_provider_csc.store.change import change
from airflow_provider_csc.store.effort import read
from airflow_provider_csc.store.history import read_history
from airflow_provider_csc.store.leases import Lease
from airflow_provider_csc.store.models import ModelError, ModelT, parse_model, render_model
from airflow_provider_csc.store.purge import purge
from airflow_provider_csc.store.target import (
    DELETE,
    KEEP,
    Options,
    Snapshot,
    Special,
    Target,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_csc.errors import LeaseLostError
    from airflow_provider_csc.hooks.allas import AllasHook

__all__ = ["DELETE", "AllasLease", "AllasRecord", "Options", "Snapshot"]

_DEFAULT_CONN_ID: Final = "allas_default"


class AllasRecord(Generic[ModelT]):
    """
    An object that holds a pydantic model as JSON, and is changed by several programs at once.

    No change of another is overwritten: see ``AllasHook.update_object``, on which this stands. What
    the model does not know it loses when it is written; ``extra="allow"`` in the model keeps it.

    :param model: the pydantic model.
    :param key: key of the object, or its ``s3://`` URL.
    :param bucket_name: the bucket; by default that of the URL or of the connection.
    :param allas_conn_id: the connection, where no ``hook`` is given.
    :param hook: an :class:`~airflow_provider_csc.hooks.allas.AllasHook`.
    :param writer: a name for people; by default the task instance, or user, host and process.
    :param options: as for ``update_object``: ``attempts``, ``timeout_seconds``, ``max_bytes``,
        ``history_prefix``, ``history_keep``, ``allow_unguarded``.

    Methods raise the errors of ``update_object``; RecordInvalidError also for what is not of the
    model.
    """

    def __init__(
        self,
        model: type[ModelT],
        key: str,
        bucket_name: str | None = None,
        *,
        allas_conn_id: str | None = _DEFAULT_CONN_ID,
        hook: AllasHook | None = None,
        writer: str | None = None,
        **options: Any,
    ) -> None:
        self._model = model
        self._place = _Place(key, bucket_name, allas_conn_id, hook, writer, Options(**options))

    def read(self) -> ModelT | None:
        """Read the record; None where there is none."""
        return self._parse(self._place.target, self.read_snapshot())

    def read_snapshot(self) -> Snapshot:
        """Read the record as JSON, with its version, its writer and the time it was written."""
        return read(self._place.target).snapshot

    def read_history(self) -> Iterator[Snapshot]:
        """
        Read the versions that were replaced, as JSON, the oldest first.

        Those that ``history_prefix`` and ``history_keep`` have kept; none without.
        """
        return read_history(self._place.target)

    def update(self, fn: Callable[[ModelT | None], ModelT | Special | None]) -> ModelT | None:
        """
        Change the record; return what is stored then, None where nothing is.

        ``fn`` takes the present model, None where there is none, and returns the new one. It may be
        called several times. None or an equal model writes nothing, `DELETE` deletes the record.
        """
        target = self._place.target
        stored = change(target, lambda present: self._compute(fn, target, present.snapshot))
        return self._parse(target, stored)

    def delete(self) -> bool:
        """
        Delete the value under condition; False where there is none.

        The object stays, with the JSON value null, its version and its history: so versions go on
        when the record is written again, and a change that meets the deletion is not lost.
        """
        return change(self._place.target, lambda _: DELETE).is_changed

    def purge(self) -> bool:
        """
        Remove the object that `delete` left; False where there is none.

        At the earliest fifteen minutes later (RecordError before), and only where the store honours
        If-Match on DELETE (RecordUnguardedError otherwise, as by Ceph 16.2). The history stays.
        """
        return purge(self._place.target)

    def _compute(
        self,
        fn: Callable[[ModelT | None], ModelT | Special | None],
        target: Target,
        snapshot: Snapshot,
    ) -> object:
        before = self._parse(target, snapshot)
        kept = None if before is None else before.model_copy(deep=True)
        after = fn(before)
        if after is None and before != kept:
            raise _build_error(
                target,
                "was not changed: the function changed its argument and returned None. Let it "
                "return the new model.",
            )
        if after is None or isinstance(after, Special):
            return after
        if after == kept:
            return KEEP
        try:
            return render_model(self._model, after)
        except ModelError as error:
            raise _build_error(target, f"was not changed: {error}.") from error

    def _parse(self, target: Target, snapshot: Snapshot) -> ModelT | None:
        try:
            return parse_model(self._model, snapshot.value)
        except ModelError as error:
            raise _build_error(
                target,
                f"(version {snapshot.version}, written by {snapshot.writer or 'another program'}) "
                f"cannot be read: {error}.",
            ) from error


class AllasLease(Lease):
    """
    "Only one of us does this": a lease on an object, held for as long as the context lasts.

    ::

        with AllasLease("leases/publish") as lease:
            for part in parts:
                lease.check()  # LeaseLostError, when it is ours no longer
                publish(part, fencing_number=lease.token)

    It is renewed by a thread. Time is the object store's: clocks of machines need not agree.

    :param key: key of the object, or its ``s3://`` URL; nothing else is kept there.
    :param bucket_name: the bucket; by default that of the URL or of the connection.
    :param owner: a name for people; by default the task instance, or user, host and process.
    :param seconds: how long others wait when the holder vanishes, 5 or more.
    :param wait_seconds: how long to wait for who holds it; None for ever.
    :param on_lost: called once, in a thread of its own, with the LeaseLostError.
    :param allas_conn_id: the connection, where no ``hook`` is given.
    :param hook: an :class:`~airflow_provider_csc.hooks.allas.AllasHook`.

    Entering raises LeaseHeldError, or an error of ``update_object``; leaving raises LeaseLostError
    where the lease was lost and nothing else was raised.
    """

    def __init__(
        self,
        key: str,
        bucket_name: str | None = None,
        *,
        owner: str | None = None,
        seconds: float = 60.0,
        wait_seconds: float | None = 0.0,
        on_lost: Callable[[LeaseLostError], object] | None = None,
        allas_conn_id: str | None = _DEFAULT_CONN_ID,
        hook: AllasHook | None = None,
    ) -> None:
        owner = owner or name_writer()
        place = _Place(key, bucket_name, allas_conn_id, hook, owner, Options())
        super().__init__(
            lambda: place.target,
            owner=owner,
            seconds=seconds,
            wait_seconds=wait_seconds,
            on_lost=on_lost,
        )


class _Place:
    """Where a record is; nothing is looked up before it is needed."""

    def __init__(
        self,
        key: str,
        bucket_name: str | None,
        conn_id: str | None,
        hook: AllasHook | None,
        writer: str | None,
        options: Options,
    ) -> None:
        self._key, self._bucket_name, self._conn_id = key, bucket_name, conn_id
        self._hook, self._writer, self._options = hook, writer, options
        self._target: Target | None = None

    @property
    def target(self) -> Target:
        if self._target is None:
            # A DAG file may define records; the Amazon provider is loaded when one is used.
            from airflow_provider_csc.hooks.allas import AllasHook  # noqa: PLC0415

            hook = self._hook or AllasHook(self._conn_id)
            self._target = hook.get_record(
                self._key, self._bucket_name, writer=self._writer, options=self._options
            )
        return self._target


def _build_error(target: Target, text: str) -> RecordInvalidError:
    return RecordInvalidError(f"{target} {text}", bucket=target.bucket, key=target.key, attempts=1)
