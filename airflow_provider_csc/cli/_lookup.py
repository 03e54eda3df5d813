"""How commands find a connection."""

from __future__ import annotations

import os

from airflow.models import Connection  # noqa: TID251 - the commands of Airflow look up by it, too
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_csc.errors import ConfigError


def look_up(conn_id: str) -> Connection:  # noqa: AIR311 - as above
    """
    Return a connection by its id.

    :raises ConfigError: where there is none of that id.
    """
    # Tasks are told of connections by the API server; here the metadata database is asked.
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    try:
        return Connection.get_connection_from_secrets(conn_id)  # noqa: AIR311 - as above
    except AirflowNotFoundException as error:
        raise ConfigError(
            f"Connection {conn_id!r} is not defined. `airflow connections list` names those that "
            "are in the database.",
            field="conn_id",
            value=conn_id,
        ) from error
