"""Closing descriptors where nobody can do anything about what the kernel says to it."""

from __future__ import annotations

import os

__all__ = ["close_quietly"]


def close_quietly(*fds: int) -> None:
    """Close descriptors; a negative number stands for none. Never raises.

    Linux takes a descriptor away whatever it answers. An answer other than success speaks of bytes that a network
    file system could not write back, and must not keep the caller from closing the others and waking who waits.
    """
    for fd in fds:
        if fd >= 0:
            try:
                os.close(fd)
            except OSError:
                continue
