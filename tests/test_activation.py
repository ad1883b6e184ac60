# SPDX-License-Identifier: Apache-2.0
"""Socket activation: what the environment says of the sockets that were passed in."""

import os
import resource

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nitrohb import InheritedSocket, UsageError, inherited_sockets
from nitrohb.activation import VARIABLES

OURS = str(os.getpid())


def sockets(**variables: str | None) -> list[InheritedSocket]:
    """What is passed in when the environment has these variables of socket activation."""
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


@pytest.mark.parametrize("names", [None, "a:b", ":", "a:a"])
def test_two_are_passed_in(names: str | None) -> None:
    passed = sockets(LISTEN_PID=OURS, LISTEN_FDS="2", LISTEN_FDNAMES=names)
    assert passed == [InheritedSocket(3), InheritedSocket(4)]


@pytest.mark.parametrize("rest", [{}, {"LISTEN_FDS": "x"}, {"LISTEN_FDNAMES": "a:b:c"}])
def test_what_another_process_was_passed_is_not_looked_at(rest: dict[str, str]) -> None:
    assert sockets(LISTEN_PID=str(os.getppid()), **rest) == []


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "01", " 1", "1.0", "2147483648", "٣"])
def test_a_process_that_cannot_be_one(text: str) -> None:
    assert refusal(LISTEN_PID=text, LISTEN_FDS="1") == (
        f"LISTEN_PID of the environment is {text!r}: expected a number from 1 to 2147483647, as a"
        " service manager sets it for socket activation"
    )


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "01", " 1", "2000000000", "9" * 5000])
def test_a_number_of_sockets_that_cannot_be_one(text: str) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 3
    assert refusal(LISTEN_PID=OURS, LISTEN_FDS=text) == (
        f"LISTEN_FDS of the environment is {text!r}: expected a number from 1 to {most}, as a"
        " service manager sets it for socket activation"
    )


@pytest.mark.parametrize(("names", "number"), [("", 1), ("a", 1), ("a:b:c", 3)])
def test_names_that_are_not_as_many_as_the_sockets(names: str, number: int) -> None:
    message = refusal(LISTEN_PID=OURS, LISTEN_FDS="2", LISTEN_FDNAMES=names)
    assert message.startswith(
        f"LISTEN_FDNAMES has {number} names for the 2 sockets of LISTEN_FDS: "
    )


environment_texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6
)


@given(
    st.one_of(st.none(), st.just(OURS), environment_texts),
    st.one_of(st.none(), st.integers(0, 5).map(str), environment_texts),
    st.one_of(st.none(), st.sampled_from(["a", "a:b", "::"]), environment_texts),
)
def test_whatever_the_environment_has_it_is_read_or_refused(
    pid: str | None, fds: str | None, names: str | None
) -> None:
    try:
        passed = sockets(LISTEN_PID=pid, LISTEN_FDS=fds, LISTEN_FDNAMES=names)
    except UsageError:
        return
    if passed:
        assert pid == OURS
        assert passed == [InheritedSocket(3 + number) for number in range(int(fds or 0))]
