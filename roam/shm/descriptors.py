"""Descriptors: closing them, and keeping those that a cell must not lose out of the program's way."""

from __future__ import annotations

import os

__all__ = ["close_quietly", "forget_private", "private_descriptor"]

_HIGHEST = 8192
"""Higher numbers would make the kernel's table of descriptors, and each fork that copies it, needlessly large."""
_MARGIN = 16
_private: set[int] = set()
_closerange = os.closerange


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


def private_descriptor(fd: int) -> int:
    """Move a descriptor out of the way of code that closes or reuses numbers, and close the original. Returns the new
    number, which is not inheritable; where there is no room the original stays.

    The number lies above the soft limit for open files, as long as that is not too high: no loop over all numbers comes
    there, and the kernel gives none of these to anybody else. `os.closerange` leaves it out in any case.
    """
    # r[impl spawn.descriptors]
    import fcntl
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = min(soft, _HIGHEST) if soft >= 0 else _HIGHEST
    needed = lowest + _MARGIN
    is_raised = 0 <= soft < needed and (hard < 0 or hard >= needed)
    if is_raised:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    elif 0 <= soft < needed:
        lowest = max(3, soft - _MARGIN)
    try:
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)
    except OSError:
        os.set_inheritable(fd, False)
        moved = fd
    else:
        os.close(fd)
    finally:
        if is_raised:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    _private.add(moved)
    os.closerange = _closerange_but_private
    return moved


def forget_private() -> None:
    """In a forked child, where these are not needed: they may be closed with all others."""
    _private.clear()


def _closerange_but_private(fd_low: int, fd_high: int, /) -> None:
    """Close all descriptors from `fd_low` up to, not including, `fd_high`; errors are ignored."""
    for fd in sorted(_private):
        if fd_low <= fd < fd_high:
            _closerange(fd_low, fd)
            fd_low = fd + 1
    _closerange(fd_low, fd_high)
