"""Boards, PlatformIO projects, builds, flashing and sizes: from a model's C sources to an ELF file on a board."""

from codesign.toolchain.boards import Board, Clock, Emulator, Flashing, Memory, Pin, Serial, list_boards, load_board
from codesign.toolchain.build import Build, build, build_project, check_fits, upload
from codesign.toolchain.elf import Image, Section, Symbol, read_image
from codesign.toolchain.project import Project, generate_project

__all__ = [
    "Board",
    "Build",
    "Clock",
    "Emulator",
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
    "generate_project",
    "list_boards",
    "load_board",
    "read_image",
    "upload",
]
