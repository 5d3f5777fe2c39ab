"""Several calls at the same time, also where no thread can be started."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

__all__ = ["run_together"]


def run_together(calls: Iterable[Callable[[], None]], name: str) -> None:
    """Make each call in a thread of its own, called `name`, and wait for all; in this one, one after the other, where
    there can be no more threads."""
    running: list[threading.Thread] = []
    late: list[Callable[[], None]] = []
    for call in calls:
        thread = threading.Thread(target=call, name=name, daemon=True)
        try:
            thread.start()
            running.append(thread)
        except RuntimeError:
            # The limit of threads is reached, or the interpreter ends: CPython 3.12 starts none then.
            late.append(call)
    for call in late:
        call()
    for thread in running:
        thread.join()
