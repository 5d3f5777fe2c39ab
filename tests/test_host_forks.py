"""Forked children of a host and of its cells: inert, and no harm to their parents."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from contextlib import ExitStack, contextmanager

import roam
from tests import traced
from tests.hosting import arrived, descriptors, holds, in_process, messages


@contextmanager
def held_elsewhere(*locks):
    """Another thread, which a forked child does not have, holds these."""
    held, release = threading.Event(), threading.Event()

    def hold():
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            held.set()
            release.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    try:
        yield
    finally:
        release.set()
        holder.join()


def test_a_forked_child_of_the_host_is_inert():
    """It has none of the host's descriptors, traces nothing, and whatever it asks comes back, whoever held a lock."""
    # r[verify trace.fork.disowned]
    inherited = set(descriptors().values())
    with in_process() as (host, cell), host.subscribe() as records:
        roam.info("before")
        host.register_peer("awaited")
        arrived(cell, 1)
        link = next(link for link in host._peers.all if link.peer == cell.peer)
        span = roam.span("open")
        span.__enter__()
        emitter = cell._emitter
        locks = [host._peers._lock, host._fan_out._lock, link._lock, link.retention._lock, host._lock, records._ready]
        with held_elsewhere(*locks, emitter.writer._lock, emitter._refreshing):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    signal.alarm(20)
                    roam.info("never")
                    span.record(never=1)
                    span.__exit__(None, None, None)
                    assert not host.is_open
                    assert not [
                        to
                        for to in set(descriptors().values()) - inherited
                        if not to.endswith(".segment") and "memfd" not in to
                    ]
                    assert messages(host.records(), None)[:1] == ["before"]
                    assert holds(host.statistics().peers[cell.peer.peer_id])
                    assert cell.open_spans() == []
                    assert [record.record.message for record in records][:1] in ([], ["before"])
                    host.close()
                    host.flush_forwarding(0.1)
                    code = 7
                except BaseException:
                    traceback.print_exc(file=sys.__stderr__)
                finally:
                    os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        roam.info("after")
        assert [span.name for span in cell.open_spans()] == ["open"]
        assert cell.open_spans()[0].fields == {}
        span.__exit__(None, None, None)
        assert messages(arrived(cell, 4), None) == ["before", "open", "after", "open"]
        assert cell.statistics().spans_torn == 0


def test_a_forked_child_may_have_a_host_of_its_own():
    """What it makes anew works, with its own records only."""
    with in_process() as (host, cell):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                signal.alarm(20)
                with in_process(name="other") as (mine, inner):
                    roam.info("mine")
                    assert messages(arrived(inner, 1)) == ["mine"]
                    assert mine.run_dir != host.run_dir
                code = 7
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        roam.info("here")
        assert messages(arrived(cell, 1)) == ["here"]


def test_a_real_cell_is_a_peer_like_any_other():
    """Its statistics, records and spans are read through the host; its fork child neither traces nor disturbs."""
    # r[verify trace.fork.disowned]
    with roam.TracingHost(forward=False) as host:
        cell = roam.spawn_cell(traced.fork_and_print, host=host, start_method="spawn", stdio="inherit")
        assert cell.result(30) > 0
        assert messages(cell.records(), None) == ["outer", "after the fork", "outer"]
        assert holds(cell.statistics())
        assert cell.statistics().spans_torn == 0
        assert messages(host.records(cell=cell)) == ["after the fork"]
        assert cell.peer in host.peers
