"""`codesign bench`, `codesign size` and `codesign export`: the generated C by itself, without a certificate."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from codesign.cli import options as opt
from codesign.cli.waiting import waits_for

_CORES = ("m0", "m3", "m4", "m7", "m33")
weights = click.option(
    "--weights",
    type=click.Choice(["int8", "int16"]),
    default="int8",
    show_default=True,
    help="Packing in flash: int16 takes twice the space and fewer instructions.",
)
_RUNTIME_OPTIONS = (
    click.option(
        "--runtime", type=click.Choice(["codesign", "tflm", "tflm-cmsis"]), default="codesign", show_default=True,
        help="What runs the model: generated C, or TFLM's interpreter with its reference kernels or CMSIS-NN's.",
    ),
    click.option("--tflm-tree", type=opt.FILE, help="TFLM's source tree [default: the variable CODESIGN_TFLM_TREE]."),
    click.option("--tflm-package", metavar="SPEC", help="Let PlatformIO fetch TFLM: owner/name@version or a URL."),
    click.option("--arena", type=int, metavar="BYTES", help="TFLM's tensor arena [default: the least that it needs]."),
)  # fmt: skip


def runtime(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that name TFLM as the runtime; the command gets `runtime`, None for the generated C."""

    @functools.wraps(command)
    def collected(
        *args: Any, runtime: str, tflm_tree: Path | None, tflm_package: str | None, arena: int | None, **kwargs: Any
    ) -> Any:
        from codesign.tflm import runtime_option

        return command(*args, runtime=runtime_option(runtime, tflm_tree, tflm_package, arena), **kwargs)

    result: Callable[..., Any] = collected
    for option in reversed(_RUNTIME_OPTIONS):
        result = option(result)
    return result


level = click.option(
    "--level", type=click.Choice(["O2", "Os", "O3"]), default="O2", show_default=True, help="Compiler's optimisation."
)


