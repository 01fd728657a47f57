"""One function over many files in a few threads, with progress, stopped at once by an error or Ctrl-C."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]

MOST_THREADS = 4


def map_threads(
    function: Callable[[Item], Result], items: Iterable[Item], progress: Progress | None = None
) -> list[Result]:
    """Call a function on every item, on at most 4 threads and no more than there are processors.

    So at most 4 items are in memory at a time, however many there are.

    Args:
        function: Must be safe to call from several threads.
        items: Small things, such as paths.
        progress: Called with the number of items done and their total, from the calling thread.

    Returns:
        The results in the order of the items.

    Raises:
        Exception: Whatever `function` raises; items that have not begun are dropped.
    """
    waiting = list(items)
    results: list[Result] = []
    pool = ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1))
    try:
        for result in pool.map(function, waiting):
            results.append(result)
            if progress:
                progress(len(results), len(waiting))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return results
