"""What Airflow's assets and OpenLineage are told of objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_csc.allas.names import parse_uri

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from airflow.providers.openlineage.extractors import (  # pyright: ignore[reportMissingImports]
        OperatorLineage,
    )
    from airflow.sdk import Asset


def assets_of(uris: Iterable[object]) -> list[Asset]:
    """Return assets of URIs that are known while the DAG is parsed; templates are not."""
    known = [uri for uri in uris if isinstance(uri, str) and "{{" not in uri and "{%" not in uri]
    if not known:
        return []
    from airflow.sdk import Asset  # noqa: PLC0415 - where there is one

    return [Asset(uri) for uri in known if uri.startswith("s3://")]


def lineage_of(inputs: Sequence[str], outputs: Sequence[str]) -> OperatorLineage:
    """Return datasets of what was read and written: URIs of objects, and paths of files."""
    # Airflow asks only where its OpenLineage provider is installed.
    from airflow.providers.common.compat.openlineage.facet import (  # noqa: PLC0415
        Dataset,  # pyright: ignore[reportAttributeAccessIssue]
    )
    from airflow.providers.openlineage.extractors import (  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
        OperatorLineage,
    )

    def dataset(place: str) -> Dataset:
        if "://" not in place:
            return Dataset(namespace="file", name=place)
        name = parse_uri(place)
        return Dataset(namespace=f"s3://{name.bucket}", name=name.key or "/")

    return OperatorLineage(
        inputs=[dataset(place) for place in inputs], outputs=[dataset(place) for place in outputs]
    )
