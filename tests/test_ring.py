"""A lane, alone: what fits, what wraps, what is overtaken, and what damage costs."""

from __future__ import annotations

import random

import pytest

from roam.shm.layout import PAGE_HEAD, PAGE_HEAD_BYTES, RECORD_HEAD, RECORD_HEAD_BYTES
from roam.shm.reader import RETRIES, Chunk, Gap, page_records
from tests.lanes import Lane, append, count_lost, record_bytes, records_of


def drain(lane, reader=None):
    """The final drain, as the collector does it: until a pass finds nothing."""
    reader = reader or lane.reader
    found = []
    while items := reader.poll(final=True):
        found += items
    return found


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


def test_iterating_any_bytes_is_safe():
    """A chunk over arbitrary bytes yields what fits and ends, whatever it claims to hold."""
    source = random.Random(5)
    for _ in range(500):
        data = source.randbytes(source.randrange(120))
        assert len(list(Chunk(0, 1, 0, 2**60, data))) <= 8
        runs, missing = page_records(data, 7, 40, 1)
        assert [] == runs
        assert 40 == missing


def test_sequences_that_no_word_can_hold_are_no_records():
    """Headers that count beyond 64 bits are not believed, and nothing is raised for them."""
    for page_no, first_seq in [(2**64 - 1, 2**64 - 1), (1, 2**64 - 1), (2**63 + 1, 2**64 - 2)]:
        lane = Lane(128, 2, offset=0)
        lane.fill(2)
        PAGE_HEAD.pack_into(lane.buffer, 0, page_no, first_seq, 2 << 32 | 72)
        found = drain(lane)
        assert [] == records_of(found)
        assert lane.reader.next_seq < 2**64
        assert sum(lane.reader.measure()) < 2**65
    data = bytes(lane.buffer[PAGE_HEAD_BYTES:])
    assert ([], 3) == page_records(data, 2**64 - 1, 3, 1) == page_records(data, 2**65, 3, 1)


@pytest.mark.parametrize("filled", [9, 11, 23, 24])
def test_damage_costs_no_more_than_its_page(filled):
    """Whichever byte is damaged, what is delivered was written, what is lost is counted exactly, and pages that are
    not next to the damage arrive whole."""
    for at in range(4 * 128):
        lane = Lane(128, 4, offset=0)
        written = lane.fill(filled)
        pages = {seq: slot for slot in range(4) for seq in span(lane.page(slot))}
        newest = max(slot for slot in range(4) if lane.page(slot)[0] == max(lane.page(s)[0] for s in range(4)))
        slot, within = divmod(at, 128)
        lane.buffer[at] ^= 0xFF
        found = drain(lane)
        got = records_of(found)
        emitted, resident, overwritten = lane.reader.measure()

        assert set(got) <= set(written)
        assert got == sorted(got)
        assert 0 == resident == overwritten
        assert emitted == len(got) + count_lost(found) == lane.reader.delivered + lane.reader.lost
        if slot != newest or within >= PAGE_HEAD_BYTES:
            assert filled == emitted, (at, found)
        undamaged = {seq for seq, where in pages.items() if where != slot}
        assert undamaged <= {seq for seq, _, _ in got}, (at, found)


def span(page):
    """The sequences that a header claims."""
    _, first_seq, count, _ = page
    return range(first_seq, first_seq + count)


def test_one_damaged_record_is_one_lost_record():
    """A flipped payload byte costs that record only, in its place, as corrupt."""
    lane = Lane(256, 2)
    written = lane.fill(5)
    lane.buffer[lane.base(0) + PAGE_HEAD_BYTES + 2 * record_bytes(written[0][2]) + RECORD_HEAD_BYTES] ^= 1
    before, gap, after = lane.reader.poll(final=True)

    assert written[:2] == list(before)
    assert Gap(2, 2, 1, "corrupt") == gap
    assert written[3:] == list(after)


def test_a_living_cell_is_given_time():
    """Damage in a segment that is still written is retried; what heals is delivered, what does not is counted and
    the records after it arrive."""
    lane = Lane(256, 3)
    written = lane.fill(2)
    at = lane.base(0) + PAGE_HEAD_BYTES + RECORD_HEAD_BYTES
    lane.buffer[at] ^= 1
    assert [[]] * RETRIES == [lane.reader.poll() for _ in range(RETRIES)]
    lane.buffer[at] ^= 1
    assert written == records_of(lane.reader.poll())

    at = lane.base(0) + lane.page(0)[3] + RECORD_HEAD_BYTES
    later = lane.fill(2)
    lane.buffer[at] ^= 1
    found = [lane.reader.poll() for _ in range(RETRIES + 1)][-1]
    assert [later[1]] == records_of(found)
    assert 1 == count_lost(found)


