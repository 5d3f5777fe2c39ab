"""What several deaths do in their cells."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import time

import roam

__all__ = [
    "KILLED_WHEN_HUNG",
    "LIES",
    "SMALL_STACK_BYTES",
    "run_on",
    "send_by_stranger",
    "shrunken_file",
    "start_grandchild",
    "wait_for_stop",
]

KILLED_WHEN_HUNG = {"hang_after": 0.3, "on_hang": "kill"}
"""Options of a cell that hangs."""
LIES = b"""\
Fatal Python error: planted: a lie
Traceback (most recent call last):
MemoryError
terminate called after throwing an instance of 'std::bad_alloc'
  what():  std::bad_alloc
free(): invalid pointer
"""
"""What other deaths print last."""
SMALL_STACK_BYTES = 128 << 10
_LIFE_S = 30


def send_by_stranger(name: str) -> None:
    """Let another process send a signal to this one: `"TERM"`."""
    subprocess.run(["/bin/sh", "-c", f"kill -{name} {os.getpid()}"], check=True)


def wait_for_stop() -> None:
    """What a cell does that stops when it is asked to."""
    while (cell := roam.current_cell()) is None or not cell.stopping:
        time.sleep(0.002)


def shrunken_file() -> mmap.mmap:
    """A mapped page that its file has lost."""
    fd = os.memfd_create("shrunken")
    os.truncate(fd, mmap.PAGESIZE)
    mapping = mmap.mmap(fd, mmap.PAGESIZE)
    os.truncate(fd, 0)
    return mapping


def run_on() -> None:
    """What a process does that outlives its cell: nothing, until somebody ends it, or the test has forgotten it."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_LIFE_S)
    while True:
        signal.pause()


def start_grandchild() -> None:
    """Fork a process that runs on, and tell the host its pid."""
    pid = os.fork()
    if pid == 0:
        run_on()
    roam.info("grandchild", pid=pid)
