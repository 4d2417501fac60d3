from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from toolchain_support import STUB, TINY

from codesign.errors import CodesignError, InputError, MissingToolError
from codesign.quantization import read_integer_network
from codesign.quantization.integer import IntegerNetwork, IntLstm
from codesign.resources import resource_dir
from codesign.toolchain import Build, build, build_project, generate_project, list_boards, load_board, pio, upload
from codesign.toolchain.build import check_fits
from codesign.toolchain.project import MARKER

MakeBuild = Callable[[str], Build]


def test_project_is_self_contained(tmp_path: Path) -> None:
    project = generate_project(STUB, load_board("nucleo_f746"), tmp_path / "fw")
    files = {str(p.relative_to(project.folder)) for p in project.folder.rglob("*") if p.is_file()}
    assert {
        "platformio.ini",
        "boards/nucleo_f746.json",
        "platforms/codesign-arm/platform.json",
        "platforms/codesign-arm/builder/main.py",
        "cortex_m.ld",
        "memory.ld",
        "src/model/codesign_model.c",
        "src/hil/main.c",
        "src/board/cs_startup.c",
        "include/cs_config.h",
    } <= files
    for name in files:
        assert str(tmp_path) not in (project.folder / name).read_text()
    assert json.loads((project.folder / MARKER).read_text())["build_id"] == project.build_id
    assert len(bytes.fromhex(project.build_id)) == 16


def test_build_id_depends_on_sources_and_board(tmp_path: Path, stub_sources: Path) -> None:
    board = load_board("nucleo_f746")
    first = generate_project(STUB, board, tmp_path / "a").build_id
    assert generate_project(STUB, board, tmp_path / "b").build_id == first
    assert generate_project(STUB, dataclasses.replace(board, stack_bytes=4096), tmp_path / "c").build_id != first
    with (stub_sources / "codesign_model.c").open("a") as source:
        source.write("/* changed */\n")
    assert generate_project(stub_sources, board, tmp_path / "d").build_id != first


def test_project_replaces_only_projects(tmp_path: Path) -> None:
    board = load_board("mps2_an386")
    folder = tmp_path / "fw"
    generate_project(STUB, board, folder)
    (folder / "src" / "stale.c").write_text("#error stale\n")
    (folder / ".pio").mkdir()
    generate_project(STUB, board, folder)
    assert not (folder / "src" / "stale.c").exists()
    assert (folder / ".pio").is_dir()
    assert [p.name for p in tmp_path.iterdir()] == ["fw"]
    other = tmp_path / "home"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="not empty and not a codesign project"):
        generate_project(STUB, board, other)
    assert (other / "thesis.txt").read_text() == "precious"
    with pytest.raises(InputError, match="is a file"):
        generate_project(STUB, board, other / "thesis.txt")
    with pytest.raises(InputError, match=r"lack codesign_model\.h"):
        generate_project(other, board, tmp_path / "x")


