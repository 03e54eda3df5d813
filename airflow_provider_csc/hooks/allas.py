"""Talk to Allas, LUMI-O or any other Ceph object store through Airflow's own S3 hook."""

from __future__ import annotations

import os
import re
import threading
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.utils.connection_wrapper import AwsConnectionWrapper
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.sdk.log import mask_secret
from asgiref.sync import sync_to_async
from botocore.config import Config  # noqa: TID253 - S3Hook, the base class, has loaded it anyway
from botocore.credentials import ReadOnlyCredentials  # noqa: TID253 - likewise
from botocore.exceptions import BotoCoreError, ClientError  # noqa: TID253 - likewise

from airflow_provider_csc.allas.connection import (
    Fields,
    build_aws_extra,
    build_client_config,
    find_key_source,
)
from airflow_provider_csc.allas.endpoints import ALLAS
from airflow_provider_csc.allas.limits import BucketUsage, find_size_warning, read_usage
from airflow_provider_csc.allas.names import check_new_bucket, parse_uri
from airflow_provider_csc.allas.swift import check_not_swift_manifest
from airflow_provider_csc.errors import ConfigError, CscError
from airflow_provider_csc.hooks._forms import build_field_behaviour, build_form_widgets
from airflow_provider_csc.hooks._writer import name_writer
from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.store.change import change
from airflow_provider_csc.store.target import Options, Target
from airflow_provider_csc.transport.key_file import KeyFile
from airflow_provider_csc.transport.s3 import describe_failure
from airflow_provider_csc.transport.s3_handlers import attach_handlers, attach_keys, attach_watch
from airflow_provider_csc.transport.s3_models import share_models

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from airflow_provider_csc.allas.credentials import Keys
    from airflow_provider_csc.store.store import Store
    from airflow_provider_csc.store.target import Snapshot

RECORD_CONFIG = Config(retries={"total_max_attempts": 1}, read_timeout=20)
"""Records are tried again by rules of their own: botocore would repeat a write without looking."""

PROBE_CONFIG = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=15)
"""A person waits for Test Connection: one attempt, and seconds rather than minutes."""

USAGE_INTERVAL_SECONDS: Final = 600
"""How often a process asks at most how full a bucket is that it writes to."""

_asked: Final[dict[tuple[str, str], float]] = {}
"""When that was, by endpoint and bucket."""

_asked_lock: Final = threading.Lock()


