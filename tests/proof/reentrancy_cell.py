"""The cell of the re-entrancy goal: threads, signals, garbage, forks and interrupts, all of which emit at once.

It keeps its own books, in plain numbers, of what was begun and what has returned, and says at its end what they are.
A source is whatever numbers its records by itself: a thread, the signal handler, the garbage. Only in the main thread,
and in garbage that is collected there, an interrupt can come between the beginning of an emit and its return.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from typing import Any, ClassVar, NoReturn

import roam
from roam.shm.layout import BULK
from roam.tracing.emitter import current_emitter

__all__ = ["GARBAGE", "HANDLER", "MAIN", "MESSAGE", "WORKERS", "run"]

MESSAGE = "re-entrant"
WORKERS = 8
MAIN, HANDLER, GARBAGE, CHILD = range(WORKERS, WORKERS + 4)
"""The sources beside the workers."""

INTERVAL_S = 0.0007
GC_THRESHOLD = 50
TICKS_A_FORK = 14
"""A fork every ten milliseconds, where the signals come as they should."""
TICKS_A_BURST = 8
BURST = 80
"""More records than may wait while one is being written."""
MOST_CHILDREN = 4
CHILD_PATIENCE_S = 10
"""After so long a child says where it hangs, and ends: sooner than anybody takes the whole cell for hung."""
FORKS_IN_C = 6
SWITCH_INTERVAL_S = 0.0001
WORK, REST_S = 16, 0.003
"""Workers rest between their records, and take turns, so that the main thread gets its own: signals are handled there."""


class Garbage:
    """In a cycle, so that only the collector finds it; emits when it does."""

    crowd: ClassVar[Crowd]
    me: Garbage | None = None

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        if self.me is None:
            # Interrupted before there was a cycle. The collector could run within, and garbage overtake garbage.
            return
        try:
            self.crowd.emit(GARBAGE)
        except KeyboardInterrupt:
            # Nobody gets what leaves a `__del__`.
            self.crowd.counts["interrupts in garbage"] += 1


class Crowd:
    """Everything that emits in the cell, and the books."""

    def __init__(self, interrupts: int) -> None:
        self.emitter = current_emitter()
        self.interrupts = interrupts
        self.counts: Counter[str] = Counter()
        self.begun = [0] * (CHILD + 1)
        """By source: the number of its newest record."""
        self.returned: dict[int, list[int]] = {MAIN: [], GARBAGE: []}
        """The records of sources that can be interrupted which were not."""
        self.drops_begun = [0] * (CHILD + 1)
        self.drops: list[None] = []
        """One for every drop that has been counted for certain."""
        self.stopping = False
        self.problems: list[str] = []
        self.children: list[int] = []
        self.stacks_fd = os.memfd_create("stacks", os.MFD_CLOEXEC)
        """What children that hang write before they end."""
        self.is_child = self.is_child_done = False
        self.is_inside = False
        self.is_armed = False

    def emit(self, source: int) -> None:
        """Write the next record of a source, a warning now and then."""
        self.begun[source] = number = self.begun[source] + 1
        write = roam.info if number % 20 else roam.warning
        write(MESSAGE, source=source, number=number, drops=len(self.drops))
        if source in self.returned:
            self.returned[source].append(number)

    def drop(self, source: int) -> None:
        """Count a record that is not written."""
        self.drops_begun[source] += 1
        self.emitter.writer.drop(BULK, "sampled")
        self.drops.append(None)

    def step(self, source: int) -> None:
        """What a thread does again and again."""
        self.emit(source)
        number = self.begun[source]
        if number % 8 == 0:
            Garbage()
        if number % 64 == 0:
            self.drop(source)

    def work(self, source: int) -> None:
        """A thread of its own."""
        try:
            while not self.stopping:
                for _ in range(WORK):
                    self.step(source)
                time.sleep(REST_S)
        except BaseException:
            self.problems.append(traceback.format_exc())

    def on_alarm(self, *_: object) -> None:
        """The signal handler: emits, forks, and raises where it is to."""
        if self.is_inside:
            return
        self.is_inside = True
        try:
            self.counts["signals"] += 1
            tick = self.counts["signals"]
            self.emit(HANDLER)
            if tick % 16 == 0:
                self.drop(HANDLER)
            if tick % TICKS_A_BURST == 0:
                for _ in range(BURST):
                    self.emit(HANDLER)
            if tick % TICKS_A_FORK == 0 and not self.is_child:
                self.fork(tick // TICKS_A_FORK)
        finally:
            self.is_inside = False
        if self.is_armed:
            self.is_armed = False
            self.counts["interrupts"] += 1
            raise KeyboardInterrupt

    def fork(self, number: int) -> None:
        """Fork at any place in any emit. The child emits at once; every other returns into what the signal came
        between, and ends where the main thread would go on: unless that is a wait for the lock, whose holder it has not."""
        self.reap(MOST_CHILDREN)
        lock = self.emitter.writer._lock
        is_free = lock.acquire(blocking=False)
        try:
            pid = os.fork()
        finally:
            if is_free:
                lock.release()
        if pid:
            self.children.append(pid)
            self.counts["forks"] += 1
            return
        self.be_child()
        if number % 2 or not is_free:
            os._exit(0)
        self.is_child = True

    def fork_in_c(self) -> None:
        """As an extension forks: Python hears nothing of it. While there is one thread only, because the child of several
        may wait for ever for the interpreter."""
        pid = ctypes.PyDLL(None).fork()
        if not pid:
            try:
                self.be_child()
            finally:
                os._exit(0 if self.is_child_done else 1)
        self.children.append(pid)
        self.counts["forks in C"] += 1

    def be_child(self) -> None:
        """Emit, and open a span that stays open: none of it is to be seen anywhere."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        faulthandler.register(signal.SIGALRM, file=self.stacks_fd, chain=True)
        signal.alarm(CHILD_PATIENCE_S)
        roam.span("of a child").__enter__()
        for _ in range(3):
            self.emit(CHILD)
        self.is_child_done = True

    def end_child(self) -> NoReturn:
        """In a forked child that is out of what it was forked in: emit once more, and end."""
        self.emit(CHILD)
        os._exit(0)

    def reap(self, most: int) -> None:
        """Wait until at most so many children are left."""
        while len(self.children) > most:
            _, status = os.waitpid(self.children[0], 0)
            del self.children[0]
            if status:
                self.problems.append(f"a forked child ended with {status}\n{self.stacks()}")

    def stacks(self) -> str:
        """Where children have hung."""
        return os.pread(self.stacks_fd, 20_000, 0).decode(errors="replace")

    def be_main(self, emits: int) -> None:
        """What the main thread does, until there were enough records and interrupts."""
        while not self.is_done(emits):
            try:
                self.be_interrupted(emits)
            except KeyboardInterrupt:
                self.counts["interrupts caught"] += 1

    def be_interrupted(self, emits: int) -> None:
        """Emit up to the next interrupt. A function of its own, because not all of a loop in a `try` is covered by it."""
        while not self.is_done(emits):
            self.is_armed = self.counts["interrupts"] < self.interrupts and not self.is_child
            for _ in range(16):
                if self.is_child:
                    self.end_child()
                self.step(MAIN)
        self.is_armed = False

    def is_done(self, emits: int) -> bool:
        """Whether there were enough of both."""
        return self.counts["interrupts"] >= self.interrupts and sum(self.begun) >= emits

    def on_unraisable(self, unraisable: Any) -> None:
        """An interrupt came before, or behind, the `try` of a `__del__`."""
        if unraisable.exc_type is KeyboardInterrupt:
            self.counts["interrupts in garbage"] += 1
        else:
            self.problems.append(f"unraisable: {unraisable.exc_value!r} in {unraisable.object!r}")

    def check_locks(self) -> None:
        """In another thread than main: no interrupt has left a lock taken."""
        for name, lock in (("writer", self.emitter.writer._lock), ("configuration", self.emitter._refreshing)):
            if lock.acquire(blocking=False):
                lock.release()
            else:
                self.problems.append(f"the lock of the {name} is still taken")

    def tell(self) -> None:
        """Emit into each lane, so that all drops are told of."""
        for _ in range(20):
            self.emit(HANDLER)

    def account(self) -> dict[str, Any]:
        """The books."""
        unsure = {
            source: sorted(set(range(1, self.begun[source] + 1)).difference(numbers))
            for source, numbers in self.returned.items()
        }
        return {
            "begun": self.begun[:CHILD],
            "unsure": [unsure.get(source, []) for source in range(CHILD)],
            "drops": len(self.drops),
            "unsure_drops": sum(self.drops_begun) - len(self.drops),
            "counts": self.counts,
            "problems": self.problems,
        }


