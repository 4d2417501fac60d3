"""Boards, PlatformIO projects, builds, flashing and sizes: from a model's C sources to an ELF file on a board."""

from codesign.toolchain.boards import Board, Clock, Emulator, Flashing, Memory, Pin, Serial, list_boards, load_board
from codesign.toolchain.build import Build, build, build_project, check_fits, upload
from codesign.toolchain.elf import Image, Section, Symbol, read_image
from codesign.toolchain.firmware import Firmware, read_firmware
from codesign.toolchain.flash import flash_elf, openocd_command, reset_board
from codesign.toolchain.project import Project, generate_project

__all__ = [
    "Board",
    "Build",
    "Clock",
    "Emulator",
    "Firmware",
    "Flashing",
    "Image",
    "Memory",
    "Pin",
    "Project",
    "Section",
    "Serial",
    "Symbol",
    "build",
    "build_project",
    "check_fits",
    "flash_elf",
    "generate_project",
    "list_boards",
    "load_board",
    "openocd_command",
    "read_firmware",
    "read_image",
    "reset_board",
    "upload",
]
