"""A TFLM source tree on this machine: where its parts are, and which of its files an application needs.

Known layouts, by the root that holds tensorflow/:

    project generation (create_tflm_tree.py), Arduino and PlatformIO libraries (below src/): third_party/NAME
    a checkout whose makefile has fetched its dependencies: tensorflow/lite/micro/tools/make/downloads/NAME
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from codesign.errors import InputError

MICRO = "tensorflow/lite/micro"
KERNELS = f"{MICRO}/kernels"
DOWNLOADS = f"{MICRO}/tools/make/downloads"
_INTERPRETER = f"{MICRO}/micro_interpreter.h"
_RESOLVER = f"{MICRO}/micro_mutable_op_resolver.h"
_LSTM = f"{KERNELS}/lstm_shared.h"
_GENERATE = "create_tflm_tree.py of TFLM makes a complete one"
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"\n]+)[>"]', re.MULTILINE)
_ARM_NAME = re.compile(r"\barm_\w+")
# Besides the kernels of the model's operators: what they share.
_SHARED_KERNELS = ("kernel_util", "lstm_eval", "lstm_eval_common", "fully_connected_common", "micro_tensor_utils")
# The application has its own; or they are for hosts and tests; or (array) not for static memory.
_NOT_TAKEN = ("array", "debug_log", "micro_time", "system_setup", "test_helpers", "recording_micro_allocator")
_MAX_FILE = 16 << 20


@dataclass(frozen=True)
class TflmTree:
    """`root` holds tensorflow/; `parts` the folders of the dependencies by name; `suffix` is that of C++ sources."""

    root: Path
    parts: dict[str, Path]
    suffix: str

    @property
    def has_cmsis_nn(self) -> bool:
        return "cmsis_nn" in self.parts

    @property
    def traces(self) -> bool:
        """Whether the LSTM's registration can be replaced by one that reports its hidden states."""
        text = self.text(self.root / _RESOLVER)
        return re.search(r"AddUnidirectionalSequenceLSTM\(\s*const", text) is not None

    @property
    def scale_products(self) -> str:
        """'float32' or 'double': how the product of two scales is taken (GetQuantizedConvolutionMultipler).

        InputError where the source says neither.
        """
        path = self.root / f"tensorflow/lite/kernels/kernel_util{self.suffix}"
        text = re.sub(r"\s+", "", self.text(path))
        found = re.findall(
            r"constdoubleinput_product_scale=(static_cast<double>\((?:input->params\.scale\*filter->params\.scale)\)"
            r"|static_cast<double>\(input->params\.scale\)\*static_cast<double>\(filter->params\.scale\))",
            text,
        )
        if not found:
            raise InputError(f"{path} does not say how it multiplies scales: this version of TFLM is not known")
        # The overload without a bias does the work; it comes last, and the first calls it.
        return "double" if found[-1].count("static_cast") == 2 else "float32"

    def text(self, path: Path) -> str:
        """A source file's text. InputError where it cannot be read."""
        try:
            if path.stat().st_size > _MAX_FILE:
                raise InputError(f"{path} is too large for a source file of TFLM")
            return path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise InputError(f"{path} of the TFLM tree cannot be read: {error.strerror or error}") from None

    def name(self, path: Path) -> str:
        """A file's name in a project: relative to the root."""
        return path.relative_to(self.root).as_posix()

    def own_lstm(self, cmsis_nn: bool) -> bool:
        """Whether CMSIS-NN computes the LSTMs (older trees have it for other operators only)."""
        return cmsis_nn and (self.root / KERNELS / "cmsis_nn" / f"unidirectional_sequence_lstm{self.suffix}").is_file()

    def include_folders(self, cmsis_nn: bool) -> list[Path]:
        """In the order of the compiler's search."""
        parts = self.parts
        folders = [self.root, self.root / "third_party"]
        folders += [parts["flatbuffers"] / "include", parts["gemmlowp"], parts["ruy"]]
        if cmsis_nn:
            folders += [parts["cmsis_nn"], parts["cmsis_nn"] / "Include", parts["cmsis"]]
            folders.append(parts["cmsis"] / "CMSIS" / "Core" / "Include")
        return [folder for folder in folders if folder.is_dir()]

    def kernel(self, name: str, cmsis_nn: bool) -> Path:
        """The source of an operator's kernel; CMSIS-NN's where there is one and it is asked for.

        InputError where the tree lacks it.
        """
        reference = self.root / KERNELS / f"{name}{self.suffix}"
        optimised = self.root / KERNELS / "cmsis_nn" / f"{name}{self.suffix}"
        if cmsis_nn and optimised.is_file():
            return optimised
        if reference.is_file():
            return reference
        if optimised.is_file():
            raise InputError(
                f"the TFLM tree {self.root} has CMSIS-NN's kernel {name}{self.suffix} and not the reference one: take "
                "--runtime tflm-cmsis, or generate a tree without OPTIMIZED_KERNEL_DIR"
            )
        raise InputError(f"the TFLM tree {self.root} lacks {KERNELS}/{name}{self.suffix}; {_GENERATE}")

    def files(self, kernels: Iterable[str], cmsis_nn: bool) -> dict[str, Path]:
        """All that an application with the interpreter and these kernels needs: sources and headers, by `name`.

        Headers by their inclusion; a C++ source for every header of its name that is needed (of the kernels those asked
        for, and what they share); of CMSIS-NN the files whose functions are called. InputError where one is missing.
        """
        return _Selection(self, tuple(kernels), cmsis_nn).run()


