"""TFLM as a library that PlatformIO installs: from a folder here, and what is said where it cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest
from tflm_support import stub_tree

from codesign.errors import InputError
from codesign.tflm import install_package, runtime_option

pytest.importorskip("platformio")


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PlatformIO library with a stand-in for TFLM's sources, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "library"
    stub_tree(folder / "src")
    (folder / "library.json").write_text('{"name": "tflm-stand-in", "version": "1.2.3"}')
    return folder


def test_installed_once_and_found(library: Path) -> None:
    folder = install_package(f"file://{library}")
    assert folder.is_relative_to(library.parent / "cache")
    assert (folder / "src" / "tensorflow").is_dir()
    (library / "src" / "tensorflow").rename(library / "gone")
    assert install_package(f"file://{library}") == folder
    runtime = runtime_option("tflm", package=f"file://{library}")
    assert runtime is not None
    assert runtime.tree.root == (folder / "src").resolve()


def test_a_library_without_tflm_is_refused(library: Path) -> None:
    (library / "src" / "tensorflow" / "lite" / "micro" / "micro_interpreter.h").unlink()
    with pytest.raises(InputError, match="holds no TFLM source tree"):
        install_package(f"file://{library}")


@pytest.mark.parametrize("spec", ["file:///nowhere/tflm", "git+file:///nowhere/tflm.git#v1"])
def test_what_cannot_be_had_is_one_sentence(library: Path, spec: str) -> None:
    """An unknown host or name takes PlatformIO a minute of attempts, and ends in the same way."""
    with pytest.raises(InputError, match=r"cannot fetch the library .*nowhere/tflm.*--tflm-tree") as told:
        install_package(spec)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("spec", ["", "  ", "--global"])
def test_no_specification(spec: str) -> None:
    with pytest.raises(InputError, match="is no library specification"):
        install_package(spec)
