"""The collector: one thread that reads all peers, sleeps when there is nothing, and survives what goes wrong."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

import roam
from roam.shm.layout import HostWord
from roam.testing import InProcessCell
from roam.tracing import collector as collectors
from roam.tracing.host import TracingHost
from tests import traced
from tests.hosting import arrived, in_process, messages
from tests.support import wait_until


def link_of(host, cell):
    """The host's end of a cell."""
    return next(link for link in host._peers.all if link.peer.peer_id == cell.peer.peer_id)


def is_asleep(host, link):
    """Whether the collector polls the link no longer."""
    return link not in host._collector._awake


@pytest.fixture
def defects(monkeypatch):
    """What would have been printed by the hook for uncaught exceptions."""
    found = []
    monkeypatch.setattr(sys, "excepthook", lambda *what: found.append(what[1]))
    return found


def test_a_sleeping_peer_costs_one_ring():
    """However much is written after a pause: one ring, and none while the host is awake."""
    with TracingHost(forward=False) as host, InProcessCell(host, "cell") as cell:
        link = link_of(host, cell)
        rings = []
        writer = cell._emitter.writer
        real = writer._ring
        writer._ring = lambda: (rings.append(1), real())
        for burst in range(5):
            wait_until(lambda: is_asleep(host, link))
            before = len(rings)
            host._collector.ask(lambda: [roam.info("x", n=n) for n in range(1000)], 10)
            assert len(rings) == before + 1
            arrived(cell, 1000 * (burst + 1))


def test_a_sleeping_peer_is_not_polled():
    """Nothing but its heartbeat is read while it says nothing."""
    with in_process() as (host, cell):
        link = link_of(host, cell)
        roam.info("x")
        arrived(cell, 1)
        wait_until(lambda: is_asleep(host, link))
        polls = []
        real, link.collect = link.collect, lambda **how: (polls.append(1), real(**how))[1]
        looks = []
        stirred, link.has_stirred = link.has_stirred, lambda: (looks.append(1), stirred())[1]
        wait_until(lambda: len(looks) >= 3)
        assert not polls
        del link.collect, link.has_stirred


def test_records_arrive_without_the_doorbell():
    """A ring that gets lost costs time and no record."""
    with in_process() as (host, cell):
        link = link_of(host, cell)
        cell._emitter.writer._ring = lambda: None
        for burst in range(3):
            wait_until(lambda: is_asleep(host, link))
            roam.info("silent", n=burst)
            assert len(arrived(cell, burst + 1)) == burst + 1


def test_a_real_cell_arrives_without_its_doorbell_and_with_it(tmp_path):
    """A cell that closed every descriptor it does not know is still collected; its end is noticed all the same."""
    script, done = tmp_path / "script", tmp_path / "done"
    script.touch()
    with roam.TracingHost(forward=False) as host:
        cell = roam.spawn_cell(traced.follow, str(script), str(done), host=host, start_method="spawn")
        lines = []

        def run(line):
            lines.append(line)
            script.write_text("\n".join(lines))
            wait_until((tmp_path / f"script.{len(lines)}").exists, 20)

        run("roam.info('with')")
        arrived(cell, 1)
        link = link_of(host, cell)
        run("import os; os.closerange(3, 1024)")
        wait_until(lambda: is_asleep(host, link))
        run("roam.info('without')")
        assert messages(arrived(cell, 2)) == ["with", "without"]
        run("roam.warning('before the end')")
        done.touch()
        assert cell.join(20) is not None
        # It cannot answer any more, which it says.
        assert messages(cell.records())[:3] == ["with", "without", "before the end"]


def test_the_parked_word_is_new_each_time():
    """Each sleep has a number of its own, so that a cell rings once for each."""
    with in_process() as (host, cell):
        link = link_of(host, cell)
        seen = set()
        for count in range(4):
            wait_until(lambda: is_asleep(host, link))
            seen.add(link.segment.word(HostWord.PARKED))
            roam.info("x")
            arrived(cell, count + 1)
        assert len(seen) == 4


