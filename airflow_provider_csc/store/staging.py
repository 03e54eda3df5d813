"""
The object store's side of staging: what there is, URLs for it, and what came of them.

No key leaves this process: jobs are given URLs, each of which does one thing for a limited time.
"""

from __future__ import annotations

import base64
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.allas.parts import etag_of_parts, parse_etag
from airflow_provider_csc.allas.plan import Item
from airflow_provider_csc.errors import AllasError, ChecksumError, ConfigError, MissingInputError
from airflow_provider_csc.staging.manifest import (
    Get,
    Manner,
    Put,
    certificates_in,
    render_manifest,
)
from airflow_provider_csc.staging.plan import Fetch, plan_fetches, url_seconds
from airflow_provider_csc.store.connection import RequestError
from airflow_provider_csc.store.upload import PART_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from airflow_provider_csc.staging.declarations import Declared
    from airflow_provider_csc.staging.plan import Staging
    from airflow_provider_csc.staging.receipts import Receipts, Sent
    from airflow_provider_csc.store.store import Store

PART_URLS = 200
"""How many parts an output can have: with the 5 GiB that a part may have, that is 1000 GiB."""

SINGLE_BYTES = 32 * 1024**2
"""Outputs of more than that are sent in parts."""

PIECE_BYTES = 64 * 1024**2
"""Of inputs so much is read in one request."""


@dataclass(frozen=True, slots=True)
class Issued:
    """
    URLs for one start of a job.

    ``manifest`` is what the job reads; ``record`` (plain JSON) what was begun in the store, without
    anything secret.
    """

    manifest: str = field(repr=False)
    record: Mapping[str, Any]
    count: int
    size: int
    seconds: int


def check_staging(store: Store, staging: Staging) -> None:
    """
    See, before a job is queued, that its inputs are there and its buckets can be used.

    :raises MissingInputError: for an input that is not there, unless it is waited for.
    :raises RequestError: for a bucket that is not there, or not open to these keys.
    :raises ConfigError: for certificates that cannot be given to the job.
    """
    manner_of(store)
    for bucket in {each.name.bucket for each in (*staging.inputs, *staging.outputs)}:
        store.call("list_objects_v2", bucket, "", MaxKeys=1)
    if staging.is_patient:
        return
    for declared in staging.inputs:
        if declared.is_tree:
            found = store.call(
                "list_objects_v2", declared.name.bucket, "", Prefix=declared.name.key, MaxKeys=1
            )
            is_there = bool(found.get("KeyCount") or found.get("Contents"))
        else:
            is_there = store.describe(declared.name.bucket, declared.name.key) is not None
        if not is_there and not declared.optional:
            raise _missing(declared)


def issue(store: Store, staging: Staging, epoch: str, left: int | None) -> Issued:
    """
    Issue URLs for a job that may run for ``left`` more seconds.

    :raises MissingInputError: for an input that is not there.
    :raises ConfigError: for inputs that cannot be files side by side.
    :raises NotationError: for the name of an object that cannot become a file.
    """
    seconds = url_seconds(left)
    told: dict[str, int] = {}
    found = [(declared, list(_look(store, declared, told))) for declared in staging.inputs]
    fetches = plan_fetches(found, in_run_dir=staging.in_run_dir, told_sizes=told)
    gets = [Get(fetch=each, url=_presign_get(store, each, seconds)) for each in fetches]
    uploads: dict[str, str] = {}
    puts = []
    try:
        for number, declared in enumerate(staging.outputs):
            puts.append(_make_put(store, declared, seconds, number, uploads))
    except BaseException:
        abort_uploads(store, begun_for(staging.outputs, {"uploads": uploads}))
        raise
    return Issued(
        manifest=render_manifest(
            epoch, gets, puts, manner_of(store, on_failure=staging.on_failure)
        ),
        record={"version": 1, "epoch": epoch, "uploads": uploads},
        count=len(fetches),
        size=sum(each.size for each in fetches),
        seconds=seconds,
    )


def _look(store: Store, declared: Declared, told: dict[str, int]) -> Iterable[Item]:
    bucket, key = declared.name.bucket, declared.name.key
    if declared.is_tree:
        items = list(store.list_objects(bucket, key))
    else:
        one = _describe(store, bucket, key, told)
        items = [] if one is None else [one]
    if not items and not declared.optional:
        raise _missing(declared)
    for item in items:
        etag = parse_etag(item.etag)
        if declared.is_tree and etag is not None and etag.parts:
            # Its metadata may tell the part size, without which the ETag cannot be computed.
            _describe(store, bucket, item.path, told)
        yield item


