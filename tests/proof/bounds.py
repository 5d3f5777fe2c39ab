"""What reading damaged bytes may cost, and what of them may be shown."""

from __future__ import annotations

import contextlib
import re
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .goal import expect

__all__ = ["LONGEST_S", "MOST_EXTRA_BYTES", "expect_safe", "extra_bytes_of", "peak_growth", "timed"]

LONGEST_S = 0.020
MOST_EXTRA_BYTES = 4 << 20
_TRIES, _FEW_TRIES = 12, 2

T = TypeVar("T")

_UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def expect_safe(text: str, what: str) -> None:
    """Nothing in it but line breaks is a character that a terminal acts on, or hides."""
    found = _UNSAFE.search(text)
    expect(found is None, f"{what} holds {found and found[0]!r}: {found and text[max(0, found.start() - 40) :][:80]!r}")


def timed(function: Callable[[], T]) -> tuple[T, float]:
    """What `function` returns, and how many seconds of a processor that took.

    What takes long is tried again and the shortest time counts: that others wear out the caches, or the clock of the
    processor, is not the function's fault.
    """
    if tracemalloc.is_tracing():
        return function(), 0.0  # which takes several times as long
    began = time.thread_time()
    value = function()
    shortest_s = time.thread_time() - began
    for tried in range(_TRIES):
        if shortest_s <= LONGEST_S and (tried == _FEW_TRIES or shortest_s <= LONGEST_S / 4):
            break
        began = time.thread_time()
        function()
        shortest_s = min(shortest_s, time.thread_time() - began)
    expect(shortest_s <= LONGEST_S, f"it takes {shortest_s * 1000:.1f} ms")
    return value, shortest_s


def extra_bytes_of(function: Callable[[], object], most: int = MOST_EXTRA_BYTES) -> int:
    """How much more memory Python holds, at the highest, while `function` runs and before its result is let go of."""
    tracemalloc.start()
    try:
        function()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    expect(peak <= most, f"it takes {peak:,} bytes of memory")
    return peak


def peak_growth(function: Callable[[], object]) -> int:
    """By how many bytes this process was larger, at its largest, while `function` ran than before."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what it is now
    before = _status("VmHWM")
    function()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0