def find_tree(path: Path | str, cmsis_nn: bool = False) -> TflmTree:
    """Look at the folder `path`. InputError: no TFLM tree, or one that lacks something (says what)."""
    base = Path(path)
    if not base.is_dir():
        raise InputError(f"there is no folder {base}: name a TFLM source tree; {_GENERATE}")
    candidates = [base, base / "src", *(p / "src" for p in sorted(base.iterdir()) if p.is_dir())]
    root = next((c.resolve() for c in candidates if (c / _INTERPRETER).is_file()), None)
    if root is None:
        raise InputError(f"{base} is no TFLM source tree: it lacks {_INTERPRETER}; {_GENERATE}")
    for needed in (_RESOLVER, _LSTM):
        if not (root / needed).is_file():
            raise InputError(f"the TFLM tree {root} lacks {needed}; {_GENERATE}")
    suffix = next((s for s in (".cc", ".cpp") if (root / f"{MICRO}/micro_interpreter{s}").is_file()), None)
    if suffix is None:
        raise InputError(f"the TFLM tree {root} lacks {MICRO}/micro_interpreter.cc (or .cpp); {_GENERATE}")
    places = (root / "third_party", root / DOWNLOADS)
    found = {}
    for name, proof in (
        ("flatbuffers", "include/flatbuffers/flatbuffers.h"),
        ("gemmlowp", "fixedpoint/fixedpoint.h"),
        ("ruy", "ruy/profiler/instrumentation.h"),
        ("cmsis", "CMSIS/Core/Include/cmsis_compiler.h"),
        ("cmsis_nn", "Include/arm_nnfunctions.h"),
    ):
        here = next((place / name for place in places if (place / name / proof).is_file()), None)
        if here is not None:
            found[name] = here
        elif name in ("flatbuffers", "gemmlowp", "ruy"):
            raise InputError(
                f"the TFLM tree {root} lacks third_party/{name}/{proof}: in a checkout, 'make -f "
                f"{MICRO}/tools/make/Makefile third_party_downloads' fetches it; {_GENERATE}"
            )
        elif cmsis_nn:
            raise InputError(
                f"the TFLM tree {root} is without CMSIS-NN: it lacks third_party/{name}/{proof}; generate one with "
                "OPTIMIZED_KERNEL_DIR=cmsis_nn, or take --runtime tflm"
            )
    if cmsis_nn and not (root / KERNELS / "cmsis_nn").is_dir():
        raise InputError(
            f"the TFLM tree {root} is without CMSIS-NN's kernels: it lacks {KERNELS}/cmsis_nn; generate one with "
            "OPTIMIZED_KERNEL_DIR=cmsis_nn, or take --runtime tflm"
        )
    return TflmTree(root, found, suffix)


