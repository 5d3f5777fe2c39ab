"""The writer, entered twice and left by exceptions: at every call it makes, and by real signals."""

from __future__ import annotations

import ast
import gc
import inspect
import signal
import threading
import time
from collections import Counter
from functools import partial

import pytest

import roam.shm.ring
import roam.shm.writer
from roam.shm.layout import BULK, VITAL, HostWord, SegmentConfig, StatusWord
from roam.shm.outcome import Outcome
from roam.shm.ring import RingWriter
from roam.tracing.emitter import current_emitter
from tests.hosting import in_process
from tests.lanes import Bench, told

ROOMY = SegmentConfig(page_bytes=32768, bulk_pages=64, vital_pages=2, life_pages=2, span_slots=1)


class Interrupter:
    """Stands behind every call that a record's way makes, where CPython would run a signal handler."""

    def __init__(self, monkeypatch):
        self.calls = 0
        self.act = None
        self.is_armed = False
        for module, names in (
            (roam.shm.writer, ["crc32", "dropped_word", "announced_word"]),
            (roam.shm.ring, ["crc32", "_pack_seal", "_pack_head"]),
        ):
            for name in names:
                monkeypatch.setattr(module, name, self.around(getattr(module, name)))
        for name in ("append", "_turn"):
            monkeypatch.setattr(RingWriter, name, self.around(getattr(RingWriter, name)))

    def around(self, function):
        def call(*args):
            result = function(*args)
            if self.is_armed:
                self.calls += 1
                self.is_armed = False
                try:
                    self.act(self.calls)
                finally:
                    self.is_armed = True
            return result

        return call


def act(bench, nested, log_at, raise_at, call):
    """What signal handlers do behind the calls number `log_at` and `raise_at`."""
    if call == log_at:
        for lane, body in nested:
            assert Outcome.WRITTEN == bench.writer.write(lane, body, 0)
        if nested:
            bench.writer.drop(BULK, "nested")
    if call == raise_at:
        raise KeyboardInterrupt


def scenario(bench, interrupter, attempts):
    """Drops, records over a page turn, a nested record at every step; returns what was promised and what was raised."""
    promised, raised = [], 0
    for number in range(attempts):
        payload = b"%d " % number + b"x" * 100
        interrupter.is_armed = True
        try:
            if number % 3 == 0:
                bench.writer.drop(BULK, "sampled")
            if bench.writer.write(BULK, payload, 0) == Outcome.WRITTEN:
                promised.append(payload)
        except KeyboardInterrupt:
            raised += 1
        finally:
            interrupter.is_armed = False
    return promised, raised


@pytest.mark.parametrize("distance", [None, 0, 1, 3, 5, 8, 11, *range(14, 30)])
def test_an_exception_after_any_call_leaves_the_writer_sound(monkeypatch, distance):
    """A signal handler that logs behind the n-th call for every n, or not at all, and one that raises there or some
    calls later: what was promised is there once and in order, drops are told exactly once, and the lock is free."""
    last = 10**9
    number = 0
    while number < last:
        number += 1
        nested = (
            [(lane, b"nested %d" % at) for at, lane in enumerate((BULK, VITAL, BULK))] if distance is not None else []
        )
        with monkeypatch.context() as patch:
            interrupter = Interrupter(patch)
            bench = Bench(clock=interrupter.around(time.monotonic_ns))
            interrupter.act = partial(act, bench, nested, number, number + (distance or 0))
            promised, raised = scenario(bench, interrupter, 11)
        last = interrupter.calls
        nested = nested if number <= last else []
        if raised and not distance:
            assert [body for lane, body in nested if lane == VITAL] == bench.payloads(VITAL), (
                "before the exception leaves"
            )
        bench.writer.drop(BULK, "newest")
        bench.writer.write(BULK, b"last", 0)
        found = bench.payloads()
        kept = [body for body in found if body[:1].isdigit()]
        assert set(promised) <= set(kept)
        assert len(kept) <= len(promised) + raised
        assert sorted(set(kept), key=lambda body: int(body.split()[0])) == kept
        assert [body for lane, body in nested if lane == BULK] == [body for body in found if body.startswith(b"nested")]
        assert told(found) == bench.announced() == bench.dropped()
        assert is_free(bench.writer._lock)
    assert last > 60


def is_free(lock):
    """Whether another thread can take the lock at once."""
    answers = []

    def ask():
        answers.append(lock.acquire(False))
        if answers[0]:
            lock.release()

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(10)
    return answers == [True]


class Timer:
    """Calls `handler` every so often, in the main thread, wherever that is, unless it is in `handler` already.

    The timer of pytest-timeout waits meanwhile.
    """

    def __init__(self, handler, interval_s):
        self.handler = handler
        self.interval_s = interval_s
        self.is_inside = False

    def fire(self, *_):
        if not self.is_inside:
            self.is_inside = True
            try:
                self.handler()
            finally:
                self.is_inside = False

    def __enter__(self):
        # What a handler raises inside of somebody's callback of the garbage collector is printed and forgotten.
        self.callbacks, gc.callbacks[:] = gc.callbacks[:], []
        self.before = signal.signal(signal.SIGALRM, self.fire)
        self.timer_before = signal.setitimer(signal.ITIMER_REAL, self.interval_s, self.interval_s)
        return self

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)
        signal.setitimer(signal.ITIMER_REAL, *self.timer_before)
        gc.callbacks[:] = self.callbacks


