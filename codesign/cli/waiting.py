"""Commands that take long say within a second what they wait for, on standard error and not with --json."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
SECONDS = 0.6  # what is done sooner says nothing; the rest of a second is for starting Python
_timers: list[threading.Timer] = []


def waits_for(what: str) -> Callable[[F], F]:
    """Decorates a command with --json: says `what` it waits for unless it ends, or shows progress, before that."""

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if kwargs.get("as_json"):
                return command(*args, **kwargs)
            timer = threading.Timer(SECONDS, _say, (what,))
            timer.daemon = True
            _timers.append(timer)
            timer.start()
            try:
                return command(*args, **kwargs)
            finally:
                shown()

        watched.waits_for = what  # type: ignore[attr-defined]
        return watched  # type: ignore[return-value]

    return decorate


def shown() -> None:
    """Something is on the screen: what was about to be said need not be."""
    while _timers:
        _timers.pop().cancel()


def _say(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)
