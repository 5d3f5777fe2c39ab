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
from dataclasses import dataclass

__all__ = ["Status", "take"]

_PIDFD_GET_INFO = 0xC048FF0B
_INFO_BYTES = 72
_WANTED = 1 | 2 | 4 | 8
_HAS_EXIT = 8
_EXIT_OFFSET = 60
_RELAY_S = 0.5
"""The relay follows the pidfd by less than a millisecond, unless the server is stopped."""
_REAPED_S = 0.1


@dataclass(frozen=True, slots=True)
class Status:
    """An exit status. `exitcode` is as in `multiprocessing`: the code, or minus the signal number."""

    exitcode: int | None = None
    core_dumped: bool | None = None
    cpu_s: float | None = None
    max_rss_bytes: int | None = None


def take(pid: int, pidfd: int, relay_fd: int | None, *, reap: bool = True) -> Status:
    """The status of a process whose pidfd is readable. Call it once. Never raises.

    `relay_fd` is the fork server's report, None for a process that it did not start. With `reap`, a child of this process is
    taken off the process table.
    """
    # r[impl spawn.status]
    if pidfd < 0:
        return Status()  # it was gone before anybody could hold on to it
    if relay_fd is None:
        return _of_child(pid, pidfd, reap) or Status(_from_pidfd(pidfd))
    cpu_s = _zombie_cpu_s(pid)
    exitcode = _from_relay(relay_fd)
    return Status(_from_pidfd(pidfd) if exitcode is None else exitcode, None, cpu_s)


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


def _from_relay(relay_fd: int) -> int | None:
    poll = select.poll()
    poll.register(relay_fd, select.POLLIN)
    if not poll.poll(_RELAY_S * 1000):
        return None
    try:
        data = os.read(relay_fd, 8)
    except OSError:
        return None
    return struct.unpack("q", data)[0] if len(data) == 8 else None


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


def _zombie_cpu_s(pid: int) -> float | None:
    """Processor time of a zombie that its parent has not reaped yet."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    if fields[0] not in (b"Z", b"X"):
        return None  # the number belongs to somebody else already
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
