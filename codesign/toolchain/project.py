"""A self-contained PlatformIO project: firmware, generated model, board manifest and development platform."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from codesign.errors import InputError
from codesign.resources import resource_dir
from codesign.toolchain.boards import Board, Pin

MARKER = "codesign-project.json"
PLATFORM = "codesign-arm"
PROTOCOL_COUNTER_CYCLES = 1
BUILD_ID_BYTES = 16


@dataclass(frozen=True)
class Project:
    """A generated project. `build_id` is 32 hex digits; the firmware reports it in its identify reply."""

    folder: Path
    board: Board
    build_id: str


@dataclass(frozen=True)
class Sources:
    """Sources of a model in place of the generated C: `files` by path below src/, one of them model/codesign_model.h;
    `includes` folders below src/ whose headers are a third party's; `defines` of the preprocessor.
    """

    files: Mapping[str, bytes]
    includes: tuple[str, ...] = ()
    defines: tuple[str, ...] = ()


def generate_project(sources: Path | Iterable[Path] | Sources, board: Board, folder: Path | str) -> Project:
    """Write the PlatformIO project for `board` to `folder`; the folder can be moved and built anywhere.

    `sources`: the model's C files as `codesign.codegen.generate` writes them (their folder, or their paths), or others.
    An earlier project in `folder` is replaced, its PlatformIO build directory kept.
    InputError: no model among the sources, or `folder` holds something else.
    """
    folder = Path(folder)
    if not isinstance(sources, Sources):
        sources = Sources({f"model/{name}": content for name, content in _model_files(sources).items()})
    _check_destination(folder)
    files = _project_files(sources, board)
    build_id = _build_id(files, board)
    files["include/cs_config.h"] = _config_header(board, build_id).encode()
    marker = {"board": board.name, "build_id": build_id, "format": 1}
    files[MARKER] = (json.dumps(marker, indent=2) + "\n").encode()
    _write(files, folder)
    return Project(folder, board, build_id)


def _model_files(sources: Path | Iterable[Path]) -> dict[str, bytes]:
    if isinstance(sources, Path):
        if not sources.is_dir():
            raise InputError(f"there is no folder of model sources {sources}: generate them first")
        sources = sorted(sources.iterdir())
    model = {p.name: p.read_bytes() for p in sources if p.suffix in (".c", ".h")}
    if "codesign_model.h" not in model or "codesign_model.c" not in model:
        raise InputError(
            "the model sources lack codesign_model.h or codesign_model.c: generate them with codesign.codegen"
        )
    return model


def _check_destination(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder for the firmware project")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise InputError(f"{folder} is not empty and not a codesign project: name another folder")


def _project_files(sources: Sources, board: Board) -> dict[str, bytes]:
    firmware = resource_dir("firmware")
    files = {f"src/{name}": content for name, content in sources.files.items()}
    for path in sorted((firmware / "hil").iterdir()):
        if path.suffix in (".c", ".h"):
            files[f"src/hil/{path.name}"] = path.read_bytes()
    for support in ("common", *board.shared, board.support):
        for path in sorted((firmware / "boards" / support).iterdir()):
            if path.suffix in (".c", ".h"):
                files[f"src/board/{path.name}"] = path.read_bytes()
    files["cortex_m.ld"] = (firmware / "boards" / "common" / "cortex_m.ld").read_bytes()
    files["memory.ld"] = _memory_script(board).encode()
    for name in ("platform.json", "platform.py", "builder/main.py", "openocd_check.cfg"):
        files[f"platforms/{PLATFORM}/{name}"] = (firmware / "platform" / name).read_bytes()
    files[f"boards/{board.name}.json"] = (json.dumps(_manifest(board), indent=2) + "\n").encode()
    files["platformio.ini"] = _platformio_ini(board, sources).encode()
    files[".gitignore"] = b".pio/\n"
    return files


def _build_id(files: Mapping[str, bytes], board: Board) -> str:
    """SHA-256, cut to 16 bytes, over every project file (compiler flags are in the platform's) and the board."""
    digest = hashlib.sha256()
    board_file = json.dumps(asdict(board), sort_keys=True).encode()
    for name, content in [*sorted(files.items()), ("board", board_file)]:
        for part in (name.encode(), content):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()[: 2 * BUILD_ID_BYTES]


def _config_header(board: Board, build_id: str) -> str:
    serial, clock = board.serial, board.clock
    defines: dict[str, str] = {
        "CS_BOARD_NAME": f'"{board.name}"',
        "CS_BUILD_ID": "{" + ", ".join(f"0x{byte:02X}" for byte in bytes.fromhex(build_id)) + "}",
        "CS_CLOCK_HZ": f"{board.clock_hz}u",
        f"CS_COUNTER_{board.counter.upper()}": "1",
        "CS_COUNTER_KIND": f"{PROTOCOL_COUNTER_CYCLES}",
        "CS_COUNTER_GRANULARITY": "1",
        "CS_SERIAL_UNIT": f"{serial.unit}",
        "CS_SERIAL_BAUD": f"{serial.baud}u",
    }
    if serial.tx is not None and serial.rx is not None:
        defines |= _pin_defines("TX", serial.tx) | _pin_defines("RX", serial.rx)
    if serial.af is not None:
        defines["CS_SERIAL_AF"] = f"{serial.af}u"
    if clock is not None:
        defines |= {
            "CS_HSE_HZ": f"{clock.hse_hz}u",
            "CS_HSE_BYPASS": f"{int(clock.hse_bypass)}",
            "CS_OVERDRIVE": f"{int(clock.overdrive)}",
            "CS_PLL_M": f"{clock.pll_m}u",
            "CS_PLL_N": f"{clock.pll_n}u",
            "CS_PLL_P": f"{clock.pll_p}u",
            "CS_PLL_Q": f"{clock.pll_q}u",
            "CS_FLASH_WAIT_STATES": f"{clock.flash_wait_states}u",
            "CS_APB1_DIVIDER": f"{clock.apb1_divider}u",
            "CS_APB2_DIVIDER": f"{clock.apb2_divider}u",
        }
    lines = [f"#define {name} {value}" for name, value in defines.items()]
    head = f"/* Written by codesign for {board.title}: do not edit. */"
    return "\n".join([head, "#ifndef CS_CONFIG_H", "#define CS_CONFIG_H", "", *lines, "", "#endif", ""])


def _pin_defines(role: str, pin: Pin) -> dict[str, str]:
    return {
        f"CS_SERIAL_{role}_PORT": f"{pin.port_number}u",
        f"CS_SERIAL_{role}_PIN": f"{pin.number}u",
    }


def _memory_script(board: Board) -> str:
    flash, ram = board.flash, board.ram
    return (
        f"/* Written by codesign for {board.title}: do not edit. */\n"
        "MEMORY\n{\n"
        f"    {flash.name} (rx) : ORIGIN = {flash.origin:#010x}, LENGTH = {flash.size:#x}\n"
        f"    ram (rwx) : ORIGIN = {ram.origin:#010x}, LENGTH = {ram.size:#x}\n"
        "}\n"
        f'REGION_ALIAS("CS_FLASH", {flash.name});\n'
        'REGION_ALIAS("CS_RAM", ram);\n'
        f"cs_stack_bytes = {board.stack_bytes};\n"
    )


def _manifest(board: Board) -> dict[str, object]:
    """PlatformIO's board manifest."""
    upload: dict[str, object] = {"maximum_size": board.flash.size, "maximum_ram_size": board.ram.size}
    if board.flashing is not None:
        upload |= {
            "protocol": board.flashing.method,
            "protocols": [board.flashing.method],
            "openocd_config": list(board.flashing.config),
        }
        if board.flashing.device_id is not None:
            upload["device_id"] = [f"{number:#x}" for number in board.flashing.device_id]
    return {
        "name": board.title,
        "vendor": board.vendor,
        "url": board.url,
        "build": {
            "mcu": board.mcu,
            "cpu": board.core,
            "f_cpu": f"{board.clock_hz}L",
            "fpu": board.fpu,
            "float_abi": board.float_abi,
        },
        "upload": upload,
    }


def _platformio_ini(board: Board, sources: Sources) -> str:
    flags = ["-Iinclude", "-Isrc/board", "-Isrc/hil", "-Isrc/model"]
    flags += [f"-D{name}" for name in sources.defines] + [f"-isystem src/{name}" for name in sources.includes]
    return (
        "; Written by codesign. Build: platformio run. Flash: platformio run -t upload.\n"
        "[platformio]\n"
        "platforms_dir = platforms\n"
        "\n"
        f"[env:{board.name}]\n"
        f"platform = {PLATFORM}\n"
        f"board = {board.name}\n"
        "lib_ldf_mode = off\n"
        f"build_flags = {' '.join(flags)}\n"
        f"monitor_speed = {board.serial.baud}\n"
    )


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    """Write to a temporary folder beside the destination, then swap: never a half-written project."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fresh = staging / "new"
        for name, content in files.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if folder.exists():
            old = staging / "old"
            os.replace(folder, old)
            if (old / ".pio").is_dir():
                os.replace(old / ".pio", fresh / ".pio")
        os.replace(fresh, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