def test_a_defect_in_one_peer_is_loud_and_concerns_that_peer(defects):
    """Others are collected meanwhile; it is counted and reported, not for every turn; and the end is told nevertheless."""
    with TracingHost(forward=False) as host:
        broken = host.register_peer("broken", in_process=True)

        def fail(**_):
            raise ZeroDivisionError("a defect")

        broken.collect = fail
        with InProcessCell(host, "sound") as cell:
            broken.stir()
            for burst in range(20):
                roam.info("x", n=burst)
                arrived(cell, burst + 1)
            wait_until(lambda: defects)
            assert host._collector.failures == len(defects) >= 1
            time.sleep(collectors.PARK_S)
            assert len(defects) < 20
        assert isinstance(defects[0], ZeroDivisionError)


def test_the_end_of_a_peer_is_told_even_if_its_last_records_cannot_be_taken(defects):
    """Whoever joins it is not left waiting."""
    with roam.TracingHost(forward=False) as host:
        cell = roam.spawn_cell(os.getpid, host=host, start_method="spawn")

        def fail(link):
            raise ZeroDivisionError("a defect")

        host._collector.drain = fail
        try:
            assert cell.join(30) is not None
        finally:
            del host._collector.drain
    assert [type(error) for error in defects] == [ZeroDivisionError]


def test_a_defect_of_the_loop_itself_does_not_end_it(defects):
    """Not even where waiting fails, and not with a hook that raises."""
    with in_process() as (host, cell):
        collector = host._collector
        real = collector._epoll

        class Broken:
            def poll(self, *_):
                if len(defects) >= 2:
                    collector._epoll = real
                raise OSError(9, "bad")

        collector._epoll = Broken()
        wait_until(lambda: collector._epoll is real, 20)
        roam.info("x")
        assert len(arrived(cell, 1)) == 1


def test_what_is_asked_is_answered_or_given_up():
    """`ask` returns when it was done, raises what it raised, and gives up when the time, or the thread, is over."""
    host = TracingHost(forward=False)
    collector = host._collector
    found = []
    assert collector.ask(lambda: found.append(threading.current_thread().name), 10)
    assert found == ["roam-collector"]
    with pytest.raises(KeyError):
        collector.ask(lambda: {}["missing"], 10)
    assert collector.failures == 0
    block = threading.Event()
    collector.call(lambda: block.wait(20))
    assert not collector.ask(lambda: found.append("late"), 0.05)
    block.set()
    wait_until(lambda: found[-1] == "late")
    host.close()
    before = time.monotonic()
    assert not collector.ask(lambda: found.append("never"), 30)
    assert time.monotonic() - before < 10
    collector.wake()


def test_calls_without_end_keep_nobody_waiting():
    """Whoever calls faster than the collector works does not keep it from its peers."""
    with in_process() as (host, cell):
        is_over = threading.Event()

        def again():
            if not is_over.is_set():
                host._collector.call(again)

        again()
        roam.info("in between")
        try:
            wait_until(lambda: "in between" in messages(cell.records()))
        finally:
            is_over.set()


def test_many_peers_are_collected_by_one_thread():
    """Every record of every peer, in its own order."""
    count, peers = 50, 40
    small = roam.SegmentConfig(page_bytes=4096, record_bytes=1024, bulk_pages=8, vital_pages=2, span_slots=4)
    with TracingHost(forward=False, segment=small) as host, host.subscribe(capacity=10**6) as records:
        cells = [InProcessCell(host, f"cell-{number}") for number in range(peers)]
        for cell in cells:
            cell.__enter__()
        threads = [
            threading.Thread(
                target=lambda cell: [
                    cell._emitter.event(20, "app", "x", {"n": number}, None, cell._emitter.generation)
                    for number in range(count)
                ],
                args=(cell,),
            )
            for cell in cells
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for cell in reversed(cells):
            cell.__exit__(None, None, None)
        host.close()
        found = [(tagged.peer.name, tagged.record.fields["n"]) for tagged in records]
    for number in range(peers):
        assert [n for name, n in found if name == f"cell-{number}"] == list(range(count))
