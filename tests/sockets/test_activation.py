# SPDX-License-Identifier: Apache-2.0
"""Socket activation: the sockets that the environment names."""

import os
import resource

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nitrohb import InheritedSocket, UsageError, inherited_sockets
from nitrohb.sockets.activation import VARIABLES

OURS = str(os.getpid())


def sockets(**variables: str | None) -> list[InheritedSocket]:
    """The sockets that these variables name."""
    with pytest.MonkeyPatch.context() as environment:
        for name in VARIABLES:
            environment.delenv(name, raising=False)
        for name, value in variables.items():
            if value is not None:
                environment.setenv(name, value)
        return inherited_sockets()


def refusal(**variables: str) -> str:
    with pytest.raises(UsageError) as caught:
        sockets(**variables)
    return str(caught.value)


def test_nothing_is_passed_in() -> None:
    assert sockets() == []
    assert sockets(LISTEN_FDS="1") == []
    assert sockets(LISTEN_PID=OURS) == []


def test_two_are_passed_in() -> None:
    for names in (None, "a:b", ":", "a:a"):
        passed = sockets(LISTEN_PID=OURS, LISTEN_FDS="2", LISTEN_FDNAMES=names)
        assert passed == [InheritedSocket(3), InheritedSocket(4)], names


def test_the_sockets_of_another_process_are_ignored() -> None:
    other = str(os.getppid())
    assert sockets(LISTEN_PID=other) == []
    assert sockets(LISTEN_PID=other, LISTEN_FDS="x") == []
    assert sockets(LISTEN_PID=other, LISTEN_FDS="2", LISTEN_FDNAMES="a:b:c") == []


def test_wrong_numbers() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 3
    for text in ("", "0", "-1", "x", "01", " 1", "1.0", "٣", "2147483648", "9" * 5000):
        pid = refusal(LISTEN_PID=text, LISTEN_FDS="1")
        assert pid.startswith("LISTEN_PID of the environment: "), text
        assert f"from 1 to 2147483647 in decimal, got {text!r}\n" in pid
        count = refusal(LISTEN_PID=OURS, LISTEN_FDS=text)
        assert count.startswith("LISTEN_FDS of the environment: "), text
        assert f"from 1 to {most} in decimal, got {text!r}\n" in count


def test_more_or_fewer_names_than_sockets() -> None:
    for names, number in (("", 1), ("a", 1), ("a:b:c", 3)):
        message = refusal(LISTEN_PID=OURS, LISTEN_FDS="2", LISTEN_FDNAMES=names)
        assert f"LISTEN_FDNAMES has {number} names, but LISTEN_FDS is 2\n" in message


environment_texts = st.text("019 ab:-+_.\t\n\x7fé٣²\uff10\udcff", max_size=6)


@given(
    st.one_of(st.none(), st.just(OURS), environment_texts),
    st.one_of(st.none(), st.integers(0, 5).map(str), environment_texts),
    st.one_of(st.none(), st.sampled_from(["a", "a:b", "::"]), environment_texts),
)
def test_every_environment_is_read_or_rejected(
    pid: str | None, fds: str | None, names: str | None
) -> None:
    try:
        passed = sockets(LISTEN_PID=pid, LISTEN_FDS=fds, LISTEN_FDNAMES=names)
    except UsageError:
        return
    if passed:
        assert pid == OURS
        assert passed == [InheritedSocket(3 + number) for number in range(int(fds or 0))]