class _Selection:
    """Follows inclusions from the interpreter and the kernels."""

    def __init__(self, tree: TflmTree, kernels: tuple[str, ...], cmsis_nn: bool) -> None:
        self.tree = tree
        self.cmsis_nn = cmsis_nn
        self.folders = tree.include_folders(cmsis_nn)
        self.kernels = {*kernels, *(f"{name}_common" for name in kernels), *_SHARED_KERNELS}
        self.roots = [tree.root / MICRO / f"micro_interpreter{tree.suffix}", tree.root / _RESOLVER]
        self.roots += [tree.kernel(name, cmsis_nn) for name in kernels]
        for name in sorted(self.kernels - set(kernels)):
            source = tree.root / KERNELS / f"{name}{tree.suffix}"
            self.roots += [source] if source.is_file() else []
        self.found: dict[str, Path] = {}

    def run(self) -> dict[str, Path]:
        todo = list(self.roots)
        while todo:
            path = todo.pop()
            name = self.tree.name(path)
            if name in self.found:
                continue
            self.found[name] = path
            text = self.tree.text(path)
            for wanted in _INCLUDE.findall(text):
                header = self._resolve(path, wanted)
                if header is not None:
                    todo.append(header)
                    todo += self._source_of(header)
            if self.cmsis_nn and path.suffix in (".c", self.tree.suffix):
                for called in _ARM_NAME.findall(text):
                    todo += self._cmsis_sources.get(called, ())
        return dict(sorted(self.found.items()))

    def _resolve(self, source: Path, wanted: str) -> Path | None:
        if ".." in PurePosixPath(wanted).parts or PurePosixPath(wanted).is_absolute():
            candidates = [source.parent / wanted] if not PurePosixPath(wanted).is_absolute() else []
        else:
            candidates = [source.parent / wanted, *(folder / wanted for folder in self.folders)]
        for candidate in candidates:
            if candidate.is_file() and candidate.resolve().is_relative_to(self.tree.root):
                return candidate.resolve()
        return None

    def _source_of(self, header: Path) -> list[Path]:
        source = header.with_suffix(self.tree.suffix)
        if header.suffix != ".h" or not source.is_file() or source.stem in _NOT_TAKEN:
            return []
        in_kernels = header.is_relative_to(self.tree.root / KERNELS)
        foreign = any(header.is_relative_to(part) for part in self.tree.parts.values())
        if (
            foreign
            or not header.is_relative_to(self.tree.root / "tensorflow")
            or (in_kernels and source.stem not in self.kernels)
        ):
            return []
        if in_kernels and self.cmsis_nn and (source.parent / "cmsis_nn" / source.name).is_file():
            return []  # CMSIS-NN's takes its place
        return [source]

    @cached_property
    def _cmsis_sources(self) -> dict[str, list[Path]]:
        """The CMSIS-NN sources that define a name: functions, and the tables by the file that holds them."""
        defined: dict[str, list[Path]] = {}
        for path in sorted((self.tree.parts["cmsis_nn"] / "Source").rglob("*.c")):
            if path.stem.endswith(("_f16", "_f32", "_flt")):
                continue
            text = self.tree.text(path)
            names = re.findall(r"^(?:[A-Za-z_][\w \t\*]*[ \t\*])(arm_\w+)\s*\([^;{]*\)\s*\{", text, re.MULTILINE)
            for name in {path.stem, *names}:
                defined.setdefault(name, []).append(path.resolve())
            if path.stem == "arm_nntables":
                for name in ("arm_nn_activation_s16", "arm_nntables"):
                    defined.setdefault(name, []).append(path.resolve())
        return defined
