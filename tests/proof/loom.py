"""Replay: a writer's stores, logged once from the shipped code, fall between the loads of the shipped reader.

A ring's writer never loads from the segment, so the order of its stores does not depend on the reader. The log is kept
as images, one for the memory after each store: a load at some moment is a slice of an image, and a kill is the last
image that there is. A copy of many bytes is a load for each 8 of them, in either direction, with a writer that may get
on before each.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.lanes import Lane, Record, StoreLog, append

from .altered import Code

__all__ = ["GEOMETRIES", "STEP_KINDS", "LaneLog", "Loads", "images_of", "lane_log", "one_break", "random_breaks"]

T = TypeVar("T")

Break = tuple[int, int]
"""Before which load, and how many stores the writer has made by then."""

NEVER = 1 << 60

GEOMETRIES = ((64, 2, 11), (64, 3, 13), (96, 2, 14), (128, 4, 14))
"""Page bytes, pages, records: small enough for several laps within a hundred stores."""

STEP_KINDS = ("payload", "commit", "turn to invalid", "turn to empty", "turn to first", "turn to valid")


def images_of(stores: list[tuple[int, bytes]], size: int) -> list[bytes]:
    """The memory before the first store and after each."""
    memory = bytearray(size)
    images = [bytes(memory)]
    for offset, data in stores:
        memory[offset : offset + len(data)] = data
        images.append(bytes(memory))
    return images


class Loads:
    """Takes the place of `SegmentFile.read`: what the memory holds at the moment of each load.

    `at` is how many stores are made. `breaks` come in the order of the loads, which are counted from the first call
    on; before the load of a break the writer gets as far as that says.
    """

    def __init__(self, images: list[bytes]) -> None:
        self.images = images
        self.at = 0
        self.calls = 0
        self.within_a_copy = 0
        """How many breaks fell inside of a copy and not before it."""
        self.is_backward = False
        """Whether a copy begins with its last bytes."""
        self._left: Iterator[Break] = iter(())
        self._next: Break = (NEVER, 0)
        self.loads = 0

    def start(self, at: int, breaks: Iterable[Break] = ()) -> None:
        """Begin anew: so many stores are made."""
        self.at = at
        self.loads = 0
        self._left = iter(breaks)
        self._next = next(self._left, (NEVER, 0))

    def read(self, offset: int, size: int) -> bytes:
        """As `SegmentFile.read`."""
        self.calls += 1
        first = self.loads
        self.loads = last = first + (size + 7 >> 3)
        if self._next[0] >= last:
            return self.images[self.at][offset : offset + size]
        stop = offset + size
        pieces = []
        done = 0
        while self._next[0] < last:
            where, self.at, before = max(self._next[0] - first, 0) * 8, self._next[1], self.at
            self._next = next(self._left, (NEVER, 0))
            if where > done:
                self.within_a_copy += 1
                pieces.append(self._piece(before, offset, stop, done, where))
                done = where
        pieces.append(self._piece(self.at, offset, stop, done, size))
        return b"".join(reversed(pieces) if self.is_backward else pieces)

    def at_rest(self, ask: Callable[[], T]) -> T:
        """Ask something while the writer stands still."""
        kept = self.loads, self._next
        self._next = (NEVER, 0)
        answer = ask()
        self.loads, self._next = kept
        return answer

    def _piece(self, at: int, start: int, stop: int, done: int, until: int) -> bytes:
        if self.is_backward:
            return self.images[at][max(start, stop - until) : stop - done]
        return self.images[at][start + done : min(stop, start + until)]


def one_break(load: int, at: int) -> Iterator[Break]:
    """A single one."""
    return iter(((load, at),))


def random_breaks(source: random.Random, at: int, limit: int, speed: float, burst: int) -> Iterator[Break]:
    """Before each load the writer gets on with probability `speed`, by up to `burst` stores, up to `limit`."""
    load = 0
    while at < limit:
        # How many loads pass is geometrically distributed: the same as a decision before each.
        load += 1 + int(source.expovariate(speed))
        at = min(at + source.randrange(burst) + 1, limit)
        yield load, at


@dataclass(frozen=True)
class LaneLog:
    """What a writer stored into a lane, and after how many stores each record was begun, was there and was gone."""

    lane: Lane
    records: tuple[Record, ...]
    stores: list[tuple[int, bytes]]
    images: list[bytes]
    begun_after: tuple[int, ...]
    committed_after: tuple[int, ...]
    overwritten_after: tuple[int, ...]
    page_nos: tuple[int, ...]
    committed: tuple[int, ...]
    """How many records are committed, by the number of stores."""

    def kind_of(self, number: int) -> str:
        """What the store with this number, from 0, does, in terms of `STEP_KINDS`."""
        offset, data = self.stores[number]
        word = offset % self.lane.page_bytes
        value = int.from_bytes(data, "little")
        if word >= 24:
            return "payload"
        if word == 16:
            return "commit" if value >> 32 else "turn to empty"
        return "turn to first" if word == 8 else "turn to valid" if value else "turn to invalid"

    def new_reader(self, code: Code, loads: Loads) -> Any:
        """A reader of `code` that sees what `loads` shows."""
        return code.reader.RingReader(
            loads.read, lane=2, offset=0, page_bytes=self.lane.page_bytes, page_count=self.lane.page_count
        )


def lane_log(page_bytes: int, page_count: int, count: int, code: Code) -> LaneLog:
    """Let a writer commit `count` records of 1 to 12 bytes, every one different."""
    lane = Lane(page_bytes, page_count, offset=0)
    log = StoreLog()
    writer = lane.new_writer(log.memory, log.words, code.ring.RingWriter)
    records, begun_after, committed_after, page_nos, turned_after = [], [], [], [], {}
    for seq in range(count):
        payload = bytes([seq + 1]) * (1 + seq * 5 % 12)
        before = len(log.stores)
        assert append(writer, payload, 1000 + seq)
        page_no = writer._state[0]
        turned_after.setdefault(page_no, before + 1)
        page_nos.append(page_no)
        records.append((seq, 1000 + seq, payload))
        begun_after.append(before + 1)
        committed_after.append(len(log.stores))
    never = len(log.stores) + 1
    return LaneLog(
        lane,
        tuple(records),
        log.stores,
        images_of(log.stores, lane.size),
        tuple(begun_after),
        tuple(committed_after),
        tuple(turned_after.get(page_no + page_count, never) for page_no in page_nos),
        tuple(page_nos),
        tuple(sum(after <= made for after in committed_after) for made in range(never)),
    )


def step_coverage(counts: Counter[str], log: LaneLog, kill_at: int) -> None:
    """Note what kind of store a kill came before."""
    if kill_at < len(log.stores):
        counts[f"kills before: {log.kind_of(kill_at)}"] += 1
