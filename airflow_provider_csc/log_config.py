"""
Airflow's own logging, with the logs of tasks in Allas, by a connection of type `allas`.

It is what `[logging] logging_config_class` may name:
``airflow_provider_csc.log_config.LOGGING_CONFIG``, with `remote_logging`, `remote_base_log_folder`
(``s3://bucket/prefix``) and `remote_log_conn_id` as for Amazon's S3. Amazon's own handler
reads no connection of this type, and uploads with checksums that Ceph refuses over https.

Airflow looks for `REMOTE_TASK_LOG` and `DEFAULT_REMOTE_CONN_ID` beside the dictionary.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final

import attrs
from airflow.config_templates import airflow_local_settings
from airflow.providers.amazon.aws.log.s3_task_handler import S3RemoteLogIO
from airflow.providers.common.compat.sdk import conf

if TYPE_CHECKING:
    from airflow_provider_csc.hooks.allas import AllasHook

LOGGING_CONFIG: Final = airflow_local_settings.DEFAULT_LOGGING_CONFIG

DEFAULT_REMOTE_CONN_ID: Final = "allas_default"


class AllasRemoteLogIO(S3RemoteLogIO):
    """Where and when Amazon's handler stores and reads a log, but with `AllasHook`."""

    @cached_property
    def hook(self) -> AllasHook:
        """Return the hook; its connection is read when a process first stores or reads a log."""
        # Imported here: this module is read in every process of Airflow, before its settings are.
        from airflow_provider_csc.hooks.allas import AllasHook  # noqa: PLC0415

        return AllasHook(
            conf.get("logging", "remote_log_conn_id", fallback=None) or DEFAULT_REMOTE_CONN_ID,
            transfer_config_args={"use_threads": False},
        )


def _replace(log: object) -> object:
    """Put our class in the place of Amazon's; what is none of Amazon's, or nothing, stays."""
    if type(log) is not S3RemoteLogIO:
        return log
    return AllasRemoteLogIO(**attrs.asdict(log, recurse=False))


REMOTE_TASK_LOG: Final = _replace(airflow_local_settings.REMOTE_TASK_LOG)