def _describe(store: Store, bucket: str, key: str, told: dict[str, int]) -> Item | None:
    answer = store.describe(bucket, key)
    if answer is None:
        return None
    with suppress(KeyError, ValueError):
        told[f"{bucket}/{key}"] = int(answer["Metadata"][PART_SIZE])
    return Item(key, answer["ContentLength"], etag=str(answer["ETag"]).strip('"'))


def _missing(declared: Declared) -> MissingInputError:
    what = "nothing below it" if declared.is_tree else "no such object"
    return MissingInputError(
        f"inputs: {declared.name} is to become {declared.path or './'!r}, and there is {what}. "
        "Correct the URL, have the task that writes it run before, or say 'optional': True.",
        uri=str(declared.name),
    )


def _presign_get(store: Store, fetch: Fetch, seconds: int) -> str:
    return store.presign("get_object", fetch.bucket, fetch.key, seconds)


def _make_put(
    store: Store, declared: Declared, seconds: int, number: int, uploads: dict[str, str]
) -> Put:
    bucket, key = declared.name.bucket, declared.name.key
    if declared.is_tree:
        url, form = store.presign_form(bucket, key, seconds)
        return Put(declared=declared, url=url, form=form)
    upload_id = store.begin_upload(bucket, key, {})
    uploads[str(number)] = upload_id
    return Put(
        declared=declared,
        url=store.presign("put_object", bucket, key, seconds),
        part_urls=_presign_parts(store, declared, seconds, upload_id, PART_URLS),
    )


def issue_gets(
    store: Store, fetches: Sequence[Fetch], epoch: str, seconds: int, manner: Manner
) -> str:
    """Return a file of URLs that read some objects."""
    gets = [Get(fetch=each, url=_presign_get(store, each, seconds)) for each in fetches]
    return render_manifest(epoch, gets, manner=manner)


