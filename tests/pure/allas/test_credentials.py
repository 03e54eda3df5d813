"""Keys from the files that allas-conf, lumio-conf, aws, s3cmd and rclone keep them in."""

from __future__ import annotations

from textwrap import dedent

import pytest

from airflow_provider_csc.allas.credentials import Keys, choose_keys, parse_sections
from airflow_provider_csc.errors import ConfigError

SECRET = "s3cr3t%(never)s/shown+="
OTHER = "an0ther-s3cr3t"

ALLAS_AWS = f"[default]\nAWS_ACCESS_KEY_ID=AKEY\nAWS_SECRET_ACCESS_KEY={SECRET}\n"
ALLAS_AWS_CONFIG = "[default]\nendpoint_url = https://a3s.fi\n"
ALLAS_S3CFG = f"""\
[allas-project_2000123]
access_key   = AKEY
secret_key   = {SECRET}
host_base    = a3s.fi
host_bucket  = %(bucket)s.a3s.fi
human_readable_sizes = True
enable_multipart = True
signature_v2 = True
use_https = True
"""
LUMI_S3CFG = f"""\
[lumi-465000001]
access_key   = AKEY
secret_key   = {SECRET}
host_base    = https://lumidata.eu
host_bucket  = https://lumidata.eu
chunk_size = 15
"""


def remote(name: str, secret: str = SECRET, endpoint: str = "a3s.fi", key: str = "AKEY") -> str:
    return dedent(
        f"""
        [{name}]
        type = s3
        provider = Other
        env_auth = false
        access_key_id = {key}
        secret_access_key = {secret}
        endpoint = {endpoint}
        acl = private
        """
    )


SWIFT = "\n[allas]\ntype = swift\nenv_auth = true\n"
ONE_PROJECT = SWIFT + remote("s3allas") + remote("s3allas-project_2000123")
TWO_PROJECTS = (
    SWIFT
    + remote("s3allas", OTHER, key="BKEY")
    + remote("s3allas-project_2000123")
    + remote("s3allas-project_2000456", OTHER, key="BKEY")
    + remote("lumi-465000001-private", endpoint="https://lumidata.eu")
)
LUMI_AWS = f"""\
[default]
aws_access_key_id     = AKEY
aws_secret_access_key = {SECRET}
services              = lumi-465000001
project_id            = 465000001
original_name         = lumi-465000001

[lumi-465000001]
aws_access_key_id     = AKEY
aws_secret_access_key = {SECRET}
services              = lumi-465000001
"""
LUMI_AWS_CONFIG = """\
[services lumi-465000001]
s3           =
  endpoint_url = https://lumidata.eu
  multipart_chunksize = 15
"""


def read(text: str, profile: str | None = None, config: str | None = None) -> Keys:
    beside = parse_sections(config, "~/config") if config is not None else None
    return choose_keys(parse_sections(text, "~/file"), "~/file", profile, beside)


@pytest.mark.parametrize(
    ("text", "profile", "config", "chosen", "url"),
    [
        (ALLAS_AWS, None, ALLAS_AWS_CONFIG, "default", "https://a3s.fi"),
        (ALLAS_AWS, None, None, "default", None),
        (ALLAS_S3CFG, None, None, "allas-project_2000123", "https://a3s.fi"),
        (LUMI_S3CFG, None, None, "lumi-465000001", "https://lumidata.eu"),
        (ONE_PROJECT, None, None, "s3allas", "https://a3s.fi"),
        (
            TWO_PROJECTS,
            "s3allas-project_2000123",
            None,
            "s3allas-project_2000123",
            "https://a3s.fi",
        ),
        (
            TWO_PROJECTS,
            "lumi-465000001-private",
            None,
            "lumi-465000001-private",
            "https://lumidata.eu",
        ),
        (LUMI_AWS, None, LUMI_AWS_CONFIG, "default", "https://lumidata.eu"),
        (LUMI_AWS, "lumi-465000001", LUMI_AWS_CONFIG, "lumi-465000001", "https://lumidata.eu"),
        (
            ALLAS_AWS.replace("default", "work"),
            "work",
            "[profile work]\nendpoint_url=http://h:1",
            "work",
            "http://h:1",
        ),
        (
            ALLAS_S3CFG.replace("True", "False"),
            None,
            None,
            "allas-project_2000123",
            "http://a3s.fi",
        ),
        (
            "\ufeff# mine\n; too\n" + ALLAS_S3CFG,
            None,
            None,
            "allas-project_2000123",
            "https://a3s.fi",
        ),
        (ALLAS_S3CFG.replace("\n", "\r\n"), None, None, "allas-project_2000123", "https://a3s.fi"),
    ],
)
def test_keys_and_endpoint_are_found(
    text: str, profile: str | None, config: str | None, chosen: str, url: str | None
) -> None:
    keys = read(text.removeprefix("\ufeff"), profile, config)
    assert (keys.access_key, keys.secret_key) == ("AKEY", SECRET)
    assert (keys.profile, keys.endpoint_url, keys.session_token) == (chosen, url, None)


