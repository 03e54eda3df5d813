"""The button beside a task that leads to its job."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow.providers.common.compat.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.types import TaskInstanceKey


class SlurmJobLink(BaseOperatorLink):
    """
    Lead to the job's run directory in the site's web interface (Open OnDemand).

    The connection's field *Web interface* says where that is; without it there is no button.
    """

    # A property in the base class, an attribute in every link of Airflow.
    name = "Job files"  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """Return the address that was stored when the job was submitted."""
        from airflow.providers.common.compat.sdk import XCom  # noqa: PLC0415 - not to show a DAG

        # Airflow's own key lacks what its protocol of a key asks for, attributes to write to.
        value = XCom.get_value(key=self.xcom_key, ti_key=ti_key)  # pyright: ignore[reportArgumentType]
        return value or ""

    def persist(self, context: Context, *, web_interface: str | None, run_dir: str) -> None:
        """Store the address, so that the button works while the task is still deferred."""
        if web_interface:
            context["ti"].xcom_push(key=self.xcom_key, value=build_url(web_interface, run_dir))


def build_url(web_interface: str, run_dir: str) -> str:
    """Return Open OnDemand's address of a directory (its dashboard's files application)."""
    return f"{web_interface.rstrip('/')}/pun/sys/dashboard/files/fs{quote(run_dir)}"
