"""Keep buckets of Allas, or of any other Ceph object store, in order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_csc.operators._checks import check_seconds

if TYPE_CHECKING:
    from airflow.sdk import Context


class AllasAbortUploadsOperator(BaseOperator):
    """
    Abort uploads in parts that nobody completed.

    Their parts count towards the project's quota and are in no listing of objects. The transfers of
    this package leave such an upload only where their process was killed. That of a file is
    continued when it runs again, that of a copy is not. Other programs leave them whenever they are
    interrupted.

    Returns ``[{"key", "upload_id", "initiated"}]`` of the uploads that were aborted (or would be),
    with the time in ISO 8601.

    :param bucket_name: the bucket. (templated)
    :param prefix: only uploads of keys that begin with this. (templated)
    :param older_than: only uploads that were begun so long ago (seconds or a timedelta): younger
        ones may be at work.
    :param dry_run_only: abort none, and say in the log which there are.
    :param allas_conn_id: connection to the store. (templated)
    """

    template_fields = ("bucket_name", "prefix", "allas_conn_id")
    ui_color = "#e3f4ea"

    def __init__(
        self,
        *,
        bucket_name: str,
        prefix: str = "",
        older_than: float | timedelta = timedelta(days=7),
        dry_run_only: bool = False,
        allas_conn_id: str = "allas_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_seconds("older_than", older_than)
        self.bucket_name = bucket_name
        self.prefix = prefix
        self.older_than = older_than
        self.dry_run_only = dry_run_only
        self.allas_conn_id = allas_conn_id

    def execute(self, context: Context) -> list[dict[str, str]]:  # noqa: ARG002
        """Abort what is old enough."""
        from airflow_provider_csc.hooks.allas import AllasHook  # noqa: PLC0415

        store = AllasHook(self.allas_conn_id).get_store()
        age = self.older_than
        age = age if isinstance(age, timedelta) else timedelta(seconds=age)
        # The store's clock and this one need not agree to the second.
        latest = datetime.now(UTC) - age
        aborted = []
        for upload in store.list_uploads(self.bucket_name, self.prefix):
            if upload.initiated > latest:
                self.log.info("%s was begun at %s: left.", upload.key, upload.initiated)
                continue
            if not self.dry_run_only:
                store.abort_upload(self.bucket_name, upload.key, upload.upload_id)
            what = "would be aborted" if self.dry_run_only else "aborted"
            self.log.info("%s, begun at %s: %s.", upload.key, upload.initiated, what)
            initiated = upload.initiated.isoformat()
            aborted.append(
                {"key": upload.key, "upload_id": upload.upload_id, "initiated": initiated}
            )
        self.log.info("%d uploads %s.", len(aborted), "found" if self.dry_run_only else "aborted")
        return aborted
