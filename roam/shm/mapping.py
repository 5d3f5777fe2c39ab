"""The cell's view of its segment: a mapping, and the claim to be its one writer."""

from __future__ import annotations

import fcntl
import mmap
import os
import sys

from ..errors import SegmentCorrupt, SegmentTaken
from .header import read_header
from .layout import Geometry, StatusWord
from .words import Words, words_of

__all__ = ["MappedSegment"]


class MappedSegment:
    """The cell's view of its segment: a mapping of the inherited descriptor. Claims it for this process."""

    def __init__(self, fd: int, *, nonce: bytes | None = None) -> None:
        """Map and claim. Raises `SegmentCorrupt`, `SegmentVersionMismatch`, or `SegmentTaken`.

        The descriptor is not needed afterwards and stays the caller's. `nonce` proves that it is the right one.
        """
        path = f"descriptor {fd}"
        self.config, self.identity = read_header(fd, path)
        if nonce is not None and nonce != self.identity.nonce:
            raise SegmentCorrupt(path=path, offset=0, why="its nonce is not the ticket's")
        self.geometry = Geometry(self.config)
        self.mapping = _map(fd, self.geometry.total_bytes)
        self.memory = memoryview(self.mapping)
        self.words: Words = words_of(self.memory)
        self._claim(fd, path)

    def _claim(self, fd: int, path: str) -> None:
        # r[impl shm.segment.claim] Under a lock that is not waited for: of two that attach at once, one is refused.
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 8, StatusWord.PID * 8)
        except OSError as error:
            raise SegmentTaken(path=path, pid=self.words[StatusWord.PID]) from error
        try:
            claimed = self.words[StatusWord.PID]
            if claimed:
                raise SegmentTaken(path=path, pid=claimed)
            self.words[StatusWord.PID] = os.getpid()
            self.words[StatusWord.STATE] = 1
        finally:
            fcntl.lockf(fd, fcntl.LOCK_UN, 8, StatusWord.PID * 8)


def _map(fd: int, size_bytes: int) -> mmap.mmap:
    """Map a descriptor; where Python can, without a duplicate of it that a program could close under the mapping."""
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size_bytes, trackfd=False)
    return mmap.mmap(fd, size_bytes)
