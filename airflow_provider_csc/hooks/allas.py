"""Talk to Allas, LUMI-O or any other Ceph object store through Airflow's own S3 hook."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.utils.connection_wrapper import AwsConnectionWrapper
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from asgiref.sync import sync_to_async
from botocore.config import Config  # noqa: TID253 - S3Hook, the base class, has loaded it anyway
from botocore.exceptions import BotoCoreError, ClientError  # noqa: TID253 - likewise

from airflow_provider_csc.allas.connection import Fields, build_aws_extra, build_client_config
from airflow_provider_csc.allas.endpoints import ALLAS
from airflow_provider_csc.errors import ConfigError, CscError
from airflow_provider_csc.hooks._forms import build_field_behaviour, build_form_widgets
from airflow_provider_csc.transport.s3 import describe_failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PROBE_CONFIG = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=15)
"""A person waits for Test Connection: one attempt, and seconds rather than minutes."""


class AllasHook(S3Hook):
    """
    The Amazon provider's :class:`~airflow.providers.amazon.aws.hooks.s3.S3Hook`, set up for Ceph.

    Every method of ``S3Hook`` is here and behaves as documented there. What differs is where the
    client's settings come from: a connection of type ``allas`` (or ``aws`` with an
    ``endpoint_url``), completed with path style addressing, signature version 4, no unrequested
    checksums, bounded retries and timeouts. Settings of the connection win over these, and
    ``config`` wins over both.

    :param allas_conn_id: the connection; None leaves endpoint and keys to boto3's own files and
        variables, for example those that ``allas-conf`` wrote.
    :param aws_conn_id: the same, under the name by which operators of the Amazon provider pass it.
    :param kwargs: as for ``S3Hook``: ``transfer_config_args``, ``extra_args``, ``verify``,
        ``region_name``, ``config``, ``requester_pays``.
    """

    conn_name_attr = "allas_conn_id"
    default_conn_name = "allas_default"
    conn_type = "allas"
    hook_name = "Allas (S3)"

    def __init__(self, allas_conn_id: str | None = default_conn_name, **kwargs: Any) -> None:
        kwargs.setdefault("aws_conn_id", allas_conn_id)
        super().__init__(**kwargs)

    @property
    def allas_conn_id(self) -> str | None:
        """Id of the connection, by the name of our own argument."""
        conn_id: str | None = self.aws_conn_id
        return conn_id

    @property
    def project(self) -> str | None:
        """Project the keys belong to, where the connection tells."""
        return self.conn_config.extra_config.get("project")

    @cached_property
    def conn_config(self) -> AwsConnectionWrapper:
        """Settings of the client: the connection's, Ceph's needs, and the hook's arguments."""
        connection = self._wrap_connection() if self.aws_conn_id else None
        return AwsConnectionWrapper(
            conn=connection,
            region_name=self._region_name,
            botocore_config=self._merge_config(connection),
            verify=self._verify,
        )

    def create_bucket(
        self, bucket_name: str | None = None, region_name: str | None = None, **kwargs: Any
    ) -> None:
        """
        Create a bucket; ``region_name`` becomes the LocationConstraint, and is best left out.

        S3Hook would send the client's region, which Ceph refuses unless it is the name of its own
        zone group (InvalidLocationConstraint). For "us-east-1" S3Hook sends none.
        """
        super().create_bucket(bucket_name, region_name or ALLAS.region_name, **kwargs)

    def test_connection(self) -> tuple[bool, str]:  # pyright: ignore[reportIncompatibleMethodOverride] - the base is unannotated
        """
        List the buckets, once and with short timeouts, and say who was let in or what failed.

        S3Hook asks Amazon's token service instead, which Ceph does not have.
        """
        try:
            client: Any = self.get_client_type(config=self.config.merge(PROBE_CONFIG))
        except CscError as error:
            return False, error.message
        try:
            answer = client.list_buckets()
        except (BotoCoreError, ClientError) as error:
            return False, describe_failure(error, client.meta.endpoint_url)
        return True, self._describe_access(client.meta.endpoint_url, answer)

    async def get_head_object_async(
        self, client: Any, key: str, bucket_name: str | None = None
    ) -> dict[str, Any] | None:
        """Head an object as S3Hook does, in the default bucket where none is named."""
        bucket = bucket_name or (None if "://" in key else await self._read_default_bucket())
        named = {"bucket_name": bucket} if bucket else {}
        head: dict[str, Any] | None = await super().get_head_object_async(client, key, **named)
        return head

    async def get_file_metadata_async(
        self, client: Any, bucket_name: str | None = None, key: str | None = None
    ) -> AsyncIterator[Any]:
        """List objects as S3Hook does, in the default bucket where none is named."""
        bucket = bucket_name or await self._read_default_bucket()
        async for row in super().get_file_metadata_async(client, bucket, key):
            yield row

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Answer Airflow 3.1; later versions read provider info."""
        return build_form_widgets(cls.conn_type)

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Answer Airflow 3.1; later versions read provider info."""
        return build_field_behaviour(cls.conn_type)

    def _wrap_connection(self) -> AwsConnectionWrapper:
        fields = self._read_fields()
        wrapper: AwsConnectionWrapper = AwsConnectionWrapper.from_connection_metadata(
            conn_id=fields.conn_id,
            login=fields.login,
            password=fields.password,
            extra=build_aws_extra(fields),
        )
        return wrapper

    def _read_fields(self) -> Fields:
        conn_id = str(self.aws_conn_id)
        try:
            connection = self.get_connection(conn_id)
        except AirflowNotFoundException as error:
            raise ConfigError(
                f"Connection {conn_id!r} is not defined. Add it under Admin > Connections with "
                f"type Allas (S3), or set AIRFLOW_CONN_{conn_id.upper()}.",
                conn_id=conn_id,
            ) from error
        return Fields(
            conn_id=conn_id,
            conn_type=connection.conn_type or "",
            login=(connection.login or "").strip() or None,
            password=(connection.password or "").strip() or None,
            extra=connection.extra_dejson,
        )

    def _merge_config(self, connection: AwsConnectionWrapper | None) -> Config:
        config = connection.botocore_config if connection else None
        if config is None:
            ours: dict[str, Any] = build_client_config(ALLAS.addressing_style)
            config = Config(**ours)
        return config.merge(self._config) if self._config else config

    async def _read_default_bucket(self) -> str | None:
        """S3Hook takes it from the connection's schema here, and from service_config elsewhere."""
        service_config = await sync_to_async(lambda: self.service_config)()
        return service_config.get("bucket_name")

    def _describe_access(self, endpoint_url: str, answer: dict[str, Any]) -> str:
        owner = answer.get("Owner", {})
        names = [name for name in (owner.get("DisplayName"), owner.get("ID")) if name]
        credentials = self.get_session().get_credentials()
        key = f"access key {credentials.access_key[:4]}…" if credentials else "no access key"
        number = len(answer.get("Buckets", []))
        message = (
            f"Reached {endpoint_url} as {names[0] if names else 'an unnamed user'} ({key}), "
            f"{number} bucket{'' if number == 1 else 's'} visible"
        )
        if self.project and names and self.project not in names:
            message += f". The connection says project {self.project}: are these its keys?"
        return message
