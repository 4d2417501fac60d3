"""The generated C as a library for other people's build systems: PlatformIO, CMake, Zephyr, with an example."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from codesign import __version__
from codesign.codegen.emit import comment_text
from codesign.codegen.generate import generate
from codesign.codegen.packing import Weights
from codesign.codegen.plan import make_plan
from codesign.errors import InputError
from codesign.quantization.integer import ActivationArray, IntegerNetwork

MARKER = ".codesign-export"
_PUBLIC = ("codesign_model.h",)


def export_library(network: IntegerNetwork, folder: str | Path, weights: Weights = "int8") -> list[Path]:
    """Write the library to `folder` and give the paths of its files. An earlier export there is replaced.

    include/codesign_model.h is the API, src/ the rest, examples/basic/main.c runs the model on one input and compares
    the output with what the exact simulation gives. Raises InputError where the folder holds something else or
    cannot be written, and what `generate` raises.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / MARKER).is_file())):
        raise InputError(f"{folder} is not empty and no earlier export: name another folder")
    make_plan(network, weights)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise InputError(f"cannot write the library into {folder}: {error.strerror or error}") from error
    try:
        fresh = staging / "new"
        _write_library(network, fresh, weights)
        if folder.exists():
            os.replace(folder, staging / "old")
        os.replace(fresh, folder)
    except OSError as error:
        raise InputError(f"cannot write the library into {folder}: {error.strerror or error}") from error
    finally:
        if not folder.exists() and (staging / "old").exists():  # stopped in the middle of the exchange
            os.replace(staging / "old", folder)
        shutil.rmtree(staging, ignore_errors=True)
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)


def _write_library(network: IntegerNetwork, folder: Path, weights: Weights) -> None:
    generate(network, folder / "src", weights)
    (folder / "include").mkdir()
    for name in _PUBLIC:
        os.replace(folder / "src" / name, folder / "include" / name)
    sources = sorted(path.name for path in (folder / "src").glob("*.c"))
    texts = {
        "library.json": _library_json(network),
        "CMakeLists.txt": _cmake(sources),
        "zephyr/module.yml": "name: codesign_model\nbuild:\n  cmake: zephyr\n  kconfig: zephyr/Kconfig\n",
        "zephyr/CMakeLists.txt": _zephyr(sources),
        "zephyr/Kconfig": _KCONFIG,
        "examples/basic/main.c": _example(network),
        "README.md": _readme(network),
        MARKER: f"{network.sha256}\n",
    }
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii", newline="\n")


def _library_json(network: IntegerNetwork) -> str:
    facts = {
        "name": "codesign_model",
        "version": __version__,
        "description": (
            f"{network.activations} recurrent network {comment_text(network.name)} (SHA-256 {network.sha256[:16]})"
        ),
        "license": "Apache-2.0",
        "frameworks": "*",
        "platforms": "*",
        "headers": "codesign_model.h",
        "build": {"srcDir": "src", "includeDir": "include"},
        "examples": [{"name": "basic", "base": "examples/basic", "files": ["main.c"]}],
    }
    return json.dumps(facts, indent=2) + "\n"


def _cmake(sources: list[str]) -> str:
    listed = "\n".join(f"    src/{name}" for name in sources)
    return f"""# add_subdirectory() this folder and link codesign::model, or build it by itself for the example.
cmake_minimum_required(VERSION 3.13)
project(codesign_model C)

add_library(codesign_model STATIC
{listed}
)
add_library(codesign::model ALIAS codesign_model)
target_include_directories(codesign_model PUBLIC include PRIVATE src)
set_target_properties(codesign_model PROPERTIES C_STANDARD 99 C_STANDARD_REQUIRED ON)

if(CMAKE_SOURCE_DIR STREQUAL PROJECT_SOURCE_DIR AND NOT CMAKE_CROSSCOMPILING)
    enable_testing()
    add_executable(codesign_example examples/basic/main.c)
    target_link_libraries(codesign_example PRIVATE codesign_model)
    add_test(NAME codesign_example COMMAND codesign_example)
endif()
"""


