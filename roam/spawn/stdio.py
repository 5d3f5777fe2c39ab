"""What a new cell gets for standard input, output and error, by the mode that its host chose.

======= ================== ================================ ===================================================
mode    0                  1 and 2                          what becomes of the text
======= ================== ================================ ===================================================
tee     the host's, or     a file each                      records of the cell, and copied to the host's 1 and 2
capture `/dev/null` for    a file each                      records of the cell
        a terminal
inherit the host's         the host's                       the host has no part in it: a terminal stays a terminal
null    `/dev/null`        `/dev/null`                      gone
======= ================== ================================ ===================================================

Only with `inherit` can a cell read from a terminal: in a session of its own it has none. What its children print is its
own as long as it lives; of a child that lives on, nobody reads what comes later.

Lines of one stream are in their order; of two lines of different streams nobody knows which was printed first, unless the
host has read the one before the other was there.

A cell never waits for anybody to read. While its host is stopped the text stays in the files, up to the room that the file
system of the run directory has; then a write fails as on any full disk. A host that finds more than 64 MiB of a stream
unread gives up all but the last 32 MiB, and the record `Lost` in its place counts the lines, as do the statistics of the
lane `stdio`. A terminal that does not take its copy loses text by the same measure, with a notice in its place.
"""

from __future__ import annotations

import os

from ..shm.descriptors import close_quietly
from ..tracing.lines import Lines
from ..tracing.link import PeerLink
from .captured import CapturedStream
from .feed import Feed, follow
from .handover import ABSENT

__all__ = ["MODES", "Stdio"]

MODES = ("tee", "capture", "inherit", "null")


class Stdio:
    """The three descriptors for one cell, numbers of this process; `ABSENT` stands for the host's own.

    Made in the thread that starts the cell, which closes it when the cell has its copies.
    """

    def __init__(self, mode: str, link: PeerLink) -> None:
        """Open what is needed. Raises OSError, and then nothing is left open."""
        self.feed: Feed | None = None
        """What makes records of the text, where there are files."""
        self.stdin_fd = self.stdout_fd = self.stderr_fd = ABSENT
        try:
            # r[impl spawn.stdio.terminal]
            if mode == "null" or (mode != "inherit" and os.isatty(0)):
                self.stdin_fd = _null()
            if mode == "null":
                self.stdout_fd, self.stderr_fd = _null(), _null()
            elif mode != "inherit":
                self._capture(link, is_shown=mode == "tee")
        except BaseException:
            self.close()
            raise

    def _capture(self, link: PeerLink, *, is_shown: bool) -> None:
        # r[impl spawn.stdio]
        streams: list[CapturedStream] = []
        try:
            stem = link.run_path / link.stem
            streams.append(CapturedStream(stem, 1, link.peer.name, is_shown=is_shown))
            streams.append(CapturedStream(stem, 2, link.peer.name, is_shown=is_shown))
            self.stdout_fd = streams[0].open_for_cell()
            self.stderr_fd = streams[1].open_for_cell()
            identity, record_bytes = link.segment.identity, link.segment.config.record_bytes
            link.lines = Lines(record_bytes, identity.cause, is_printed=is_shown)
            # Before there is a process: what is refused afterwards would leave one that nobody watches.
            self.feed = follow(link, link.lines, streams)
        except BaseException:
            for stream in streams:
                stream.close()
            raise

    def close(self) -> None:
        """Close the three; the cell has its own copies."""
        close_quietly(self.stdin_fd, self.stdout_fd, self.stderr_fd)
        self.stdin_fd = self.stdout_fd = self.stderr_fd = ABSENT


def _null() -> int:
    return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