def test_a_signal_handler_may_log():
    """Real signals whose handler writes and drops, wherever they come: every record is there, none twice, in order."""
    bench = Bench(ROOMY)
    attempted = Counter()

    def handler():
        attempted["nested"] += bench.writer.write(BULK, b"n %d" % attempted["nested"], 0) == Outcome.WRITTEN
        bench.writer.drop(VITAL, "sampled")
        attempted["dropped"] += 1

    found = []
    deadline = time.monotonic() + 60
    with Timer(handler, 0.0003):
        while attempted["nested"] < 1500:
            assert time.monotonic() < deadline
            for _ in range(500):
                assert Outcome.WRITTEN == bench.writer.write(BULK, b"o %d" % attempted["outer"], 0)
                attempted["outer"] += 1
            found += bench.poll()
    found += bench.poll()

    assert list(range(len(found))) == [seq for seq, _, _ in found]
    assert sorted(time_ns for _, time_ns, _ in found) == [time_ns for _, time_ns, _ in found]
    for kind, name in (("o", "outer"), ("n", "nested")):
        numbers = [int(body[2:]) for _, _, body in found if body.startswith(kind.encode())]
        assert list(range(attempted[name])) == numbers
    assert len(found) == attempted["outer"] + attempted["nested"]
    assert {"sampled": attempted["dropped"]} == bench.dropped(VITAL)


def test_a_signal_handler_may_raise():
    """Thousands of interrupts that log and then raise, wherever they come: a record is wholly in or wholly out, what
    was promised is in, and the writer goes on."""
    bench = Bench(ROOMY)
    promised: set[bytes] = set()
    counts = Counter()

    def handler():
        counts["signals"] += 1
        body = b"handler %d" % counts["signals"]
        if bench.writer.write(BULK, body, 0) == Outcome.WRITTEN:
            promised.add(body)
        bench.writer.drop(BULK, "sampled")
        counts["drops"] += 1
        if armed:
            armed.clear()
            raise KeyboardInterrupt

    found, armed = [], []
    deadline = time.monotonic() + 60

    def write_until_interrupted():
        armed.append(True)
        while armed:
            counts["attempts"] += 1
            body = b"loop %d" % counts["attempts"]
            if bench.writer.write(BULK, body, 0) == Outcome.WRITTEN:
                promised.add(body)

    with Timer(handler, 0.0005):
        while counts["interrupted"] < 1000:
            assert time.monotonic() < deadline
            try:
                # A call, because CPython 3.12 and later leave the backward jump of a loop outside of its `try`.
                write_until_interrupted()
            except KeyboardInterrupt:
                counts["interrupted"] += 1
            found += bench.poll()
    bench.writer.write(BULK, b"last", 0)
    found += bench.poll()
    payloads = [body for _, _, body in found]

    assert list(range(len(found))) == [seq for seq, _, _ in found]
    bodies = [body for body in payloads if not body.startswith(b"dropped")]
    assert len(bodies) == len(set(bodies))
    assert promised <= set(payloads)
    loops = [int(body[5:]) for body in payloads if body.startswith(b"loop")]
    assert sorted(loops) == loops
    assert told(payloads) == bench.announced() == bench.dropped() == {"sampled": counts["drops"]}
    assert is_free(bench.writer._lock)


def test_the_garbage_collector_may_log():
    """Objects whose `__del__` writes a record, collected wherever an allocation happens: nothing is lost or doubled."""
    bench = Bench(ROOMY)
    written = Counter()

    class Logging:
        """In a cycle, so that only the collector finds it."""

        def __init__(self):
            self.me = self

        def __del__(self):
            written["del"] += bench.writer.write(BULK, b"del", 0) == Outcome.WRITTEN

    found = []
    threshold = gc.get_threshold()
    gc.set_threshold(3)
    try:
        for _ in range(3000):
            Logging()
            written["loop"] += bench.writer.write(BULK, b"loop", 0) == Outcome.WRITTEN
            if written["loop"] % 200 == 0:
                found += bench.payloads()
    finally:
        gc.set_threshold(*threshold)
        gc.collect()
    found += bench.payloads()

    assert written["del"] == 3000 == written["loop"]
    assert {b"del": 3000, b"loop": 3000} == Counter(found)


# r[verify shm.config.judged]
def test_an_interrupted_acknowledgement_is_made_up_for():
    """An acknowledgement that was queued when the record around it was interrupted is stored all the same."""
    raised = []

    def clock():
        if not raised:
            raised.append(True)
            bench.words[HostWord.GENERATION] = 4
            bench.writer.acknowledge(4)
            raise KeyboardInterrupt
        return time.monotonic_ns()

    bench = Bench(clock=clock)
    with pytest.raises(KeyboardInterrupt):
        bench.writer.write(BULK, b"never", 0)

    assert 4 == bench.words[StatusWord.ACKNOWLEDGED]
    assert Outcome.WRITTEN == bench.writer.write(BULK, b"next", 4)
    assert [b"next"] == bench.payloads()


def test_no_loop_stands_in_a_try_of_the_writer():
    """CPython 3.12 and later leave the backward jump of a `while` outside of the `try` that it stands in, and handle
    signals there: what was interrupted would never be put right. Loops stand in functions of their own."""
    for module in (roam.shm.writer, roam.shm.ring):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Try):
                inner = [each for statement in node.body for each in ast.walk(statement)]
                assert not [each.lineno for each in inner if isinstance(each, (ast.While, ast.For))]


def test_an_interrupted_refresh_leaves_its_lock_free():
    """An interrupt directly behind the call that takes the lock: other threads can take a configuration all the same."""
    with in_process() as (_, _):
        emitter = current_emitter()
        lock = emitter._refreshing

        class Interrupted:
            def acquire(self, timeout):
                lock.acquire(timeout=timeout)
                raise KeyboardInterrupt

            def release(self):
                lock.release()

        emitter._refreshing = Interrupted()
        with pytest.raises(KeyboardInterrupt):
            emitter.refresh()
        emitter._refreshing = lock
        assert is_free(lock)
