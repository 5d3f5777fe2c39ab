"""One stream of a cell as its host has it: a file beside the segment, and how far it was read and shown."""

from __future__ import annotations

import enum
import errno
import fcntl
import os
import select
import threading
import time
from pathlib import Path

from ..shm.descriptors import close_quietly
from .watch import punch_hole

__all__ = ["BACKLOG_BYTES", "KEPT_BYTES", "CapturedStream", "Pace"]

BACKLOG_BYTES = 64 << 20
"""More than this is not kept for a host that does not come to read it, nor for a terminal that does not take it."""
KEPT_BYTES = 64 << 10
"""What stays in a file whose front is given back."""
CUT_ABOVE_BYTES = 1 << 20
"""Text beyond `KEPT_BYTES` that nobody needs any more is given back each time it has grown by this much."""

_SHOWN_BYTES = select.PIPE_BUF
"""What a pipe that is ready takes without blocking."""
_LINE_S = 0.05
"""How long the beginning of a line waits to be shown together with its end."""
_PIECE_BYTES = 1 << 20
_TURN_PIECES = 256
_NEAR_BYTES = 8 << 10
_FIRST_FREE_FD = 3


class Pace(enum.Enum):
    """How it stands with showing a stream."""

    DONE = enum.auto()
    """All that there is was shown."""
    MORE = enum.auto()
    """There is more, and it is the turn of others."""
    UNFINISHED = enum.auto()
    """The rest of a line is awaited."""
    STUCK = enum.auto()
    """The host's descriptor takes nothing for now."""


