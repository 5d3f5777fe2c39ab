"""The open-span table: what a cell is in the middle of, readable after any death, however often the rings wrapped.

Layout: see `roam.shm.layout`. Ownership: the cell writes; a slot belongs to one open span. Threads: any, and signal
handlers; slots are handed out by atomic list operations, and a rewrite that was overtaken by another begins again.
Failure: a kill at any store leaves the old body or the new one in force.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from zlib import crc32

from .layout import RECORD_HEAD, RECORD_HEAD_BYTES, SEAL, SPAN_BODY_BYTES, SPAN_SLOT_BYTES, StatusWord
from .ownership import ownership
from .words import Words

__all__ = ["PAYLOAD_LIMIT", "OpenBody", "SpanTable", "read_open_spans"]

PAYLOAD_LIMIT = SPAN_BODY_BYTES - RECORD_HEAD_BYTES
"""Largest body of an open span, in bytes."""

_BEAT = int(StatusWord.BEAT)

NO_SPAN = -1
"""The handle of a span that is not in the table."""


class SpanTable:
    """The writing side. `offset` is where the slots start in `memory` and `words`.

    Handles are not negative, are never given out twice, and mean nothing once their span is closed. In a forked child
    every method does nothing: the table is the parent's.
    """

    __slots__ = ("_free", "_handles", "_is_owner", "_memory", "_offset", "_overflowed", "_slots", "_uses", "_words")

    def __init__(self, memory: memoryview, words: Words, *, offset: int, slots: int) -> None:
        self._memory = memory
        self._words = words
        self._offset = offset
        self._slots = slots
        # r[impl shm.writer.owner]
        self._is_owner = ownership()
        self._free = list(range(slots - 1, -1, -1))
        self._uses = [0] * slots
        # The handle of the span in each slot; bitwise inverted once that span is closed.
        self._handles = [~(slot - slots) for slot in range(slots)]
        self._overflowed = 0

    def open(self, payload: bytes, time_ns: int) -> int:
        """Enter a span's body into a free slot; returns its handle, or -1 if there is no room, which is counted."""
        if not self._is_owner():
            return NO_SPAN
        try:
            slot = self._free.pop() if len(payload) <= PAYLOAD_LIMIT else NO_SPAN
        except IndexError:
            slot = NO_SPAN
        if slot == NO_SPAN:
            self._overflowed += 1
            self._words[StatusWord.SPANS_OVERFLOWED] = self._overflowed
            return NO_SPAN
        self._handles[slot] = handle = ~self._handles[slot] + self._slots
        self._words[_BEAT] = time_ns
        try:
            self._store(handle, payload, time_ns)
        except BaseException:
            self.close(handle)
            raise
        return handle

    def rewrite(self, handle: int, payload: bytes, time_ns: int) -> None:
        """Replace the body of an open span, by the body that is not in force. One that is too long is ignored."""
        if handle != NO_SPAN and len(payload) <= PAYLOAD_LIMIT and self._is_owner():
            self._store(handle, payload, time_ns)

    def close(self, handle: int) -> None:
        """Free a span's slot. -1, and a handle that was closed before, are ignored."""
        slot = handle % self._slots
        if handle == NO_SPAN or not self._is_owner():
            return
        # No call from the comparison on, so that of two threads one closes.
        if self._handles[slot] == handle:
            self._handles[slot] = ~handle
            self._words[(self._offset + slot * SPAN_SLOT_BYTES) >> 3] = 0
            self._free.append(slot)

    def _store(self, handle: int, payload: bytes, time_ns: int) -> None:
        uses, words, memory = self._uses, self._words, self._memory
        slot = handle % self._slots
        base = self._offset + slot * SPAN_SLOT_BYTES
        length = len(payload)
        payload_crc = crc32(payload)
        while True:
            use = uses[slot] + 1
            crc = crc32(SEAL.pack(time_ns, length, use, slot), payload_crc)
            record = RECORD_HEAD.pack(length, crc, time_ns) + payload
            # Every use takes the other body than the use before it.
            start = base + 16 + (use & 1) * SPAN_BODY_BYTES
            place = slice(start, start + RECORD_HEAD_BYTES + length)
            # No call from the comparisons on, so that neither a close nor another rewrite comes between.
            if self._handles[slot] != handle:
                return
            if uses[slot] + 1 == use:
                break
        # r[impl shm.span.table] Fill the idle body, then store the state: pairs with read_open_spans.
        memory[place] = record
        uses[slot] = use
        words[base >> 3] = use << 1 | use & 1


class OpenBody(NamedTuple):
    """One open span as it stood in the table: when it was written (monotonic) and its record body."""

    time_ns: int
    payload: bytes


def read_open_spans(read: Callable[[int, int], bytes], *, offset: int, slots: int) -> tuple[list[OpenBody], int]:
    """Copy the table once and return the open spans, oldest first, and how many slots were torn.

    A slot's state is read before and after its body; what changed in between, or does not carry the right checksum,
    counts as torn. `read(offset, size)` may return fewer bytes than asked for.
    """
    found: list[OpenBody] = []
    torn = 0
    states = (
        [read(offset + slot * SPAN_SLOT_BYTES, 8) for slot in range(slots)]
        if slots < 8
        else _all_states(read, offset, slots)
    )
    for slot, before in enumerate(states):
        state = int.from_bytes(before, "little")
        if len(before) < 8 or state == 0:
            continue
        body = state & 1
        base = offset + slot * SPAN_SLOT_BYTES
        raw = read(base + 16 + body * SPAN_BODY_BYTES, SPAN_BODY_BYTES)
        after = read(base, 8)
        if after != before:
            # The span ended or was rewritten meanwhile; a living cell may do that at any time.
            torn += after != bytes(8)
            continue
        opened = _check(raw, use=state >> 1, slot=slot)
        if opened is None:
            torn += 1
        else:
            found.append(opened)
    found.sort(key=lambda opened: opened.time_ns)
    return found, torn


def _all_states(read: Callable[[int, int], bytes], offset: int, slots: int) -> list[bytes]:
    table = read(offset, slots * SPAN_SLOT_BYTES)
    return [table[at : at + 8] for at in range(0, slots * SPAN_SLOT_BYTES, SPAN_SLOT_BYTES)]


def _check(raw: bytes, *, use: int, slot: int) -> OpenBody | None:
    if len(raw) < RECORD_HEAD_BYTES:
        return None
    length, crc, time_ns = RECORD_HEAD.unpack_from(raw)
    if length > PAYLOAD_LIMIT or RECORD_HEAD_BYTES + length > len(raw):
        return None
    payload = raw[RECORD_HEAD_BYTES : RECORD_HEAD_BYTES + length]
    if crc32(SEAL.pack(time_ns, length, use, slot), crc32(payload)) != crc:
        return None
    return OpenBody(time_ns, payload)
