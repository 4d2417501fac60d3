"""The soak's display on standard error: a live table on a terminal, a line every ten seconds otherwise."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from codesign.hil.soak import SoakStatus

LINE_SECONDS = 10.0


class SoakDisplay:
    """Callable with a SoakStatus; a context manager."""

    def __init__(self, seconds: float, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.live import Live

        self._seconds = seconds
        self._quiet = quiet
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=4) if self._console.is_terminal else None
        self._next_line = time.monotonic() + 1.0  # then every LINE_SECONDS

    def __enter__(self) -> SoakDisplay:
        if self._live and not self._quiet:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, status: SoakStatus) -> None:
        if self._quiet:
            return
        if self._live:
            self._live.update(self._table(status))
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            self._console.print(
                f"{status.seconds:.0f} s: {status.inferences} inferences, {status.errors} errors, worst error "
                f"{100 * status.worst_ratio:.1f} % of its bound",
                highlight=False,
            )

    def _table(self, status: SoakStatus) -> Table:
        from rich.table import Table

        table = Table(show_header=False, box=None)
        style = "bold red" if status.errors else "green"
        table.add_row("time", f"{status.seconds:.0f} of {self._seconds:.0f} s")
        table.add_row("inferences", f"{status.inferences} ({status.throughput:.1f} a second)")
        table.add_row("errors", f"[{style}]{status.errors}[/]")
        table.add_row("worst error", f"{status.worst_error:.4g}, {100 * status.worst_ratio:.1f} % of its bound")
        table.add_row("device lost", f"{status.recovered} times")
        table.add_row("host memory", f"{status.resident_bytes / 2**20:.0f} MiB")
        return table
