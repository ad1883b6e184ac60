# SPDX-License-Identifier: Apache-2.0
"""Addresses: parsing, printing, and texts that are not addresses."""

import copy
import os
import pickle

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from nitrohb.addresses import (
    CID_ANY,
    PORT_ANY,
    Address,
    HybridAddress,
    InheritedSocket,
    NamedDescriptor,
    UnixAddress,
    VsockAddress,
    parse_address,
    parse_number,
)
from nitrohb.errors import AddressError

U32 = 2**32 - 1
FD_MAX = 2**31 - 1
PATH_MAX = 107  # bytes of a path in sun_path, unix(7)

HUGE = "9" * 10_000  # int() itself refuses more than 4300 digits


# --- strategies ---------------------------------------------------------------------------------

ports = st.integers(0, U32)


def is_path(path: str, size: int = PATH_MAX) -> bool:
    """Whether a text can be the path of a socket, computed independently of the tested code."""
    control = any(ord(char) < 32 or 127 <= ord(char) < 160 for char in path)
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        return False
    strange = control or path.startswith("@") or set("*?") & set(path)
    return 0 < len(encoded) <= size and not strange


def paths(size: int = PATH_MAX) -> st.SearchStrategy[str]:
    likely = st.text("abz/._-: @é٣\u20ac", min_size=1, max_size=size)
    return st.one_of(likely, st.text(max_size=size)).filter(lambda path: is_path(path, size))


vsock_addresses = st.builds(VsockAddress, st.integers(0, U32), ports)
unix_addresses = st.builds(UnixAddress, paths())
hybrid_addresses = st.builds(HybridAddress, paths(PATH_MAX - 11), ports)
inherited_sockets = st.builds(InheritedSocket, st.integers(0, FD_MAX))
names = st.from_regex(r"[A-Za-z][ -9;-~]{0,254}", fullmatch=True)
named_sockets = st.builds(NamedDescriptor, names)
addresses = st.one_of(
    vsock_addresses, unix_addresses, hybrid_addresses, inherited_sockets, named_sockets
)

# Texts that are similar to an address: right and wrong parts, in right and wrong order.
scheme = st.sampled_from(["vsock", "unix", "hybrid", "fd", "VSOCK", "tcp", "", " vsock"])
part = st.one_of(
    st.sampled_from(["", "0", "3", "00", "-1", "+1", " 1", "1 ", "1_0", "0x10", "٣", "²"]),
    st.sampled_from(["4294967295", "4294967296", "2147483647", "2147483648", "/x", "@x", "\0"]),
    st.sampled_from(["x", "nitrohb.socket", "x y", "x\n", "x\x7f", "xé", 255 * "x", 256 * "x"]),
    st.integers(0, 2**34).map(str),
    st.text(max_size=5),
)
near_texts = st.tuples(scheme, st.lists(part, max_size=4)).map(
    lambda parts: ":".join([parts[0], *parts[1]])
)


# --- exact inverses -----------------------------------------------------------------------------


@given(addresses)
def test_the_text_of_an_address_is_parsed_to_the_same_address(address: Address) -> None:
    assert parse_address(str(address)) == address


@given(addresses, addresses)
def test_an_address_is_equal_to_its_text(one: Address, other: Address) -> None:
    """In both directions, and as the key of a dict."""
    assert one == str(one)
    assert str(one) == one
    mixed: dict[object, int] = {one: 1}
    assert mixed[str(one)] == 1
    assert (one == str(other)) == (one == other) == (str(one) == str(other))
    assert one != str(one).encode()


@given(st.one_of(near_texts, st.text()))
@example("vsock::9000")
@example("hybrid:/a:b:1")
@example("unix:a:b")
@example("unix: ")
@example("fd:" + HUGE)
@example("vsock:" + HUGE + ":" + HUGE)
@example("unix:\ud800")
@example("unix:\udc80")
@example("0")
@example("007")
@example(HUGE)
@example("/x\n\\")
@example("/" + 200 * "x")
def test_parsing_returns_an_address_of_the_same_text_or_raises_addresserror(text: str) -> None:
    try:
        address = parse_address(text)
    except AddressError as error:
        message = str(error)
    else:
        assert str(address) == text
        return
    assert repr(text) in message
    _, write, guess = message.rpartition(" write ")
    if write and "expected " not in message:
        assert str(parse_address(guess)).endswith(f":{text}")
    else:
        assert "expected " in message


@given(st.one_of(part, st.text()))
def test_a_number_has_one_spelling(text: str) -> None:
    try:
        number = parse_number("CID", text)
    except AddressError:
        return
    assert str(number) == text
    assert 0 <= number < U32


