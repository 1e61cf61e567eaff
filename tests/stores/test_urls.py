"""What of a URL may be shown."""

from __future__ import annotations

import pytest

from stores.urls import is_url, without_secrets

HOST = "https://host/a/b.bz2"


@pytest.mark.parametrize(
    "query",
    [
        "X-Amz-Algorithm=AWS4&X-Amz-Credential=S%2F2026&X-Amz-Expires=60&X-Amz-Signature=S",
        "X-Goog-Signature=S&X-Goog-Credential=S",
        "AWSAccessKeyId=S&Signature=S&Expires=1",
        "GoogleAccessId=S&Signature=S&Expires=1",
        "Policy=S&Signature=S&Key-Pair-Id=S",
        "sv=2022&se=2026-01-01&sr=b&sp=r&sig=S",
        "token=S",
        "access_token=S&api_key=S;apikey=S",
        "KEY=S",
        "password=S&auth=S&client_secret=S",
        "%6Bey=S&t%6fken=S",
        "jwt_token=S&session_id=S",
    ],
)
def test_signatures_keys_and_tokens_are_left_out(query: str) -> None:
    assert without_secrets(f"{HOST}?{query}") == HOST
    kept = f"{HOST}?start=1&stop=2&format=txt"
    assert without_secrets(f"{HOST}?start=1&{query}&stop=2&format=txt#S") == kept


def test_what_tells_files_from_each_other_is_kept() -> None:
    for url in (
        f"{HOST}?start=1&stop=2",
        f"{HOST}?se=1",
        f"{HOST}?probe_ids=1,2&versionId=7",
        HOST,
    ):
        assert without_secrets(url) == url
    assert without_secrets("HTTPS://user:word@host:8/x") == "https://host:8/x"
    assert without_secrets("https://host") == "https://host"


def test_a_path_is_not_a_url() -> None:
    assert is_url("s3://bucket/x")
    assert is_url("HTTPS://host/x")
    assert not any(map(is_url, ("/a/b", "a://"[1:], "./s3:/x", "C:\\x", "")))
