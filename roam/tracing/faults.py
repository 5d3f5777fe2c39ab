"""The fault file of a peer: where `faulthandler` in the cell writes its stacks, beside the segment."""

from __future__ import annotations

import os

from ..shm.descriptors import close_quietly

__all__ = ["FAULT_LIMIT_BYTES", "FaultFile"]

FAULT_LIMIT_BYTES = 1 << 20


class FaultFile:
    """The host's end of it, by descriptor; -1 where there is none. Threads: any. What cannot be read is empty."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @property
    def size_bytes(self) -> int:
        """How much stands in it."""
        try:
            return os.fstat(self.fd).st_size
        except OSError:
            return 0

    def text(self, start: int = 0) -> bytes:
        """What stands in it from `start` on: the last `FAULT_LIMIT_BYTES` of that, where a fatal error stands behind all
        stacks that were asked for before."""
        try:
            return os.pread(self.fd, FAULT_LIMIT_BYTES, max(start, self.size_bytes - FAULT_LIMIT_BYTES))
        except OSError:
            return b""

    def close(self) -> None:
        """Close the descriptor; the file stays."""
        # Forgotten first: a free number may belong to somebody else at once.
        fd, self.fd = self.fd, -1
        close_quietly(fd)
