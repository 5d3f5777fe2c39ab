"""The open-span table: slots, bodies, overflow, and what is left after a kill or a rewrite that was broken into."""

from __future__ import annotations

import os
import threading

import pytest

from roam.shm.layout import RECORD_HEAD_BYTES, SPAN_BODY_BYTES, SPAN_SLOT_BYTES, StatusWord
from roam.shm.spans import PAYLOAD_LIMIT, OpenBody, SpanTable, read_open_spans
from tests.lanes import StoreLog

OFFSET = 2048


class Table:
    """A table in a buffer of its own."""

    def __init__(self, slots=4):
        self.slots = slots
        self.buffer = bytearray(OFFSET + slots * SPAN_SLOT_BYTES)
        memory = memoryview(self.buffer)
        self.words = memory.cast("Q")
        self.writer = SpanTable(memory, self.words, offset=OFFSET, slots=slots)

    def read(self):
        """`[payload]` of the open spans, and how many slots are torn."""
        found, torn = read_open_spans(self.raw, offset=OFFSET, slots=self.slots)
        assert all(isinstance(opened, OpenBody) for opened in found)
        return [opened.payload for opened in found], torn

    def raw(self, offset, size):
        return bytes(self.buffer[offset : offset + size])


# r[verify shm.span.table]
@pytest.mark.parametrize("slots", [1, 7, 8, 40])
def test_open_spans_are_listed_from_the_oldest(slots):
    """Spans are listed while they are open, by their time; a slot that was closed is used again."""
    table = Table(slots)
    assert ([], 0) == table.read()
    handles = [table.writer.open(b"span %d" % number, 100 - number) for number in range(slots)]
    assert ([b"span %d" % number for number in reversed(range(slots))], 0) == table.read()
    for round_no in range(3):
        for number in range(slots):
            table.writer.close(handles[number])
            handles[number] = table.writer.open(b"again %d" % number, 1000 * (round_no + 1) + number)
    assert ([b"again %d" % number for number in range(slots)], 0) == table.read()
    for handle in handles:
        table.writer.close(handle)

    assert ([], 0) == table.read()
    assert 0 == table.words[StatusWord.SPANS_OVERFLOWED]


def test_spans_without_a_slot_are_counted():
    """What finds no slot, or is too long for one, is counted, and costs the others nothing."""
    table = Table(2)
    handles = [table.writer.open(b"s", number) for number in range(5)]
    assert [-1, -1, -1] == handles[2:]
    assert 3 == table.words[StatusWord.SPANS_OVERFLOWED]
    table.writer.rewrite(-1, b"x", 0)
    table.writer.close(-1)
    table.writer.close(handles[0])
    assert -1 == table.writer.open(b"l" * (PAYLOAD_LIMIT + 1), 9)
    assert 4 == table.words[StatusWord.SPANS_OVERFLOWED]
    longest = table.writer.open(b"l" * PAYLOAD_LIMIT, 9)
    table.writer.rewrite(longest, b"l" * (PAYLOAD_LIMIT + 1), 9)

    assert ([b"s", b"l" * PAYLOAD_LIMIT], 0) == table.read()
    assert RECORD_HEAD_BYTES + PAYLOAD_LIMIT == SPAN_BODY_BYTES


# r[verify shm.span.table]
def test_a_rewrite_takes_the_other_body():
    """Each rewrite leaves the bytes of the body in force alone."""
    table = Table(1)
    handle = table.writer.open(b"body 0", 1)
    for number in range(1, 6):
        state = table.words[OFFSET >> 3]
        start = OFFSET + 16 + (state & 1) * SPAN_BODY_BYTES
        in_force = table.raw(start, SPAN_BODY_BYTES)
        table.writer.rewrite(handle, b"body %d" % number, 1)

        assert in_force == table.raw(start, SPAN_BODY_BYTES)
        assert state & 1 != table.words[OFFSET >> 3] & 1
        assert ([b"body %d" % number], 0) == table.read()


# r[verify shm.span.table]
def test_a_kill_at_any_store_leaves_old_or_new():
    """Through opening, rewriting, closing and reuse of a slot, every prefix of the stores shows the state before or
    after the operation under way, and nothing torn."""
    log = StoreLog()
    writer = SpanTable(log.memory, log.words, offset=OFFSET, slots=1)
    states, ends, handle = [[]], [0], -1
    for number in range(4):
        handle = writer.open(b"opened %d" % number, number)
        states.append([b"opened %d" % number])
        ends.append(len(log.stores))
        for again in range(3):
            writer.rewrite(handle, b"rewritten %d %d" % (number, again) * (again + 1), number)
            states.append([b"rewritten %d %d" % (number, again) * (again + 1)])
            ends.append(len(log.stores))
        writer.close(handle)
        states.append([])
        ends.append(len(log.stores))
    table = Table(1)
    for done, (offset, data) in enumerate(log.stores, start=1):
        table.buffer[offset : offset + len(data)] = data
        before = max(index for index, end in enumerate(ends) if end < done)
        found, torn = table.read()

        assert 0 == torn
        assert found == (states[before + 1] if done == ends[before + 1] else states[before])


