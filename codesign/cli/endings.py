"""How a command ends that cannot go on: one sentence on standard error and an exit code (`codesign.errors`)."""

from __future__ import annotations

import os
import select
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from codesign.errors import INTERNAL_ERROR, INTERRUPTED, CodesignError, MissingToolError, SoundnessAlarm

BROKEN_PIPE = 128 + 13  # as of a program that SIGPIPE ends


@contextmanager
def endings(arguments: Sequence[str]) -> Iterator[None]:
    """Turns every exception but click's own into its sentence and exit code; `arguments` are the command line's."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except KeyboardInterrupt as stop:
        _end("; ".join(["interrupted", *filter(None, stop.args)]), INTERRUPTED)
    except BrokenPipeError as error:
        if _reader_is_gone():
            _end(None, BROKEN_PIPE)
        _end(_of_the_system(error), MissingToolError.exit_code)
    except SoundnessAlarm as alarm:
        place = _report("soundness alarm", alarm, arguments)
        _end(
            f"SOUNDNESS ALARM: {alarm}. Nothing was written as proved; do not rely on what this version of codesign "
            f"proves, and send {place} with both model files to its maintainers",
            alarm.exit_code,
        )
    except CodesignError as error:
        _end(str(error), error.exit_code)
    except OSError as error:  # a full disk, a permission
        _end(_of_the_system(error), MissingToolError.exit_code)
    except MemoryError:
        _end("this machine has not enough memory for it; take fewer --jobs or a smaller model", 3)
    except Exception as error:
        place = _report("internal error", error, arguments)
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        _end(
            f"internal error, a bug in codesign that says nothing about your models ({said}); please send {place}, "
            "which holds what finding it takes, to its maintainers",
            INTERNAL_ERROR,
        )


@contextmanager
def stopping(left: Callable[[], str]) -> Iterator[None]:
    """Where Ctrl-C ends the block, the sentence about it ends in what `left` says: what is kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(*(stop.args or (left(),))) from None


def _end(sentence: str | None, code: int) -> None:
    """Say it and exit. What was started is ended first, and a reader that is gone is no further error."""
    from codesign.processes import end_all

    end_all()
    try:
        if sentence is not None:
            click.echo(f"codesign: {sentence}", err=True)
        sys.stdout.flush()
    except OSError:
        pass
    if _reader_is_gone():  # Python flushes once more when it ends
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
    sys.exit(code)


def _of_the_system(error: OSError) -> str:
    place = f" ({error.filename})" if error.filename else ""
    return f"a file or process could not be used: {error.strerror or error}{place}"


def _report(kind: str, error: BaseException, arguments: Sequence[str]) -> str:
    from codesign.incident import write_report

    try:
        path = write_report(kind, error, arguments)
    except Exception:
        path = None
    if path is not None:
        return f"the file '{path}'"
    traceback.print_exception(error)  # better said in many lines than lost
    return "this traceback"


def _reader_is_gone() -> bool:
    """Whether nobody reads standard output any more."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # it is no file, as in a test
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))
