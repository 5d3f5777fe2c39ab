"""A lane against a plain model: a list of what was committed, whatever writer, reader, death and damage do in between."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from roam.shm.layout import PAGE_HEAD_BYTES
from roam.shm.reader import RETRIES, Gap
from tests.lanes import Lane, Record, StoreLog, append

HEADER_WORDS = st.sampled_from([0, 1, 2, 5, 24, 1 << 32, 3 << 32 | 72, 2**40, 2**63, 2**64 - 1])


class RingMachine(RuleBasedStateMachine):
    """One lane at a time; a restart gives the next epoch a lane of its own, as a new segment does."""

    @initialize(page_bytes=st.sampled_from([64, 96, 128, 256]), page_count=st.integers(2, 4))
    def open(self, page_bytes: int, page_count: int) -> None:
        """The first epoch."""
        self.epoch = 0
        self.page_bytes = page_bytes
        self.page_count = page_count
        self.begin()

    def begin(self) -> None:
        """An empty lane and an empty model."""
        self.lane = Lane(self.page_bytes, self.page_count)
        self.committed: list[Record] = []
        self.uncommitted: Record | None = None
        self.delivered: list[Record] = []
        self.gaps: list[Gap] = []
        self.is_alive = True
        self.has_damage = False
        self.has_damaged_header = False

    def payload(self, size: int) -> bytes:
        """Different for every record of every epoch."""
        return (b"%d/%d " % (self.epoch, len(self.committed)) * 60)[:size]

    @precondition(lambda self: self.is_alive)
    @rule(size=st.integers(0, 300), repeat=st.integers(1, 4))
    def emit(self, size: int, repeat: int) -> None:
        """Commit records; what no page holds is refused."""
        for _ in range(repeat):
            seq = len(self.committed)
            payload = self.payload(size)
            fits = len(payload) <= self.lane.writer.largest_bytes
            assert self.lane.append(payload, 10 * seq) == fits
            if fits:
                self.committed.append((seq, 10 * seq, payload))

    @precondition(lambda self: self.is_alive)
    @rule(laps=st.integers(1, 3))
    def flood(self, laps: int) -> None:
        """Overwrite everything."""
        for _ in range(laps * self.page_count):
            self.emit(self.lane.writer.largest_bytes // 2, 1)

    @precondition(lambda self: self.is_alive)
    @rule(size=st.integers(0, 30))
    def emit_politely(self, size: int) -> None:
        """Commit a record unless that costs an unread one."""
        unread_before = self.lane.reader.measure()
        seq = len(self.committed)
        if self.lane.append(self.payload(size), 10 * seq, taken=self.lane.reader.next_seq):
            self.committed.append((seq, 10 * seq, self.payload(size)))
        if not self.has_damaged_header:
            assert unread_before.overwritten == self.lane.reader.measure().overwritten

    @precondition(lambda self: self.is_alive)
    @rule(size=st.integers(0, 30), share=st.floats(0, 1))
    def kill(self, size: int, share: float) -> None:
        """The writer dies at an arbitrary store of a record, or of the page turn before it."""
        writer, log = self.lane.writer, StoreLog()
        writer._memory, writer._words = log.memory, log.words
        seq, payload = len(self.committed), self.payload(min(size, self.lane.writer.largest_bytes))
        assert append(writer, payload, 10 * seq)
        done = round(share * len(log.stores))
        log.apply(self.lane.buffer, 0, done)
        if done == len(log.stores):
            self.committed.append((seq, 10 * seq, payload))
        else:
            # May be there to the last byte; then a damaged commit word is all it needs to be seen.
            self.uncommitted = (seq, 10 * seq, payload)
        self.is_alive = False

    @rule()
    def poll(self) -> None:
        """Without damage a poll brings everything that is there; a writer that died while it turned a page looks like
        one that is about to go on."""
        self.take(self.lane.reader.poll())
        if self.is_alive and not self.has_damage:
            assert len(self.committed) == self.lane.reader.next_seq

    @rule()
    def poll_patiently(self) -> None:
        """What is damaged is given up in the end, and the stream goes on."""
        for _ in range(RETRIES + 1):
            self.take(self.lane.reader.poll())
        if not self.has_damage:
            assert len(self.committed) == self.lane.reader.next_seq

    @rule(slot=st.integers(0, 3), at=st.integers(PAGE_HEAD_BYTES, 255), flip=st.integers(1, 255))
    def damage_records(self, slot: int, at: int, flip: int) -> None:
        """Change a byte that is not in a page header."""
        if at < self.page_bytes:
            self.lane.buffer[self.lane.base(slot % self.page_count) + at] ^= flip
            self.has_damage = True

    @rule(slot=st.integers(0, 3), word=st.integers(0, 2), value=HEADER_WORDS)
    def damage_header(self, slot: int, word: int, value: int) -> None:
        """Change a word of a page header."""
        at = self.lane.base(slot % self.page_count) + word * 8
        self.lane.buffer[at : at + 8] = value.to_bytes(8, "little")
        self.has_damage = self.has_damaged_header = True

    @rule()
    def restart(self) -> None:
        """The last drain of this epoch; the next begins with nothing of it."""
        self.conclude()
        self.epoch += 1
        self.begin()

    def take(self, items) -> None:
        """Hold what a poll returned against the model."""
        for item in items:
            first_seq = item.first_seq
            assert first_seq == len(self.delivered) + sum(gap.count for gap in self.gaps)
            if isinstance(item, Gap):
                self.gaps.append(item)
                continue
            for record in item:
                if record != self.uncommitted or not self.has_damaged_header:
                    assert self.committed[record[0]] == record
                assert not self.delivered or self.delivered[-1][0] < record[0]
                self.delivered.append(record)

    def conclude(self) -> None:
        """After the final drain every committed record was delivered, or is counted and was overwritten or damaged."""
        resident = set(self.lane.resident_seqs()) if not self.has_damage else set()
        before = len(self.delivered)
        while items := self.lane.reader.poll(final=True):
            self.take(items)
        assert 0 == self.lane.reader.measure().resident
        if not self.has_damaged_header:
            assert len(self.committed) == len(self.delivered) + self.lane.reader.lost
        if not self.has_damage:
            assert {"overwritten"} >= {gap.cause for gap in self.gaps}
            assert not resident & {seq for gap in self.gaps for seq in range(gap.first_seq, gap.first_seq + gap.count)}
            assert before or len(self.delivered) == len(resident)

    @invariant()
    def numbers_add_up(self) -> None:
        """`emitted == delivered + lost + resident`, each measured on its own, and equal to the model's where the
        headers are not damaged."""
        if not hasattr(self, "lane"):
            return
        reader, measured = self.lane.reader, self.lane.reader.measure()
        assert len(self.delivered) == reader.delivered
        assert sum(gap.count for gap in self.gaps) == reader.lost
        assert measured.emitted == reader.delivered + reader.lost + measured.overwritten + measured.resident
        assert min(measured) >= 0
        if not self.has_damaged_header:
            assert len(self.committed) == measured.emitted

    def teardown(self) -> None:
        """Every run ends with a death."""
        if hasattr(self, "lane"):
            self.conclude()


RingMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)


# r[verify shm.record.commit]
# r[verify shm.reader.resume]
class TestRing(RingMachine.TestCase):
    """Any sequence of rules leaves lane and model in agreement."""
