"""Whether the kernel killed a process to free memory, from what it counts and what it logs.

"Out of memory" is said only where the kernel says so: of this very process in its log, or of one in the process's own
control group, which no other death accounts for.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import threading
import time
from collections import Counter
from typing import NamedTuple

from ..exit import Confidence
from . import procfs

__all__ = ["MemoryKill", "Tally", "find_kill", "kills_by_now"]

_COUNT = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)
_LOGGED = re.compile(rb"Killed process (\d+) ")
_MACHINE = "/proc/vmstat"
_MOST_LINES = 50_000
_LINE_BYTES = 8192
_SLACK_S = 1.0
"""The clock of the log and the monotonic one drift apart."""
_FIRST_NAMESPACE = 0xEFFFFFFC
"""The inode of the pid namespace whose numbers the log uses."""

_lock = threading.Lock()
_claimed: Counter[str] = Counter()
"""Kills that were found to be of a cell, by where they are counted: one kill explains one death."""


class MemoryKill(NamedTuple):
    """What speaks for a kill by the kernel; `confidence` is unknown where it does not speak for one of this process."""

    confidence: Confidence
    evidence: str


class Tally(NamedTuple):
    """Counts of memory kills at one moment, by the file that has them, and how many of those were claimed by then."""

    counts: dict[str, int]
    claimed: dict[str, int]


def kills_by_now() -> Tally:
    """The counts that a cell's death is compared with: taken at its start."""
    with _lock:
        paths = (*_own_groups(), _MACHINE)
        return Tally({path: count for path in paths if (count := _count(path)) is not None}, dict(_claimed))


def find_kill(pid: int, groups: dict[str, str], before: Tally, started_s: float) -> MemoryKill | None:
    """What the kernel says of the end of a process by SIGKILL that nobody else is known to have sent; None for nothing.

    `groups` are the control groups of the dead process; `started_s` is when it started, on the monotonic clock.
    """
    # r[impl spawn.verdict.memory]
    if _is_logged(pid, started_s):
        _claim(_MACHINE)
        return MemoryKill(Confidence.CERTAIN, f"the kernel's log says that it killed process {pid} to free memory")
    own = _events_of(groups.get("", "/"))
    is_known = _count(own) is not None
    for path in (own,) if is_known else _own_groups():
        grown = _growth(path, before)
        if grown > 0:
            _claim(path)
            name = os.path.dirname(path)
            return MemoryKill(Confidence.LIKELY, f"{grown} more killed for memory in its control group, {name}")
    machine = _growth(_MACHINE, before)
    if machine <= 0 or is_known:
        return None
    return MemoryKill(Confidence.UNKNOWN, f"{machine} more killed for memory on this machine while it lived")


def _growth(path: str, before: Tally) -> int:
    with _lock:
        count = _count(path) or 0
        return count - before.counts.get(path, 0) - (_claimed[path] - before.claimed.get(path, 0))


def _claim(path: str) -> None:
    with _lock:
        _claimed[path] += 1


def _count(path: str) -> int | None:
    found = _COUNT.search(procfs.read(path))
    return int(found[1]) if found is not None else None


def _events_of(group: str) -> str:
    return f"/sys/fs/cgroup{'' if group == '/' else group}/memory.events"


@functools.cache
def _own_groups() -> tuple[str, ...]:
    """Where this process's control groups count, in the second and in the first version of the interface."""
    groups = procfs.cgroups("self")
    unified, first = groups.get("", "/"), groups.get("memory")
    found = [_events_of(unified)]
    if first is not None:
        found.append(f"/sys/fs/cgroup/memory{first}/memory.oom_control")
    return tuple(path for path in found if _count(path) is not None)


def _is_logged(pid: int, started_s: float) -> bool:
    try:
        if os.stat("/proc/self/ns/pid").st_ino != _FIRST_NAMESPACE:
            return False
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    wanted = str(pid).encode()
    try:
        for _ in range(_MOST_LINES):
            with contextlib.suppress(BrokenPipeError):  # overwritten meanwhile; the next read goes on
                head, _, text = os.read(fd, _LINE_BYTES).partition(b";")
                found = _LOGGED.search(text)
                if found is not None and found[1] == wanted and _logged_at_s(head) > started_s - _SLACK_S:
                    return True
    except OSError:
        return False  # the end
    finally:
        os.close(fd)
    return False


def _logged_at_s(head: bytes) -> float:
    fields = head.split(b",")
    return int(fields[2]) / 1e6 if len(fields) > 2 and fields[2].isdigit() else time.monotonic()