def test_a_reader_among_the_stores_sees_old_new_or_torn():
    """While a span is rewritten and closed between any two reads, the reader reports a body that was in force, or
    counts the slot torn; it never mixes two."""
    log = StoreLog()
    writer = SpanTable(log.memory, log.words, offset=OFFSET, slots=1)
    handle = writer.open(b"a" * 40, 1)
    bodies = {b"a" * 40}
    for letter in b"bcdefg":
        writer.rewrite(handle, bytes([letter]) * 40, 1)
        bodies.add(bytes([letter]) * 40)
    writer.close(handle)
    outcomes = set()
    for first in range(len(log.stores)):
        for burst in (1, 3, 7, 20, 60):
            table = Table(1)
            log.apply(table.buffer, 0, first)
            done = first

            def read(offset, size, table=table, burst=burst):
                nonlocal done
                pieces = []
                for at in range(offset, offset + size, 8):
                    if at in (offset, offset + 16):
                        log.apply(table.buffer, done, done + burst)
                        done += burst
                    pieces.append(bytes(table.buffer[at : at + 8]))
                return b"".join(pieces)[:size]

            found, torn = read_open_spans(read, offset=OFFSET, slots=1)
            assert {opened.payload for opened in found} <= bodies
            outcomes.add((len(found), torn))

    assert {(1, 0), (0, 1), (0, 0)} == outcomes


def test_any_damage_is_torn_or_harmless():
    """Whichever byte of a slot is changed, no other span is affected, and a body that does not fit its checksum is
    never shown."""
    for at in range(SPAN_SLOT_BYTES):
        table = Table(2)
        table.writer.open(b"first", 1)
        table.writer.open(b"second", 2)
        table.buffer[OFFSET + at] ^= 0xA5
        found, torn = table.read()

        assert b"second" in found
        assert {b"first", b"second"} >= set(found)
        assert 2 == len(found) + torn


def test_a_short_file_has_fewer_spans():
    """However much of the table is missing, what is there is read, and nothing is raised."""
    for slots in (2, 9):
        table = Table(slots)
        for number in range(slots):
            table.writer.open(b"span %d" % number, number)
        for size in range(0, len(table.buffer), 40):
            found, _ = read_open_spans(
                lambda offset, length, size=size, table=table: table.raw(offset, max(0, min(length, size - offset))),
                offset=OFFSET,
                slots=slots,
            )
            assert len(found) <= max(0, size - OFFSET) // SPAN_SLOT_BYTES + 1


def test_a_closed_handle_means_nothing():
    """Closing twice frees one slot once, and a late rewrite does not touch the span that has the slot now."""
    table = Table(2)
    old = table.writer.open(b"old", 1)
    table.writer.close(old)
    table.writer.close(old)
    new = table.writer.open(b"new", 2)
    table.writer.rewrite(old, b"late", 3)
    table.writer.close(old)
    assert ([b"new"], 0) == table.read()
    other = table.writer.open(b"other", 4)

    assert -1 == table.writer.open(b"one too many", 5)
    assert 3 == len({old, new, other})
    assert ([b"new", b"other"], 0) == table.read()


def test_a_rewrite_that_is_broken_into_leaves_the_later_one_in_force():
    """A signal handler that rewrites the same span in the middle of a rewrite: both bodies stay whole at every store."""
    log = StoreLog()
    writer = SpanTable(log.memory, log.words, offset=OFFSET, slots=1)
    handle = writer.open(b"opened", 1)
    table = Table(1)
    log.apply(table.buffer, 0, len(log.stores))
    start = len(log.stores)

    class Interrupting(bytes):
        """Rewrites the span once when its bytes are taken into the record, after the use was chosen."""

        count = 0

        def __radd__(self, head):
            Interrupting.count += 1
            if Interrupting.count == 1:
                writer.rewrite(handle, b"nested", 1)
            return head + bytes(self)

    writer.rewrite(handle, Interrupting(b"outer"), 1)
    for done in range(start, len(log.stores)):
        log.apply(table.buffer, done, done + 1)
        found, torn = table.read()
        assert 0 == torn
        assert found in ([b"opened"], [b"nested"], [b"outer"])
    assert [b"outer"] == found
    assert 2 == Interrupting.count


def test_threads_share_the_slots():
    """Many threads open, rewrite and close spans; every slot has one owner at a time, and all are free at the end."""
    table = Table(8)
    failures = []

    def work(number):
        try:
            for again in range(300):
                handle = table.writer.open(b"%d/%d" % (number, again), again)
                table.writer.rewrite(handle, b"%d/%d" % (number, again), again)
                if handle >= 0:
                    assert b"%d/%d" % (number, again) in table.read()[0]
                table.writer.close(handle)
        except AssertionError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [] == failures
    assert ([], 0) == table.read()
    assert [-1] != [table.writer.open(b"s", 0) for _ in range(8)]


# r[verify shm.writer.owner]
def test_a_forked_child_leaves_the_table_alone():
    """In a process that inherited the table nothing is opened, rewritten or closed."""
    table = Table(2)
    handle = table.writer.open(b"parent's", 1)
    before = bytes(table.buffer)
    pid = os.fork()
    if not pid:
        table.writer.close(handle)
        table.writer.rewrite(handle, b"child's", 2)
        os._exit(table.writer.open(b"child's", 3) == -1 and before == bytes(table.buffer))

    assert 1 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    table.writer.close(handle)
    assert ([], 0) == table.read()


def test_an_interrupted_open_frees_its_slot():
    """An exception out of a signal handler while a span is entered costs no slot and leaves no span."""
    table = Table(1)

    class Fatal(bytes):
        """Raises when its bytes are taken into the record."""

        def __radd__(self, head):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table.writer.open(Fatal(b"never"), 1)
    assert ([], 0) == table.read()
    assert table.writer.open(b"next", 2) >= 0
