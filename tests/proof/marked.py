"""The processes of one host, found by a mark in their environment: its cells as well, when they have lost their parent."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.programs import is_alive
from tests.support import process_directories

__all__ = ["MARK", "is_ending", "is_helper", "lives", "processes_of"]

MARK = "ROAM_PROOF_HOST"
"""The name of the variable; its value is the host's own."""


def environment(pid: int) -> list[bytes]:
    """The environment of a process as it was begun; empty for one that is gone, or just going."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().strip(b"\0").split(b"\0")
    except OSError:
        return [b""]


def lives(pid: int) -> bool:
    """Whether this is a host or a cell that runs, and not another process that was given its number."""
    return is_alive(pid) and any(text.startswith(MARK.encode()) for text in environment(pid))


def is_ending(pid: int) -> bool:
    """Whether a process has lost its memory, and perhaps not yet its files."""
    return environment(pid) == [b""] and is_alive(pid)


def processes_of(mark: str) -> dict[int, tuple[int, bytes]]:
    """The living processes of one host, those without a parent among them: parent and command line by pid."""
    found = {}
    for pid, directory in process_directories():
        if f"{MARK}={mark}".encode() in environment(pid) and is_alive(pid):
            with contextlib.suppress(OSError):
                parent = int((directory / "stat").read_bytes().rpartition(b")")[2].split()[1])
                found[pid] = parent, (directory / "cmdline").read_bytes()
    return found


def is_helper(pid: int, found: dict[int, tuple[int, bytes]]) -> bool:
    """Whether a process is the resource tracker or the fork server. Cells of the server have its command line."""
    parent, command = found[pid]
    if b"resource_tracker import main" in command:
        return True
    return (
        b"forkserver_main import main" in command
        and b"forkserver_main import main" not in found.get(parent, (0, b""))[1]
    )
