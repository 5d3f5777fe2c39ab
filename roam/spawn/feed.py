"""What cells print on its way to records: one thread reads the files of all cells and hands the lines to their host.

It runs while there is a cell whose output is captured. Reading and showing are apart, so a terminal that nobody reads keeps
no line from becoming a record. Turns are bounded, so a cell that floods keeps no other from being read; of what it has
written ahead of the thread at most `BACKLOG_BYTES` are kept, and what is given up is counted, line by line.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

from ..shm.descriptors import close_quietly
from ..shm.reader import Chunk, Gap
from ..tracing.defects import report_defect
from ..tracing.lines import Lines
from ..tracing.link import PeerLink
from .captured import BACKLOG_BYTES, KEPT_BYTES, CapturedStream
from .terminal import Terminal
from .watch import Watch

__all__ = ["Feed", "follow"]

_TURN_BYTES = 64 << 10
"""What is read of one stream before the others have their turn."""
_FALLBACK_MS = 100
_READ_S = 2.0
"""How long the rest of a dead cell's text is read before it is cut to its end."""
_SHOWN_S = 1.0
"""How long a death waits for the terminal to take the cell's last words; what is left is shown later."""


class Feed:
    """The output of one cell on its way to its host. Made by `follow`; all but `finish` runs in the thread that reads."""

    def __init__(self, link: PeerLink, lines: Lines, streams: list[CapturedStream]) -> None:
        self.streams = streams
        self._link = link
        self._lines = lines
        self._done = threading.Event()
        self._deadline = float("inf")

    def take(self, terminal: Terminal) -> bool:
        """Make records of what is new, up to a turn's worth. True if there may be more."""
        if self._done.is_set():
            return False
        items: list[Chunk | Gap] = []
        is_behind = False
        for stream in self.streams:
            if stream.is_shown and not stream.is_all_shown:
                terminal.show(stream)
            is_behind |= self._take(stream, items)
        if items:
            self._link.bring(items)
        return is_behind

    def _take(self, stream: CapturedStream, items: list[Chunk | Gap]) -> bool:
        # r[impl trace.lines.judged]
        if not self._lines.are_wanted(self._link.config.capture, stream.name):
            stream.skip()
            return False
        is_late = time.monotonic() > self._deadline
        most_bytes = KEPT_BYTES if is_late else BACKLOG_BYTES
        if stream.exceeds(most_bytes):
            # r[impl spawn.stdio.bounded]
            if lost := stream.cut(most_bytes // 2):
                items.append(self._lines.lose(lost))
            if stream.exceeds(most_bytes):
                return True
        data, is_all = stream.peek(_TURN_BYTES)
        chunks, count = self._lines.make(stream.name, data, is_end=is_all and stream.has_ended)
        items += chunks
        stream.advance(count)
        return count > 0 and not is_all

    def end(self, terminal: Terminal) -> bool:
        """The cell is gone: take what is left, the beginning of a line included. True if there is more."""
        # r[impl spawn.stdio.last]
        for stream in self.streams:
            stream.end()
        if self.take(terminal):
            return True
        self.leave(terminal)
        return False

    def leave(self, terminal: Terminal) -> None:
        """Read no more of it."""
        for stream in self.streams:
            stream.end()
            terminal.finish(stream)
        self._done.set()

    def finish(self) -> None:
        """The cell is gone: wait until all of its lines are records, and up to a second for the terminal to show them."""
        self._deadline = time.monotonic() + _READ_S
        _reader.remove(self)
        self._done.wait(2 * _READ_S)
        # Whatever becomes of it, no record comes after the exit is told.
        self._done.set()
        shown_by = time.monotonic() + _SHOWN_S
        for stream in self.streams:
            stream.shown.wait(max(0.0, shown_by - time.monotonic()))


class _Reader:
    """The thread `roam-stdio` and what it reads. It begins with the first feed and ends after the last."""

    def __init__(self) -> None:
        self.terminal = Terminal()
        self._lock = threading.Lock()
        self._joining: deque[Feed] = deque()
        self._leaving: deque[Feed] = deque()
        self._feeds: dict[int, Feed] = {}
        """By the keys of what is watched; each is there once for each of its streams."""
        self._thread: threading.Thread | None = None
        self._wake_fd = -1

    def add(self, feed: Feed) -> None:
        with self._lock:
            if self._thread is None:
                # First, because it can be refused: a feed that its owner does not get would never leave.
                self._start()
            self._joining.append(feed)
            os.eventfd_write(self._wake_fd, 1)
        for stream in feed.streams:
            if stream.is_shown:
                # With the first text it may be too late: an interpreter that ends starts no thread, and waits for cells.
                self.terminal.show(stream)

    def _start(self) -> None:
        wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        thread = threading.Thread(target=self._run, args=(wake_fd,), name="roam-stdio", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            close_quietly(wake_fd)
            raise BlockingIOError(errno.EAGAIN, str(error)) from error
        self._wake_fd, self._thread = wake_fd, thread

    def remove(self, feed: Feed) -> None:
        with self._lock:
            self._leaving.append(feed)
            if self._thread is not None:
                os.eventfd_write(self._wake_fd, 1)

    def after_fork_in_child(self) -> None:
        wake_fd, feeds = self._wake_fd, {*self._joining, *self._leaving, *self._feeds.values()}
        self.__init__()  # type: ignore[misc]  # the threads are not in this process
        for feed in feeds:
            for stream in feed.streams:
                stream.forget()
        close_quietly(wake_fd)

    def _run(self, wake_fd: int) -> None:
        watch = Watch()
        poll = select.poll()
        poll.register(wake_fd, select.POLLIN)
        if watch.fd >= 0:
            poll.register(watch.fd, select.POLLIN)
        behind: set[Feed] = set()
        try:
            while True:
                # Counted first: whoever leaves by now has joined before, and is admitted before it is dismissed.
                leaving = len(self._leaving)
                behind |= self._admit(watch)
                if not self._dismiss(leaving, watch, wake_fd):
                    return
                idle_ms = None if watch.fd >= 0 else _FALLBACK_MS
                ready = {fd for fd, _ in poll.poll(0 if behind or self._leaving else idle_ms)}
                if wake_fd in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(wake_fd)
                changed = watch.changed() if watch.fd >= 0 else self._feeds.keys()
                behind |= {self._feeds[key] for key in changed if key in self._feeds}
                behind = {feed for feed in behind if self._attempt(feed, feed.take)}
        finally:
            watch.close()

    def _attempt(self, feed: Feed, turn: Callable[[Terminal], bool]) -> bool:
        try:
            return turn(self.terminal)
        except Exception:
            # The others are read on, and whoever waits for this one goes on.
            report_defect()
            feed.leave(self.terminal)
            return False

    def _admit(self, watch: Watch) -> set[Feed]:
        """Watch those who join. Returns them: what they wrote before they were watched is still to be read."""
        joined = set()
        while self._joining:
            feed = self._joining.popleft()
            self._feeds |= {watch.add(stream.path): feed for stream in feed.streams}
            joined.add(feed)
        return joined

    def _dismiss(self, count: int, watch: Watch, wake_fd: int) -> bool:
        """Finish the first `count` of those who leave. False when nobody is left and the thread ends."""
        for _ in range(count):
            feed = self._leaving.popleft()
            if self._attempt(feed, feed.end):
                self._leaving.append(feed)
                continue
            for key in [key for key, each in self._feeds.items() if each is feed]:
                watch.remove(key)
                del self._feeds[key]
        with self._lock:
            if self._feeds or self._joining or self._leaving:
                return True
            self._thread = None
            self._wake_fd = -1
            close_quietly(wake_fd)
            return False


_reader = _Reader()
os.register_at_fork(after_in_child=_reader.after_fork_in_child)


def follow(link: PeerLink, lines: Lines, streams: list[CapturedStream]) -> Feed:
    """Make records of what appears in the files of a cell, until `Feed.finish`. Any thread. Raises OSError, and then
    the files are the caller's."""
    feed = Feed(link, lines, streams)
    _reader.add(feed)
    return feed
