"""The thread that shows what cells print: it copies their streams to the host's own descriptors 1 and 2.

It is a thread of its own because a terminal can block whoever writes to it for as long as nobody looks. Then the text waits
in its file, and after `BACKLOG_BYTES` the oldest is left out, with a notice in its place.
"""

from __future__ import annotations

import select
import threading

from .captured import CapturedStream

__all__ = ["Terminal"]

_TURN_BYTES = 64 << 10
"""What is shown of one stream before the others have their turn."""
_RETRY_MS = 20
"""How long new text for one descriptor may have to wait while the other one is stuck."""


class Terminal:
    """What is to be shown. Threads: any; `roam-tee` runs while a stream is on show that has had any text."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._streams: set[CapturedStream] = set()
        self._leaving: set[CapturedStream] = set()
        self._due: dict[CapturedStream, None] = {}
        self._thread: threading.Thread | None = None

    def show(self, stream: CapturedStream) -> None:
        """There is more of a stream. Never blocks."""
        with self._changed:
            self._streams.add(stream)
            self._due[stream] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="roam-tee", daemon=True)
                self._thread.start()
            self._changed.notify()

    def finish(self, stream: CapturedStream) -> None:
        """Close a stream that nobody reads any more, once all of it is shown."""
        with self._changed:
            if stream in self._streams:
                self._leaving.add(stream)
                self._due[stream] = None
                self._changed.notify()
                return
        stream.close()

    def _run(self) -> None:
        while (due := self._next()) is not None:
            behind, stuck = [], set()
            for stream in due:
                if stream.show(_TURN_BYTES):
                    stuck.add(stream.number)
                if not stream.is_all_shown:
                    behind.append(stream)
                elif stream in self._leaving:
                    self._close(stream)
            with self._changed:
                self._due |= dict.fromkeys(behind)
            if stuck.issuperset(stream.number for stream in behind):
                _wait_for(stuck)

    def _next(self) -> list[CapturedStream] | None:
        """Wait for something to show. None when no stream is left, and the thread ends."""
        with self._changed:
            while not self._due:
                if not self._streams:
                    self._thread = None
                    return None
                self._changed.wait()
            due, self._due = self._due, {}
            return list(due)

    def _close(self, stream: CapturedStream) -> None:
        with self._changed:
            self._streams.discard(stream)
            self._leaving.discard(stream)
        stream.close()


def _wait_for(numbers: set[int]) -> None:
    """Until one of these descriptors takes something, or it is time to look at the others."""
    poll = select.poll()
    for number in numbers:
        poll.register(number, select.POLLOUT)
    poll.poll(_RETRY_MS if numbers else 0)
