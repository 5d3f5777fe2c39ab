"""A lane, alone: what fits, what wraps, and what is overtaken."""

from __future__ import annotations

import pytest

from roam.shm.layout import PAGE_HEAD_BYTES, RECORD_HEAD_BYTES
from roam.shm.reader import RETRIES, Gap
from tests.lanes import Lane, append, count_lost, record_bytes, records_of


def test_records_arrive_as_they_were_written():
    """Sequence, time and payload of every record come back, over many pages, with a poll after each."""
    lane = Lane(128, 3)
    written, found = [], []
    for size in [0, 1, 7, 8, 9, 60, 88, 0, 3] * 5:
        payload = bytes(range(size))
        assert lane.append(payload, 100 + size)
        written.append((len(written), 100 + size, payload))
        found += lane.reader.poll()

    assert written == records_of(found)
    assert (len(written), 0, 0) == lane.reader.measure()


def test_an_untouched_lane_holds_nothing():
    """Zeroed memory is never taken for a page, and a lane of a missing file is empty."""
    lane = Lane()
    assert [] == lane.reader.poll() == lane.reader.poll(final=True)
    lane.size = 0
    assert [] == lane.reader.poll() == lane.reader.poll(final=True)
    assert (0, 0, 0) == lane.reader.measure()


@pytest.mark.parametrize("gap", [-1, 0, 1])
def test_the_largest_payload_fills_a_page(gap):
    """What a page can hold is taken; one byte more is refused, and nothing is changed by that."""
    lane = Lane(128, 2)
    lane.fill(2)
    before = bytes(lane.buffer), lane.writer.emitted
    payload = b"m" * (lane.writer.largest_bytes + gap)

    assert lane.append(payload) == (gap <= 0)
    if gap > 0:
        assert before == (bytes(lane.buffer), lane.writer.emitted)
    assert (gap <= 0) == (payload in [body for _, _, body in records_of(lane.reader.poll())])
    assert lane.writer.largest_bytes == 128 - PAGE_HEAD_BYTES - RECORD_HEAD_BYTES


@pytest.mark.parametrize("spare", range(8))
def test_pages_are_used_to_the_last_byte(spare):
    """A record goes into the page whenever its bytes fit, with or without the padding."""
    lane = Lane(128, 2)
    room = 128 - PAGE_HEAD_BYTES
    first = b"a" * (room - 2 * RECORD_HEAD_BYTES - 8)
    assert lane.append(first)
    assert lane.append(b"b" * (8 - spare))

    assert [(1, 0, 2, 128), (0, 0, 0, 0)] == [lane.page(0), lane.page(1)]
    assert [first, b"b" * (8 - spare)] == [body for _, _, body in records_of(lane.reader.poll())]


# r[verify shm.reader.resume]
@pytest.mark.parametrize("page_count", [2, 3, 4])
@pytest.mark.parametrize("unread", range(40))
def test_an_overtaken_reader_goes_on_at_the_oldest_page(page_count, unread):
    """After any number of unread records the reader gets all that are still there and the exact number of the others."""
    lane = Lane(128, page_count)
    head = lane.fill(4)
    assert head == records_of(lane.reader.poll())
    written = lane.fill(unread)
    resident = [seq for seq in lane.resident_seqs() if seq >= 4]
    measured = lane.reader.measure()
    found = lane.reader.poll()

    assert written[unread - len(resident) :] == records_of(found)
    assert unread - len(resident) == count_lost(found) == lane.reader.lost
    assert {"overwritten"} >= {item.cause for item in found if isinstance(item, Gap)}
    assert (4 + unread, len(resident), unread - len(resident)) == measured
    assert (4 + unread, 0, 0) == lane.reader.measure()


def test_a_lap_during_the_look_at_all_pages_is_no_damage():
    """Pages that were overwritten while the headers were read, one by one, are reported as overwritten."""
    lane = Lane(128, 3)
    lane.fill(1)
    heads = []

    def read(offset, size):
        data = Lane.read(lane, offset, size)
        heads.append(offset)
        if heads.count(lane.base(0)) == 2 and lane.writer.emitted == 1:
            # The look at all pages has seen the first; now the writer fills four and begins to turn the second slot.
            lane.fill(7)
            lane.buffer[lane.base(1) : lane.base(1) + 8] = bytes(8)
        return data

    found = []
    for _ in range(RETRIES + 1):
        found += lane.reader.poll()
        lane.read = read
        heads.clear()

    assert list(range(4, 8)) == [seq for seq, _, _ in records_of(found)][1:]
    assert [(1, 3, "overwritten")] == [(gap.first_seq, gap.count, gap.cause) for gap in found if isinstance(gap, Gap)]


