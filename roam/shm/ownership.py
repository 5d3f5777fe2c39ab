"""Whether this process is still the one that claimed a segment, asked without a system call."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from functools import partial

__all__ = ["ownership"]

MADV_WIPEONFORK = 18


def ownership() -> Callable[[], int]:
    """A question that is true in this process and false in every child that anybody forks from it, Python or C.

    It reads a page of its own that the kernel fills with zeros in forked children (`MADV_WIPEONFORK`, Linux 4.14).
    Where that is refused it compares process ids instead, at a system call each.
    """
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        page.madvise(MADV_WIPEONFORK)
    except OSError:
        return partial(_is_process, os.getpid())
    page[0] = 1
    return partial(page.__getitem__, 0)


def _is_process(pid: int) -> bool:
    return os.getpid() == pid