@click.command()
@click.argument("model", type=opt.FILE)
@click.option("--core", type=click.Choice(_CORES), help="The emulated core to count instructions on.")
@click.option("--board", help="Measure on this board instead, through its firmware (cycles where it is real).")
@click.option("--port", help="The board's serial port.")
@weights
@runtime
@level
@click.option("--inputs", type=click.IntRange(min=1), default=6, show_default=True, help="Number of inputs.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@opt.calibration
@opt.as_json
@waits_for("bench: the model is made ready, compiled and run on the emulated core")
def bench(
    model: Path, core: str | None, board: str | None, port: str | None, weights: Any, level: str, inputs: int,
    seed: int, calibration: Path | None, as_json: bool, runtime: Any,
) -> None:  # fmt: skip
    """Count the instructions of MODEL (int8 .tflite, or a float model, which is converted) on a core.

    Counted exactly on two emulators, both checked against a loop of known length; every output is compared with the
    exact simulation. Exit code 1 where one differs.
    """
    from codesign import bench as benches
    from codesign.errors import InputError

    if (core is None) == (board is None):
        raise InputError(f"name a core to emulate, --core {'|'.join(_CORES)}, or a board, --board NAME")
    if board is None and port is not None:
        raise InputError("--port belongs to a board: name it with --board")
    if board is not None and level != "O2":
        raise InputError("a board's firmware is built with -O2: leave out --level")
    if board is None and runtime is not None:
        raise InputError("TFLM is measured in a board's firmware: name a board with --board in place of --core")
    network = benches.load_model(model, calibration)
    if board is not None:
        result = benches.bench_board(network, board, port, inputs, seed, weights, runtime)
    else:
        result = benches.bench(network, str(core), weights, level, inputs, seed)
    if as_json:
        click.echo(json.dumps(result))
    else:
        _print_bench(result)
    sys.exit(0 if result["bit_exact"] else 1)


def _print_bench(result: dict[str, Any]) -> None:
    unit = result.get("unit", "instructions")
    place = result.get("target") or f"{result['core_title']}, -{result['level']}, {result['weights']} weights, EMULATED"
    click.echo(f"{result['model']} on {place}")
    rate = f", {result[unit] / result['macs']:.2f} a multiply-accumulate" if result["macs"] and result[unit] else ""
    click.echo(f"  {unit:<14}{result[unit]:>12,} an inference{rate}" if result[unit] else "  no counter on this target")
    if result.get("step"):
        click.echo(f"  {'streaming':<14}{result['step']['instructions']:>12,} a time step")
    parts = f" (code and tables {result['code_bytes']:,})" if "code_bytes" in result else ""
    click.echo(f"  {'flash':<14}{result['flash_bytes']:>12,} bytes{parts}")
    click.echo(f"  {'RAM':<14}{result['ram_bytes']:>12,} bytes")
    click.echo(f"  {'stack':<14}{result['stack_bytes']:>12,} bytes (measured {result['stack_measured_bytes']:,})")
    click.echo(f"  {'outputs':<14}{'bit-exact' if result['bit_exact'] else 'DIFFERENT from the exact simulation':>12}")


@click.command()
@click.argument("model", type=opt.FILE)
@click.option("--board", default="nucleo_f746", show_default=True, help="A board that 'codesign boards' lists.")
@weights
@level
@opt.calibration
@opt.as_json
@waits_for("size: the model is made ready and compiled")
def size(model: Path, board: str, weights: Any, level: str, calibration: Path | None, as_json: bool) -> None:
    """Show what MODEL takes of a board's flash and RAM, by layer and by section, before any firmware is built.

    Exit code 1 where it does not fit.
    """
    from codesign import bench as benches
    from codesign.toolchain import load_board

    result = benches.size_report(benches.load_model(model, calibration), load_board(board), weights, level)
    if as_json:
        click.echo(json.dumps(result))
    else:
        _print_size(result)
    sys.exit(0 if result["fits"] else 1)


def _print_size(result: dict[str, Any]) -> None:
    click.echo(f"{result['model']} on {result['board']} ({result['core']}), {result['weights']} weights, bytes")
    for memory in ("flash", "ram"):
        facts = result[memory]
        share = 100 * facts["used"] / facts["budget"]
        click.echo(f"  {memory:<6} {facts['used']:>10,} of {facts['budget']:,} ({share:.1f} %)")
        for name, value in facts["sections"].items():
            click.echo(f"    {name:<12} {'unknown' if value is None else format(value, ','):>10}")
    click.echo(f"  {'layer':<40} {'MACs':>10} {'weights':>9} {'code':>7} {'state':>7}")
    for layer in result["layers"]:
        code = "unknown" if layer["code"] is None else format(layer["code"], ",")
        name = f"{layer['kind']} {layer['name']}"[:40]
        click.echo(f"  {name:<40} {layer['macs']:>10,} {layer['weights']:>9,} {code:>7} {layer['state']:>7,}")
    if not result["compiled"]:
        click.echo("Code and stack are not counted: arm-none-eabi-gcc is not installed.")
    click.echo("It fits." if result["fits"] else "It does NOT fit.")


@click.command()
@click.argument("model", type=opt.FILE)
@click.option("-o", "--output", type=opt.FILE, required=True, help="The folder to write the library to.")
@weights
@opt.calibration
@opt.as_json
@waits_for("export: the model is made ready and its C written")
def export(model: Path, output: Path, weights: Any, calibration: Path | None, as_json: bool) -> None:
    """Write MODEL as a C library without dependencies, for PlatformIO, CMake and Zephyr, with an example."""
    from codesign.bench import load_model
    from codesign.codegen import export_library

    paths = export_library(load_model(model, calibration), output, weights)
    if as_json:
        click.echo(json.dumps({"folder": str(output), "files": [str(path) for path in paths]}))
    else:
        click.echo(f"{output}: {len(paths)} files; see {output / 'README.md'}")