def _zephyr(sources: list[str]) -> str:
    listed = "\n".join(f"        ../src/{name}" for name in sources)
    return f"""if(CONFIG_CODESIGN_MODEL)
    zephyr_include_directories(../include)
    zephyr_library_named(codesign_model)
    zephyr_library_sources(
{listed}
    )
    zephyr_library_include_directories(../src)
    zephyr_library_compile_options(-O2)
endif()
"""


_KCONFIG = """config CODESIGN_MODEL
\tbool "int8 recurrent network generated by codesign"
\tdefault y
\thelp
\t  Builds the model's library; include codesign_model.h.
"""


def _values(values: ActivationArray) -> str:
    numbers = [str(int(v)) for v in values.reshape(-1)]
    return ",\n".join("    " + ", ".join(numbers[i : i + 20]) for i in range(0, len(numbers), 20))


def _example(network: IntegerNetwork) -> str:
    from codesign.semantics import simulate

    q = np.random.default_rng(0).integers(network.input.q_min, network.input.q_max + 1, (1, *network.input.shape))
    q = q.astype(network.activations)
    streaming = make_plan(network).stream is not None
    loop = """
    /* One time step at a time: a real sensor would sample here. */
    cs_model_reset();
    for (i = 0; i < CS_MODEL_STEPS; ++i) {
        cs_model_step(example_input + i * CS_MODEL_FEATURES, row);
    }
    for (i = 0; i < CS_MODEL_STEP_OUTPUT_SIZE; ++i) {
        wrong += row[i] != example_output[CS_MODEL_OUTPUT_SIZE - CS_MODEL_STEP_OUTPUT_SIZE + i];
    }
"""
    row = "    static cs_model_value_t row[CS_MODEL_STEP_OUTPUT_SIZE];\n"
    return f"""/* Runs the model on one input and compares with the output that the exact simulation gives. */
#include <stdio.h>

#include "codesign_model.h"

static const cs_model_value_t example_input[CS_MODEL_INPUT_SIZE] = {{
{_values(q)}
}};
static const cs_model_value_t example_output[CS_MODEL_OUTPUT_SIZE] = {{
{_values(simulate(network, q))}
}};

int main(void)
{{
    static cs_model_value_t output[CS_MODEL_OUTPUT_SIZE];
    static float real[CS_MODEL_OUTPUT_SIZE];
{row if streaming else ""}    int wrong = 0;
    int i;
    cs_model_init();
    cs_model_invoke(example_input, output);
    for (i = 0; i < CS_MODEL_OUTPUT_SIZE; ++i) {{
        wrong += output[i] != example_output[i];
    }}
{loop if streaming else ""}
    cs_model_dequantize_output(output, real);
    for (i = 0; i < CS_MODEL_OUTPUT_SIZE; ++i) {{
        printf("%d %.9g\\n", output[i], (double)real[i]);
    }}
    printf(wrong != 0 ? "%d values differ\\n" : "as expected\\n", wrong);
    return wrong != 0;
}}
"""


def _readme(network: IntegerNetwork) -> str:
    steps, features = network.input.shape
    return f"""# codesign_model

The {network.activations} network {comment_text(network.name)} ({steps} steps of {features} features) as C99 without
dependencies: no heap, no maths library, floating point only in the two conversion functions.
Generated by codesign {__version__}; SHA-256 of the .tflite file: {network.sha256}. License: Apache-2.0.

- C API: `include/codesign_model.h`; compile every file of `src/`, with -O2 where speed matters.
- CMake: `add_subdirectory(...)`, then link `codesign::model`. By itself:
  `cmake -B build && cmake --build build && ctest --test-dir build`.
- PlatformIO: copy the folder into `lib/`, or name it in `lib_deps`.
- Zephyr: add the folder to `ZEPHYR_EXTRA_MODULES` (or to the west manifest); `CONFIG_CODESIGN_MODEL=y` is the default.

The library has static buffers: one inference at a time. Cores with the DSP extension (Cortex-M4, M7, M33) take its
instructions through the compiler's intrinsics; others run portable C with the same results.
"""