class CapturedStream:
    """Standard output or standard error of one cell.

    A file takes everything at once: the cell never blocks on it, not even with the interpreter's last words, and the text
    outlives cell and host. While its host is stopped the file grows as far as its file system has room; then writing
    fails in the cell as on any full disk.

    Threads: one reads and another shows, each at its own pace; what both are done with is given back to the file system.
    `number` is the descriptor, 1 or 2, in the cell as well as in the host.
    """

    def __init__(self, stem: Path, number: int, cell_name: str, *, is_shown: bool) -> None:
        """Make the file. Raises OSError."""
        self.number = number
        self.name = ("stdout", "stderr")[number - 1]
        self.path = stem.with_name(f"{stem.name}.{self.name}")
        self.is_shown = is_shown
        self.shown = threading.Event()
        """Set once the terminal has all of it, or will get no more."""
        self._cell_name = cell_name
        self._fd = _above_standard(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._read = self._shown = self._punched = 0
        self._end: int | None = None
        self._notice = b""
        self._unfinished = -1, 0.0

    def open_for_cell(self) -> int:
        """A descriptor to write to it, not inheritable. Raises OSError."""
        return _above_standard(os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))

    def close(self) -> None:
        """Let go of the file."""
        self.forget()
        self.shown.set()

    def forget(self) -> None:
        """In a forked child, where another thread of its parent may hold any lock: close the descriptor."""
        fd, self._fd = self._fd, -1
        close_quietly(fd)

    def end(self) -> None:
        """The cell is gone: what others still write to its file does not count."""
        if self._end is None:
            self._end = self.size

    @property
    def has_ended(self) -> bool:
        """Whether the cell is gone."""
        return self._end is not None

    @property
    def size(self) -> int:
        """How much there is, from the beginning of the cell's life."""
        if self._end is not None:
            return self._end
        try:
            return os.fstat(self._fd).st_size
        except OSError:
            return 0

    # Reading, in the thread that makes records.

    def peek(self, most_bytes: int) -> tuple[bytes, bool]:
        """What comes next, and whether it reaches the end of what there is."""
        size = self.size
        # The cell itself may have truncated its file.
        self._read = min(self._read, size)
        data = self._at(self._read, min(most_bytes, size - self._read))
        return data, self._read + len(data) >= size

    def advance(self, count: int) -> None:
        """So many bytes of it are read."""
        self._read += count
        self._give_back()

    def skip(self) -> None:
        """All that there is counts as read."""
        self._read = self.size
        self._give_back()

    def exceeds(self, most_bytes: int) -> bool:
        """Whether more than that is unread."""
        return self.size - self._read > most_bytes

    def cut(self, kept_bytes: int) -> int:
        """Give up what is older than the last `kept_bytes`, up to a turn's worth; returns how many lines."""
        until, lines = self.size - kept_bytes, 0
        for _ in range(_TURN_PIECES):
            # A cell can make its file as long as it likes, by holes.
            self._read = min(until, self._after_hole(self._read))
            data = self._at(self._read, min(_PIECE_BYTES, until - self._read))
            lines += data.count(b"\n")
            self._read += len(data)
            if not data:
                self._read = until
                break
        # To the beginning of a line, if one is near.
        rest, found, _ = self._at(self._read, _NEAR_BYTES).partition(b"\n")
        if found:
            lines += 1
            self._read += len(rest) + 1
        self._give_back()
        return lines

    # Showing, in the thread that writes to the terminal.

    def show(self, most_bytes: int) -> Pace:
        """Copy what is new to the host's descriptor of the same number, up to `most_bytes`, by whole lines: what cells
        print at the same time must not get into each other's lines. A line that does not end soon is shown as it is."""
        size = self.size
        self._shown = min(self._shown, size)
        self._bound_unshown(size)
        until = self._shown + most_bytes
        while self._shown < until:
            data = self._notice or self._at(self._shown, min(_SHOWN_BYTES, size - self._shown))
            if not data:
                self._shown = size
                return Pace.DONE
            if not self._notice:
                whole = data.rfind(b"\n") + 1
                if not whole and len(data) < _SHOWN_BYTES and self._may_go_on():
                    return Pace.UNFINISHED
                data = data[:whole] or data
            written = _write_if_ready(self.number, data)
            if not written:
                return Pace.STUCK
            if self._notice:
                self._notice = self._notice[written:]
            else:
                self._shown += written
                self._give_back()
        return Pace.MORE

    def _may_go_on(self) -> bool:
        """Whether the line at the position may soon get its end."""
        position, since = self._unfinished
        now = time.monotonic()
        if position != self._shown:
            self._unfinished = self._shown, now
            return not self.has_ended
        return not self.has_ended and now - since < _LINE_S

    @property
    def is_all_shown(self) -> bool:
        """Whether the terminal has all that there is."""
        return not self._notice and self._shown >= self.size

    def _bound_unshown(self, size: int) -> None:
        if size - self._shown <= BACKLOG_BYTES:
            return
        until = size - BACKLOG_BYTES // 2
        until += self._at(until, _NEAR_BYTES).find(b"\n") + 1
        text = f"[roam: {until - self._shown:,} bytes of {self.name} of cell {self._cell_name!a} are not shown]\n"
        self._shown, self._notice = until, text.encode()
        self._give_back()

    # Both.

    def _at(self, position: int, count: int) -> bytes:
        try:
            return os.pread(self._fd, count, position)
        except OSError:
            return b""

    def _after_hole(self, position: int) -> int:
        try:
            return os.lseek(self._fd, position, os.SEEK_DATA)
        except OSError as error:
            return self.size if error.errno == errno.ENXIO else position

    def _give_back(self) -> None:
        done = min(self._read, self._shown) if self.is_shown else self._read
        until = (done - KEPT_BYTES) & ~4095
        if until - self._punched >= CUT_ABOVE_BYTES:
            start, self._punched = self._punched, until
            punch_hole(self._fd, start, until - start)


def _above_standard(fd: int) -> int:
    """The same file under a number that is none of 0, 1 and 2, which are free where the host runs without them."""
    if fd >= _FIRST_FREE_FD:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD)
    finally:
        os.close(fd)


def _write_if_ready(number: int, data: bytes) -> int:
    """How much of it was written; 0 where the descriptor takes nothing now. What it will never take counts as written."""
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    if not poll.poll(0):
        return 0
    try:
        return os.write(number, data)
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)  # the host runs without it, or whoever read it is gone