@pytest.mark.parametrize("page_count", [4, 8])
@pytest.mark.parametrize("field_index", [0, 1, 2])
@pytest.mark.parametrize("value", [0, 1, 7, 2**31, 2**40, 2**64 - 1])
def test_a_damaged_header_does_not_stop_a_living_stream(field_index, value, page_count):
    """Whatever stands in one page's header, the reader comes to the pages after it, and counts what it had to leave."""
    lane = Lane(128, page_count, offset=0)
    lane.fill(1)
    lane.reader.poll()
    lane.fill(5)
    head = list(PAGE_HEAD.unpack_from(lane.buffer, lane.base(1)))
    assert 2 == head[0]
    head[field_index] = value
    PAGE_HEAD.pack_into(lane.buffer, lane.base(1), *head)
    lane.fill(3)
    for _ in range(3 * RETRIES):
        lane.reader.poll()

    assert lane.writer.emitted == lane.reader.next_seq == lane.reader.delivered + lane.reader.lost
    assert lane.reader.lost <= 3
    assert lane.fill(2) == records_of(lane.reader.poll())


def test_a_stale_commit_word_is_survived():
    """A header that says less than was read from it before is waited out, and the stream goes on with the next page."""
    lane = Lane(256, 3)
    lane.fill(3)
    lane.reader.poll()
    commit_at = lane.base(0) + 16
    saved = bytes(lane.buffer[commit_at : commit_at + 8])
    lane.buffer[commit_at : commit_at + 8] = (1 << 32 | 64).to_bytes(8, "little")
    assert [] == lane.reader.poll()
    lane.buffer[commit_at : commit_at + 8] = saved

    assert lane.fill(7) == records_of(lane.reader.poll())


def test_a_truncated_file_is_a_shorter_lane():
    """Wherever the file ends, the records before that arrive and nothing is raised."""
    for size in range(len(Lane(128, 3).buffer)):
        lane = Lane(128, 3)
        written = lane.fill(9)
        lane.size = size
        found = drain(lane)
        whole_pages = (size - lane.offset) // 128 if size >= lane.offset else 0
        expected = [
            record for record in written if record[0] in {s for k in range(whole_pages) for s in span(lane.page(k))}
        ]

        assert set(expected) <= set(records_of(found)) <= set(written)
        assert lane.reader.next_seq == lane.reader.delivered + lane.reader.lost


def test_a_hostile_lane_costs_a_bounded_number_of_reads():
    """However headers change under the reader, a poll ends soon, raises nothing, and delivers nothing forged."""
    source = random.Random(11)
    lane = Lane(128, 8)
    written = set()

    def read(offset, size):
        lane.reads += 1
        slot = source.randrange(8)
        page_no = slot + 1 + 8 * source.choice([0, 0, 1, 2, 2**50])
        numbers = [0, 1, 2, 3, 24, 48, 96, 128, 129, 2**31, 2**62, 2**64 - 1]
        commit = source.randrange(5) << 32 | source.choice([24, 48, 72, 96, 128, 136, 7])
        PAGE_HEAD.pack_into(
            lane.buffer, lane.base(slot), page_no, source.choice([*numbers, lane.reader.next_seq]), commit
        )
        return bytes(lane.buffer[offset : offset + size])

    written |= set(lane.fill(12))
    lane.read = read
    for final in [False] * 3000 + [True] * 1000:
        lane.reads = 0
        found = lane.reader.poll(final=final)
        assert lane.reads <= 16 * 8 + 32
        assert set(records_of(found)) <= written
        lane.reader.measure()


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


def test_a_header_that_claims_too_many_bytes_costs_no_record():
    """Where the records of a page end is known from the records, so that the next one is found behind a wrong header."""
    lane = Lane(256, 2)
    written = lane.fill(2)
    end = lane.page(0)[3]
    at = lane.base(0) + 16
    lane.buffer[at : at + 8] = (2 << 32 | end + 40).to_bytes(8, "little")

    assert written == records_of(lane.reader.poll())
    assert lane.fill(2) == records_of(lane.reader.poll())


def test_record_heads_are_checked_before_use():
    """A length that leads out of the page ends the page, however large it is."""
    for length in [97, 2**31, 2**32 - 1]:
        lane = Lane(128, 2)
        lane.fill(2)
        RECORD_HEAD.pack_into(lane.buffer, lane.base(0) + PAGE_HEAD_BYTES, length, 0, 0)
        found = drain(lane)

        assert [] == records_of(found)
        assert 2 == count_lost(found)
