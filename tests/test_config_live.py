"""Configurations pushed to cells that are busy, stuck, or many."""

from __future__ import annotations

import random
import time

import pytest

import roam
from roam import TracingConfig
from tests import traced
from tests.hosting import holds
from tests.support import wait_until

WAIT_S = 60.0


@pytest.fixture
def host(tmp_path):
    with roam.TracingHost(TracingConfig("debug"), dump_dir=tmp_path / "dumps", forward=False) as host:
        yield host


# r[verify shm.config.judged]
@pytest.mark.parametrize(
    ("threads", "is_stuck"), [(0, False), (3, False), (1, True)], ids=["alone", "with threads", "main thread in C"]
)
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_after_applied_no_record_of_the_old_configuration_comes(host, tmp_path, method, threads, is_stuck):
    """A cell that says DEBUG as fast as it can: from the sequence at which the change was applied on, not one more."""
    stop = tmp_path / "stop"
    stream = host.subscribe("info", capacity=1_000_000)
    cell = roam.spawn_cell(traced.chatter_in_threads, str(stop), threads, is_stuck, host=host, start_method=method)
    try:
        for _ in range(3):
            assert cell.set_config(TracingConfig("info"), timeout=WAIT_S)
            mark = cell.statistics().lanes["bulk"].emitted
            # The cell has gone on since: each of these follows on 200 details that were not written.
            later = []
            while len(later) < 20:
                tagged = stream.get(WAIT_S)
                assert tagged is not None
                if tagged.record.message == "alive" and tagged.record.seq >= mark:
                    later.append(tagged.record)
            details = [record for record in cell.records() if record.message == "detail" and record.seq >= mark]
            assert details == []
            assert cell.set_config(TracingConfig("debug"), timeout=WAIT_S)
            wait_until(lambda mark=mark: [r for r in cell.records(last=50) if r.message == "detail" and r.seq >= mark])
    finally:
        stop.touch()
    assert cell.result(WAIT_S) > 0
    assert holds(cell.statistics())


@pytest.mark.parametrize("seconds", [0.5, pytest.param(10.0, marks=pytest.mark.slow)])
def test_a_storm_of_configurations_ends_with_the_last(host, tmp_path, seconds):
    """A thousand changes a second, all cells busy: nobody crashes, and the last one is in force everywhere."""
    stop = tmp_path / "stop"
    cells = [roam.spawn_cell(traced.chatter_in_threads, str(stop), 1, False, host=host) for _ in range(3)]
    source, posted = random.Random(5), 0
    try:
        start = time.monotonic()
        while (now := time.monotonic()) < start + seconds:
            # As many as are due by now; none is waited for.
            while posted < (now - start) * 1000:
                level = source.choice(["debug", "info", "error", "off", "info,[piece{n=5}]=debug", "app=warn"])
                host.set_config(
                    TracingConfig(level, overflow=source.choice(["drop_oldest", "drop_newest"])), timeout=0.0
                )
                posted += 1
            time.sleep(0.0005)
        last = TracingConfig("info,app=info")
        results = host.set_config(last, timeout=WAIT_S)
        assert dict.fromkeys(cells, True) == {cell: bool(result) for cell, result in results.items()}
        assert all(result.generation > posted for result in results.values())
        marks = {cell: cell.statistics().lanes["bulk"].emitted for cell in cells}
        for cell in cells:
            wait_until(
                lambda cell=cell: [r for r in cell.records(last=9) if r.message == "alive" and r.seq >= marks[cell]]
            )
            assert not [r for r in cell.records() if r.message == "detail" and r.seq >= marks[cell]]
    finally:
        stop.touch()
    assert posted >= seconds * 500
    for cell in cells:
        assert cell.result(WAIT_S) > 0
        assert holds(cell.statistics())
