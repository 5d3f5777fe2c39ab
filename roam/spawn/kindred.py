"""The processes that a cell has started, for a stop that leaves nobody behind."""

from __future__ import annotations

import contextlib
import os
import signal

from . import procfs

__all__ = ["kill_descendants", "kill_session", "known_descendants"]

_ROUNDS = 5
"""A process that forks while its session is killed can be missed by one round."""


def _members(session: int) -> list[int]:
    """The living processes of a session, its leader apart."""
    return [
        int(entry)
        for entry in os.listdir("/proc")
        if entry.isdecimal() and int(entry) != session and procfs.session(int(entry)) == session
    ]


def kill_session(leader: int) -> list[int]:
    """Send SIGKILL to everybody in the session of a cell that is dead. Returns who that was.

    The number is nobody else's while the cell is not reaped, nor, where somebody else has reaped it, while its session has
    members. A process that has it and lives is a stranger.
    """
    if procfs.state(leader) not in ("", "Z"):
        return []
    killed: list[int] = []
    try:
        for _ in range(_ROUNDS):
            members = [pid for pid in _members(leader) if pid not in killed]
            if not members:
                break
            killed += [pid for pid in members if _kill_member(pid, leader)]
    except OSError:
        # They cannot be listed: at least those of its group can be reached without that.
        with contextlib.suppress(OSError):
            os.killpg(leader, signal.SIGKILL)
    return killed


def _kill_member(pid: int, session: int) -> bool:
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            # Asked again of the process that is held now: the number may have changed hands.
            if procfs.session(pid) == session:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                return True
        finally:
            os.close(pidfd)
    return False


def known_descendants(pid: int) -> list[tuple[int, int]]:
    """Children, their children and so on, each as a descriptor and its process id, as they are now. The caller
    closes the descriptors."""
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
    """Send them SIGKILL. Returns those who were there."""
    killed: set[int] = set()
    for pidfd, pid in descendants:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            killed.add(pid)
    return sorted(killed)
