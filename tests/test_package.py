# SPDX-License-Identifier: Apache-2.0
"""The package as a whole: its exports, and its version."""

import importlib.metadata
import importlib.resources
import inspect
import types
import typing

import pytest

import nitrohb


def test_every_public_name_is_there_once_and_documented() -> None:
    assert len(nitrohb.__all__) == len(set(nitrohb.__all__))
    for name in nitrohb.__all__:
        value = getattr(nitrohb, name)
        if isinstance(value, type | types.FunctionType):
            assert value.__module__.startswith("nitrohb."), name
            assert value.__name__ == name
            assert inspect.getdoc(value), name
        elif isinstance(value, types.UnionType):
            assert len(typing.get_args(value)) > 1, name
        else:
            assert name.isupper(), f"{name} is neither code nor a type nor a constant"


def test_an_unknown_name() -> None:
    for name in ("serve", "trio", "_nothing", "Vanished"):
        with pytest.raises(AttributeError, match=f"^module 'nitrohb' has no attribute '{name}'$"):
            getattr(nitrohb, name)


def test_the_version_and_the_types_are_those_of_the_distribution() -> None:
    assert nitrohb.__version__ == importlib.metadata.version("nitrohb")
    assert importlib.resources.files("nitrohb").joinpath("py.typed").is_file()
