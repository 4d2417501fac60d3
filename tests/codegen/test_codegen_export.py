"""The exported library builds by itself, with the build systems at hand, and its example finds the exact outputs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from codegen_support import FIXTURES, WARNINGS

from codesign.cli.main import main
from codesign.codegen import export_library, generate
from codesign.errors import InputError
from codesign.quantization.integer import IntegerNetwork

Find = Callable[[str], IntegerNetwork]


def run(*command: object) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("name", "weights"), [("stacked", "int8"), ("timedist", "int16"), ("flat", "int8")])
def test_example_runs(name: str, weights: str, tmp_path: Path, find_network: Find) -> None:
    folder = tmp_path / "lib"
    export_library(find_network(name), folder, weights)  # type: ignore[arg-type]
    sources = [*sorted((folder / "src").glob("*.c")), folder / "examples" / "basic" / "main.c"]
    run("gcc", *WARNINGS, "-O2", "-I", folder / "include", "-I", folder / "src", *sources, "-o", tmp_path / "example")
    assert run(tmp_path / "example").splitlines()[-1] == "as expected"


def test_example_notices_a_wrong_weight(tmp_path: Path, find_network: Find) -> None:
    folder = tmp_path / "lib"
    export_library(find_network("stacked"), folder)
    model = folder / "src" / "codesign_model.c"
    text = model.read_text()
    start = text.index("op0_weights[")
    third = [match for match in re.finditer(r"0x[0-9A-F]+", text) if match.start() > start][2]
    model.write_text(f"{text[: third.start()]}{int(third[0], 16) ^ 0x40:#x}{text[third.end() :]}")
    sources = [*sorted((folder / "src").glob("*.c")), folder / "examples" / "basic" / "main.c"]
    run("gcc", "-O1", "-I", folder / "include", "-I", folder / "src", *sources, "-o", tmp_path / "example")
    done = subprocess.run([str(tmp_path / "example")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "values differ" in done.stdout


def test_cmake_builds_and_tests(tmp_path: Path, find_network: Find) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed (apt install cmake)")
    export_library(find_network("tiny"), tmp_path / "lib")
    run("cmake", "-S", tmp_path / "lib", "-B", tmp_path / "build")
    run("cmake", "--build", tmp_path / "build")
    assert "100% tests passed" in run("ctest", "--test-dir", tmp_path / "build")


def test_cmake_as_a_part_of_another_project(tmp_path: Path, find_network: Find) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed (apt install cmake)")
    export_library(find_network("tiny"), tmp_path / "lib")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(own C)\nadd_subdirectory(lib)\n"
        "add_executable(own lib/examples/basic/main.c)\ntarget_link_libraries(own codesign::model)\n"
    )
    run("cmake", "-S", tmp_path, "-B", tmp_path / "build")
    run("cmake", "--build", tmp_path / "build")
    assert "as expected" in run(tmp_path / "build" / "own")


def test_platformio_and_zephyr_files(tmp_path: Path, find_network: Find) -> None:
    folder = tmp_path / "lib"
    export_library(find_network("tiny"), folder)
    facts = json.loads((folder / "library.json").read_text())
    assert (folder / facts["build"]["includeDir"] / facts["headers"]).is_file()
    sources = {path.name for path in (folder / facts["build"]["srcDir"]).glob("*.c")}
    for listing in ("CMakeLists.txt", "zephyr/CMakeLists.txt"):
        text = (folder / listing).read_text()
        assert all(name in text for name in sources)
    assert "kconfig: zephyr/Kconfig" in (folder / "zephyr" / "module.yml").read_text()


@pytest.mark.parametrize("reference", ["file", "symlink"])
def test_platformio_builds_it_as_a_dependency(reference: str, tmp_path: Path, find_network: Find) -> None:
    """The HIL application without its model, which comes by lib_deps: built offline, then run on an emulated board."""
    if shutil.which("arm-none-eabi-gcc") is None or shutil.which("qemu-system-arm") is None:
        pytest.skip("arm-none-eabi-gcc or qemu-system-arm is not installed")
    pytest.importorskip("platformio")
    from codesign.hil import open_target
    from codesign.semantics import simulate
    from codesign.toolchain import build_project, generate_project, load_board

    network = find_network("stacked")
    export_library(network, tmp_path / "lib")
    generate(network, tmp_path / "sources")
    project = generate_project(tmp_path / "sources", load_board("mps2_an386"), tmp_path / "project")
    shutil.rmtree(project.folder / "src" / "model")
    settings = project.folder / "platformio.ini"
    text = settings.read_text().replace("lib_ldf_mode = off", f"lib_deps = {reference}://{tmp_path / 'lib'}")
    settings.write_text(text.replace(" -Isrc/model", ""))
    built = build_project(project, network.sha256)
    assert "Dependency Graph" in built.log
    assert "codesign_model" in built.log
    rng = np.random.default_rng(4)
    q = rng.integers(-128, 128, (3, *network.input.shape)).astype(np.int8)
    with open_target(built, emulate=True) as target:
        for sample, output in zip(q, simulate(network, q), strict=True):
            assert target.device.infer(sample).output.tolist() == output.reshape(-1).tolist()


# What Zephyr's build system gives a module, on plain CMake: zephyr_library_named() and the functions that add to that
# library (cmake/modules/extensions.cmake of Zephyr).
_ZEPHYR = """cmake_minimum_required(VERSION 3.20)
project(application C)
set(CONFIG_CODESIGN_MODEL {enabled})
add_library(zephyr_interface INTERFACE)
function(zephyr_include_directories)
    foreach(folder ${{ARGN}})
        get_filename_component(absolute ${{folder}} ABSOLUTE)
        target_include_directories(zephyr_interface INTERFACE ${{absolute}})
    endforeach()
