# SPDX-License-Identifier: Apache-2.0
"""Addresses of the interface, and the meaning of Host headers."""

import errno
import ipaddress

import pytest

from nitrohb import AddressError, UnixAddress, UnusableAddressError
from nitrohb.api.address import (
    TcpAddress,
    api_connect_error,
    parse_api_address,
    tcp_listen_error,
)

HERE = TcpAddress(ipaddress.ip_address("::1"), 80)


@pytest.mark.parametrize(
    "text", ["unix:/run/x.sock", "127.0.0.1:9180", "[::1]:9180", "0.0.0.0:1", "[2001:db8::1]:65535"]
)
def test_an_address_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_api_address(text)) == text


def test_localhost_is_an_ip_address() -> None:
    assert str(parse_api_address("localhost:9180")) == "127.0.0.1:9180"


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("example.com:9180", "IP address"),
        ("::1:9180", "[::1]:9180"),
        ("[127.0.0.1]:9180", "127.0.0.1:9180"),
        ("[fe80::1%lo]:9180", "IP address"),
        ("9180", "IP address"),
        ("127.0.0.1:x", "port"),
        ("127.0.0.1:65536", "65535"),
        ("127.0.0.1:0", "from 1"),
    ],
)
def test_other_addresses_are_refused(text: str, fact: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_api_address(text)
    assert fact in str(caught.value)


@pytest.mark.parametrize(
    ("error", "in_reason", "in_remedy"),
    [
        (tcp_listen_error(HERE, errno.EACCES), "1024", "CAP_NET_BIND_SERVICE"),
        (tcp_listen_error(HERE, errno.EMFILE), "too many open files", "ulimit -n"),
        (tcp_listen_error(HERE, errno.ENOTSUP), "ENOTSUP", "errno(3)"),
        (api_connect_error(UnixAddress("a b"), errno.ENOENT), "socket", "--api 'unix:a b'"),
    ],
)
def test_errors_have_a_reason_and_a_remedy(
    error: UnusableAddressError, in_reason: str, in_remedy: str
) -> None:
    assert in_reason in error.reason
    assert in_remedy in error.remedy


def test_which_host_headers_mean_an_address() -> None:
    for text, host, ours in (
        ("127.0.0.1:9180", "127.0.0.1:9180", True),
        ("127.0.0.1:9180", "127.0.0.1:1234", True),
        ("127.0.0.1:9180", "LocalHost", True),
        ("127.0.0.1:9180", "[::1]:9180", True),
        ("[::1]:9180", "[::1]", True),
        ("localhost:9180", "127.0.0.1", True),
        ("127.0.0.1:9180", "", False),
        ("127.0.0.1:9180", "evil.example:9180", False),
        ("127.0.0.1:9180", "localhost.evil.example", False),
        ("127.0.0.1:9180", "192.0.2.1:9180", False),
        ("192.0.2.1:9180", "192.0.2.1:9180", True),
        ("0.0.0.0:9180", "192.0.2.1:9180", True),
        ("0.0.0.0:9180", "evil.example", False),
    ):
        address = parse_api_address(text)
        assert isinstance(address, TcpAddress)
        assert address.is_host(host) == ours, (text, host)
        assert address.is_host("192.0.2.9:80", names={"192.0.2.9"})
