"""Progress on standard error: a bar on a terminal, a line a stage otherwise."""

from __future__ import annotations

from types import TracebackType

from codesign.cli.waiting import shown


class Progress:
    """Shows stages with a count each. Nothing goes to standard output, which is for results."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        console = Console(stderr=True)
        self._live = console.is_terminal and not quiet
        self._quiet = quiet
        self._console = console
        self._tasks: dict[str, object] = {}
        self._bars = Bars(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=False,
            disable=not self._live,
        )

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """`done` of `total`; total 0 means a stage of unknown length."""
        known = total or None
        if stage not in self._tasks:
            shown()
            self._tasks[stage] = self._bars.add_task(stage, total=known)
            if not self._live and not self._quiet:
                self._console.print(f"{stage} ...", highlight=False)
        self._bars.update(self._tasks[stage], completed=done, total=known)  # type: ignore[arg-type]

    def stage(self, name: str) -> StageProgress:
        """The progress of one stage, on a terminal shown from now on."""
        if self._live:
            self(name, 0, 0)
        return StageProgress(self, name)


class StageProgress:
    """The progress of one stage, for callbacks (done, total)."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name

    def __call__(self, done: int, total: int) -> None:
        self._progress(self._name, done, total)
