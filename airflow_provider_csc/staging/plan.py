"""What is fetched and delivered, once the store has said what there is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.allas.names import NameConflictError, check_tree, path_for
from airflow_provider_csc.allas.parts import choose_part_size, guess_part_sizes, parse_etag
from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.staging.declarations import Declared, check_path, read_declared

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_csc.allas.plan import Item

MAX_URL_SECONDS = 7 * 86_400
"""S3 user guide, "Presigned URL expiration"; Ceph too takes no longer ones."""

MARGIN_SECONDS = 3600
"""For outputs after the time limit (KillWait, OverTimeLimit), and for clocks that differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """
    What a task has staged.

    ``timeout`` (seconds) is how long a job that has started waits for its URLs. With ``is_patient``
    an input that is not there yet is waited for so long. ``is_by_login`` says that the log-in node
    fetches and delivers, before and after the job.
    """

    conn_id: str
    inputs: tuple[Declared, ...] = ()
    outputs: tuple[Declared, ...] = ()
    on_failure: bool = False
    timeout: int = 1800
    in_run_dir: bool = True
    is_patient: bool = False

    def to_payload(self) -> dict[str, Any]:
        """Return plain JSON values, without anything secret."""
        return {
            "conn_id": self.conn_id,
            "inputs": [each.to_payload() for each in self.inputs],
            "outputs": [each.to_payload() for each in self.outputs],
            "on_failure": self.on_failure,
            "timeout": self.timeout,
            "in_run_dir": self.in_run_dir,
            "is_patient": self.is_patient,
        }

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Staging:
        """Read what `to_payload` made, also when another version added to it."""
        return cls(
            conn_id=payload["conn_id"],
            inputs=tuple(read_declared("inputs", payload.get("inputs"))),
            outputs=tuple(read_declared("outputs", payload.get("outputs"))),
            on_failure=bool(payload.get("on_failure", False)),
            timeout=int(payload.get("timeout", 1800)),
            in_run_dir=bool(payload.get("in_run_dir", True)),
            is_patient=bool(payload.get("is_patient", False)),
        )


@dataclass(frozen=True, slots=True)
class Fetch:
    """
    One object that becomes one file.

    ``steps`` are the part sizes that its ETag may be made of, the likeliest first; 0 means that it
    is the MD5 of the whole, and none that it tells nothing of the content.
    """

    bucket: str
    key: str
    path: str
    size: int
    etag: str
    steps: tuple[int, ...] = field(default=())


def plan_fetches(
    found: Iterable[tuple[Declared, Iterable[Item]]],
    *,
    in_run_dir: bool,
    told_sizes: Mapping[str, int] | None = None,
) -> list[Fetch]:
    """
    Return what is fetched, from what there is of each input.

    :raises NotationError: for names of objects that cannot become files.
    :raises ConfigError: for two objects that would become one file.
    """
    fetches: dict[str, Fetch] = {}
    for declared, items in found:
        for item in items:
            path = declared.path
            if declared.is_tree:
                if item.path.endswith("/") and not item.size:
                    continue  # Some programs make an empty object for a directory.
                path += path_for(item.path, declared.name.key)
            check_path(str(declared.name), path, in_run_dir=in_run_dir)
            if path in fetches:
                other = fetches[path]
                raise ConfigError(
                    f"inputs: s3://{declared.name.bucket}/{item.path} and "
                    f"s3://{other.bucket}/{other.key} would both become {path!r}. Give one of them "
                    "another path.",
                    field="inputs",
                )
            told = (told_sizes or {}).get(f"{declared.name.bucket}/{item.path}")
            fetches[path] = Fetch(
                declared.name.bucket, item.path, path, item.size, item.etag, _steps(item, told)
            )
    try:
        check_tree(fetches)
    except NameConflictError as error:
        raise ConfigError(f"inputs: {error}", field="inputs") from None
    return list(fetches.values())


def _steps(item: Item, told: int | None) -> tuple[int, ...]:
    etag = parse_etag(item.etag)
    if etag is None:
        return ()
    if etag.parts is None:
        return (0,)
    return tuple(guess_part_sizes(item.size, etag.parts, told=told)) or (
        choose_part_size(item.size),
    )


def url_seconds(left: int | None) -> int:
    """Return how long URLs are valid for a job that may run for so long; None is unlimited."""
    return MAX_URL_SECONDS if left is None else min(left + MARGIN_SECONDS, MAX_URL_SECONDS)
