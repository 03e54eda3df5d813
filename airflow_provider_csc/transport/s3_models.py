"""What boto3 knows of S3, read once by a process instead of once for each session."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from botocore.loaders import Loader

_loaders: Final[dict[tuple[str, ...], Loader]] = {}
"""By the directories they search, which AWS_DATA_PATH adds to."""

_lock: Final = threading.Lock()


def share_models(session: Any) -> None:
    """
    Let a session of boto3 take descriptions of services from where others have read them.

    Clients of one session share them in any case; but a hook makes a session for each client, which
    would look through 400 directories and parse 2 MB of JSON. Nothing of a connection is in them.
    """
    own: Loader = session._session.get_component("data_loader")  # noqa: SLF001 - no public way
    place = tuple(own.search_paths)
    with _lock:
        shared = _loaders.get(place)
        if shared is None:
            # Botocore completes a description after it was read; no other thread may see half.
            own.load_service_model("s3", "service-2")
            shared = _loaders[place] = own
    session._session.register_component("data_loader", shared)  # noqa: SLF001 - likewise
    # The session's own name for it, by which it makes resources.
    session._loader = shared  # noqa: SLF001 - likewise
