"""What a host keeps of its peers and counts: bounded, found again, and always adding up."""

from __future__ import annotations

import threading
import time

import pytest

import roam
from roam.clock import ClockAnchor
from roam.shm.reader import Chunk, Gap
from roam.testing import InProcessCell
from roam.tracing import host as hosts
from roam.tracing.host import TracingHost
from roam.tracing.peer import time_of_gap
from roam.tracing.retention import Retention
from tests.hosting import arrived, holds, in_process, messages
from tests.lanes import Lane
from tests.support import wait_until

SMALL = roam.SegmentConfig(page_bytes=4096, record_bytes=1024, life_pages=2, vital_pages=2, bulk_pages=4)


def test_retention_is_bounded_per_lane_and_counted():
    """A flood of details evicts details: exactly so many as are gone, and no warning or exception."""
    with in_process(roam.TracingConfig("debug"), segment=SMALL, retain_bytes=64 << 10) as (_, cell):
        roam.error("early", exc_info=ValueError("kept"))
        roam.warning("early")
        for number in range(5000):
            roam.debug("flood", n=number)
            if number % 50 == 0:
                arrived(cell)
        found = arrived(cell)
        statistics = cell.statistics()

    delivered = sum(lane.delivered for lane in statistics.lanes.values())
    kept = [record for record in found if record.kind == "event"]
    assert statistics.evicted == delivered - len(kept) > 1000
    assert statistics.retained_bytes <= 64 << 10
    assert [record.message for record in kept[:2]] == ["early", "early"]
    numbers = [record.fields["n"] for record in kept[2:]]
    assert numbers[-1] == 4999
    assert numbers == sorted(numbers)


def test_retention_is_bounded_in_total_and_the_dead_give_first():
    """All peers together stay within the limit; what is evicted is counted, and who lives keeps what it has."""
    limit = 128 << 10
    with (
        TracingHost(forward=False, segment=SMALL, retain_bytes=64 << 10, retain_total_bytes=limit) as host,
        InProcessCell(host, "living") as living,
    ):
        for number in range(100):
            roam.info("living", n=number)
        arrived(living, 100)
        for name in range(6):
            with InProcessCell(host, f"dead-{name}") as dead:
                for number in range(300):
                    roam.info("x" * 50, n=number)
                    if number % 30 == 0:
                        arrived(dead)
                arrived(dead)
            wait_until(lambda: host.statistics().retained_bytes <= limit)
        found = host.statistics()
        kept = {peer.name: len(host.records(cell=peer)) for peer in host.peers}
    assert kept["living"] == 100
    assert kept["dead-0"] == 0 < kept["dead-5"]
    delivered = sum(lane.delivered for peer in found.peers.values() for lane in peer.lanes.values())
    lost = sum(lane.lost for peer in found.peers.values() for lane in peer.lanes.values())
    assert found.evicted == delivered - (sum(kept.values()) - lost)


def test_only_the_newest_dead_are_remembered(monkeypatch):
    """The list of peers does not grow for ever; what the forgotten had kept counts as evicted."""
    monkeypatch.setattr("roam.tracing.peers.DEAD_KEPT", 3)
    with TracingHost(forward=False) as host:
        for number in range(6):
            with InProcessCell(host, f"cell-{number}") as cell:
                roam.info("x")
                arrived(cell, 1)
        assert [peer.name for peer in host.peers] == ["host", "cell-3", "cell-4", "cell-5"]
        assert host.statistics().evicted == 3


