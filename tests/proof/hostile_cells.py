"""What the cells of the hostile goal run: one that behaves, one that only burns time, and those that rage at their host.

Everything below goes through what a cell has anyway: its mapping, its descriptors, its files.
"""

from __future__ import annotations

import ctypes
import os
import random
import time
from collections.abc import Callable
from typing import NoReturn

import roam
from roam.shm.layout import (
    BULK,
    CONFIG_OFFSET,
    HOST_OFFSET,
    LANES,
    PAGE_HEAD_BYTES,
    SPAN_SLOT_BYTES,
    STATUS_OFFSET,
    Geometry,
    HostWord,
    SegmentConfig,
    StatusWord,
)
from roam.tracing.emitter import Emitter, current_emitter

__all__ = ["KINDS", "SEGMENT", "TICK_S", "burn", "rage", "steady"]

SEGMENT = SegmentConfig()
TICK_S = 0.005
FILE_LIMIT_BYTES = 32 << 20
"""What a file that is being filled may hold at a time: this machine's memory is not the host's to lose."""
SANE_RECORDS = 500
"""What a hostile cell has the host take before it begins to rage."""
_PUNCH_HOLE_KEEP_SIZE = 3
_GEOMETRY = Geometry(SEGMENT)
_NUMBERS = (0, 1, 2, 24, 2**31, 2**32 - 1, 2**32, 2**62, 2**63, 2**64 - 1)


def steady() -> int:
    """A record every few milliseconds until it is asked to stop; returns how many."""
    cell = roam.current_cell()
    assert cell is not None
    number = 0
    with roam.span("steady"):
        while not cell.stopping:
            roam.info("steady", number=number, sent=time.monotonic_ns())
            number += 1
            time.sleep(TICK_S)
    return number


def burn() -> NoReturn:
    """The load of a hostile cell without the hostility."""
    while True:
        pass


def rage(kind: str, seed: str) -> NoReturn:
    """Be hostile in one way until the end, whatever the host asks for."""
    emitter = current_emitter()
    assert emitter is not None
    source = random.Random(seed)
    act = KINDS[kind](emitter, source)
    with roam.span("raging", kind=kind):
        for number in range(SANE_RECORDS):
            roam.debug("still sane", number=number)
        while emitter.words[HostWord.TAKEN + BULK] < SANE_RECORDS:
            time.sleep(0.001)
        while True:
            for _ in range(50):
                act()
            # Keeps the host awake, and looking.
            roam.debug("raging")
            emitter.writer._ring()


def _noise(emitter: Emitter, source: random.Random) -> Callable[[], None]:
    """Any word, any piece of any page."""
    words, memory = emitter.words, emitter._memory
    first, last = HOST_OFFSET // 8, _GEOMETRY.total_bytes // 8
    rubbish = source.randbytes(4096)

    def act() -> None:
        for _ in range(100):
            words[source.randrange(first, last)] = source.choice(_NUMBERS)
        at = source.randrange(HOST_OFFSET, _GEOMETRY.total_bytes - 4096)
        memory[at : at + 4096] = rubbish

    return act


def _page_heads(emitter: Emitter, source: random.Random) -> Callable[[], None]:
    """Heads that could be true, of pages that could be next: page numbers, commit words, counts and sequences."""
    words = emitter.words
    most = (SEGMENT.page_bytes - PAGE_HEAD_BYTES) // 16

    def act() -> None:
        lane = source.randrange(len(LANES))
        pages = _GEOMETRY.lane_pages[lane]
        for slot in range(pages):
            at = (_GEOMETRY.lane_offsets[lane] + slot * SEGMENT.page_bytes) // 8
            lap = source.choice((0, 0, 1, 2, 3, 2**20, 2**50))
            words[at] = slot + 1 + lap * pages
            words[at + 1] = source.choice((0, slot * 10, lap * pages * source.randrange(1, most), *_NUMBERS)) & (
                2**64 - 1
            )
            count = source.choice((0, 1, 10, most, most + 1, 2**32 - 1))
            words[at + 2] = count << 32 | source.choice((24, 64, 4096, SEGMENT.page_bytes, SEGMENT.page_bytes + 8, 7))

    return act


