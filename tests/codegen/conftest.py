from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from codegen_support import FIXTURES, HostBuild, compile_host, handmade

from codesign.quantization import read_integer_network
from codesign.quantization.integer import IntegerNetwork


@cache
def all_handmade() -> dict[str, IntegerNetwork]:
    return handmade()


@pytest.fixture(scope="session")
def find_network() -> Callable[[str], IntegerNetwork]:
    """A network by name: a hand-made one, a fixture, or 'NAME@PROFILE'."""

    @cache
    def find(name: str) -> IntegerNetwork:
        if name in all_handmade():
            return all_handmade()[name]
        stem, _, profile = name.partition("@")
        return read_integer_network(FIXTURES / f"{stem}.tflite", profile=profile or "tflm-double")  # type: ignore[arg-type]

    return find


@pytest.fixture(scope="session")
def host_build(
    tmp_path_factory: pytest.TempPathFactory, find_network: Callable[[str], IntegerNetwork]
) -> Callable[[str], HostBuild]:
    """The program of a network, built once a session with address and undefined-behaviour sanitizers."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")

    @cache
    def build(name: str) -> HostBuild:
        folder: Path = tmp_path_factory.mktemp("host")
        return compile_host(find_network(name), folder)

    return build
