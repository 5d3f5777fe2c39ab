"""What tracing costs a cell at most, and what it does not lose: real cells, large numbers."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import multiprocess
import pytest

import roam
from roam.exit import ExitKind
from roam.tracing.records import CUT
from tests import cells
from tests.programs import METHODS, resident_bytes
from tests.support import wait_until
from tests.system_calls import NotAllowed, count_system_calls

WAIT_S = 100.0
MILLION = 1_000_000


@pytest.fixture
def host(tmp_path):
    with roam.TracingHost(roam.TracingConfig("debug"), dump_dir=tmp_path / "dumps", forward=False) as host:
        yield host


def load_only_dump(host):
    [path] = Path(host.dump_dir).glob("*.roam")
    return roam.postmortem.load(path)


# What a flood does not carry away.


# r[verify trace.lanes]
def test_an_error_outlives_a_million_details(host):
    """One ERROR, a million DEBUG records, SIGKILL: the error is in the dump, and every record is accounted for."""
    roam.spawn_cell(cells.flood_with_details, MILLION, host=host).join(WAIT_S)

    left = load_only_dump(host)
    assert [record.fields for record in left.records if record.message == "the one error"] == [{"number": 1}]
    assert left.statistics.lanes["bulk"].emitted == MILLION
    assert_identity(left.statistics)
    details = [record.fields["number"] for record in left.records if record.message == "detail"]
    assert details == sorted(set(details))
    assert details[-1] == MILLION - 1
    assert len(details) > 5_000


# r[verify trace.lanes]
def test_an_exception_outlives_a_million_warnings(host):
    """A logged and an uncaught exception, a million WARNINGs, SIGKILL: both exceptions are in the dump."""
    roam.spawn_cell(cells.flood_with_warnings, MILLION, host=host).join(WAIT_S)

    left = load_only_dump(host)
    exceptions = [record.exception for record in left.records if record.exception is not None]
    assert [(found.type, found.message) for found in exceptions] == [
        ("ValueError", "invalid literal for int() with base 10: 'no number'"),
        ("ValueError", "invalid literal for int() with base 10: 'no number either'"),
    ]
    assert "flood_with_warnings" in exceptions[0].traceback
    assert left.statistics.lanes["vital"].emitted == MILLION
    assert_identity(left.statistics)


def assert_identity(statistics):
    """After the end nothing is resident, and each lane adds up exactly."""
    for lane in statistics.lanes.values():
        assert lane.emitted == lane.delivered + lane.lost
        assert lane.resident == 0
        assert not lane.dropped


# What it costs.


# r[verify shm.doorbell.once]
@pytest.mark.parametrize("method", METHODS)
def test_records_cost_no_system_calls_and_no_thread(method, host):
    """100,000 records cost the cell at most 100 system calls, among them those that begin and end the count."""
    here, there = multiprocess.Pipe()
    cell = roam.spawn_cell(cells.emit_on_request, there, 100_000, host=host, start_method=method)
    there.close()
    wait_until(lambda: any(record.message == "warm" for record in cell.records()))
    try:
        numbers = count_system_calls(cell.pid, lambda: here.send(True), lambda: here.poll(0))
    except NotAllowed as error:
        pytest.skip(f"ptrace: {error}")
    threads = here.recv()
    here.send(False)
    cell.result(WAIT_S)
    here.close()

    assert cell.statistics().lanes["bulk"].emitted == 100_001
    assert threads == 1
    assert sum(numbers.values()) <= 100, numbers


# r[verify trace.peer.attributed]
def test_short_lives_are_all_attributed(host):
    """500 cells that log once and leave by `os._exit(0)`: 500 records, each with the right peer."""
    with host.subscribe("app", capacity=1_000) as records:
        everybody = []
        for first in range(0, 500, 20):
            started = [
                roam.spawn_cell(cells.log_once, number, name=f"cell {number}", host=host)
                for number in range(first, first + 20)
            ]
            for cell in started:
                assert cell.join(WAIT_S).kind is ExitKind.EXITED
            everybody += started
        found = Counter(
            (tagged.peer.name, tagged.peer.peer_id, tagged.peer.pid, tagged.record.message)
            for tagged in (records.get(timeout=WAIT_S) for _ in range(500))
        )

    assert found == Counter((cell.name, cell.peer.peer_id, cell.pid, f"it is {n}") for n, cell in enumerate(everybody))
    assert len({cell.peer.peer_id for cell in everybody}) == 500


@pytest.mark.parametrize("what", cells.HUGE_MESSAGES)
def test_a_huge_record_is_cut_before_it_costs_memory(what, host):
    """100 MB of message or field cost the cell less than 2 MB; the record arrives cut, flagged, with the old length."""
    cell = roam.spawn_cell(cells.emit_huge, what, host=host, start_method="spawn")

    extra_bytes = cell.result(WAIT_S)
    record = cell.records()[-1]

    assert extra_bytes < 2 << 20
    assert record.flags & CUT
    key, length = (
        ("message", cells.HUGE) if "message" in what else ("fields.data", cells.HUGE // (8 if what == "list" else 1))
    )
    assert record.cuts == {key: length}
    assert 1_000 < len(str(record.message) + str(record.fields)) < 40_000


# What it never exceeds.


def deep_bytes(tagged):
    """Memory of a tagged record with everything that belongs to it alone, generously."""
    record = tagged.record
    parts = [tagged, record, record.fields, record.cuts, record.message, record.target, record.span_id, record.trace_id]
    parts += [record.time_ns, record.seq, record.thread, *record.fields, *record.fields.values()]
    return sum(part.__sizeof__() + 16 for part in parts)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_is_bounded_when_nobody_reads(tmp_path):
    """10 million records for a subscriber that never reads: host and cell stay within their bounds plus 8 MiB, and
    every record is delivered or counted as lost."""
    retain_bytes, capacity, count = 2 << 20, 10_000, 10 * MILLION
    with roam.TracingHost(dump_dir=tmp_path, retain_bytes=retain_bytes, forward=False) as host:
        roam.spawn_cell(cells.emit_many, 100, host=host).result(WAIT_S)
        host_before = resident_bytes()
        records = host.subscribe("info", capacity=capacity)
        cell = roam.spawn_cell(cells.emit_many, count, host=host)
        wait_until(lambda: cell.statistics().lanes["bulk"].delivered)
        cell_before = cell_peak = resident_bytes(cell.pid)
        host_peak, started = 0, time.monotonic()
        while cell.join(0.05) is None:
            host_peak = max(host_peak, resident_bytes())
            try:
                cell_peak = max(cell_peak, resident_bytes(cell.pid))
            except (AssertionError, OSError):
                continue  # it has just ended
        seconds = time.monotonic() - started
        statistics, queue = cell.statistics(), records.statistics()
        bound = retain_bytes + capacity * deep_bytes(records.get(timeout=WAIT_S)) + (8 << 20)
        records.close()
    emitted = sum(lane.emitted for lane in statistics.lanes.values())
    print(
        f"\n{emitted:,} records in {seconds:.1f} s, {sum(lane.lost for lane in statistics.lanes.values()):,} lost; "
        f"host +{(host_peak - host_before) / 2**20:.1f} MiB of {bound / 2**20:.1f}, "
        f"cell +{(cell_peak - cell_before) / 2**20:.1f} MiB; {queue}"
    )

    assert (statistics.lanes["vital"].emitted, statistics.lanes["bulk"].emitted) == (
        count // 1_000,
        count * 999 // 1_000,
    )
    assert_identity(statistics)
    assert queue.offered == queue.received + queue.dropped_by_queue + queue.queued
    assert queue.queued == capacity
    assert host_peak - host_before < bound
    assert cell_peak - cell_before < 8 << 20
