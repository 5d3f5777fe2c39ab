"""Standard error of cells: each cell's is a file beside its segment, and one thread copies what is new to the host's own.

A file takes everything at once and keeps it whatever happens: a cell never blocks on its standard error, not even
with the interpreter's last words, and the text outlives cell and host. The thread runs while there is a cell to watch.
Only the last part of a long file is kept: what is older, and copied, is punched out.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import struct
import threading
from collections import deque
from pathlib import Path
from typing import Any

from ..shm.descriptors import close_quietly

__all__ = ["Feed", "create", "follow"]

KEPT_BYTES = 64 << 10
"""What stays in a file that is cut."""
CUT_ABOVE_BYTES = 1 << 20
"""Copied text beyond `KEPT_BYTES` is punched out each time it has grown by this much."""

_COPY_BYTES = 64 << 10
_TURN_BYTES = 1 << 20
"""What is copied of one file before the others have their turn."""
_FALLBACK_MS = 100
_IN_MODIFY = 2
_IN_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_EVENT = struct.Struct("iIII")
_PUNCH_HOLE_KEEP_SIZE = 3


def create(path: Path) -> int:
    """The file for a new cell, for reading and appending, not inheritable. Raises OSError."""
    # r[impl spawn.stderr]
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)


@functools.cache
def _libc() -> Any:
    """The C library, for the two calls that Python lacks. Loaded by the thread, not by whoever starts a cell."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    library.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
    return library


class Feed:
    """One cell's standard error on its way to the host's. Made by `follow`; all but `finish` runs in the tee's thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done = threading.Event()
        self._fd = -1
        self._copied = 0
        self._punched = 0

    def copy(self) -> bool:
        """Copy what is new, up to a turn's worth: others wait, too. True if there may be more. Errors of either side
        end the copying, not the thread."""
        if self._fd < 0:
            with contextlib.suppress(OSError):
                self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        until = self._copied + _TURN_BYTES
        data = b""
        while self._fd >= 0 and self._copied < until:
            try:
                data = os.pread(self._fd, _COPY_BYTES, self._copied)
            except OSError:
                return False
            if not data:
                break
            _write_to_terminal(data)
            self._copied += len(data)
        self._cut()
        return bool(data)

    def _cut(self) -> None:
        until = (self._copied - KEPT_BYTES) & ~4095
        if until - self._punched >= CUT_ABOVE_BYTES:
            _libc().fallocate(self._fd, _PUNCH_HOLE_KEEP_SIZE, self._punched, until - self._punched)
            self._punched = until

    def close(self) -> None:
        """Let go of the file."""
        fd, self._fd = self._fd, -1
        close_quietly(fd)
        self.done.set()

    def finish(self, timeout_s: float) -> bool:
        """Have the rest copied, then stop watching. False if the terminal did not take it in time: it goes on by itself."""
        _tee.forget(self)
        return self.done.wait(timeout_s)


def _write_to_terminal(data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(2, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(2, select.POLLOUT)
            poll.poll(_FALLBACK_MS)
        except OSError:
            return  # the host has no standard error any more


class _Tee:
    """The thread `roam-tee` and what it watches. It begins with the first feed and ends after the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._feeds: dict[int, Feed] = {}
        self._leaving: deque[Feed] = deque()
        self._joining: deque[Feed] = deque()
        self._thread: threading.Thread | None = None
        self._wake_fd = -1

    def add(self, feed: Feed) -> None:
        with self._lock:
            if self._thread is None:
                # First, because it can be refused: a feed that its owner does not get would never leave.
                self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._joining.append(feed)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, args=(self._wake_fd,), name="roam-tee", daemon=True)
                self._thread.start()
            else:
                os.eventfd_write(self._wake_fd, 1)

    def forget(self, feed: Feed) -> None:
        with self._lock:
            self._leaving.append(feed)
            if self._thread is not None:
                os.eventfd_write(self._wake_fd, 1)

    def after_fork_in_child(self) -> None:
        wake_fd = self._wake_fd
        self.__init__()  # type: ignore[misc]  # the thread is not in this process
        if wake_fd >= 0:
            os.close(wake_fd)

    def _run(self, wake_fd: int) -> None:
        watch = _Watch()
        poll = select.poll()
        poll.register(wake_fd, select.POLLIN)
        if watch.fd >= 0:
            poll.register(watch.fd, select.POLLIN)
        feeds: dict[int, Feed] = {}
        behind: set[int] = set()
        try:
            while True:
                # Counted first: whoever leaves by now has joined before, and is admitted before it is dismissed.
                leaving = len(self._leaving)
                behind |= self._admit(feeds, watch)
                if not self._dismiss(leaving, feeds, watch, wake_fd):
                    return
                behind &= feeds.keys()
                idle_ms = None if watch.fd >= 0 else _FALLBACK_MS
                ready = {fd for fd, _ in poll.poll(0 if behind or self._leaving else idle_ms)}
                if wake_fd in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(wake_fd)
                due = behind | (watch.changed() if watch.fd >= 0 else feeds.keys())
                behind = {key for key in due if key in feeds and feeds[key].copy()}
        finally:
            watch.close()

    def _admit(self, feeds: dict[int, Feed], watch: _Watch) -> set[int]:
        """Watch those who join. Returns their keys: what they wrote before they were watched is still to be copied."""
        keys = set()
        while self._joining:
            feed = self._joining.popleft()
            key = watch.add(feed.path)
            feeds[key] = feed
            keys.add(key)
        return keys

    def _dismiss(self, count: int, feeds: dict[int, Feed], watch: _Watch, wake_fd: int) -> bool:
        """Finish the first `count` of those who leave. False when nobody is left and the thread ends."""
        for _ in range(count):
            leaving = self._leaving.popleft()
            if leaving.copy():
                self._leaving.append(leaving)
                continue
            leaving.close()
            for key in [key for key, feed in feeds.items() if feed is leaving]:
                watch.remove(key)
                del feeds[key]
        with self._lock:
            if feeds or self._joining or self._leaving:
                return True
            self._thread = None
            self._wake_fd = -1
            os.close(wake_fd)
            return False


class _Watch:
    """inotify on some files; `fd` is -1 where it is not to be had, and the caller looks at all files now and then."""

    def __init__(self) -> None:
        self.fd = _libc().inotify_init1(_IN_NONBLOCK_CLOEXEC)
        self._next_key = -1

    def add(self, path: Path) -> int:
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
        if key >= 0 and self.fd >= 0:
            _libc().inotify_rm_watch(self.fd, key)

    def changed(self) -> set[int]:
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
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


_tee = _Tee()
os.register_at_fork(after_in_child=_tee.after_fork_in_child)


def follow(path: Path) -> Feed:
    """Copy what appears in the file at `path` to this process's standard error, until `Feed.finish`. Any thread."""
    feed = Feed(path)
    _tee.add(feed)
    return feed