def run(emits: int, interrupts: int, patience_s: float) -> str:
    """Emit so many records at least, under so many interrupts; returns the account as JSON.

    After `patience_s` the process ends, with the stacks of its threads on its standard error.
    """
    faulthandler.dump_traceback_later(patience_s, exit=True)
    crowd = Garbage.crowd = Crowd(interrupts)
    threads = [threading.Thread(target=crowd.work, args=(source,)) for source in range(WORKERS)]
    for _ in range(FORKS_IN_C):
        crowd.fork_in_c()
    crowd.reap(0)
    before = (sys.unraisablehook, gc.get_threshold(), sys.getswitchinterval())
    sys.unraisablehook = crowd.on_unraisable
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    signal.signal(signal.SIGALRM, crowd.on_alarm)
    # First: a child that is forked while this thread waits for another to begin would wait for ever.
    for thread in threads:
        thread.start()
    signal.setitimer(signal.ITIMER_REAL, INTERVAL_S, INTERVAL_S)
    crowd.be_main(emits)
    crowd.stopping = True
    signal.setitimer(signal.ITIMER_REAL, 0)
    # One signal more may be waiting; its handler must not fork while children are waited for below.
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    if crowd.is_child:
        crowd.end_child()
    for thread in threads:
        thread.join()
    gc.set_threshold(*before[1])
    gc.collect()
    sys.unraisablehook = before[0]
    sys.setswitchinterval(before[2])
    crowd.reap(0)
    for last in (crowd.check_locks, crowd.tell):
        thread = threading.Thread(target=last)
        thread.start()
        thread.join()
    faulthandler.cancel_dump_traceback_later()
    return json.dumps(crowd.account())
