"""What has to be left, or must not be left, of the processes that a cell started."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from roam.tracing.records import Record
from tests.support import wait_until

__all__ = ["grandchild_is_gone", "grandchild_runs_on"]


def grandchild_runs_on(records: list[Record]) -> list[str]:
    """A normal end does not take the cell's children along. Here it is ended."""
    pid = _pid_of_grandchild(records)
    if not _is_running(pid):
        return [f"grandchild {pid} did not outlive its cell"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not _is_running(pid), message="the grandchild ends")
    return []


def grandchild_is_gone(records: list[Record]) -> list[str]:
    """Who is killed by the host is killed with all that it started."""
    pid = _pid_of_grandchild(records)
    try:
        wait_until(lambda: not _is_running(pid), 2.0)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        return [f"grandchild {pid} outlived its cell"]
    return []


def _pid_of_grandchild(records: list[Record]) -> int:
    return next(int(record.fields["pid"]) for record in records if record.message == "grandchild")


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return state not in (b"Z", b"X")
