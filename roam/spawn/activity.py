"""What a living cell is doing, as far as the kernel and its heartbeat tell."""

from __future__ import annotations

import enum
import time
from typing import NamedTuple

from . import procfs

__all__ = ["Activity", "ActivityKind", "observe"]

_SAMPLE_S = 0.03
_BUSY_SHARE = 0.5

_WAITS = (
    ("futex", "waits for a lock"),
    ("nanosleep", "sleeps"),
    ("poll", "waits for input or events"),
    ("select", "waits for input or events"),
    ("pipe", "waits for input or events"),
    ("sk_wait", "waits for input or events"),
    ("sk_stream", "waits for input or events"),
    ("skb_wait", "waits for input or events"),
    ("unix_", "waits for input or events"),
    ("inet_", "waits for input or events"),
    ("tcp_", "waits for input or events"),
    ("wait_woken", "waits for input or events"),
    ("sigtimedwait", "waits for a signal"),
    ("sigsuspend", "waits for a signal"),
    ("do_wait", "waits for a child"),
    ("kernel_wait4", "waits for a child"),
)
"""Parts of the names of kernel functions, and what a process does in there."""


class ActivityKind(enum.StrEnum):
    """What the process of a cell is doing."""

    BUSY = "busy"
    """At least one thread uses a processor most of the time."""
    QUIET = "quiet"
    """It waits for something."""
    STOPPED = "stopped"
    """By SIGSTOP or the terminal."""
    TRACED = "traced"
    """A debugger holds it, or could."""
    UNINTERRUPTIBLE = "uninterruptible"
    """In the kernel, mostly for a device; no signal reaches it."""
    ENDED = "ended"


class Activity(NamedTuple):
    """One look at a cell."""

    kind: ActivityKind
    waits: str
    """What a quiet one waits for, such as `waits for a lock`; `""` where the kernel does not tell."""
    silent_s: float
    """How long ago its last sign of life was."""

    def __str__(self) -> str:
        return self.waits or str(self.kind)


def observe(pid: int, silent_s: float) -> Activity:
    """Look at a process for 30 ms. `silent_s` is passed on."""
    before_ns, since_ns = procfs.cpu_ns(pid), time.monotonic_ns()
    state = procfs.state(pid)
    kinds = {"T": ActivityKind.STOPPED, "t": ActivityKind.TRACED, "": ActivityKind.ENDED, "Z": ActivityKind.ENDED}
    if state in kinds:
        return Activity(kinds[state], "", silent_s)
    if procfs.tracer(pid):
        return Activity(ActivityKind.TRACED, "", silent_s)
    time.sleep(_SAMPLE_S)
    used_ns, passed_ns = procfs.cpu_ns(pid) - before_ns, time.monotonic_ns() - since_ns
    if state == "D" and procfs.state(pid) == "D":
        return Activity(ActivityKind.UNINTERRUPTIBLE, "", silent_s)
    # On a machine with more to do than processors, one that would run may get less than half of the time.
    if used_ns >= _BUSY_SHARE * passed_ns or (state == "R" and procfs.state(pid) == "R"):
        return Activity(ActivityKind.BUSY, "", silent_s)
    function = procfs.waits_in(pid)
    waits = next((text for part, text in _WAITS if part in function), "")
    return Activity(ActivityKind.QUIET, waits, silent_s)