@pytest.mark.arm
@pytest.mark.parametrize(
    "name", ["microbit", "pico", "mps2_an385", "nucleo_f446", "nucleo_l476", "nucleo_f746", "mps2_an505"]
)
def test_boards_of_every_core_build(stub_build: MakeBuild, name: str) -> None:
    result = stub_build(name)
    board = result.board
    image = result.image
    assert image.entry == image.symbol("Reset_Handler").address | 1
    vectors = next(s for s in image.sections if s.name == ".isr_vector")
    behind_boot = 512 if name == "pico" else 0  # the RP2040's second stage of the boot comes first
    assert vectors.address == board.flash.origin + behind_boot
    content = result.bin.read_bytes()
    stack, reset = (int.from_bytes(content[behind_boot + i : behind_boot + i + 4], "little") for i in (0, 4))
    assert stack == board.ram.origin + board.stack_bytes
    assert reset == image.entry
    for section in result.sections:
        if section.loaded:
            assert board.flash.contains(section.load_address, section.size)
        assert (board.ram if section.writable else board.flash).contains(section.address, section.size)
    assert result.flash_bytes == sum(s.size for s in result.memory_map["flash"])
    assert abs(len(content) - behind_boot // 2 - result.flash_bytes) < 64  # alignment gaps
    assert result.stack_size == board.stack_bytes
    assert 12 < result.ram_bytes < 1024
    assert bytes.fromhex(result.build_id) in content
    names = {s.name for s in result.symbols}
    assert {"main", "cs_model_invoke", "cs_hil_receive", "HardFault_Handler"} <= names
    assert not names & {"malloc", "free", "_sbrk", "printf"}


@pytest.mark.arm
def test_core_and_float_abi_are_the_boards(stub_build: MakeBuild) -> None:
    for name, tag in (("nucleo_f746", "FPv5/FP-D16"), ("nucleo_f446", "VFPv4-D16")):
        command = ["arm-none-eabi-readelf", "-A", str(stub_build(name).elf)]
        attributes = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "Tag_CPU_arch: v7E-M" in attributes
        assert tag in attributes
        assert "Tag_ABI_VFP_args: VFP registers" in attributes


@pytest.mark.arm
def test_generated_model_builds_reproducibly_anywhere(tmp_path: Path) -> None:
    network = read_integer_network(TINY)
    board = load_board("nucleo_f746")
    first = build(network, board, tmp_path / "a")
    second = build(network, board, tmp_path / "with space, comma" / "ü")
    assert first.elf.read_bytes() == second.elf.read_bytes()
    assert first.bin.read_bytes() == second.bin.read_bytes()
    assert first.model_sha256 == network.sha256 == hashlib.sha256(TINY.read_bytes()).hexdigest()
    assert bytes.fromhex(network.sha256) in first.bin.read_bytes()
    # The folder can be moved; PlatformIO builds it as it stands, in this environment and without codesign.
    moved = Path(shutil.move(tmp_path / "a", tmp_path / "moved"))
    shutil.rmtree(moved / ".pio")
    command = [sys.executable, "-m", "platformio", "run", "-d", str(moved)]
    subprocess.run(command, check=True, capture_output=True, env=pio.environment(pio.core_dir()))
    rebuilt = moved / ".pio" / "build" / "nucleo_f746" / "program.elf"
    assert rebuilt.read_bytes() == second.elf.read_bytes()


@pytest.mark.arm
def test_builds_with_a_fresh_core_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PLATFORMIO_BUILD_FLAGS", "-DPOISON -Ono-such-level")
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    project = generate_project(STUB, load_board("mps2_an386"), tmp_path / "fw")
    assert build_project(project, "00" * 32).elf.is_file()
    packages = pio.core_dir() / "packages"
    assert [p.name for p in packages.iterdir()] == ["tool-scons"]
    assert tmp_path in packages.parents


@pytest.mark.arm
@pytest.mark.parametrize(
    ("define", "message"),
    [
        ("STUB_FLASH_BYTES 1100000", r"it needs 110\d{4} bytes of flash, and there are 1048576"),
        ("STUB_RAM_BYTES 330000", r"it needs 338\d{3} bytes of RAM, and there are 327680"),
    ],
)
def test_linker_overflow_is_told_with_figures(tmp_path: Path, stub_sources: Path, define: str, message: str) -> None:
    source = stub_sources / "codesign_model.c"
    source.write_text(f"#define {define}\n" + source.read_text())
    project = generate_project(stub_sources, load_board("nucleo_f746"), tmp_path / "fw")
    with pytest.raises(InputError, match=message):
        build_project(project, "00" * 32)


@pytest.mark.arm
def test_compiler_warnings_are_errors(tmp_path: Path, stub_sources: Path) -> None:
    with (stub_sources / "codesign_model.c").open("a") as source:
        source.write("int narrowed(long long v);\nint narrowed(long long v) { return v; }\n")
    project = generate_project(stub_sources, load_board("mps2_an500"), tmp_path / "fw")
    with pytest.raises(CodesignError, match=r"did not build: src/model/codesign_model\.c:\d+.*conversion"):
        build_project(project, "00" * 32)


def widened(network: IntegerNetwork, units: int, steps: int) -> IntegerNetwork:
    lstm = network.ops[0]
    assert isinstance(lstm, IntLstm)
    features = lstm.features
    big = dataclasses.replace(
        lstm,
        W=np.zeros((4, units, features), np.int8),
        R=np.zeros((4, units, units), np.int8),
        b=np.zeros((4, units), np.int32),
        input=dataclasses.replace(lstm.input, shape=(steps, features)),
        output=dataclasses.replace(lstm.output, shape=(steps, units)),
    )
    return dataclasses.replace(network, input=big.input, output=big.output, ops=(big,))


def test_too_big_networks_are_refused_before_compiling(tmp_path: Path) -> None:
    network = read_integer_network(TINY)
    board = load_board("nucleo_f746")
    check_fits(network, board)
    with pytest.raises(InputError, match=r"at least 10\d{5} bytes of flash, and there are 1048576"):
        build(widened(network, 512, 3), board, tmp_path / "fw")
    with pytest.raises(InputError, match=r"at least \d{6} bytes of RAM, and there are 327680"):
        check_fits(widened(network, 4, 15000), dataclasses.replace(board, stack_bytes=200_000))
    with pytest.raises(InputError, match="one frame of the serial protocol"):
        check_fits(widened(network, 4, 30000), board)
    assert not (tmp_path / "fw").exists()


def test_missing_tools_are_named_with_their_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = generate_project(STUB, load_board("mps2_an386"), tmp_path / "fw")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(MissingToolError, match="sudo apt install gcc-arm-none-eabi"):
            build_project(project, "00" * 32)
        with pytest.raises(MissingToolError, match="sudo apt install openocd"):
            pio.require_openocd()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingToolError, match="pip install"):
        pio.require_platformio()


