"""Two calls of the kernel's that Python lacks: to be told when a file grows, and to give back the front of a file."""

from __future__ import annotations

import contextlib
import functools
import os
import struct
from pathlib import Path
from typing import Any

from ..shm.descriptors import close_quietly

__all__ = ["Watch", "punch_hole"]

_IN_MODIFY = 2
_IN_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_EVENT = struct.Struct("iIII")
_PUNCH_HOLE_KEEP_SIZE = 3


@functools.cache
def _libc() -> Any:
    """The C library. Loaded by the threads that need it, not by whoever starts a cell."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    library.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
    return library


def punch_hole(fd: int, start: int, length: int) -> None:
    """Free the memory of a part of a file, whose length stays. A file system that cannot do it keeps the bytes."""
    _libc().fallocate(fd, _PUNCH_HOLE_KEEP_SIZE, start, length)


class Watch:
    """inotify on some files; `fd` is -1 where it is not to be had, and the caller looks at all files now and then."""

    def __init__(self) -> None:
        self.fd = _libc().inotify_init1(_IN_NONBLOCK_CLOEXEC)
        self._next_key = -1

    def add(self, path: Path) -> int:
        """Watch a file. Returns the key that `changed` will name it by."""
        key: int = -1
        if self.fd >= 0:
            key = _libc().inotify_add_watch(self.fd, os.fsencode(path), _IN_MODIFY)
            if key < 0:
                # Out of watches: look at everything now and then instead.
                self.close()
        if key < 0:
            self._next_key -= 1
            key = self._next_key
        return key

    def remove(self, key: int) -> None:
        """Watch a file no longer."""
        if key >= 0 and self.fd >= 0:
            _libc().inotify_rm_watch(self.fd, key)

    def changed(self) -> set[int]:
        """The keys of files that were written since the last call."""
        keys: set[int] = set()
        with contextlib.suppress(OSError):
            data = os.read(self.fd, 64 << 10)
            at = 0
            while at < len(data):
                key, _, _, length = _EVENT.unpack_from(data, at)
                keys.add(key)
                at += _EVENT.size + length
        return keys

    def close(self) -> None:
        """Let go of all of them."""
        fd, self.fd = self.fd, -1
        close_quietly(fd)
