"""Descriptors of processes: each names one process, whoever gets its number afterwards."""

from __future__ import annotations

import contextlib
import os
import select
import signal

__all__ = ["await_end", "of_child"]


def of_child(pid: int) -> int:
    """Hold on to a child that was just started. Raises OSError where that is not possible, and then there is no child."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        # Where SIGCHLD is ignored it can have ended already, and be nobody's any more.
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        raise


def await_end(pidfd: int, timeout_s: float) -> bool:
    """Wait until the process has ended, reaped or not; False when the time is over before."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))