def test_gaps_stand_where_the_records_are_missing():
    """A gap says the lane, its first sequence and its length, before the records that follow it."""
    lane = Lane(128, 2)
    lane.fill(40)
    gap, *chunks = lane.reader.poll()

    assert isinstance(gap, Gap)
    assert (2, 0, "overwritten") == (gap.lane, gap.first_seq, gap.cause)
    assert gap.count == records_of(chunks)[0][0]
    assert [2, 2] == [chunk.lane for chunk in chunks]


def test_unread_records_are_kept_when_asked_for():
    """With `taken`, an append is refused rather than overwriting what the reader has not copied; then it goes on."""
    lane = Lane(128, 3)
    written = []
    while lane.append(b"12345678", taken=0):
        written.append(b"12345678")
    before = bytes(lane.buffer)
    assert not lane.append(b"12345678", taken=len(lane.resident_seqs()) // 3 - 1)
    assert before == bytes(lane.buffer)
    assert len(written) == 3 * ((128 - PAGE_HEAD_BYTES) // record_bytes(b"12345678"))
    for taken in range(len(written) + 1):
        if lane.append(b"new", taken=taken):
            break
    assert taken == len(written) // 3
    assert len(written) + 1 == len(records_of(lane.reader.poll())) + lane.reader.lost

    for round_no in range(50):
        assert lane.append(b"%d" % round_no, taken=lane.reader.next_seq)
        lane.reader.poll()
    assert taken == lane.reader.lost


def test_a_page_is_turned_only_by_who_may():
    """A refused turn changes nothing, and the lane goes on once it is allowed."""
    lane = Lane(128, 2)
    answers = iter([True, False, True])
    memory = memoryview(lane.buffer)
    writer = lane.new_writer(memory, memory.cast("Q"), may_turn=lambda: next(answers))
    while append(writer, b"x" * 20):
        before = bytes(lane.buffer)

    assert before == bytes(lane.buffer)
    assert append(writer, b"y")
    assert b"y" == records_of(lane.reader.poll())[-1][2]


def test_a_retired_writer_writes_into_nobodys_memory():
    """After `retire`, not even an append that was under way reaches the lane."""
    lane = Lane(128, 2)
    lane.fill(3)
    before = bytes(lane.buffer)
    scratch = memoryview(bytearray(len(lane.buffer)))
    lane.writer.retire(scratch, scratch.cast("Q"))

    assert not lane.append(b"x")
    assert not lane.append(b"x" * 80)
    assert before == bytes(lane.buffer)


@pytest.mark.parametrize("first_seq", [2**32 - 7, 2**63 - 7])
@pytest.mark.parametrize("first_page_no", [2**32 - 5, 2**63 - 6])
def test_long_lives_cross_every_boundary(first_page_no, first_seq):
    """Page and sequence numbers pass the limits of 32 and 63 bits without a trace."""
    lane = Lane(128, 3, first_page_no=first_page_no, first_seq=first_seq)
    written, found = [], []
    for _ in range(20):
        written += lane.fill(3)
        found += lane.reader.poll()

    assert written == records_of(found)
    assert first_seq + 60 == lane.reader.next_seq


@pytest.mark.parametrize("unread", [0, 1, 3])
@pytest.mark.parametrize("moment", range(4))
@pytest.mark.parametrize("burst", [1, 2, 4])
def test_a_snapshot_of_a_busy_lane_invents_no_loss(unread, moment, burst):
    """While headers are read one by one and the writer goes on, nothing that arrives later is said to be lost."""
    lane = Lane(128, 4)
    lane.fill(1)
    lane.reader.poll()
    lane.fill(unread)
    lane.reads = 0

    def read(offset, size):
        lane.reads += 1
        data = bytes(lane.buffer[offset : offset + size])
        if lane.reads - 1 == moment:
            lane.fill(burst)
        return data

    lane.read = read
    emitted, resident, overwritten = lane.reader.measure()

    assert emitted == lane.reader.next_seq + resident + overwritten
    assert 0 == overwritten == count_lost(lane.reader.poll())