def issue_puts(
    store: Store, files: Sequence[tuple[Declared, int]], epoch: str, seconds: int, manner: Manner
) -> Issued:
    """Issue URLs that write files of which the sizes are known."""
    uploads: dict[str, str] = {}
    puts = []
    try:
        for number, (declared, size) in enumerate(files):
            at = declared.name.bucket, declared.name.key
            parts: list[str] = []
            if size > manner.single:
                upload_id = uploads[str(number)] = store.begin_upload(*at, {})
                count = min(-(-size // manner.single), PART_URLS)
                parts = _presign_parts(store, declared, seconds, upload_id, count)
            url = store.presign("put_object", *at, seconds)
            puts.append(Put(declared=declared, url=url, part_urls=parts))
    except BaseException:
        outputs = [declared for declared, _ in files]
        abort_uploads(store, begun_for(outputs, {"uploads": uploads}))
        raise
    return Issued(
        manifest=render_manifest(epoch, puts=puts, manner=manner),
        record={"epoch": epoch, "uploads": uploads},
        count=len(files),
        size=sum(size for _, size in files),
        seconds=seconds,
    )


def _presign_parts(
    store: Store, declared: Declared, seconds: int, upload_id: str, count: int
) -> list[str]:
    at = declared.name.bucket, declared.name.key
    return [
        store.presign("upload_part", *at, seconds, UploadId=upload_id, PartNumber=number)
        for number in range(1, count + 1)
    ]


def plan_inputs(
    store: Store, inputs: Sequence[Declared], is_selected: Callable[[str], bool] = lambda _: True
) -> list[Fetch]:
    """
    Return what is fetched of some inputs; of a tree, what is selected by its path below it.

    :raises MissingInputError: for an input that is not there.
    """
    told: dict[str, int] = {}
    found = []
    for each in inputs:
        items = _look(store, each, told)
        if each.is_tree:
            top = each.name.key
            items = (item for item in items if is_selected(item.path.removeprefix(top)))
        found.append((each, list(items)))
    return plan_fetches(found, in_run_dir=False, told_sizes=told)


def manner_of(store: Store, *, on_failure: bool = False) -> Manner:
    """Return how a helper reaches the store."""
    verify = store.settings.verify
    bundle = ""
    if isinstance(verify, str):
        # The certificates that vouch for the store are no secret, and not on the cluster.
        bundle = base64.b64encode(_read_certificates(Path(verify))).decode()
    return Manner(
        piece=PIECE_BYTES,
        single=SINGLE_BYTES,
        on_failure=on_failure,
        is_insecure=verify is False,
        ca_bundle=bundle,
    )


def _read_certificates(path: Path) -> bytes:
    """Return the certificates in a file, and nothing else: a key may stand beside them."""
    try:
        found = certificates_in(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"ca_bundle: {path} cannot be read here: {error.strerror}. Where files are staged, it "
            "has to be a file on the workers and on the triggerers.",
            field="ca_bundle",
            value=str(path),
        ) from error
    if not found:
        raise ConfigError(
            f"ca_bundle: there is no certificate in {path}. Give a file in PEM form.",
            field="ca_bundle",
            value=str(path),
        )
    return found


def settle(
    store: Store,
    outputs: Sequence[Declared],
    receipts: Receipts,
    record: Mapping[str, Any] | None,
    *,
    is_wanted: bool,
) -> list[str]:
    """
    Make objects of what a job delivered, and verify them; return the paths of what it did not.

    Unless its outputs are wanted, what was begun for them is undone, and nothing is returned. What
    another start of the job says it sent counts for nothing.

    :raises ChecksumError: for an object that is not what the job says it sent.
    """
    uploads: Mapping[str, str] = (record or {}).get("uploads", {})
    is_same = record is None or record.get("epoch") == receipts.epoch
    if not is_wanted or not is_same:
        withdraw(store, outputs, record)
        return [declared.path or "./" for declared in outputs] if is_wanted else []
    absent = []
    try:
        for number, declared in enumerate(outputs):
            sent = receipts.of(number)
            if not sent.is_whole:
                absent.append(declared.path or "./")
            elif declared.is_tree:
                _verify_tree(store, declared, sent)
            else:
                _complete(store, declared, sent, uploads.get(str(number)))
    finally:
        withdraw(store, outputs, record)
    return absent


def withdraw(store: Store, outputs: Sequence[Declared], record: Mapping[str, Any] | None) -> None:
    """Undo what was begun for the outputs of a job."""
    abort_uploads(store, begun_for(outputs, record))


def _complete(store: Store, declared: Declared, sent: Sent, upload_id: str | None) -> None:
    bucket, key = declared.name.bucket, declared.name.key
    etag = sent.md5
    if sent.part_size:
        numbers = sorted(sent.parts)
        etag = str(etag_of_parts(bytes.fromhex(sent.parts[number][1]) for number in numbers))
        if upload_id is not None and not _is_object(store, declared, sent.size, etag):
            there = store.list_parts(bucket, key, upload_id)
            if {number: there.get(number) for number in numbers} != sent.parts:
                raise _other(declared, declared.path)
            md5s = [sent.parts[number][1] for number in numbers]
            store.complete_upload(bucket, key, upload_id, md5s)
    if not _is_object(store, declared, sent.size, etag):
        raise _other(declared, declared.path)


def _is_object(store: Store, declared: Declared, size: int, etag: str) -> bool:
    item = store.head(declared.name.bucket, declared.name.key)
    return item is not None and (item.size, item.etag) == (size, etag)


def _verify_tree(store: Store, declared: Declared, sent: Sent) -> None:
    prefix = declared.name.key
    there = {
        item.path.removeprefix(prefix): (item.size, item.etag)
        for item in store.list_objects(declared.name.bucket, prefix)
    }
    for name, what in sent.files.items():
        if there.get(name) != what:
            raise _other(declared, f"{declared.path}{name}")


def _other(declared: Declared, path: str) -> ChecksumError:
    return ChecksumError(
        f"{path}: the object below {declared.name} is not what the job says it sent. Does "
        "another task write there?",
        uri=str(declared.name),
    )


def begun_for(
    outputs: Sequence[Declared], record: Mapping[str, Any] | None
) -> list[dict[str, str]]:
    """Return the uploads that were begun for the outputs of a job, as plain JSON."""
    uploads: Mapping[str, str] = (record or {}).get("uploads", {})
    return [
        {"bucket": name.bucket, "key": name.key, "upload_id": upload_id}
        for number, upload_id in uploads.items()
        if int(number) < len(outputs)
        for name in [outputs[int(number)].name]
    ]


def abort_uploads(store: Store, uploads: Iterable[Mapping[str, str]]) -> None:
    """Abort what is left of uploads; one that was completed, or aborted, is none any more."""
    problem: AllasError | None = None
    for each in uploads:
        try:
            store.abort_upload(**each)
        except RequestError as error:
            if error.status != 404:  # noqa: PLR2004 - the bucket is gone, and its uploads with it
                problem = error
    if problem is not None:
        raise problem
