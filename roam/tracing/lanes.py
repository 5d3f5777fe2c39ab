"""The lanes of a peer as its host sees them: those of the segment, and the one that the host fills itself."""

from __future__ import annotations

from ..shm import layout

__all__ = ["LANES", "STDIO", "STDIO_NAME"]

STDIO_NAME = "stdio"
"""What a cell has printed, line by line. The text lies in files beside the segment, and the host makes the records."""

LANES = (*layout.LANES, STDIO_NAME)
"""Names by number. The first three are those of the segment, and part of its ABI; this one is not."""

STDIO = LANES.index(STDIO_NAME)
