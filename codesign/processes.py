"""Worker processes that end with the one that started them, however that ends."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of fresh processes. Without more, workers of a killed process would wait for work for ever."""
    return ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_the_parent
    )


def in_order(function: Callable[[_Item], _Result], items: Sequence[_Item], jobs: int) -> Iterator[_Result]:
    """The function's results for all items, in their order; here, or in up to `jobs` processes."""
    if min(jobs, len(items)) < 2:
        yield from map(function, items)
        return
    with worker_pool(min(jobs, len(items))) as pool:
        yield from pool.map(function, items)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
