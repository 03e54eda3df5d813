from __future__ import annotations

import pytest

from airflow_provider_csc.allas.limits import (
    BucketUsage,
    find_put_problem,
    find_size_warning,
    read_usage,
)

# Ceph 16.2 to the owner of a bucket without a quota; to others it tells the first two.
COUNTED = {"x-rgw-object-count": "450000", "x-rgw-bytes-used": "12"}
NO_QUOTA = COUNTED | {"x-rgw-quota-bucket-objects": "-1"}


@pytest.mark.parametrize(
    ("headers", "url", "most"),
    [
        (NO_QUOTA, "https://a3s.fi", 500_000),
        (COUNTED, "https://lumidata.eu", 500_000),
        (NO_QUOTA, "http://127.0.0.1:7480", None),
        (COUNTED | {"x-rgw-quota-bucket-objects": "7"}, "https://a3s.fi", 7),
    ],
)
def test_the_servers_quota_is_the_limit_else_what_csc_publishes(
    headers: dict[str, str], url: str, most: int | None
) -> None:
    assert read_usage(headers, "b", url) == BucketUsage(
        bucket="b", objects=450_000, size_bytes=12, max_objects=most
    )


@pytest.mark.parametrize(
    "headers", [{}, {"x-rgw-object-count": "1"}, {**COUNTED, "x-rgw-bytes-used": "?"}]
)
def test_a_server_that_does_not_count_has_no_usage(headers: dict[str, str]) -> None:
    assert read_usage(headers, "b", "https://a3s.fi") is None


@pytest.mark.parametrize(
    ("objects", "most", "is_nearly_full"),
    [(449_999, 500_000, False), (450_000, 500_000, True), (9 * 10**9, None, False)],
)
def test_a_bucket_is_nearly_full_at_nine_tenths(
    objects: int, most: int | None, is_nearly_full: bool
) -> None:
    usage = BucketUsage(bucket="b", objects=objects, size_bytes=0, max_objects=most)
    assert usage.is_nearly_full is is_nearly_full
    assert ("another bucket" in usage.describe()) is is_nearly_full


def test_usage_is_told_with_its_limit() -> None:
    usage = BucketUsage(bucket="b", objects=1_234, size_bytes=0, max_objects=500_000)
    assert usage.describe() == "Bucket b holds 1,234 of 500,000 objects"


def test_one_request_carries_five_gibibytes() -> None:
    assert find_put_problem(5 * 1024**3) is None
    assert "5,368,709,121 bytes, and 5 GiB is the most" in str(find_put_problem(5 * 1024**3 + 1))


def test_a_hundred_gigabytes_are_enough_for_one_object() -> None:
    assert find_size_warning(100 * 10**9) is None
    assert "An object of 250 GB is larger" in str(find_size_warning(250 * 10**9))