class AllasHook(S3Hook):
    """
    The Amazon provider's :class:`~airflow.providers.amazon.aws.hooks.s3.S3Hook`, set up for Ceph.

    Every method of ``S3Hook`` is here and behaves as documented there. What differs is where the
    client's settings come from: a connection of type ``allas`` (or ``aws`` with an
    ``endpoint_url``), completed with path style addressing, signature version 4, no unrequested
    checksums, bounded retries and timeouts. Settings of the connection win over these, and
    ``config`` wins over both.

    Errors keep their class and code, and say cause and remedy. Objects that were written through
    Swift in segments are not read (`SwiftSegmentsError`). A bucket of another project on LUMI-O is
    ``"465000001:name"``.

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
        self._keys: Keys | None = None

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
        connection = self._wrap_connection(self._fields) if self._fields else None
        return AwsConnectionWrapper(
            conn=connection,
            region_name=self._region_name,
            botocore_config=self._merge_config(connection),
            verify=self._verify,
        )

    def get_session(self, region_name: str | None = None, deferrable: bool = False) -> Any:  # noqa: FBT001, FBT002 - as the base has it
        """Return a session as S3Hook does, whose clients do what transport/s3_handlers.py says."""
        if self._key_file and self._key_file.read() != self._keys:
            self.__dict__.pop("conn_config", None)
        session: Any = super().get_session(region_name, deferrable=deferrable)
        # boto3's session has the events of botocore's; aiobotocore's is one of botocore's.
        is_async = not hasattr(session, "events")
        events = session if is_async else session.events
        attach_handlers(events)
        if self._key_file:
            attach_keys(events, self._key_file.read, is_async=is_async)
        if not is_async:
            attach_watch(events, self._watch_bucket)
            share_models(session)
        return session

    def create_bucket(
        self, bucket_name: str | None = None, region_name: str | None = None, **kwargs: Any
    ) -> None:
        """
        Create a bucket; ``region_name`` becomes the LocationConstraint, and is best left out.

        S3Hook would send the client's region, which Ceph refuses unless it is the name of its own
        zone group (InvalidLocationConstraint). For "us-east-1" S3Hook sends none.

        Raises ConfigError for a name that no new bucket can have.
        """
        name = bucket_name or self.service_config.get("bucket_name")
        if name:
            try:
                check_new_bucket(name)
            except NotationError as error:
                raise ConfigError(str(error), bucket=name) from error
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

    def load_file(self, filename: Path | str, *args: Any, **kwargs: Any) -> None:
        """Store a file as S3Hook does, with a warning where it is larger than CSC recommends."""
        path = Path(filename)
        warning = find_size_warning(path.stat().st_size) if path.is_file() else None
        if warning is not None:
            self.log.warning("%s: %s", filename, warning)
        super().load_file(filename, *args, **kwargs)

    def get_key(self, key: str, bucket_name: str | None = None) -> Any:
        """
        Return an object as S3Hook does, which reads objects by it.

        Raises SwiftSegmentsError, before anything is written to a file.
        """
        found: Any = super().get_key(key, bucket_name)
        check_not_swift_manifest(found.meta.data, found.bucket_name, found.key)
        return found

    def get_bucket_usage(self, bucket_name: str | None = None) -> BucketUsage | None:
        """Return how many objects and bytes a bucket holds; None from a store that is not Ceph."""
        bucket = bucket_name or self.service_config.get("bucket_name")
        if not bucket:
            raise ConfigError("No bucket is named, neither here nor in the connection.")
        client: Any = self.get_conn()
        answer = client.head_bucket(Bucket=bucket)
        headers = answer["ResponseMetadata"].get("HTTPHeaders", {})
        return read_usage(headers, bucket, client.meta.endpoint_url)

    def update_object(
        self,
        key: str,
        fn: Callable[[Any], Any],
        bucket_name: str | None = None,
        *,
        writer: str | None = None,
        **options: Any,
    ) -> Snapshot:
        """
        Change an object that holds JSON, together with others who change it; none is overwritten.

        The present value is read, ``fn`` computes the new one, and that is stored under the
        condition that nobody else has written meanwhile; else all this is done again. So ``fn`` may
        be called several times, and should do nothing but compute. What it raises passes; nothing
        was written then.

        Other programs read the object as plain JSON. Its metadata holds ``csc-version``,
        ``csc-writer``, and what finds out whether a write took place whose answer was lost.

        :param key: key of the object, or its ``s3://`` URL.
        :param fn: takes the present value, None where there is none, and returns the new one. None
            or an equal value writes nothing; ``DELETE`` of
            :mod:`airflow_provider_csc.hooks.allas_record` deletes the value.
        :param bucket_name: the bucket; by default that of the URL or of the connection.
        :param writer: a name for people; by default the task instance, or user, host and process.
        :param options: see :class:`airflow_provider_csc.store.target.Options`: ``attempts``,
            ``timeout_seconds``, ``max_bytes``, ``history_prefix``, ``history_keep``,
            ``allow_unguarded``.
        :return: what is stored then: ``value``, ``version``, ``writer``, ``modified``, and
            ``is_changed``.

        Raises RecordConflictError when others were faster each time, RecordUnknownError when the
        answer to a write was lost and its fate cannot be told, RecordInvalidError for what is no
        JSON or too large, RecordUnguardedError when the store ignores conditions, and RecordError
        for the rest; all carry ``bucket``, ``key`` and ``attempts``.
        """
        target = self.get_record(key, bucket_name, writer=writer, options=Options(**options))
        return change(target, lambda present: fn(present.snapshot.value))

    def get_record(
        self,
        key: str,
        bucket_name: str | None = None,
        *,
        writer: str | None = None,
        options: Options | None = None,
    ) -> Target:
        """Return what names an object that several programs change, with a client for it."""
        bucket_name, key = self._locate(key, bucket_name)
        return Target(
            client=self._record_client,
            bucket=bucket_name,
            key=key,
            writer=writer or name_writer(),
            options=options or Options(),
        )

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

    def get_store(self, *, max_connections: int = 8) -> Store:
        """Return what transfers go through: this connection's client and settings."""
        from airflow_provider_csc.store.connection import StoreSettings  # noqa: PLC0415
        from airflow_provider_csc.store.store import Store  # noqa: PLC0415

        pool = Config(max_pool_connections=max_connections)
        client: Any = self.get_client_type(config=self.config.merge(pool))
        config = client.meta.config
        session = self.get_session()
        # What boto3 takes where nothing is said of it (its `ca_bundle`), and botocore after that.
        bundle = session._session.get_config_variable("ca_bundle")  # noqa: SLF001 - no public way
        bundle = bundle or os.environ.get("REQUESTS_CA_BUNDLE")
        verify = (bundle or True) if self.verify is None else self.verify
        return Store(
            client,
            StoreSettings(
                endpoint_url=client.meta.endpoint_url,
                region_name=client.meta.region_name,
                credentials=lambda: self._present_credentials(session),
                verify=verify,
                proxies=config.proxies,
                is_virtual=(config.s3 or {}).get("addressing_style") == "virtual",
                connect_timeout=config.connect_timeout,
                read_timeout=config.read_timeout,
            ),
        )

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Answer Airflow 3.1; later versions read provider info."""
        return build_form_widgets(cls.conn_type)

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Answer Airflow 3.1; later versions read provider info."""
        return build_field_behaviour(cls.conn_type)

    @cached_property
    def _fields(self) -> Fields | None:
        return self._read_fields() if self.aws_conn_id else None

    @cached_property
    def _key_file(self) -> KeyFile | None:
        source = find_key_source(self._fields) if self._fields else None
        return KeyFile(source, _mask) if source else None

    @cached_property
    def _record_client(self) -> Any:
        return self.get_client_type(config=self.config.merge(RECORD_CONFIG))

    def _locate(self, key: str, bucket_name: str | None) -> tuple[str, str]:
        if bucket_name is None and "://" in key:
            name = parse_uri(key)
            return name.bucket, name.key
        bucket: str | None = bucket_name or self.service_config.get("bucket_name")
        if bucket is None:
            raise ConfigError(
                f"No bucket is named for {key!r}. Pass bucket_name or an s3:// URL, or enter a "
                "default bucket in the connection.",
                conn_id=self.aws_conn_id,
            )
        return bucket, key

    def _wrap_connection(self, fields: Fields) -> AwsConnectionWrapper:
        keys = self._keys = self._key_file.read() if self._key_file else None
        extra = build_aws_extra(fields, keys)
        if keys is not None and keys.session_token is not None:
            extra["aws_session_token"] = keys.session_token
        wrapper: AwsConnectionWrapper = AwsConnectionWrapper.from_connection_metadata(
            conn_id=fields.conn_id,
            login=keys.access_key if keys else fields.login,
            password=keys.secret_key if keys else fields.password,
            extra=extra,
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

    def _watch_bucket(self, bucket: str) -> None:
        """Warn in the task's log, once in a while, of a bucket that is nearly full."""
        client: Any = self.get_conn()
        place = (client.meta.endpoint_url, bucket)
        with _asked_lock:
            last = _asked.get(place)
            if last is not None and monotonic() - last < USAGE_INTERVAL_SECONDS:
                return
            _asked[place] = monotonic()
        try:
            usage = self.get_bucket_usage(bucket)
        except (BotoCoreError, ClientError) as error:
            # Whoever may write to a bucket need not be allowed to look at it.
            self.log.debug("Bucket %s was not counted: %s", bucket, error)
            return
        if usage is not None and usage.is_nearly_full:
            self.log.warning("%s", usage.describe())

    def _present_credentials(self, session: Any) -> ReadOnlyCredentials:
        """Return the keys of this moment, by which requests beside boto3's are signed."""
        if self._key_file:
            keys = self._key_file.read()
            return ReadOnlyCredentials(keys.access_key, keys.secret_key, keys.session_token)
        found = session.get_credentials()
        if found is None:
            raise ConfigError(
                "No access key and secret key were found. Enter both in the connection.",
                field="login",
            )
        frozen: ReadOnlyCredentials = found.get_frozen_credentials()
        return frozen

    def _describe_access(self, endpoint_url: str, answer: dict[str, Any]) -> str:
        owner = answer.get("Owner", {})
        names = [name for name in (owner.get("DisplayName"), owner.get("ID")) if name]
        credentials = self.get_session().get_credentials()
        key = f"access key {credentials.access_key[:4]}…" if credentials else "no access key"
        if self._key_file:
            key += f" of [{self._key_file.read().profile}] in {self._key_file.path}"
        number = len(answer.get("Buckets", []))
        message = (
            f"Reached {endpoint_url} as {names[0] if names else 'an unnamed user'} ({key}), "
            f"{number} bucket{'' if number == 1 else 's'} visible"
        )
        if self.project and names and not _is_project(self.project, names):
            message += f". The connection says project {self.project}: are these its keys?"
        return message


def _is_project(project: str, names: list[str]) -> bool:
    """Whether one of a user's names has the project's number: 2001234, project_2001234, 46$46."""
    digits = re.search(r"\d+", project)
    number = digits[0] if digits else project
    return any(re.search(rf"(?<!\d){re.escape(number)}(?!\d)", name) for name in names)


def _mask(keys: Keys) -> None:
    """Let Airflow hide the keys in logs, as it does those of a connection."""
    mask_secret(keys.secret_key)
    if keys.session_token:
        mask_secret(keys.session_token)