@pytest.mark.parametrize(
    "line",
    ["aws_session_token = T", "AWS_SESSION_TOKEN=T", "aws_session_token=T\naws_expiration=x"],
)
def test_a_session_token_comes_with_its_keys(line: str) -> None:
    assert read(ALLAS_AWS + line).session_token == "T"


@pytest.mark.parametrize(
    ("text", "profile", "said"),
    [
        (
            TWO_PROJECTS,
            None,
            [
                "several profiles, [s3allas], [s3allas-project_2000123], [s3allas-project_2000456]",
                "field Profile",
            ],
        ),
        (
            TWO_PROJECTS,
            "s3allas-project_200123",
            ["no profile [s3allas-project_200123]", "Did you mean [s3allas-project_2000123]?"],
        ),
        (
            TWO_PROJECTS,
            "xyz",
            ["no profile [xyz]", "Keys are in [s3allas], [s3allas-project_2000123]"],
        ),
        (TWO_PROJECTS, "allas", ["[allas] is a remote of type 'swift'", "Did you mean [s3allas]?"]),
        (SWIFT, None, ["no S3 keys: [allas] is a remote of type 'swift'", "allas-conf --mode S3"]),
        (SWIFT, "allas", ["type 'swift'", "allas-conf --mode S3"]),
        ("", None, ["holds no S3 keys. Write them with allas-conf"]),
        ("", "x", ["no profile [x]", "allas-conf"]),
        ("[a]\ntype=s3\nenv_auth=true\n", None, ["[a] takes its keys from the environment"]),
        ("[default]\nAWS_ACCESS_KEY_ID=AKEY\n", None, ["[default] has no aws_secret_access_key"]),
        ("[x]\naccess_key =\nsecret_key = s\n", None, ["[x] has no access_key"]),
        (f"AWS_SECRET_ACCESS_KEY={SECRET}\n", None, ["line 1 is neither [profile] nor name"]),
        (f"[a]\nx = 1\n[b\n = {SECRET}\n", None, ["line 3 is neither [profile] nor name"]),
        (ALLAS_AWS + f"AWS_SECRET_ACCESS_KEY={OTHER}\n", None, ["second time in line 4"]),
        (ALLAS_AWS + ALLAS_AWS, None, ["second time in line 4"]),
        (
            f"# Encrypted rclone configuration File\n\nRCLONE_ENCRYPT_V0:\n{SECRET}\n",
            None,
            ["is encrypted by rclone"],
        ),
    ],
)
def test_a_file_that_cannot_serve_is_refused_without_its_contents(
    text: str, profile: str | None, said: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text, profile)
    message = str(caught.value)
    assert message.startswith("Credentials file ~/file ")
    assert [words for words in said if words not in message] == []
    shown = f"{caught.value!r} {caught.value.details} {caught.value.__cause__!r}"
    assert SECRET not in shown
    assert OTHER not in shown
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_keys_do_not_show_themselves() -> None:
    assert repr(read(ALLAS_AWS)) == "Keys(profile='default', endpoint_url=None)"
