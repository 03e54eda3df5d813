"""Objects in segments, told from others by headers that Ceph 16.2 sent (tests/cluster)."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from airflow_provider_csc.allas.swift import (
    SwiftManifest,
    check_not_swift_manifest,
    find_swift_manifest,
)
from airflow_provider_csc.errors import AllasError, SwiftSegmentsError

PLAIN = {"content-length": "5", "x-rgw-object-type": "Normal", "etag": '"5d41402abc4b2a76b971"'}
DYNAMIC = PLAIN | {"x-object-manifest": "data_segments/%C3%A5/seg"}
STATIC = PLAIN | {"x-object-meta-static-large-object": "True"}


@pytest.mark.parametrize(
    ("headers", "manifest"),
    [
        (PLAIN, None),
        ({}, None),
        (PLAIN | {"x-static-large-object": "False"}, None),
        (DYNAMIC, SwiftManifest(segments="data_segments/å/seg")),
        ({"X-Object-Manifest": "b/p"}, SwiftManifest(segments="b/p")),
        (STATIC, SwiftManifest()),
        ({"X-Static-Large-Object": "True"}, SwiftManifest()),
    ],
)
def test_segments_are_recognised(headers: dict[str, str], manifest: SwiftManifest | None) -> None:
    assert find_swift_manifest(headers) == manifest


def answer(headers: dict[str, str]) -> dict[str, Any]:
    return {"ContentLength": 5, "ResponseMetadata": {"HTTPHeaders": headers}}


def test_other_objects_pass() -> None:
    check_not_swift_manifest(answer(PLAIN), "data", "k")
    check_not_swift_manifest({}, "data", "k")


@pytest.mark.parametrize(("headers", "where"), [(DYNAMIC, "data_segments/å/seg"), (STATIC, None)])
def test_an_object_in_segments_is_refused_with_the_way_to_read_it(
    headers: dict[str, str], where: str | None
) -> None:
    with pytest.raises(SwiftSegmentsError) as caught:
        check_not_swift_manifest(answer(headers), "data", "k")
    error = caught.value
    assert isinstance(error, AllasError)
    assert (error.bucket, error.key, error.segments) == ("data", "k", where)
    for words in ("s3://data/k was written through Swift", "a-get --swift data/k", "rclone copy"):
        assert words in error.message
    assert pickle.loads(pickle.dumps(error)).segments == where
