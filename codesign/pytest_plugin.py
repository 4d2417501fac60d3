"""pytest plugin: a `device` fixture for a user's own hardware-in-the-loop tests.

    pytest --board nucleo_f746 --deployment motion.deploy tests/hil               # emulated
    pytest --board nucleo_f746 --port auto --deployment motion.deploy tests/hil   # on the attached board

The firmware is flashed (or its emulation started) once a run. Tests that need what is not there are skipped, with the
reason. See docs/hil.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from codesign.hil import DeviceTrace, Identity, Inference, Metrics, Target
    from codesign.quantization.integer import ActivationArray, IntegerNetwork
    from codesign.toolchain import Board, Build, Firmware

EMULATED = "emulated"
_INI = (
    ("codesign_board", "The board that the device fixture uses (default of --board)."),
    (
        "codesign_deployment",
        "Output folder of 'codesign deploy', relative to the root folder (default of --deployment).",
    ),
    ("codesign_int8", "int8 .tflite to build a firmware from, relative to the root folder (default of --int8)."),
)
_MARKERS = (
    "hil: needs a device; skipped where no board or no firmware is named",
    "hardware: needs a real board; skipped on an emulated one",
    "emulated: needs an emulated board; skipped on a real one",
    "boards(*names): runs on these boards only",
)


class DeviceUnderTest:
    """What the `device` fixture gives. Errors of the link are codesign.errors.CodesignError and fail the test."""

    def __init__(self, target: Target, network: IntegerNetwork, firmware: Build | Firmware) -> None:
        self.target = target
        self.network = network
        self.firmware = firmware

    @property
    def identity(self) -> Identity:
        """What the device said when it was connected: board, model hash, build id, shapes."""
        return self.target.identity

    @property
    def board(self) -> str:
        return self.target.identity.board

    @property
    def emulated(self) -> bool:
        return self.target.emulated

    def infer(self, q: ActivationArray) -> Inference:
        """One inference on the quantized input (T, D): output (outputs,), of its type, and counter."""
        return self.target.device.infer(q)

    def run(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Quantise the float32 input (T, D) by the rule, infer, and give the real outputs (outputs,)."""
        import numpy as np

        from codesign.semantics import dequantize, quantize_input

        q = quantize_input(self.network, np.asarray(x, np.float32)[np.newaxis])[0]
        return np.asarray(dequantize(self.network.output, self.infer(q).output))

    def reference(self, q: ActivationArray) -> ActivationArray:
        """What the device has to answer to the quantized input (T, D), by the exact simulation: (outputs,)."""
        import numpy as np

        from codesign.semantics import simulate

        output: ActivationArray = simulate(self.network, np.asarray(q)[np.newaxis])[0].reshape(-1)
        return output

    def quantize(self, x: npt.NDArray[np.float32]) -> ActivationArray:
        """The device's own quantisation of the float32 input (T, D)."""
        return self.target.device.quantize(x)

    def trace(self, q: ActivationArray) -> DeviceTrace:
        """The hidden state of every LSTM layer and step for the quantized input (T, D)."""
        return self.target.device.trace(q)

    def metrics(self) -> Metrics:
        """Stack high-water mark and counts since reset."""
        return self.target.device.metrics()

    def count(self, inference: Inference) -> int | None:
        """Cycles of an inference on hardware, instructions on an emulator; None where the board has no counter."""
        return self.target.count(inference)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("codesign", "codesign hardware in the loop")
    group.addoption("--board", metavar="NAME", help="board for the device fixture; 'codesign boards' lists them")
    group.addoption(
        "--port",
        metavar="PORT",
        help="serial port of a real board, serial:NUMBER of its debug probe, or auto [default: emulated]",
    )
    group.addoption("--deployment", metavar="FOLDER", help="output folder of 'codesign deploy' whose firmware is used")
    group.addoption("--int8", metavar="FILE", help="int8 .tflite to build a firmware from, instead of --deployment")
    group.addoption("--no-flash", action="store_true", help="take the board as it is; it has to run this very build")
    for name, text in _INI:
        parser.addini(name, text, default="")


