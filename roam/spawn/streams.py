"""The cell's standard streams: descriptors 0, 1 and 2, and the Python objects on them."""

from __future__ import annotations

import os
import sys
from typing import Any

from .handover import ABSENT, Handover

__all__ = ["flush", "put_in_place", "reopen"]

_replaced: list[Any] = []


def put_in_place(handover: Handover) -> None:
    """Make what the host sent descriptors 0, 1 and 2."""
    # r[impl spawn.surroundings]
    for target, fd in ((0, handover.stdin_fd), (1, handover.stdout_fd), (2, handover.stderr_fd)):
        if fd not in (ABSENT, target):
            os.dup2(fd, target)
            os.close(fd)
    if handover.method == "spawn":
        reconfigure = getattr(sys.stdout, "reconfigure", None)
        if reconfigure is not None:
            # What a killed cell had printed must not be lost in a buffer.
            reconfigure(line_buffering=True)
    else:
        reopen()


def reopen() -> None:
    """Fresh Python objects on 0, 1 and 2, as a new interpreter would make them; stdout by lines.

    In a forked process the old ones may belong to something else (a test's capture, a notebook) or be closed.
    """
    # Kept: dropping the last reference would close the descriptor under the new object.
    _replaced.extend((sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__))
    streams: Any = sys
    streams.stdin = streams.__stdin__ = _open(0, "r", sys.__stdin__, None)
    streams.stdout = streams.__stdout__ = _open(1, "w", sys.__stdout__, None)
    streams.stderr = streams.__stderr__ = _open(2, "w", sys.__stderr__, "backslashreplace")


def _open(fd: int, mode: str, model: Any, errors: str | None) -> Any:
    encoding = getattr(model, "encoding", None) or "utf-8"
    errors = errors or getattr(model, "errors", None) or "strict"
    try:
        return open(fd, mode, 1 if mode == "w" else -1, encoding, errors, closefd=False)
    except OSError:
        return None  # the host runs without it


def flush() -> None:
    """Flush stdout and stderr, whatever state they are in."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            continue