@given(st.integers(0, U32 - 1))
def test_every_number_in_range_is_read(number: int) -> None:
    assert parse_number("CID", str(number)) == number


# --- the documented forms -----------------------------------------------------------------------


def test_forms() -> None:
    for text, address in {
        "vsock::9000": VsockAddress(CID_ANY, 9000),
        "vsock:3:9000": VsockAddress(3, 9000),
        "vsock:0:0": VsockAddress(0, 0),
        "vsock:4294967294:4294967295": VsockAddress(U32 - 1, PORT_ANY),
        "unix:/run/x.sock": UnixAddress("/run/x.sock"),
        "unix:x": UnixAddress("x"),
        "unix:./@x": UnixAddress("./@x"),
        "unix:/a b:c": UnixAddress("/a b:c"),
        "hybrid:/vm4:9000": HybridAddress("/vm4", 9000),
        "hybrid:/vm:4:4294967295": HybridAddress("/vm:4", U32),
        "fd:0": InheritedSocket(0),
        "fd:2147483647": InheritedSocket(FD_MAX),
        "fd:heartbeat": NamedDescriptor("heartbeat"),
        "fd:nitrohb@1 (x).socket": NamedDescriptor("nitrohb@1 (x).socket"),
    }.items():
        assert parse_address(text) == address
        assert str(address) == text


def test_any_is_all_ones() -> None:
    """As VMADDR_CID_ANY and VMADDR_PORT_ANY of linux/vm_sockets.h are."""
    assert CID_ANY == PORT_ANY == 0xFFFFFFFF


VALUES: dict[str, Address] = {
    "VsockAddress(cid=3, port=1)": VsockAddress(cid=3, port=1),
    "UnixAddress(path='a')": UnixAddress(path="a"),
    "HybridAddress(vm_path='a', port=1)": HybridAddress(vm_path="a", port=1),
    "InheritedSocket(fd=3)": InheritedSocket(fd=3),
}


@pytest.mark.parametrize("shown", VALUES)
def test_addresses_are_immutable_values(shown: str) -> None:
    address = VALUES[shown]
    assert repr(address) == shown
    twins = (parse_address(str(address)), copy.copy(address), pickle.loads(pickle.dumps(address)))
    for twin in twins:
        assert twin == address
        assert hash(twin) == hash(address)
    assert [other for other in VALUES.values() if other == address] == [address]
    for name in (*address.__match_args__, "another"):
        with pytest.raises(AttributeError):
            setattr(address, name, 4)
    for name in address.__match_args__:
        with pytest.raises(AttributeError):
            delattr(address, name)


def test_addresses_of_one_kind_differ_by_every_field() -> None:
    addresses = [HybridAddress("a", 1), HybridAddress("b", 1), HybridAddress("a", 2)]
    assert len({*addresses}) == len(addresses)
    assert VsockAddress(1, 2) != VsockAddress(2, 1)


# --- texts that are not addresses ---------------------------------------------------------------

CID = "a CID from 0 to 4294967294"
PORT = "a port from 0 to 4294967295"
FD = "a file descriptor from 0 to 2147483647"
NAME = "a name of at most 255 ASCII"

NO_NUMBERS = [
    "", " ", "-1", "+1", "-0", "00", "01", " 1", "1 ", "1\n", "1_0", "0x1", "1.0", "1e3", "one",
    "٣", "²", "\uff11", "\0", HUGE, "-" + HUGE,
]  # fmt: skip


