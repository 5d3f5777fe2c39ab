"""The collector: the one thread that reads segments; it waits on doorbells, process descriptors and a wake-up.

A peer is awake or asleep. An awake peer is polled every few milliseconds, one that floods without a pause, and costs
its cell nothing. After two polls without data the peer is armed, polled once more, and sleeps; the cell's next record
rings. Sleeping peers are looked at every 100 ms by one read each, so a lost ring costs time and no record.

Threads: this one; others hand it work through `call`. It does no disk I/O and calls no user code. Failure: a broken
doorbell or a segment that makes no sense concerns its own peer only.
"""

from __future__ import annotations

import functools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

from ..shm.doorbell import drain_doorbell
from ..shm.reader import Chunk, Gap
from .defects import report_defect
from .link import PeerLink

__all__ = ["Collector"]

BATCH_PAUSE_S = 0.005
PARK_S = 0.1
QUIET_POLLS = 2
FLOOD_RECORDS = 256
"""So many records in one poll mean that more are there already: the next poll follows without a pause."""
FINAL_PASSES = 5


class Collector:
    """Drains links. `deliver(link, items, final)` gets what was read; `bury(link)` gets links whose process has ended."""

    def __init__(
        self, deliver: Callable[[PeerLink, list[Chunk | Gap], bool], None], bury: Callable[[PeerLink], None]
    ) -> None:
        self._deliver = deliver
        self._bury = bury
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._calls: deque[Callable[[], None]] = deque()
        self._links: dict[int, PeerLink] = {}
        self._doorbells: dict[int, PeerLink] = {}
        self._pidfds: dict[int, PeerLink] = {}
        self._awake: set[PeerLink] = set()
        self._ending = False
        self._is_flooded = False
        self.failures = 0
        """How often something failed in here; 0 unless roam has a defect."""
        self._thread = threading.Thread(target=self._run, name="roam-collector", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Make the collector look at its calls now. Never blocks; safe in any thread and in a signal handler."""
        try:
            os.eventfd_write(self._wake_fd, 1)
        except (OSError, ValueError):
            # Full: it is awake. Closed: it is gone.
            return

    def call(self, function: Callable[[], None]) -> None:
        """Run `function` in the collector's thread, soon."""
        self._calls.append(function)
        self.wake()

    def ask(self, function: Callable[[], None], timeout_s: float) -> bool:
        """Like `call`, and wait; False if it was not done in time. Raises what `function` raised."""
        if threading.current_thread() is self._thread:
            function()
            return True
        done = threading.Event()
        failure: list[Exception] = []

        def answer() -> None:
            try:
                function()
            except Exception as error:
                failure.append(error)
            finally:
                done.set()

        self.call(answer)
        deadline = time.monotonic() + timeout_s
        while not done.wait(min(0.2, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline or not self._thread.is_alive():
                return False
        if failure:
            raise failure[0]
        return True

    def add(self, link: PeerLink) -> None:
        """Collect from a link. Collector thread only."""
        self._links[link.peer.peer_id] = link
        if link.doorbell_fd >= 0:
            self._doorbells[link.doorbell_fd] = link
            self._epoll.register(link.doorbell_fd, select.EPOLLIN)
        # Asleep from the start, so that its first record rings and need not wait for a poll.
        link.arm()

    def watch(self, link: PeerLink) -> None:
        """Conclude the link when its process descriptor says that the process has ended. Collector thread only."""
        if link.pidfd >= 0 and link.pidfd not in self._pidfds:
            self._pidfds[link.pidfd] = link
            self._epoll.register(link.pidfd, select.EPOLLIN)

    def remove(self, link: PeerLink) -> None:
        """Stop collecting from a link. Collector thread only."""
        self._links.pop(link.peer.peer_id, None)
        self._awake.discard(link)
        for table, fd in ((self._doorbells, link.doorbell_fd), (self._pidfds, link.pidfd)):
            if table.pop(fd, None) is not None:
                self._unregister(fd)

    def stir(self, link: PeerLink) -> None:
        """Poll a link as if it had rung. Collector thread only."""
        if link.peer.peer_id in self._links:
            self._awake.add(link)
            link.quiet_polls = 0

    def drain(self, link: PeerLink) -> None:
        """The final drain of a link whose writer is gone: until a pass finds nothing. Collector thread only."""
        for _ in range(FINAL_PASSES):
            items = link.collect(final=True)
            if not items:
                break
            self._deliver(link, items, False)
        self._deliver(link, [], True)

    def conclude(self, link: PeerLink) -> None:
        """The process of a link has ended: take what is left, and hand the link on. Collector thread only."""
        try:
            self.remove(link)
            self.drain(link)
        finally:
            # Whatever happens, somebody waits for the end to be told.
            self._bury(link)

    def bring(self, link: PeerLink, items: list[Chunk | Gap], timeout_s: float) -> None:
        """Deliver what comes from elsewhere than the segment, and wait for that, so long at most. Any thread."""
        self.ask(functools.partial(self._take, link, items), timeout_s)

    def _take(self, link: PeerLink, items: list[Chunk | Gap]) -> None:
        link.take(items)
        self._deliver(link, items, False)
        self.stir(link)
        if link not in self._awake:
            # It is dead and drained: no poll comes that would hand on what waits for older company.
            self._deliver(link, [], False)

    def close(self) -> None:
        """End the thread and close its descriptors."""
        self._ending = True
        self.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self.forget()

    def forget(self) -> None:
        """Close the descriptors; for a closed collector, and in a forked child."""
        fd, self._wake_fd = self._wake_fd, -1
        if fd >= 0:
            self._epoll.close()
            os.close(fd)

    def _run(self) -> None:
        looked_at = time.monotonic()
        while not self._ending:
            try:
                looked_at = self._turn(looked_at)
            except Exception:
                self._fail()
                time.sleep(PARK_S)

    def _fail(self) -> None:
        """A defect of roam's own. Loud, counted, and not the end of collecting."""
        self.failures += 1
        report_defect()

    def _attempt(self, function: Callable[[], None]) -> None:
        try:
            function()
        except Exception:
            self._fail()

    def _turn(self, looked_at: float) -> float:
        pause_s = 0.0 if self._is_flooded else BATCH_PAUSE_S if self._awake else PARK_S
        self._is_flooded = False
        for fd, _ in self._epoll.poll(pause_s):
            self._attempt(functools.partial(self._on_ready, fd))
        # Those of now: whoever calls faster than this thread works must not keep it from the peers.
        for _ in range(len(self._calls)):
            self._attempt(self._calls.popleft())
        now = time.monotonic()
        if now - looked_at >= PARK_S:
            looked_at = now
            for link in self._links.values():
                if link not in self._awake and link.has_stirred():
                    self._awake.add(link)
                    link.quiet_polls = 0
        for link in list(self._awake):
            try:
                self._poll(link)
            except Exception:
                # The others are not kept waiting, and this one is looked at again with its next record.
                self._awake.discard(link)
                self._fail()
        return looked_at

    def _on_ready(self, fd: int) -> None:
        if fd == self._wake_fd:
            try:
                os.eventfd_read(fd)
            except BlockingIOError:
                return
        elif fd in self._doorbells:
            link = self._doorbells[fd]
            if not drain_doorbell(fd):
                # The other end is closed, by death or by a program that closes everything: the process descriptor decides.
                del self._doorbells[fd]
                self._unregister(fd)
            self.stir(link)
        elif fd in self._pidfds:
            self.conclude(self._pidfds[fd])

    def _poll(self, link: PeerLink) -> None:
        items = link.collect()
        self._deliver(link, items, False)
        if items:
            link.quiet_polls = 0
            if sum(item.count for item in items) >= FLOOD_RECORDS:
                self._is_flooded = True
            return
        link.quiet_polls += 1
        if link.quiet_polls < QUIET_POLLS or link.held:
            return
        link.arm()
        items = link.collect()
        if items:
            self._deliver(link, items, False)
            link.quiet_polls = 0
        else:
            self._awake.discard(link)

    def _unregister(self, fd: int) -> None:
        try:
            self._epoll.unregister(fd)
        except (OSError, ValueError):
            # Closed already, which takes it out of the set.
            return
