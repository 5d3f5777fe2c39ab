"""The processes that a cell has started, for a stop that leaves nobody behind."""

from __future__ import annotations

import contextlib
import os
import signal

from . import procfs

__all__ = ["kill_descendants", "kill_group", "known_descendants"]

_ROUNDS = 5
"""A process that forks while its group is killed can be missed by one round."""


def _members(group: int) -> list[int]:
    """The living processes of a group, its leader apart."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) != group:
            fields = procfs.read(f"/proc/{entry}/stat").rpartition(b")")[2].split()
            if len(fields) > 2 and int(fields[2]) == group and fields[0] not in (b"Z", b"X"):
                found.append(int(entry))
    return found


def kill_group(leader: int) -> list[int]:
    """Send SIGKILL to everybody in the group of a cell that is dead. Returns who that was, as far as that can be seen.

    The number is nobody else's while the cell is not reaped, nor, where somebody else has reaped it, while its group has
    members. A process that has it and lives is a stranger.
    """
    if procfs.state(leader) not in ("", "Z"):
        return []
    killed: list[int] = []
    with contextlib.suppress(OSError):
        for _ in range(_ROUNDS):
            members = _members(leader)
            if not members:
                break
            os.killpg(leader, signal.SIGKILL)
            killed += [pid for pid in members if pid not in killed]
    return killed


def known_descendants(pid: int) -> list[tuple[int, int]]:
    """Children, their children and so on, each as a descriptor and its process id, as they are now. The caller hands them
    to `kill_descendants`."""
    import psutil

    found = []
    with contextlib.suppress(psutil.Error, OSError):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(process.pid)
                if process.is_running():
                    found.append((pidfd, process.pid))
                else:
                    os.close(pidfd)
    return found


def kill_descendants(descendants: list[tuple[int, int]]) -> list[int]:
    """Send them SIGKILL, and close the descriptors. Returns those who were there."""
    killed = []
    for pidfd, pid in descendants:
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            killed.append(pid)
        except OSError:
            continue
        finally:
            os.close(pidfd)
    return killed
