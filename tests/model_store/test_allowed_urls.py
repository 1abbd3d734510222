"""Which URLs models may come from."""

from __future__ import annotations

import pytest

from flambeau.model_store.allowed_urls import AllowedUrls, is_public, parse_url

LIST = "https://models.example.com/team, file:///srv/models, s3://bucket/prod/"
ADMITTED = [
    "https://models.example.com/team",
    "https://models.example.com/team/a.mar",
    "https://models.example.com/team/deep/er/a.mar",
    "https://models.example.com:443/team/a.mar",
    "HTTPS://Models.Example.COM/team/a.mar",
    "https://models.example.com/team/a.mar?signature=x",
    "file:///srv/models/a.mar",
    "s3://bucket/prod/a.mar",
]
REFUSED = [
    "https://models.example.com/other/a.mar",
    "https://models.example.com/teammate/a.mar",
    "https://models.example.com/Team/a.mar",
    "http://models.example.com/team/a.mar",
    "https://models.example.com:8443/team/a.mar",
    "https://models.example.com./team/a.mar",
    "https://models.example.com.evil.org/team/a.mar",
    "https://evil.org/models.example.com/team/a.mar",
    "https://models.example.com@evil.org/team/a.mar",
    "https://user:secret@models.example.com/team/a.mar",
    "https://models.example.com%2eevil.org/team/a.mar",
    "https://models.example.com%00.evil.org/team/a.mar",
    "https://evil.org\\@models.example.com/team/a.mar",
    "https://evil.org#@models.example.com/team/a.mar",
    "https://evil.org?@models.example.com/team/a.mar",
    "https:///models.example.com/team/a.mar",
    "https:/models.example.com/team/a.mar",
    "https:models.example.com/team/a.mar",
    "//models.example.com/team/a.mar",
    "https://models.example.com/team/../other/a.mar",
    "https://models.example.com/team/..%2fother/a.mar",
    "https://models.example.com/team/%2e%2e/other/a.mar",
    "https://models.example.com/team/%2e%2e%2fother%2fa.mar",
    "https://models.example.com/team/..\\other\\a.mar",
    "https://models.example.com/team/./a.mar",
    "https://models.example.com/team//a.mar",
    "https://models.example.com//team/a.mar",
    "https://models.example.com/team/a.mar#x",
    "https://models.example.com/team/.hidden.mar",
    "https://models.example.com/team/a.mar/",
    "https://models.example.com/team/a b.mar",
    "https://models.example.com/team/a\tb.mar",
    "https://models.example.com/team/a.mar\r\nHost: evil.org",
    "https://models.example.com/team/a.mar\x00",
    " https://models.example.com/team/a.mar",
    "https://models.example.com/team/a.mar ",
    "https://models.ex\u0430mple.com/team/a.mar",
    "https://models\u3002example\u3002com/team/a.mar",
    "https://models.example.com:/team/a.mar",
    "https://models.example.com:99999/team/a.mar",
    "https://models.example.com:443:80/team/a.mar",
    "https://[::1]/team/a.mar",
    "https://[models.example.com]/team/a.mar",
    "https://2130706433/team/a.mar",
    "https://0x7f000001/team/a.mar",
    "https://0177.0.0.1/team/a.mar",
    "https://127.1/team/a.mar",
    "https://127.0.0.1/team/a.mar",
    "file://models.example.com/srv/models/a.mar",
    "file:///srv/models/../../etc/passwd",
    "file:///etc/passwd",
    "file:/srv/models/a.mar",
    "file:///srv/modelsx/a.mar",
    "s3://bucket/other/a.mar",
    "s3://bucket.evil/prod/a.mar",
    "s3://user@bucket/prod/a.mar",
    "s3://BUCKET/prod/a.mar",
    "ftp://models.example.com/team/a.mar",
    "gopher://models.example.com/team/a.mar",
    "jar:https://models.example.com/team/a.mar",
    "data:text/plain,x",
    "https://models.example.com/team/" + "a" * 3000,
    "",
]


def admits(allowed: AllowedUrls, text: str) -> bool:
    try:
        return allowed.admit(parse_url(text))
    except ValueError:
        return False


@pytest.mark.parametrize("text", ADMITTED)
def test_what_is_below_an_entry_is_admitted(text):
    assert admits(AllowedUrls(LIST), text)


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text)[:60])
def test_nothing_else_is_however_it_is_written(text):
    assert not admits(AllowedUrls(LIST), text)


def test_there_are_fifty_ways_to_try():
    assert len(REFUSED) >= 50


@pytest.mark.parametrize(
    ("text", "admitted"),
    [
        ("https://models.example.com/a.mar", True),
        ("https://models.example.com/x/a.mar", True),
        ("https://MODELS.example.com/a.mar", True),
        ("https://models.example.com.evil.org/a.mar", False),
        ("http://models.example.com/a.mar", False),
        ("https://evil.org/https://models.example.com/a.mar", False),
    ],
)
def test_torchserves_expressions_match_the_whole_url(text, admitted):
    assert admits(AllowedUrls(r"https://models\.example\.com/.*"), text) is admitted


def test_torchserves_default_admits_urls_and_still_not_what_can_be_read_in_two_ways():
    allowed = AllowedUrls("file://.*|http(s)?://.*")
    assert admits(allowed, "http://models.example.com/a.mar")
    assert not admits(allowed, "http://models.example.com/x/../a.mar")
    assert not admits(allowed, "http://0x7f.1/a.mar")


@pytest.mark.parametrize(
    "entry", ["models.example.com", "https://", "ftp://x.org/a", "https://u@x.org", "https://(x"]
)
def test_an_entry_that_cannot_be_is_refused(entry):
    with pytest.raises(ValueError, match=r"\w"):
        AllowedUrls(entry)


def test_an_empty_list_admits_nothing():
    assert not AllowedUrls("")
    assert not AllowedUrls(" , ")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0",  # noqa: S104 - nothing is bound
        "100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0",
        "fc00::1", "fd12::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_of_the_open_internet(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
def test_addresses_that_are(address):
    assert is_public(address)
