"""Cells end when their host is gone.

The host holds the write end of one pipe that it never writes to. Each cell opens a *private* description of the
read end and asks the kernel to send it SIGKILL when that becomes readable, which happens when the last writer is
gone: no thread, no signal handler, no cooperation of the cell, and no binding to the thread that started it.
"""

from __future__ import annotations

import contextlib
import os
import threading

from ..shm.descriptors import private_descriptor

__all__ = ["acquire", "arm", "release"]

_F_SETSIG = 10
_SIGKILL = 9

_lock = threading.Lock()
_pipe: tuple[int, int] | None = None
_cells = 0


def acquire() -> int:
    """Host side: the read end for one more cell to inherit. The pipe lives as long as there is a cell on it."""
    global _pipe, _cells
    with _lock:
        if _pipe is None:
            _pipe = os.pipe()
        _cells += 1
        return _pipe[0]


def release() -> None:
    """Host side: one cell less. Call it when the cell is dead, once for each `acquire`."""
    global _pipe, _cells
    with _lock:
        _cells -= 1
        if _cells == 0 and _pipe is not None:
            # Forgotten before they are closed: a fork in between must not close numbers that mean something else by then.
            fds, _pipe = _pipe, None
            for fd in fds:
                os.close(fd)


def _after_fork_in_child() -> None:
    # r[impl spawn.lifeline]
    # A forked child of the host must not keep the host's cells alive. The read end stays: a fork cell arms it.
    global _lock, _pipe, _cells
    _lock = threading.Lock()
    if _pipe is not None:
        os.close(_pipe[1])
    _pipe, _cells = None, 0


os.register_at_fork(after_in_child=_after_fork_in_child)


def arm(fd: int, *, deadly: bool) -> int:
    """Cell side: take the inherited read end `fd`, and with `deadly` die by SIGKILL when the host is gone.

    Returns a descriptor that becomes readable when the host is gone, whether it kills or not. Raises OSError
    where `/proc` is not mounted.
    """
    import fcntl

    # An inherited descriptor shares owner and signal with every other cell; opening it anew does not.
    private = private_descriptor(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    os.close(fd)
    if not deadly:
        return private
    fcntl.fcntl(private, fcntl.F_SETOWN, os.getpid())
    # r[impl spawn.lifeline]
    fcntl.fcntl(private, _F_SETSIG, _SIGKILL)
    fcntl.fcntl(private, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        # Readable already: the host died before the line was armed, and no signal will come.
        if not os.read(private, 1):
            os.kill(os.getpid(), _SIGKILL)
    return private
