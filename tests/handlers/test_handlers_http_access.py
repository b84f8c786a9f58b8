"""The hosts and addresses that http_request may call."""

from __future__ import annotations

import ipaddress

import httpx
import pytest

from holdfast.errors import Misconfigured
from holdfast.handlers.builtin.http_access import AllowedHosts, Refused, refusal


@pytest.mark.parametrize(
    ("entry", "yes", "no"),
    [
        ("example.com", ["http://EXAMPLE.com./", "https://example.com:8443/"],
         ["http://www.example.com/", "http://example.com.evil.org/", "http://notexample.com/"]),
        ("example.com:8443", ["https://example.com:8443/"], ["https://example.com/"]),
        ("example.com:443", ["https://example.com/"], ["http://example.com/"]),
        ("*.example.com", ["http://a.example.com/", "http://a.b.example.com:81/"],
         ["http://example.com/", "http://a.example.org/", "http://badexample.com/"]),
        ("b\u00fccher.example", ["http://xn--bcher-kva.example/"], ["http://bucher.example/"]),
        ("[::1]", ["http://[::1]:8080/"], ["http://[::2]/", "http://127.0.0.1/"]),
    ],
)  # fmt: skip
def test_allowed_hosts(entry: str, yes: list[str], no: list[str]) -> None:
    hosts = AllowedHosts([entry])
    for url in yes:
        hosts.check(httpx.URL(url))
    for url in no:
        with pytest.raises(Refused, match="is not allowed"):
            hosts.check(httpx.URL(url))


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "*.",
        ".com",
        "http://example.com",
        "example.com/path",
        "a*b",
        "me@x",
        "x:y",
        "x:70000",
        "x:0",
        " ",
        "a b",
        "a,b.example",
        "a..example",
        ".cafe",
    ],
)
def test_invalid_allowed_hosts_are_a_configuration_error(entry: str) -> None:
    with pytest.raises(Misconfigured, match="HOLDFAST_HTTP_ALLOWED_HOSTS has"):
        AllowedHosts([entry])


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.0.1", "224.0.0.1", "239.1.1.1",
        "255.255.255.255", "240.0.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192",
        "::", "fe80::1", "ff02::1", "fd00:ec2::254", "::ffff:169.254.169.254", "::169.254.169.254",
        "64:ff9b::a9fe:a9fe", "::ffff:0:169.254.169.254", "2002:a9fe:a9fe::1", "::ffff:0.0.0.0",
        "fe80::1%1",
    ],
)  # fmt: skip
def test_forbidden_addresses(text: str) -> None:
    assert refusal(ipaddress.ip_address(text)) is not None


@pytest.mark.parametrize(
    "text", ["127.0.0.1", "10.0.0.1", "93.184.216.34", "::1", "2001:4860:4860::8888", "fd12::1"]
)
def test_allowable_addresses(text: str) -> None:
    assert refusal(ipaddress.ip_address(text)) is None
