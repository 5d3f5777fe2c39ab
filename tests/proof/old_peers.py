"""A whole host with a peer that is as old as the universe: its sequences cross a boundary on the way to subscribers,
into the accounts and into a dump."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import roam
from roam.exit import CellExit, ExitKind
from roam.shm.layout import LANES, SegmentConfig
from roam.shm.overflow import LaneOverflow
from roam.shm.reader import RingReader
from roam.shm.ring import RingWriter
from roam.testing import InProcessCell
from roam.tracing.host import TracingHost
from roam.tracing.records import Lost
from tests.hosting import arrived, holds

from .goal import Case, Tally, expect

__all__ = ["check_old_peer"]

SMALL = SegmentConfig(page_bytes=1024, life_pages=2, vital_pages=4, bulk_pages=8, record_bytes=512, span_slots=4)
RECORDS_BEFORE = 20
"""So many below the boundary, the first record is written."""
BURSTS = (5, 60, 300, 5)
"""Records at a time. While a burst is written the host cannot look, so that the long one laps the reader."""


def check_old_peer(case: Case, tally: Tally) -> None:
    """Write across the boundary, and follow every record to all the places where it can be seen."""
    first_seq, first_page_no = case["sequences"] - RECORDS_BEFORE, case["pages"] - 2
    written: dict[str, list[int]] = defaultdict(list)
    with (
        tempfile.TemporaryDirectory(prefix="roam-soak-") as place,
        TracingHost(segment=SMALL, dump_dir=place, forward=False) as host,
        InProcessCell(host, "old") as cell,
        host.subscribe(capacity=10_000) as subscription,
    ):
        link = _age(cell, first_page_no, first_seq)
        for burst in BURSTS:
            with link._lock:
                for _ in range(burst):
                    _write(written)
            arrived(cell)
        statistics, records = cell.statistics(), cell.records()
        for lane in ("vital", "bulk"):
            _check_lane(lane, first_seq, written[lane], statistics.lanes[lane], records)
            tally.counts["laps near a boundary"] += statistics.lanes[lane].lost > 0
            tally.counts["sequence boundaries crossed"] += len(written[lane]) > RECORDS_BEFORE
        expect(holds(statistics), f"the accounts do not balance: {statistics}")
        remains = link.remains()
        ended = CellExit(kind=ExitKind.LOST, started_ns=time.time_ns(), ended_ns=remains.died_ns)
        found = roam.postmortem.load(roam.postmortem.write(remains, ended, {}, Path(place)))
        expect(not found.damage, f"the dump is damaged: {found.damage}")
        expect(found.records == records, "the dump has other records than the host")
        expect(found.statistics.lanes == statistics.lanes, f"{found.statistics} in the dump, {statistics} before")
        expect(found.render(last=None), "nothing to show")
        host.release(link)
        offered = []
        while (tagged := subscription.get(timeout=0)) is not None:
            offered.append(tagged.record)
    expect(offered == records, f"{len(offered)} records were offered, {len(records)} are kept")


def _age(cell: InProcessCell, first_page_no: int, first_seq: int) -> Any:
    """Make both ends of a new peer's lanes go on from such numbers. Returns its link."""
    link: Any = cell._opened
    writer: Any = cell._emitter and cell._emitter.writer
    geometry = link.segment.geometry
    with link._lock:
        emitter: Any = cell._emitter
        for lane in range(len(LANES)):
            expect(writer.lanes[lane].emitted == link._readers[lane].next_seq == 0, "the peer is not new any more")
            shape: dict[str, Any] = {
                "offset": geometry.lane_offsets[lane],
                "page_bytes": geometry.config.page_bytes,
                "page_count": geometry.lane_pages[lane],
                "first_page_no": first_page_no,
                "first_seq": first_seq,
            }
            reader = RingReader(link.segment.read, lane=lane, **shape)
            reader.delivered = first_seq
            link._readers[lane] = reader
            writer.lanes[lane] = RingWriter(emitter._memory, emitter.words, **shape)
        writer.overflow = LaneOverflow(writer.overflow.policies, writer.lanes, emitter.words)
    return link


def _write(written: dict[str, list[int]]) -> None:
    number = sum(map(len, written.values()))
    if number % 4:
        written["bulk"].append(number)
        roam.info("record", number=number)
    else:
        written["vital"].append(number)
        roam.warning("record", number=number)


def _check_lane(lane: str, first_seq: int, numbers: list[int], counted: Any, records: list[Any]) -> None:
    """Every sequence of the lane is there once: as the record that was written, or in a notice of loss."""
    next_seq, lost = first_seq, 0
    for record in sorted((each for each in records if each.lane == lane), key=lambda record: record.seq):
        expect(record.seq == next_seq, f"{lane}: {record.seq} where {next_seq} was due")
        if isinstance(record, Lost):
            lost += record.count
            next_seq += record.count
            continue
        is_right = record.fields == {"number": numbers[next_seq - first_seq]}
        expect(is_right, f"{lane}: {record} where number {numbers[next_seq - first_seq]} was due")
        next_seq += 1
    expect(next_seq == first_seq + len(numbers) == counted.emitted, f"{lane}: {next_seq} found, {counted}")
    expect((counted.lost, counted.resident) == (lost, 0), f"{lane}: {lost} are said to be lost, {counted}")