def pytest_configure(config: pytest.Config) -> None:
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    if config.getoption("--port") is not None and getattr(config, "workerinput", {}).get("workercount", 1) > 1:
        raise pytest.UsageError("a real board takes one worker: run pytest without -n")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, with the reason, what the named board cannot run; nothing is built or opened here."""
    boards = item.get_closest_marker("boards")
    needs = any(item.get_closest_marker(name) for name in ("hil", "hardware", EMULATED))
    if boards is None and not needs:
        return
    board, port = _board_name(item.config), item.config.getoption("--port")
    if reason := _missing(item.config):
        pytest.skip(reason)
    if boards is not None and board not in boards.args:
        pytest.skip(f"this test is for {', '.join(map(str, boards.args))}, not {board}")
    if item.get_closest_marker("hardware") and port is None:
        pytest.skip(f"this test needs a real {board}: attach one and add --port auto")
    if item.get_closest_marker(EMULATED) and port is not None:
        pytest.skip("this test needs an emulated board: leave out --port")


@pytest.fixture(scope="session")
def device(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, record_testsuite_property: Any
) -> Iterator[DeviceUnderTest]:
    """The device, flashed or emulated once a run. Skips where no board or firmware is named or no board is attached."""
    config = request.config
    if reason := _missing(config):
        pytest.skip(reason)
    from codesign.errors import InputError, MissingToolError
    from codesign.hil import choose_port, open_target
    from codesign.toolchain import load_board

    try:
        board, port = load_board(_board_name(config)), config.getoption("--port")
        if port is not None:
            port = choose_port(board, port, required=True)
        elif board.emulator is None:
            pytest.skip(f"{board.name} has no emulator: attach one and add --port auto")
        firmware, network = _firmware(config, board, tmp_path_factory)
    except MissingToolError as error:
        pytest.skip(str(error))
    except InputError as error:
        if config.getoption("--port") is not None and "attached" in str(error):
            pytest.skip(str(error))
        raise pytest.UsageError(str(error)) from error
    flash = not config.getoption("--no-flash")
    with open_target(firmware, port=port, emulate=port is None or None, flash=flash) as target:
        for name, value in (
            ("board", target.identity.board),
            ("emulated", str(target.emulated).lower()),
            ("port", target.port),
            ("build_id", target.identity.build_id.hex()),
            ("model_sha256", target.identity.model_hash.hex()),
        ):
            record_testsuite_property(f"codesign.{name}", value)
        yield DeviceUnderTest(target, network, firmware)


def pytest_report_header(config: pytest.Config) -> str | None:
    board = _board_name(config)
    if not board:
        return None
    port = config.getoption("--port")
    return f"codesign: board {board}, {f'port {port}' if port else 'EMULATED'}"


def _board_name(config: pytest.Config) -> str:
    return str(config.getoption("--board") or config.getini("codesign_board") or "")


def _path(config: pytest.Config, option: str, ini: str) -> Path | None:
    """The option's path as the user gave it, else the ini file's below the root folder."""
    given = config.getoption(option)
    if given:
        return Path(given)
    stored = config.getini(ini)
    return config.rootpath / stored if stored else None


def _missing(config: pytest.Config) -> str | None:
    if not _board_name(config):
        return "no board is named: add --board NAME ('codesign boards' lists them)"
    if (
        _path(config, "--deployment", "codesign_deployment") is None
        and _path(config, "--int8", "codesign_int8") is None
    ):
        return "no firmware is named: add --deployment FOLDER or --int8 MODEL.tflite"
    return None


def _firmware(
    config: pytest.Config, board: Board, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Build | Firmware, IntegerNetwork]:
    from codesign.quantization import read_integer_network
    from codesign.toolchain import build, read_firmware

    deployment = _path(config, "--deployment", "codesign_deployment")
    if deployment is not None and not config.getoption("--int8"):
        network = read_integer_network(deployment / "model.tflite")
        return read_firmware(deployment / "firmware.elf", board, deployment / "firmware"), network
    int8 = _path(config, "--int8", "codesign_int8")
    assert int8 is not None
    network = read_integer_network(int8)
    return build(network, board, tmp_path_factory.mktemp("codesign") / "firmware"), network
