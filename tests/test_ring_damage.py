"""What damage in a lane costs, and that it raises nothing: dead lanes, living ones, and hostile ones."""

from __future__ import annotations

import random

import pytest

from roam.shm.layout import PAGE_HEAD, PAGE_HEAD_BYTES, RECORD_HEAD, RECORD_HEAD_BYTES
from roam.shm.reader import RETRIES, Chunk, Gap, page_records
from tests.lanes import Lane, count_lost, record_bytes, records_of


def drain(lane, reader=None):
    """The final drain, as the collector does it: until a pass finds nothing."""
    reader = reader or lane.reader
    found = []
    while items := reader.poll(final=True):
        found += items
    return found


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


@pytest.mark.parametrize("slot", range(4))
@pytest.mark.parametrize("more", [-2, -1, 0, 1, 2, 3])
def test_a_header_that_could_be_true_costs_no_other_page(slot, more):
    """A page that claims a few records, or bytes, more or less than it has: the other pages arrive whole."""
    for end_change in range(-48, 49, 8):
        lane = Lane(128, 4, offset=0)
        written = lane.fill(19, b"")
        page_no, first_seq, count, end = lane.page(slot)
        commit = max(0, count + more) << 32 | max(0, end + end_change)
        PAGE_HEAD.pack_into(lane.buffer, lane.base(slot), page_no, first_seq, commit)
        found = drain(lane)
        others = {seq for at in range(4) if at != slot for seq in span(lane.page(at))}

        assert set(records_of(found)) <= set(written)
        assert others <= {seq for seq, _, _ in records_of(found)}, end_change
        assert (lane.reader.next_seq, 0, 0) == lane.reader.measure()
        assert lane.reader.next_seq == len(written) or page_no == 5


# r[verify shm.reader.resume]
@pytest.mark.parametrize(("earlier", "claimed"), [(5, 6), (12, 13), (12, 2**20)])
def test_a_page_that_says_it_begins_earlier_costs_no_later_one(earlier, claimed):
    """The header of the last page but one claims an early sequence and so many records that it could go on from there."""
    lane = Lane(128, 8, offset=0)
    written = lane.fill(16)
    page_no, first_seq, _, end = lane.page(6)
    PAGE_HEAD.pack_into(lane.buffer, lane.base(6), page_no, first_seq - earlier, claimed << 32 | end)
    found = drain(lane)

    assert set(records_of(found)) <= set(written)
    assert set(span(lane.page(7))) <= {seq for seq, _, _ in records_of(found)}


def test_losses_that_were_none_cost_no_later_record():
    """A living page claims three records too many until they are counted as lost; those that then get their sequences
    are gone, and the next ones arrive."""
    lane = Lane(256, 4)
    written = lane.fill(4)
    true_head = bytes(lane.buffer[lane.base(0) : lane.base(0) + PAGE_HEAD_BYTES])
    PAGE_HEAD.pack_into(lane.buffer, lane.base(0), 1, 0, 7 << 32 | lane.page(0)[3] + 8)
    found = [item for _ in range(RETRIES + 1) for item in lane.reader.poll()]
    assert (written, 3) == (records_of(found), count_lost(found))
    lane.buffer[lane.base(0) : lane.base(0) + PAGE_HEAD_BYTES] = true_head
    later = lane.fill(9)
    found = [item for _ in range(3 * RETRIES) for item in lane.reader.poll()]

    assert later[3:] == records_of(found)
    assert (13, 0, 0) == lane.reader.measure()


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
