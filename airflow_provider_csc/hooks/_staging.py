"""Give a job its URLs when it has started, and settle what it delivered when it has ended."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from asgiref.sync import sync_to_async

from airflow_provider_csc.client.staging import StagingDir
from airflow_provider_csc.errors import (
    AllasError,
    ConfigError,
    CscError,
    MissingInputError,
    SlurmError,
    TransportError,
)
from airflow_provider_csc.hooks.slurm import open_client
from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.staging.manifest import render_refusal
from airflow_provider_csc.staging.plan import Staging
from airflow_provider_csc.staging.verdict import EXIT_CODES, is_passing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_csc.client.kill import KillLog
    from airflow_provider_csc.client.slurm import SlurmClient
    from airflow_provider_csc.slurm.result import JobResult
    from airflow_provider_csc.staging.receipts import Moved, Receipts
    from airflow_provider_csc.store.store import Store
    from airflow_provider_csc.transport.base import SiteSettings

Value = TypeVar("Value")

# boto3 blocks; a few threads of our own, so that nobody else's work waits for a store.
_threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="staging")
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 15.0
_LONGEST_STORE_PAUSE = 60.0
_FINISH_SECONDS = 20.0
# A shared file system may show the last lines of a job that ended late.
_RECEIPT_PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0)
_STRANGE_ATTEMPTS = 10
# So long a job that has its node waits for squeue; then its URLs live as long as they can.
_UNTOLD_SECONDS = 60.0


class Stager:
    """What one job stages; for the trigger that waits for it."""

    def __init__(self, payload: Mapping[str, Any], run_dir: str, log: KillLog) -> None:
        self._staging = Staging.from_payload(payload)
        self._run_dir = run_dir
        self._log = log
        # Whose URLs are still to be issued.
        self._job_id: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._store: Store | None = None
        self._told = ""
        self._untold_since: float | None = None

    def begin(self, job_id: str, client: SlurmClient) -> None:
        """Give the job its URLs, beside all else, as soon as it asks for them."""
        if self._task is not None:
            self._task.cancel()
        self._job_id = job_id
        self._task = asyncio.create_task(self._serve(job_id, client))

    def go_on(self, client: SlurmClient) -> None:
        """Go on with another connection."""
        if self._job_id is not None:
            self.begin(self._job_id, client)

    async def stop(self) -> None:
        """Let what is half done be done, and stop."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def finish(self, result: JobResult, client: SlurmClient) -> dict[str, Any]:
        """Settle and verify the outputs; return what became of it all, as plain JSON."""
        await self.stop()
        pause = _FIRST_PAUSE
        strange = 0
        while True:
            try:
                return await self._settle(result, client)
            except (TransportError, SlurmError, AllasError) as error:
                if not is_passing(error):
                    return {"problem": error.message, "phase": "out"}
                self._tell(f"The outputs of job {result.job_id} cannot be settled yet", error)
            except Exception as error:
                # The store's connection may not be readable just now.
                strange += 1
                if strange >= _STRANGE_ATTEMPTS:
                    raise
                self._tell(f"The outputs of job {result.job_id} cannot be settled yet", error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_STORE_PAUSE)

    async def withdraw(self, client: SlurmClient, job_id: str) -> None:
        """After a kill: leave no URL on the cluster, and no upload in the store."""
        await self.stop()
        directory = StagingDir(client, self._run_dir)
        look = await directory.look(job_id)
        if look.issued is not None:
            from airflow_provider_csc.store.staging import withdraw  # noqa: PLC0415 - boto3

            outputs, issued = self._staging.outputs, look.issued
            await self._with_store(lambda store: withdraw(store, outputs, issued))
        await directory.clean()

    async def _serve(self, job_id: str, client: SlurmClient) -> None:
        pause = _FIRST_PAUSE
        directory = StagingDir(client, self._run_dir)
        while True:
            # URLs that were issued are also written: an upload that nobody knows of stays for ever.
            step = asyncio.ensure_future(self._issue(job_id, directory))
            try:
                if await asyncio.shield(step):
                    self._job_id = None
                    return
            except asyncio.CancelledError:
                await asyncio.wait({step}, timeout=_FINISH_SECONDS)
                step.cancel()
                raise
            except (TransportError, SlurmError, AllasError) as error:
                self._tell(f"Job {job_id} waits for its URLs", error)
            except Exception as error:  # noqa: BLE001 - the store's connection may not be readable
                self._tell(f"Job {job_id} waits for its URLs", error)
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE)

    async def _issue(self, job_id: str, directory: StagingDir) -> bool:
        """Issue URLs where they are wanted; return whether there is nothing more to do."""
        from airflow_provider_csc.store.staging import issue, withdraw  # noqa: PLC0415 - boto3

        look = await directory.look(job_id)
        if not look.wanted or look.is_served:
            return bool(look.wanted)
        if not look.is_told and self._may_ask_again():
            raise SlurmError(
                f"squeue does not tell how long job {job_id} may still run, and its URLs are to "
                "live no longer.",
                job_id=job_id,
            )
        staging, earlier = self._staging, look.issued
        if earlier is not None:
            await self._with_store(lambda store: withdraw(store, staging.outputs, earlier))
        try:
            issued = await self._with_store(
                lambda store: issue(store, staging, look.wanted, look.left)
            )
        except (ConfigError, NotationError, AllasError) as error:
            is_awaited = isinstance(error, MissingInputError) and staging.is_patient
            if is_awaited or (isinstance(error, AllasError) and is_passing(error)):
                raise
            await directory.issue(
                {"epoch": look.wanted, "uploads": {}}, render_refusal(look.wanted, str(error))
            )
            self._log.log(logging.ERROR, "Job %s cannot have its files: %s", job_id, error)
            return True
        try:
            await directory.issue(issued.record, issued.manifest)
        except CscError:
            record = issued.record
            with suppress(AllasError):
                await self._with_store(lambda store: withdraw(store, staging.outputs, record))
            raise
        self._log.info(
            "Job %s was given URLs for %d objects to fetch (%s) and %d outputs, valid for %.1f h.",
            job_id, issued.count, _size(issued.size), len(staging.outputs), issued.seconds / 3600,
        )  # fmt: skip
        return True

    def _may_ask_again(self) -> bool:
        """Whether squeue may still come to tell how long the job has, before the job gives up."""
        now = time.monotonic()
        since = self._untold_since = now if self._untold_since is None else self._untold_since
        return now - since < min(_UNTOLD_SECONDS, self._staging.timeout / 3)

    async def _settle(self, result: JobResult, client: SlurmClient) -> dict[str, Any]:
        from airflow_provider_csc.store.staging import settle  # noqa: PLC0415 - boto3

        directory = StagingDir(client, self._run_dir)
        look = await directory.look(result.job_id)
        receipts = await self._read_receipts(directory, is_success=result.is_success)
        staging = self._staging
        # Of a script that succeeded all that it wrote is delivered, should something be missing.
        is_own_end = staging.on_failure or result.exit_code in EXIT_CODES
        is_wanted = result.is_success or (is_own_end and receipts.phase != "in")
        outcome: dict[str, Any] = {
            "fetched": _moved(receipts.fetched),
            "delivered": _moved(receipts.delivered) if is_wanted else None,
        }
        if receipts.problem:
            outcome |= {"problem": receipts.problem, "phase": receipts.phase}
        if staging.outputs:
            absent = await self._with_store(
                lambda store: settle(
                    store, staging.outputs, receipts, look.issued, is_wanted=is_wanted
                )
            )
            outcome["absent"] = absent
            needed = {each.path or "./" for each in staging.outputs if not each.optional}
            lost = sorted(needed.intersection(absent))
            is_told = bool(receipts.epoch) and receipts.delivered is not None
            if result.is_success and not receipts.problem and (lost or not is_told):
                what = f"{', '.join(lost)} was" if lost else "all of its outputs were"
                outcome |= {"problem": f"nothing tells that {what} delivered", "phase": "out"}
        await directory.clean()
        return outcome

    async def _read_receipts(self, directory: StagingDir, *, is_success: bool) -> Receipts:
        receipts = await directory.receipts()
        for pause in _RECEIPT_PAUSES:
            is_whole = receipts.problem or receipts.delivered is not None
            if is_whole or not is_success or not self._staging.outputs:
                break
            await asyncio.sleep(pause)
            receipts = await directory.receipts()
        return receipts

    async def _with_store(self, work: Callable[[Store], Value]) -> Value:
        do = partial(work, await self._get_store())
        return await asyncio.get_running_loop().run_in_executor(_threads, do)

    async def _get_store(self) -> Store:
        if self._store is None:
            # Airflow 3.1 reads its next answer wrongly when one is given up.
            opening = asyncio.ensure_future(sync_to_async(_open_store)(self._staging.conn_id))
            opened = await asyncio.shield(opening)
            self._store = opened
            return opened
        return self._store

    def _tell(self, what: str, error: Exception) -> None:
        """Say each reason once, however long it lasts."""
        if str(error) != self._told:
            self._told = str(error)
            self._log.log(logging.WARNING, "%s: %s It is tried again.", what, _sentence(error))


async def withdraw_staged(
    payload: Mapping[str, Any],
    settings: SiteSettings,
    job_id: str,
    run_dir: str,
    log: KillLog,
    *,
    client: SlurmClient | None = None,
) -> None:
    """After a kill: leave no URL on the cluster, and no upload in the store."""
    stager = Stager(payload, run_dir, log)
    try:
        if client is not None:
            await stager.withdraw(client, job_id)
            return
        async with open_client(settings) as own:
            await stager.withdraw(own, job_id)
    except CscError as error:
        log.log(
            logging.WARNING,
            "What was begun for the outputs of job %s could not be undone: %s "
            "AllasAbortUploadsOperator removes uploads that nobody completes.",
            job_id, _sentence(error),
        )  # fmt: skip


def _open_store(conn_id: str) -> Store:
    from airflow_provider_csc.hooks.allas import AllasHook  # noqa: PLC0415 - boto3

    return AllasHook(conn_id).get_store()


def _moved(moved: Moved | None) -> dict[str, int] | None:
    if moved is None:
        return None
    return {"files": moved.count, "bytes": moved.size, "seconds": moved.seconds}


def _sentence(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text if text.endswith(".") else f"{text}."


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:  # noqa: PLR2004
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