@pytest.mark.arm
def test_a_build_that_hangs_is_ended(tmp_path: Path) -> None:
    project = generate_project(STUB, load_board("mps2_an386"), tmp_path / "fw")
    script = project.folder / "platforms" / "codesign-arm" / "builder" / "main.py"
    script.write_text("import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)\n")
    with pytest.raises(CodesignError, match="did not finish within 10 s"):
        pio.run(project.folder, timeout=10)
    child = int((project.folder / "pid").read_text())
    deadline = time.monotonic() + 10
    while runs(child):
        assert time.monotonic() < deadline, "the build goes on"
        time.sleep(0.05)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def fake_openocd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An openocd that records its arguments: the real one would flash whatever board is attached."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "openocd"
    script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{folder}/arguments"\nexit $(cat "{folder}/code")\n')
    script.chmod(0o755)
    (folder / "code").write_text("0")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.mark.arm
def test_upload_runs_openocd(stub_build: MakeBuild, fake_openocd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Port:
        device = "/dev/ttyACM7"
        serial_number = "066DFF515155878281"

    monkeypatch.setattr("serial.tools.list_ports.comports", lambda: [Port()])
    result = stub_build("nucleo_f746")
    check = "platforms/codesign-arm/openocd_check.cfg"
    scripts = ["-f", "board/st_nucleo_f7.cfg", "-f", check]
    elf = result.elf.relative_to(result.folder)
    program = f"init; codesign_require_device 0xe0042000 0x449; program {{{elf}}} verify reset exit"
    upload(result, result.board, None)
    assert (fake_openocd / "arguments").read_text().splitlines() == [*scripts, "-c", program]
    upload(result, result.board, "/dev/ttyACM7")
    arguments = (fake_openocd / "arguments").read_text().splitlines()
    probe = ["-c", "adapter serial 066DFF515155878281"]
    assert arguments == [*scripts[:2], *probe, *scripts[2:], "-c", program]
    (fake_openocd / "code").write_text("1")
    with pytest.raises(CodesignError, match="flashing NUCLEO-F746ZG failed"):
        upload(result, result.board, None)


@pytest.mark.arm
def test_upload_is_refused_where_it_cannot_work(stub_build: MakeBuild) -> None:
    result = stub_build("mps2_an386")
    with pytest.raises(InputError, match="no way to be flashed"):
        upload(result, result.board, "/dev/ttyACM0")
    with pytest.raises(InputError, match="built for mps2_an386"):
        upload(result, load_board("nucleo_f746"), "/dev/ttyACM0")


@pytest.mark.skipif(shutil.which("openocd") is None, reason="openocd is not installed")
@pytest.mark.parametrize("name", [n for n in list_boards() if load_board(n).flashing is not None])
def test_openocd_knows_the_boards_scripts(name: str) -> None:
    flashing = load_board(name).flashing
    assert flashing is not None
    scripts = [part for script in flashing.config for part in ("-f", script)]
    command = ["openocd", *scripts, "-c", "adapter serial 066DFF", "-c", "echo [info procs program]", "-c", "shutdown"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode == 0, result.stderr
    assert "program" in result.stderr.splitlines()


@pytest.mark.skipif(shutil.which("openocd") is None, reason="openocd is not installed")
def test_a_foreign_chip_is_not_programmed() -> None:
    def check(idcode: int) -> subprocess.CompletedProcess[str]:
        memory = f"proc mrw {{ address }} {{ return {idcode:#x} }}"
        device = load_board("nucleo_f746").flashing.device_id
        run = f"codesign_require_device {device[0]:#x} {device[1]:#x}; echo programmed; shutdown"
        script = str(resource_dir("firmware") / "platform" / "openocd_check.cfg")
        command = ["openocd", "-f", script, "-c", memory, "-c", run]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

    right, wrong = check(0x10016449), check(0x10006421)
    assert right.returncode == 0, right.stderr
    assert "programmed" in right.stderr
    assert wrong.returncode != 0
    assert "programmed" not in wrong.stderr
    assert "device id 0x421, not 0x449" in wrong.stderr
