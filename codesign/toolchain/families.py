"""What each microcontroller family demands of a board file: limits of its clock tree, pins, baud rates."""

from __future__ import annotations

from dataclasses import dataclass

from codesign.toolchain.boards import Board, Clock

_MHZ = 1e6
_NRF_BAUDS = (9600, 38400, 115200)


@dataclass(frozen=True)
class _Pll:
    """Ranges (both ends allowed) of the dividers and frequencies in Hz; `source` is the manual."""

    source: str
    m: tuple[int, int]
    n: tuple[int, int]
    p: tuple[int, ...]
    input_hz: tuple[float, float]
    vco_hz: tuple[float, float]
    q: tuple[int, int] = (2, 15)
    wait_states: int = 15
    q_divides: bool = False
    apb: tuple[int, ...] = (1, 2, 4, 8, 16)


_F4 = _Pll("RM0090, RM0390, RM0368, RM0385", (2, 63), (50, 432), (2, 4, 6, 8), (0.95e6, 2.1e6), (100e6, 432e6))
_FAMILIES = {
    "stm32f1": _Pll("RM0008", (1, 2), (2, 16), (1,), (1e6, 25e6), (16e6, 72e6), (1, 15), 7),
    "stm32f2": _Pll("RM0033", (2, 63), (192, 432), (2, 4, 6, 8), (0.95e6, 2e6), (192e6, 432e6)),
    "stm32f4": _F4,
    "stm32f7": _F4,
    "stm32l4": _Pll("RM0351", (1, 8), (8, 86), (2, 4, 6, 8), (4e6, 16e6), (64e6, 344e6), wait_states=4),
    "rp2040": _Pll(
        "RP2040 data sheet 2.18",
        (1, 63),
        (16, 320),
        tuple(range(1, 8)),
        (5e6, 15e6),
        (750e6, 1600e6),
        (1, 7),
        q_divides=True,
        apb=(1,),
    ),
}
_NO_ALTERNATE_FUNCTION = ("stm32f1", "nrf51", "nrf52")


def check_family(board: Board) -> str | None:
    """A sentence where the board file contradicts its family; None where it does not, or the family has no rules."""
    needs_pins = board.support in _FAMILIES or board.support in ("nrf51", "nrf52")
    if needs_pins and board.serial.tx is None:
        return f"a board of the family {board.support} needs 'pins' in [serial]"
    if needs_pins and (board.serial.af is None) != (board.support in _NO_ALTERNATE_FUNCTION):
        return f"[serial] a board of the family {board.support} " + (
            "has no 'af' in 'pins'" if board.serial.af is not None else "needs 'af' in 'pins'"
        )
    if board.support in ("nrf51", "nrf52") and board.serial.baud not in _NRF_BAUDS:
        return f"[serial] 'baud' has to be one of {', '.join(map(str, _NRF_BAUDS))}"
    if board.counter == "board" and board.support not in ("nrf51", "rp2040"):
        return f"[counter] the family {board.support} has no counter of its own"
    pll = _FAMILIES.get(board.support)
    if pll is None:
        return None
    if board.clock is None:
        return f"a board of the family {board.support} needs the table [clock]"
    return _check_clock(pll, board.clock, board.clock_hz)


def _check_clock(pll: _Pll, clock: Clock, clock_hz: int) -> str | None:
    if not pll.m[0] <= clock.pll_m <= pll.m[1] or not pll.n[0] <= clock.pll_n <= pll.n[1] or clock.pll_p not in pll.p:
        choices = ", ".join(map(str, pll.p))
        return (
            f"[clock] the PLL takes pll_m in {pll.m[0]}..{pll.m[1]}, pll_n in {pll.n[0]}..{pll.n[1]} and pll_p of "
            f"{choices} ({pll.source})"
        )
    if not pll.q[0] <= clock.pll_q <= pll.q[1] or clock.flash_wait_states > pll.wait_states:
        return f"[clock] pll_q has to lie in {pll.q[0]}..{pll.q[1]} and flash_wait_states in 0..{pll.wait_states}"
    if any(divider not in pll.apb for divider in (clock.apb1_divider, clock.apb2_divider)):
        return f"[clock] the APB dividers have to be {', '.join(map(str, pll.apb))}"
    low, high = pll.input_hz
    if not low <= clock.hse_hz / clock.pll_m <= high:
        return f"[clock] hse_hz / pll_m has to lie in {low / _MHZ:g}..{high / _MHZ:g} MHz"
    vco = clock.hse_hz * clock.pll_n / clock.pll_m
    low, high = pll.vco_hz
    if not low <= vco <= high:
        limits = f"{low / _MHZ:g}..{high / _MHZ:g} MHz"
        return f"[clock] the PLL's oscillator would run at {vco / _MHZ:.1f} MHz: it takes {limits}"
    found = vco / clock.pll_p / (clock.pll_q if pll.q_divides else 1)
    if found != clock_hz:
        return f"[clock] gives {found:.0f} Hz, but 'clock_hz' is {clock_hz}"
    return None
