"""The machinery of the proof's schedules: it replays what the shipped code does, and changes what it says it changes."""

from __future__ import annotations

import pytest

import roam.shm.chunk
import roam.shm.reader
from roam.shm.layout import PAGE_HEAD_BYTES
from tests.lanes import Lane
from tests.proof.altered import Code, Edit, patience
from tests.proof.duet import Duet, Shared, Side
from tests.proof.loom import GEOMETRIES, STEP_KINDS, Loads, images_of, lane_log
from tests.proof.mutations import CONTROLS, MUTANTS


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_log_is_what_a_buffer_would_hold(geometry):
    """All stores together are what a writer leaves in a buffer, and every kind of store is among them."""
    log = lane_log(*geometry, Code())
    lane = Lane(log.lane.page_bytes, log.lane.page_count, offset=0)
    for _, time_ns, payload in log.records:
        lane.append(payload, time_ns)

    assert bytes(lane.buffer) == log.images[-1]
    assert set(STEP_KINDS) == {log.kind_of(number) for number in range(len(log.stores))}
    assert all(offset // 8 == (offset + len(data) - 1) // 8 for offset, data in log.stores)
    assert len(log.records) == log.committed[-1] > 2 * log.lane.page_count
    assert PAGE_HEAD_BYTES < log.lane.page_bytes


@pytest.mark.parametrize("is_backward", [False, True])
def test_a_load_sees_the_memory_of_its_moment(is_backward):
    """A copy is made 8 bytes at a time, from either end, and each piece is what was there after the stores so far."""
    loads = Loads(images_of([(0, b"1" * 8), (8, b"2" * 8), (16, b"3" * 8)], 24))
    loads.is_backward = is_backward
    loads.start(0, [(1, 1), (2, 3), (4, 2)])
    zeros = bytes(8)

    assert loads.read(0, 24) == (b"1" * 8 if is_backward else zeros) + zeros + (zeros if is_backward else b"3" * 8)
    assert (3, 2) == (loads.at, loads.within_a_copy)
    assert loads.at_rest(lambda: loads.read(8, 16)) == b"2" * 8 + b"3" * 8
    loads.start(1)
    assert (b"1" * 8, 1) == (loads.read(0, 8), loads.loads)


def test_a_copy_differs_in_its_edit_alone():
    """Altered modules use each other, the shipped ones stay as they are, and a text that is not there once is refused."""
    code = Code((Edit("chunk", "if crc32(", "if False and crc32("),))
    assert code.reader is not roam.shm.reader
    assert code.reader.page_records is code.chunk.page_records is not roam.shm.chunk.page_records
    assert roam.shm.reader.page_records is roam.shm.chunk.page_records
    assert Code().chunk is roam.shm.chunk
    with pytest.raises(LookupError, match="not once"):
        Code((Edit("chunk", "no such text", ""),))
    with pytest.raises(LookupError, match="not once"):
        Code((Edit("chunk", "stop", "end"),))
    shipped = roam.shm.reader.RETRIES
    with patience(Code(), 2):
        assert 2 == roam.shm.reader.RETRIES
    assert shipped == roam.shm.reader.RETRIES


def test_mutants_have_names_of_their_own():
    """A replay file names one mutant."""
    names = [mutant.name for mutant in (*MUTANTS, *CONTROLS)]

    assert len(names) == len(set(names))
    assert len(MUTANTS) >= 12


def test_sides_run_in_the_turns_that_they_are_given():
    """Each access is in the turn that the schedule says; after the last turn a side goes on to its end."""
    duet = Duet((2, 1, 1))
    shared = Shared(64, duet)
    sides = Side(shared), Side(shared)
    trace = []

    def work(name, side):
        for number in range(4):
            side.words[0] = number
            trace.append(name)

    duet.run(lambda: work("a", sides[0]), lambda: work("b", sides[1]))
    assert "aababbba" == "".join(trace)
    assert [4, 4] == duet.steps


def test_a_killed_side_stores_nothing_more():
    """What its exception handlers try has no effect, and the other side runs to its end."""
    duet = Duet((), kill=(0, 1))
    shared = Shared(64, duet)
    dead, alive = Side(shared), Side(shared)

    def die():
        dead.words[0] = 1
        try:
            dead.words[1] = 1
        finally:
            dead.words[2] = 1

    duet.run(die, lambda: alive.words.__setitem__(3, 1))
    assert [1, 0, 0, 1] == shared.words[:4].tolist()
    assert [True, False] == duet.was_killed


def test_buffered_stores_are_seen_late_and_in_order():
    """A side sees its own stores at once; the other sees them after the fence."""
    duet = Duet(())
    shared = Shared(64, duet)
    side = Side(shared, is_buffered=True)
    seen = []

    def work():
        side.words[0] = 1
        side.words[0] = 2
        seen.append((side.words[0], shared.words[0]))
        side.fence()
        seen.append((side.words[0], shared.words[0]))

    duet.run(work, lambda: None)
    assert [(2, 0), (2, 2)] == seen


def test_what_a_side_raises_is_raised():
    """An error of either side is the error of the schedule, and no thread is left."""
    duet = Duet((1, 1))
    shared = Shared(64, duet)
    side = Side(shared)

    def fail():
        side.words[0] = 1
        raise ValueError("of the second side")

    with pytest.raises(ValueError, match="of the second side"):
        duet.run(lambda: side.read(0, 64), fail)
