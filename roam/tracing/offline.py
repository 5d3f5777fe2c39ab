"""Reading a segment that has no host: of a run whose host was killed, or of a living one from outside.

Nothing is changed, locked or removed.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from ..shm.layout import MAILBOX_HEAD, MAILBOX_OFFSET, MAILBOX_SLOT_BYTES, HostWord, StatusWord
from ..shm.mailbox import LIMIT_BYTES
from ..shm.reader import Chunk
from ..shm.segment import SegmentFile
from .config import TracingConfig
from .inspection import (
    FAULT_LIMIT_BYTES,
    STDERR_LIMIT_BYTES,
    header_of,
    open_spans_of,
    peer_statistics,
    read_tail,
    result_length_of,
    stage_of,
    status_word,
)
from .peer import Remains, lost_of
from .records import Lost, Peer

__all__ = ["remains_of_segment"]


def remains_of_segment(path: str | os.PathLike[str]) -> Remains:
    """Everything that a segment file and the files beside it still hold.

    What its host had collected before and the ring has overwritten since counts as lost here. Raises
    `SegmentCorrupt`, `SegmentVersionMismatch` or `OSError` where the file is no segment.
    """
    segment = SegmentFile.open(path)
    try:
        return _remains(segment, Path(path))
    finally:
        segment.close()


def _remains(segment: SegmentFile, path: Path) -> Remains:
    identity = segment.identity
    now_ns = time.monotonic_ns()
    readers = segment.lane_readers()
    chunks: list[Chunk] = []
    lost: list[Lost] = []
    for reader in readers:
        for item in reader.poll(final=True):
            if isinstance(item, Chunk):
                chunks.append(item)
            else:
                lost.append(lost_of(item, identity.anchor.wall_ns))
    words = segment.status_words()
    heartbeat = status_word(words, StatusWord.HEARTBEAT)
    spans, torn = open_spans_of(segment, now_ns)
    stem = path.with_suffix("")
    return Remains(
        peer=Peer(identity.peer_id, identity.epoch, identity.name, status_word(words, StatusWord.PID) or None),
        anchor=identity.anchor,
        chunks=chunks,
        lost=lost,
        open_spans=spans,
        statistics=peer_statistics(readers, words, torn=torn),
        stage=stage_of(words),
        config=_config_of(segment),
        died_ns=identity.anchor.to_wall_ns(heartbeat or now_ns),
        fault_text=read_tail(stem.with_suffix(".fault"), FAULT_LIMIT_BYTES),
        stderr_tail=read_tail(stem.with_suffix(".stderr"), STDERR_LIMIT_BYTES),
        header=header_of(segment),
        segment_path=segment.path,
        result_length=result_length_of(words),
        cpu_ns=status_word(words, StatusWord.CPU_NS) or None,
        max_rss_bytes=status_word(words, StatusWord.MAX_RSS) or None,
        said_goodbye=status_word(words, StatusWord.STATE) == 2,
    )


def _config_of(segment: SegmentFile) -> str:
    """Text of the filter in force, empty where it cannot be read."""
    generation = segment.word(HostWord.GENERATION)
    slot = segment.read(MAILBOX_OFFSET + (generation & 1) * MAILBOX_SLOT_BYTES, MAILBOX_SLOT_BYTES)
    if len(slot) < MAILBOX_SLOT_BYTES:
        return ""
    found, length, _ = MAILBOX_HEAD.unpack_from(slot)
    if found != generation or length > LIMIT_BYTES:
        return ""
    try:
        return str(TracingConfig.from_bytes(slot[MAILBOX_HEAD.size : MAILBOX_HEAD.size + length]).capture)
    except ValueError:
        return ""