endfunction()
macro(zephyr_library_named name)
    set(ZEPHYR_CURRENT_LIBRARY ${{name}})
    add_library(${{name}} STATIC "")
    target_link_libraries(${{name}} PUBLIC zephyr_interface)
endmacro()
function(zephyr_library_sources)
    target_sources(${{ZEPHYR_CURRENT_LIBRARY}} PRIVATE ${{ARGN}})
endfunction()
function(zephyr_library_include_directories)
    target_include_directories(${{ZEPHYR_CURRENT_LIBRARY}} PRIVATE ${{ARGN}})
endfunction()
function(zephyr_library_compile_options)
    target_compile_options(${{ZEPHYR_CURRENT_LIBRARY}} PRIVATE ${{ARGN}})
endfunction()
add_subdirectory({module} module)
if(TARGET codesign_model)
    add_executable(application {library}/examples/basic/main.c)
    target_link_libraries(application PRIVATE codesign_model zephyr_interface)
endif()
"""


@pytest.mark.parametrize("enabled", [True, False])
def test_zephyr_module_builds(enabled: bool, tmp_path: Path, find_network: Find) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed (apt install cmake)")
    folder = tmp_path / "lib"
    export_library(find_network("stacked"), folder)
    module = dict(
        line.strip().split(": ") for line in (folder / "zephyr" / "module.yml").read_text().splitlines() if ": " in line
    )
    # Zephyr's schema of module.yml (scripts/zephyr_module.py): cmake names a folder, kconfig a file, from the root.
    assert set(module) == {"name", "cmake", "kconfig"}
    assert re.fullmatch(r"[A-Za-z0-9_-]+", module["name"])
    assert (folder / module["cmake"] / "CMakeLists.txt").is_file()
    option = re.match(r"config (\w+)\n\tbool ", (folder / module["kconfig"]).read_text())
    assert option is not None
    assert f"if(CONFIG_{option[1]})" in (folder / module["cmake"] / "CMakeLists.txt").read_text()
    state = "y" if enabled else "n"
    text = _ZEPHYR.format(enabled=state, module=folder / module["cmake"], library=folder)
    (tmp_path / "CMakeLists.txt").write_text(text)
    run("cmake", "-S", tmp_path, "-B", tmp_path / "build")
    run("cmake", "--build", tmp_path / "build")
    assert (tmp_path / "build" / "application").is_file() == enabled
    if enabled:
        assert "as expected" in run(tmp_path / "build" / "application")


def test_zephyr_module_is_valid_yaml(tmp_path: Path, find_network: Find) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    export_library(find_network("tiny"), tmp_path / "lib")
    told = yaml.safe_load((tmp_path / "lib" / "zephyr" / "module.yml").read_text())
    assert told == {"name": "codesign_model", "build": {"cmake": "zephyr", "kconfig": "zephyr/Kconfig"}}


def test_only_own_folders_are_replaced(tmp_path: Path, find_network: Find) -> None:
    folder = tmp_path / "lib"
    export_library(find_network("tiny"), folder)
    first = (folder / "src" / "codesign_model.c").read_bytes()
    export_library(find_network("stacked"), folder)
    assert (folder / "src" / "codesign_model.c").read_bytes() != first
    other = tmp_path / "other"
    other.mkdir()
    (other / "keep").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        export_library(find_network("tiny"), other)
    assert [p.name for p in other.iterdir()] == ["keep"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lib", "other"]


def test_command_export(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["export", str(FIXTURES / "tiny.tflite"), "-o", str(tmp_path / "lib"), "--json"])
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "lib" / "include" / "codesign_model.h").is_file()
    result = CliRunner().invoke(main, ["export", str(tmp_path / "none.tflite"), "-o", str(tmp_path / "lib2")])
    assert result.exit_code == 2
    assert not (tmp_path / "lib2").exists()


@pytest.mark.parametrize("variant", ["CS_PLAIN_C", "CS_AS_ON_THE_HOST"])
def test_cppcheck_is_silent(variant: str, tmp_path: Path, find_network: Find) -> None:
    if shutil.which("cppcheck") is None:
        pytest.skip("cppcheck is not installed (apt install cppcheck)")
    generate(find_network("stacked"), tmp_path)
    checks = "--enable=warning,style,performance,portability"
    run("cppcheck", "-q", "--std=c99", checks, "--error-exitcode=3", f"-D{variant}", tmp_path)
