from __future__ import annotations

import pytest

from airflow_provider_csc.allas.faults import REMEDIES, Circumstances, explain, find_remedy


@pytest.mark.parametrize("code", REMEDIES)
def test_a_known_code_is_named_and_explained(code: str) -> None:
    text = explain(code, "the server's words", 403)
    assert text.startswith(f"{code}: ")
    assert text.endswith(".")


NOT_S3 = "which is no answer of an S3 service. Check the endpoint URL."


@pytest.mark.parametrize(
    ("code", "message", "status", "text"),
    [
        ("MalformedXML", "try again", 500, "MalformedXML: try again"),
        ("MalformedXML", "", 500, "MalformedXML"),
        ("404", "Not Found", 404, f"HTTP status 404: Not Found, {NOT_S3}"),
        ("502", "502", 502, f"HTTP status 502, {NOT_S3}"),
        ("", "", 404, f"HTTP status 404, {NOT_S3}"),
    ],
)
def test_an_unknown_code_comes_with_the_servers_own_words(
    code: str, message: str, status: int, text: str
) -> None:
    assert explain(code, message, status) == text


def head(operation: str, **more: object) -> Circumstances:
    return Circumstances(operation=operation, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "status", "circumstances", "said"),
    [
        ("403", 403, head("HeadBucket"), "the bucket belongs to another project"),
        ("404", 404, head("HeadBucket"), "no bucket of that name exists anywhere"),
        ("403", 403, head("HeadObject"), "bucket or object belong to another project"),
        ("404", 404, head("HeadObject"), "there is no object of that name, or no such bucket"),
        ("401", 401, head("ListBuckets"), "the log-in is not accepted."),
        ("404", 404, head("GetObject"), "None"),
    ],
)
def test_an_answer_without_a_code_is_told_by_what_was_asked(
    code: str, status: int, circumstances: Circumstances, said: str
) -> None:
    assert said in str(find_remedy(code, status, circumstances))


@pytest.mark.parametrize(
    ("code", "operation", "seconds", "said"),
    [
        ("RequestTimeTooSkewed", "GetObject", -3_600.4, "clock is 1:00:00 behind the object"),
        ("RequestTimeTooSkewed", "GetObject", 90_061, "clock is 25:01:01 ahead of the object"),
        ("403", "HeadObject", 1_000, "clock is 0:16:40 ahead of"),
        # The clock was set right between the request and the answer, or no Date came.
        ("RequestTimeTooSkewed", "GetObject", 3, "differ by more than 15 minutes"),
        ("RequestTimeTooSkewed", "GetObject", None, "differ by more than 15 minutes"),
        ("403", "HeadObject", 60, "belong to another project"),
        # A quota that ends an upload of an hour is no matter of clocks.
        ("QuotaExceeded", "PutObject", -3_600, "a quota is used up"),
        ("AccessDenied", "GetObject", -3_600, "refuses what was asked"),
    ],
)
def test_a_clock_that_is_off_is_named_with_the_difference(
    code: str, operation: str, seconds: float | None, said: str
) -> None:
    assert said in str(find_remedy(code, 403, head(operation, skew_seconds=seconds)))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://lumidata.eu/", "168 hours at most"),
        ("https://lumidata.eu/bucket/key", "https://auth.lumidata.eu"),
        ("https://a3s.fi/", "openstack ec2 credentials list"),
        ("", "on LUMI-O, did not expire"),
    ],
)
def test_an_unknown_key_has_probably_expired_on_lumi_o(url: str, said: str) -> None:
    assert said in str(find_remedy("InvalidAccessKeyId", 403, Circumstances(endpoint_url=url)))