def _words_and_spans(emitter: Emitter, source: random.Random) -> Callable[[], None]:
    """What the cell says of itself, what the host says to it, and the states of open spans."""
    words = emitter.words
    status = (STATUS_OFFSET // 8, STATUS_OFFSET // 8 + 80)

    def act() -> None:
        for _ in range(50):
            words[source.randrange(*status)] = source.choice(_NUMBERS)
            words[source.randrange(HOST_OFFSET // 8, CONFIG_OFFSET // 8 + 1)] = source.choice(_NUMBERS)
            slot = source.randrange(SEGMENT.span_slots)
            words[(_GEOMETRY.spans_offset + slot * SPAN_SLOT_BYTES) // 8] = source.choice((0, 2, 3, 4, 5, *_NUMBERS))
        words[StatusWord.HEARTBEAT] = source.choice((0, time.monotonic_ns(), 2**64 - 1))
        words[StatusWord.RESULT] = source.choice((0, 1, 100, 2**40, 2**64 - 1))

    return act


def _own_segment() -> str:
    with open("/proc/self/maps") as maps:
        return next(line.split()[-1] for line in maps if line.rstrip().endswith(".segment"))


def _truncation(emitter: Emitter, source: random.Random) -> Callable[[], None]:
    """The file shorter, by any length, and whole again; the mapping is touched only when it is whole."""
    path = _own_segment()
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    same_file = f"/proc/self/fd/{fd}"

    def act() -> None:
        length = source.choice((0, 600, 5000, source.randrange(_GEOMETRY.total_bytes)))
        if source.random() < 0.3:
            os.ftruncate(fd, length)
        else:
            os.truncate(source.choice((path, same_file)), length)
        if source.random() < 0.2:
            time.sleep(0.001)
        os.ftruncate(fd, source.choice((_GEOMETRY.total_bytes, 1 << 32)))
        os.ftruncate(fd, _GEOMETRY.total_bytes)

    return act


def _holes(emitter: Emitter, source: random.Random) -> Callable[[], None]:
    """Pages of the file that read as zeros from one moment to the next, between records that are real."""
    fd = os.open(_own_segment(), os.O_RDWR | os.O_CLOEXEC)
    library = ctypes.CDLL(None)
    library.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)

    def act() -> None:
        at = source.randrange(0, _GEOMETRY.total_bytes, 4096)
        library.fallocate(fd, _PUNCH_HOLE_KEEP_SIZE, at, source.choice((4096, 32768, 1 << 20)))
        for _ in range(20):
            roam.debug("between holes", text="x" * source.randrange(2000))

    return act


def _files(emitter: Emitter, source: random.Random) -> Callable[[], None]:
    """Standard error and the fault file, filled as fast as they take it; of the latter what is too much is cut off."""
    fault_path = _own_segment().removesuffix("segment") + "fault"
    fault_fd = os.open(fault_path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    rude = (b"\x1b[2J\x00\xff" + b"Fatal Python error: x\n" + source.randbytes(200) + b"\n") * 300

    def act() -> None:
        # What the host has copied and punched out makes room.
        if os.fstat(2).st_blocks * 512 < FILE_LIMIT_BYTES:
            os.write(2, rude)
        os.write(fault_fd, rude)
        if os.fstat(fault_fd).st_size > FILE_LIMIT_BYTES:
            os.ftruncate(fault_fd, 0)

    return act


KINDS: dict[str, Callable[[Emitter, random.Random], Callable[[], None]]] = {
    "noise": _noise,
    "page heads": _page_heads,
    "words and spans": _words_and_spans,
    "truncation": _truncation,
    "holes": _holes,
    "files": _files,
}
"""By name, what makes a step of each kind of hostility."""