def refusal(text: str) -> str:
    """The message for a text that is not an address, without the text."""
    with pytest.raises(AddressError) as caught:
        parse_address(text)
    begin = f"{text!r} is not an address: "
    assert str(caught.value).startswith(begin)
    return str(caught.value).removeprefix(begin)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("vsock::{}", PORT),
        ("vsock:3:{}", PORT),
        ("hybrid:/vm4:{}", PORT),
        ("fd:{}", FD),
        ("vsock:{}:9000", CID),
    ],
)
def test_not_a_number(form: str, expected: str) -> None:
    for number in NO_NUMBERS:
        text = form.format(number)
        if text not in ("vsock::9000", "fd:one"):  # every CID, and a name
            said = refusal(text)
            assert said == f"expected {expected} in decimal, got {number!r}"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("vsock::4294967296", [PORT, "'4294967296'"]),
        ("vsock:4294967295:1", [CID, "'4294967295'"]),  # ANY is written as nothing
        ("hybrid:/vm4:4294967296", [PORT, "'4294967296'"]),
        ("fd:2147483648", [FD, "'2147483648'"]),
        ("vsock:1:2:3", [PORT, "'2:3'"]),
        ("vsock:9000", ["vsock:[CID]:PORT", "port 9000", "write vsock::9000"]),
        ("vsock:", ["write vsock::9000"]),
        ("hybrid:/vm4", ["hybrid:PATH:PORT", "hybrid:/tmp/vm4.vsock:9000"]),
        ("hybrid::9000", ["a path, got none"]),
        ("unix:", ["a path, got none"]),
        ("unix:\ud800", ["that the file system can encode"]),
        ("hybrid:/run/vms/*:9000", ["not a pattern", "nitrohb listen"]),
        ("unix:/run/vm?", ["not a pattern", "nitrohb listen"]),
        ("unix:@x", ["abstract socket", " ./@x"]),
        ("hybrid:@x:1", ["abstract socket", " ./@x"]),
        ("hybrid:a\nb:1", ["without control characters"]),
        *((f"unix:a{char}b", ["without control characters"]) for char in "\0\n\x1b\x7f\x80\x9f"),
        *((f"fd:x{rest}", [NAME]) for rest in (":y", "\n", "\x7f", "é", 255 * "x")),
        # What is meant is clear here.
        ("9000", ["port 9000", "write vsock::9000"]),
        ("/run/x", ["Unix socket", "write unix:/run/x"]),
        ("../x", ["Unix socket", "write unix:../x"]),
        ("./é", ["Unix socket", "write unix:./é"]),
        ("./a\nb", ["without control characters"]),
        ("007", [PORT, "'007'"]),
    ],
)
def test_not_an_address(text: str, named: list[str]) -> None:
    said = refusal(text)
    assert all(words in said for words in named), said


def test_not_a_scheme() -> None:
    for text in ("", "vsock", "unix", ":", ":9000", "VSOCK::9000", " vsock::9000", "tcp:1:2", "x"):
        said = refusal(text)
        for form in ("vsock:[CID]:PORT", "unix:PATH", "hybrid:PATH:PORT", "fd:N", "fd:NAME"):
            assert form in said, text


def test_a_path_is_measured_in_bytes() -> None:
    for char in ("x", "é", "\u20ac", "\U0001f49a", "\udcff"):
        size = len(os.fsencode(char))
        fits = char * (PATH_MAX // size) + "x" * (PATH_MAX % size)
        assert parse_address(f"unix:{fits}") == UnixAddress(fits)
        with pytest.raises(AddressError, match="at most 107 bytes, got 108 "):
            UnixAddress(fits + "x")


def test_a_hybrid_path_is_measured_with_its_port() -> None:
    assert HybridAddress("x" * 102, 9000).path == "x" * 102 + "_9000"
    with pytest.raises(AddressError, match=r"at most 107 bytes, got 108 .*xxx_9000"):
        HybridAddress("x" * 103, 9000)
    with pytest.raises(AddressError, match="at most 107 bytes, got 108 "):
        HybridAddress("x" * 102, 10000)


def test_an_address_object_has_the_same_rules() -> None:
    for path in ("", "a\0b", "@a", "x" * 108, "\ud800"):
        with pytest.raises(AddressError, match=r"^expected "):
            UnixAddress(path)
        with pytest.raises(AddressError, match=r"^expected "):
            HybridAddress(path, 9000)
    for name in ("", "3x", "a:b"):
        with pytest.raises(AddressError, match=r"^expected "):
            NamedDescriptor(name)


def test_numbers_out_of_range() -> None:
    for number in (-1, U32 + 1, -(2**64), 2**64):
        with pytest.raises(AddressError, match=f"^expected {CID} .* got '{number}'$"):
            VsockAddress(number, 9000)
        with pytest.raises(AddressError, match=f"^expected {PORT} .* got '{number}'$"):
            VsockAddress(3, number)
        with pytest.raises(AddressError, match=f"^expected {PORT} .* got '{number}'$"):
            HybridAddress("/vm4", number)
        with pytest.raises(AddressError, match=f"^expected {FD} .* got '{number}'$"):
            InheritedSocket(number)


def test_numbers_at_their_limits() -> None:
    assert VsockAddress(0, 0) != VsockAddress(U32, U32)
    assert InheritedSocket(FD_MAX).fd == FD_MAX
    with pytest.raises(AddressError):
        InheritedSocket(FD_MAX + 1)
    with pytest.raises(AddressError, match=r"got '4'$"):
        parse_number("digit", "4", highest=3)
    assert parse_number("digit", "3", highest=3) == 3
