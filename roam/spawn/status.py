"""How a process ended, from whoever can be trusted most.

In this order: the kernel, for a child of this process; the fork server that is its parent; the kernel again, which
since Linux 6.13 tells the exit status of any process by its pidfd once somebody has reaped it. What nobody knows is
None, never 0.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import time
from dataclasses import dataclass, replace

from .forkserver_main import OBITUARY, REAP

__all__ = ["Status", "take"]

_PIDFD_GET_INFO = 0xC048FF0B
_INFO_BYTES = 72
_WANTED = 1 | 2 | 4 | 8
_HAS_EXIT = 8
_EXIT_OFFSET = 60
_RELAY_S = 0.5
"""The server answers in less than a millisecond, unless it is stopped."""
_REAPED_S = 0.1


@dataclass(frozen=True, slots=True)
class Status:
    """An exit status. `exitcode` is as in `multiprocessing`: the code, or minus the signal number."""

    exitcode: int | None = None
    core_dumped: bool | None = None
    cpu_s: float | None = None
    max_rss_bytes: int | None = None


def take(pid: int, pidfd: int, relay_fd: int | None, *, reap: bool = True, foreign_rss_bytes: int = 0) -> Status:
    """The status of a process whose pidfd is readable. Call it once. Never raises.

    `relay_fd` is the line to the fork server, None for a process that it did not start. With `reap`, a child of this process is
    taken off the process table. A peak of memory of no more than `foreign_rss_bytes` may be that of the process which
    started it, and is not told.
    """
    # r[impl spawn.status]
    if pidfd < 0:
        return Status()  # it was gone before anybody could hold on to it
    found = _of_child(pid, pidfd, reap) if relay_fd is None else _from_relay(relay_fd)
    if found is not None and found.max_rss_bytes is not None and found.max_rss_bytes <= foreign_rss_bytes:
        found = replace(found, max_rss_bytes=None)
    return found or Status(_from_pidfd(pidfd))


def _of_child(pid: int, pidfd: int, reap: bool) -> Status | None:
    try:
        found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except (ChildProcessError, OSError):
        return None  # somebody else's wait() took it, or SIGCHLD is ignored
    if found is None:
        return None
    exited = found.si_code == os.CLD_EXITED
    exitcode = found.si_status if exited else -found.si_status
    core_dumped = None if exited else found.si_code == os.CLD_DUMPED
    cpu_s = max_rss_bytes = None
    with contextlib.suppress(ChildProcessError):
        reaped, _, usage = os.wait4(pid, os.WNOHANG) if reap else (0, 0, None)
        if reaped == pid and usage is not None:
            cpu_s, max_rss_bytes = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
    return Status(exitcode, core_dumped, cpu_s, max_rss_bytes)


def _from_relay(relay_fd: int) -> Status | None:
    poll = select.poll()
    poll.register(relay_fd, select.POLLIN)
    try:
        # The process is dead, and the server waits for this to reap it. A socket of this kind raises no SIGPIPE.
        os.write(relay_fd, REAP)
        data = os.read(relay_fd, OBITUARY.size) if poll.poll(_RELAY_S * 1000) else b""
    except OSError:
        return None
    if len(data) < OBITUARY.size:
        return None
    status, user_s, system_s, max_rss_bytes = OBITUARY.unpack(data)
    exitcode = os.waitstatus_to_exitcode(status)
    return Status(exitcode, os.WCOREDUMP(status) if exitcode < 0 else None, user_s + system_s, max_rss_bytes)


def _from_pidfd(pidfd: int) -> int | None:
    deadline = time.monotonic() + _REAPED_S
    while True:
        buffer = bytearray(struct.pack("=Q", _WANTED).ljust(_INFO_BYTES, b"\0"))
        try:
            fcntl.ioctl(pidfd, _PIDFD_GET_INFO, buffer)
        except OSError:
            return None  # an older kernel
        if struct.unpack_from("=Q", buffer)[0] & _HAS_EXIT:
            return os.waitstatus_to_exitcode(struct.unpack_from("=i", buffer, _EXIT_OFFSET)[0])
        if time.monotonic() > deadline:
            return None
        time.sleep(0.002)  # it is still a zombie
