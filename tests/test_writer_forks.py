"""The writer of a segment in processes that were forked from its own: they never reach the parent's stream."""

from __future__ import annotations

import ctypes
import os
import signal
import threading

import pytest

import roam.shm.ring
from roam.shm.layout import BULK, LIFE, VITAL, HostWord
from roam.shm.outcome import Outcome
from roam.shm.spans import SpanTable
from tests.lanes import Bench


def in_child(work):
    """Run `work` in a forked child; its exit code is 0 if nothing was raised."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_does_not_write():
    """After `disown`, no method reaches the parent's segment, and none waits for a lock whose holder is not here."""
    bench = Bench()
    bench.writer.write(BULK, b"parent", 0)
    bench.writer.drop(BULK, "newest")
    held, release = threading.Event(), threading.Event()

    def hold():
        with bench.writer._lock:
            held.set()
            release.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    before = bench.mapping[:]

    def child():
        bench.writer.disown()
        assert Outcome.DROPPED == bench.writer.write(BULK, b"child", 0)
        assert Outcome.DROPPED == bench.writer.write(VITAL, b"child" * 100, 0)
        bench.writer.drop(LIFE, "forked")
        bench.writer.acknowledge(0)
        bench.writer.refuse(1)

    assert 0 == in_child(child)
    assert before == bench.mapping[:]
    release.set()
    holder.join(10)
    assert Outcome.WRITTEN == bench.writer.write(BULK, b"parent again", 0)
    assert [b"parent", b'dropped {"newest": 1}', b"parent again"] == bench.payloads()


@pytest.mark.parametrize("call", ["crc32", "_pack_seal", "_pack_head"])
def test_a_fork_inside_a_record_writes_it_once(monkeypatch, call):
    """A signal handler that forks in the middle of a record: the child's half of it goes nowhere, however much later."""
    bench = Bench()
    bench.writer.write(BULK, b"before", 0)
    original = getattr(roam.shm.ring, call)
    readable, writable = os.pipe()
    forks = []

    def fork_once(*args):
        if not forks:
            forks.append(os.fork())
            if not forks[0]:
                bench.writer.disown()
                os.close(writable)
                os.read(readable, 1)
        return original(*args)

    monkeypatch.setattr(roam.shm.ring, call, fork_once)
    bench.writer.write(BULK, b"record", 0)
    if not forks[0]:
        os._exit(bench.writer.write(BULK, b"child" * 100, 0) + bench.writer.write(BULK, b"child", 0))
    for number in range(5):
        bench.writer.write(BULK, b"after %d" % number, 0)
    before = bench.mapping[:]
    os.close(writable)
    os.close(readable)

    assert 0 <= os.waitstatus_to_exitcode(os.waitpid(forks[0], 0)[1]) <= 2 * Outcome.DROPPED
    assert before == bench.mapping[:]
    assert [b"before", b"record", *(b"after %d" % number for number in range(5))] == bench.payloads()


def test_a_fork_while_a_thread_waits_for_the_lock_waits_no_longer():
    """A signal handler that runs in the middle of the wait forks: the child, which lacks the thread that has the lock,
    comes out of the wait with nothing written, and the parent goes on."""
    bench = Bench()
    release, is_held, forks = threading.Event(), threading.Event(), []

    def hold():
        with bench.writer._lock:
            is_held.set()
            release.wait(30)

    def fork(*_):
        forks.append(os.fork())
        if forks[0]:
            release.set()
        else:
            signal.alarm(20)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            bench.writer.disown()

    holder = threading.Thread(target=hold)
    holder.start()
    assert is_held.wait(10)
    before, timer = signal.signal(signal.SIGALRM, fork), signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        outcome = bench.writer.write(BULK, b"record", 0)
        if not forks[0]:
            os._exit(outcome)
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)
    holder.join()
    assert Outcome.WRITTEN == outcome
    assert Outcome.DROPPED == os.waitstatus_to_exitcode(os.waitpid(forks[0], 0)[1])
    assert [b"record"] == bench.payloads()
    assert {} == bench.dropped()


def test_a_fork_that_python_did_not_see_writes_nothing():
    """A child of a fork in C code has no part in its parent's stream, not even on a page that has room."""
    bench = Bench()
    bench.writer.write(BULK, b"before", 0)
    table = SpanTable(bench.memory, bench.words, offset=bench.geometry.spans_offset, slots=1)
    handle = table.open(b"span", 1)
    bench.words[HostWord.GENERATION] = 1
    before = bench.mapping[:]
    pid = ctypes.PyDLL(None).fork()
    if not pid:
        table.close(handle)
        bench.writer.acknowledge(1)
        bench.writer.refuse(1)
        os._exit(bench.writer.write(BULK, b"child", 0))
    assert Outcome.DROPPED == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert before == bench.mapping[:]
    bench.writer.write(BULK, b"parent", 1)
    assert [b"before", b"parent"] == bench.payloads()