def test_records_are_found_by_name_id_peer_and_owner():
    """And the last ones only, where asked for; all peers together are in time order."""
    with TracingHost(forward=False) as host:
        for name in ("a", "b", "a"):
            with InProcessCell(host, name) as cell:
                for number in range(3):
                    roam.info(name, n=number)
                arrived(cell, 3)
        first, second, third = host.peers[1:]
        assert [tagged.peer for tagged in host.records(cell="a")] == [first] * 3 + [third] * 3
        assert [tagged.peer for tagged in host.records(cell=second)] == [second] * 3
        assert [tagged.peer for tagged in host.records(cell=third.peer_id)] == [third] * 3
        assert host.records(cell="nobody") == host.records(cell=99) == []
        everything = host.records()
        assert [tagged.record.time_ns for tagged in everything] == sorted(t.record.time_ns for t in everything)
        assert host.records(last=4) == everything[-4:]
        assert host.records(last=0) == []
        assert host.records(last=99) == everything
        assert messages(host.records(cell="b", last=1)) == ["b"]
        assert [record.fields["n"] for record in cell.records(last=2)] == [1, 2]


def test_the_identity_holds_in_every_snapshot_under_load():
    """In every lane emitted == delivered + lost + resident, whenever anybody looks, while a small ring is lapped."""
    wrong: list[object] = []
    stop = threading.Event()
    with in_process(roam.TracingConfig("debug"), segment=SMALL, retain_bytes=1 << 20) as (host, cell):

        def look():
            while not stop.is_set():
                found = cell.statistics()
                if not holds(found):
                    wrong.append(found)

        lookers = [threading.Thread(target=look) for _ in range(2)]
        for looker in lookers:
            looker.start()
        attempted = 0
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            for number in range(200):
                roam.event((10, 30)[number % 4 == 0], "load", n=number)
            attempted += 200
        stop.set()
        for looker in lookers:
            looker.join()
        arrived(cell)
        statistics = cell.statistics()
        host.close()
    assert not wrong
    assert sum(lane.emitted + sum(lane.dropped.values()) for lane in statistics.lanes.values()) == attempted


def test_what_was_dropped_before_writing_is_announced():
    """The next record of the lane is preceded by the counts; what is not announced at the end comes as the last loss."""
    with in_process() as (host, cell), host.subscribe() as records:
        emitter = hosts.emitters.current_emitter()
        emitter.writer.drop(2, "sampled")
        emitter.writer.drop(2, "sampled")
        roam.info("after")
        dropped, after = arrived(cell, 2)
        emitter.writer.drop(1, "unencodable")
        host.close()
        stream = [each.record for each in records]
    assert (dropped.kind, dropped.counts, after.message) == ("dropped", {"sampled": 2}, "after")
    assert [record.kind for record in stream] == ["dropped", "event", "lost"]
    lost = stream[-1]
    assert (lost.lane, lost.first_seq, lost.count, lost.cause) == ("vital", None, 1, "unencodable")
    assert cell.statistics().lanes["vital"].dropped == {"unencodable": 1}
    assert cell.records()[-1].kind == "lost"


@pytest.mark.parametrize("first_lane", range(3))
def test_a_gap_lies_between_the_records_of_its_own_lane(first_lane):
    """Wherever in a poll of all lanes it is, with records of its lane before it, after it, or in an earlier poll only."""
    anchor = ClockAnchor(1_000_000, 0)

    def chunk(lane, first_seq, *times):
        page = Lane()
        for time_ns in times:
            page.append(b"x", time_ns)
        [found] = page.reader.poll()
        return Chunk(lane, 1, first_seq, found.count, found.data)

    second_lane = (first_lane + 1) % 3
    gap = Gap(first_lane, 2, 5, "overwritten")
    other = chunk(second_lane, 0, 3, 4, 50)
    before, after = chunk(first_lane, 0, 10, 11), chunk(first_lane, 7, 20)

    assert time_of_gap([before, gap, other, after], 1, anchor) == 1_000_019
    assert time_of_gap([before, gap, other], 1, anchor) == 1_000_012
    assert time_of_gap([gap, other], 0, anchor, before) == 1_000_012
    assert time_of_gap([gap, other], 0, anchor) is None


def test_the_newest_chunk_of_a_lane_is_known():
    """None before there is one."""
    found = Retention(1 << 20, (1, 1, 1))
    assert found.newest(1) is None
    for number in range(3):
        kept = Chunk(1, 1, number, 1, bytes(16))
        found.keep(kept)
        assert found.newest(1) is kept
    assert found.newest(2) is None
