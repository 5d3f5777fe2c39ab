"""The thread that shows what cells print: it copies their streams to the host's own descriptors 1 and 2.

It is a thread of its own because a terminal can block whoever writes to it for as long as nobody looks. Then the text waits
in its file, and after `BACKLOG_BYTES` the oldest is left out, with a notice in its place.
"""

from __future__ import annotations

import select
import threading

from .captured import CapturedStream, Pace

__all__ = ["Terminal"]

_TURN_BYTES = 64 << 10
"""What is shown of one stream before the others have their turn."""
_RETRY_S = 0.02
"""How long new text for one descriptor may have to wait while the other one is stuck, and the rest of a line."""


class Terminal:
    """What is to be shown. Threads: any; `roam-tee` runs while a stream is on show."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._streams: set[CapturedStream] = set()
        self._leaving: set[CapturedStream] = set()
        self._due: dict[CapturedStream, None] = {}
        self._thread: threading.Thread | None = None

    def show(self, stream: CapturedStream) -> None:
        """There is, or soon will be, more of a stream. Never blocks."""
        with self._changed:
            self._streams.add(stream)
            self._due[stream] = None
            self._notify()

    def finish(self, stream: CapturedStream) -> None:
        """Close a stream that nobody reads any more, once all of it is shown."""
        with self._changed:
            if stream in self._streams and self._notify():
                self._leaving.add(stream)
                self._due[stream] = None
                return
        self._close(stream)

    def _notify(self) -> bool:
        """Wake the thread, which waits for the lock that is held. False if there is none, and none can be had."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="roam-tee", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The limit of threads is reached: it is tried again with the next text.
                return False
            self._thread = thread
        self._changed.notify()
        return True

    def _run(self) -> None:
        paces: dict[CapturedStream, Pace] = {}
        while (due := self._next(paces)) is not None:
            paces = {}
            for stream in due:
                pace = stream.show(_TURN_BYTES)
                if pace is not Pace.DONE:
                    paces[stream] = pace
                # In this order: once it leaves it does not grow, and what came just before is in `_due`.
                elif stream in self._leaving and stream.is_all_shown:
                    self._close(stream)
            if Pace.MORE not in paces.values():
                _wait_for({stream.number for stream, pace in paces.items() if pace is Pace.STUCK})

    def _next(self, paces: dict[CapturedStream, Pace]) -> list[CapturedStream] | None:
        """What is behind, and what has new text since; waits for that where there is nothing to be done meanwhile.
        None when no stream is left, and the thread ends."""
        with self._changed:
            if not self._streams:
                self._thread = None
                return None
            if not self._due and not {Pace.MORE, Pace.STUCK} & set(paces.values()):
                self._changed.wait(_RETRY_S if paces else None)
            due, self._due = {**paces, **self._due}, {}
            return list(due)

    def _close(self, stream: CapturedStream) -> None:
        with self._changed:
            self._streams.discard(stream)
            self._leaving.discard(stream)
            self._due.pop(stream, None)
        stream.close()


def _wait_for(numbers: set[int]) -> None:
    """Until one of these descriptors takes something, or it is time to look at the other; not at all for none."""
    poll = select.poll()
    for number in numbers:
        poll.register(number, select.POLLOUT)
    poll.poll(_RETRY_S * 1000 if numbers else 0)
