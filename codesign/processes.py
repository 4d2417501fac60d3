"""Worker processes that end with the one that started them, however that ends, and that Ctrl-C does not reach.

Ctrl-C goes to every process of a terminal. Only the one that the user started acts on it: it ends its workers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from types import TracebackType
from typing import Any, TypeVar

from codesign.errors import MissingToolError

_SECONDS_TO_END = 10.0
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class _Worker(SpawnProcess):
    def start(self) -> None:
        resource_tracker.ensure_running()  # it unblocks the signal where it is started on the way
        with _interrupts_blocked():  # a new process inherits that, from its first instruction on
            super().start()


class _Context(SpawnContext):
    def __init__(self) -> None:
        self.started: list[_Worker] = []
        super().__init__()

    def Process(self, *args: Any, **kwargs: Any) -> _Worker:  # type: ignore[override]
        worker = _Worker(*args, **kwargs)
        self.started.append(worker)
        return worker


class WorkerPool(ProcessPoolExecutor):
    """A pool of fresh processes. Left by an exception it ends them at once, in the middle of what they do.

    MissingToolError where the system killed one of them, as it does when memory runs out.
    """

    def __init__(self, workers: int) -> None:
        self._own = _Context()
        super().__init__(workers, mp_context=self._own, initializer=_end_with_the_parent)
        _pools.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.end()
        super().__exit__(kind, error, trace)
        if isinstance(error, BrokenProcessPool) and any(w.exitcode == -signal.SIGKILL for w in self._own.started):
            raise MissingToolError(
                "the system killed a worker process, most likely because memory ran out; use fewer processes (--jobs)"
            ) from error

    def end(self) -> None:
        """End all processes; what they were doing is lost."""
        self.shutdown(wait=False, cancel_futures=True)
        running = [worker for worker in self._own.started if worker.pid is not None]
        for worker in running:
            worker.terminate()
        for worker in running:
            worker.join(_SECONDS_TO_END)


_pools: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def end_all() -> None:
    """End the processes of every pool, so that this process can end at once."""
    for pool in list(_pools):
        pool.end()


def worker_pool(workers: int) -> WorkerPool:
    """A pool of fresh processes. Without more, workers of a killed process would wait for work for ever."""
    return WorkerPool(workers)


def in_order(function: Callable[[_Item], _Result], items: Sequence[_Item], jobs: int) -> Iterator[_Result]:
    """The function's results for all items, in their order; here, or in up to `jobs` processes."""
    if min(jobs, len(items)) < 2:
        yield from map(function, items)
        return
    with worker_pool(min(jobs, len(items))) as pool:
        yield from pool.map(function, items)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C waits until the block is left."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
