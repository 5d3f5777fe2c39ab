"""Reading a segment that has no host: of a run whose host was killed, or of a living one from outside.

Nothing is changed, locked or removed.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from msgspec.structs import replace

from ..shm.layout import MAILBOX_HEAD, MAILBOX_OFFSET, MAILBOX_SLOT_BYTES, HostWord, StatusWord
from ..shm.mailbox import LIMIT_BYTES
from ..shm.reader import Chunk, Gap
from ..shm.segment import SegmentFile, boot_id
from ..stage import Stage
from .config import TracingConfig, slots_of
from .faults import FAULT_LIMIT_BYTES
from .inspection import (
    TAIL_LIMIT_BYTES,
    header_of,
    open_spans_of,
    peer_statistics,
    read_tail,
    unannounced_of,
)
from .peer import Remains, lost_of, time_of_gap
from .records import Peer
from .testimony import Testimony, status_word

__all__ = ["remains_of_segment"]

_MAPS_BYTES = 16 << 20


def remains_of_segment(path: str | os.PathLike[str]) -> Remains:
    """Everything that a segment file and the files beside it still hold.

    What its host had collected before and the ring has overwritten since counts as lost here. The ages of open spans
    are those of the moment of death, as far as the segment knows it. Raises `SegmentCorrupt`,
    `SegmentVersionMismatch` or `OSError` where the file cannot be opened or is no segment; nothing afterwards.
    """
    segment = SegmentFile.open(path)
    try:
        return _remains(segment, Path(path))
    finally:
        segment.close()


def _remains(segment: SegmentFile, path: Path) -> Remains:
    identity = segment.identity
    anchor = identity.anchor
    readers = segment.lane_readers()
    polls = [reader.poll(final=True) for reader in readers]
    words = segment.status_words()
    said = Testimony.of(words)
    if identity.peer_id == 0:
        # A host notes no stages; where there is a segment of it, it ran.
        said = said._replace(stage=Stage.RUN)
    pid = status_word(words, StatusWord.PID) or None
    is_this_boot = identity.boot_id == boot_id()
    is_live = pid is not None and is_this_boot and _maps(pid, segment.fd)
    now_ns = time.monotonic_ns()
    spans, torn = open_spans_of(segment, now_ns)
    until_ns = now_ns
    if not is_live:
        # The last sign of life: a record, or a span where none was written.
        heartbeat = said.last_beat_ns or 0
        signs = [anchor.to_monotonic_ns(span.started_ns) for span in spans]
        until_ns = max(anchor.monotonic_ns, *signs, heartbeat if heartbeat <= now_ns or not is_this_boot else 0)
        spans = [replace(span, age_ns=until_ns - sign) for span, sign in zip(spans, signs, strict=True)]
    died_ns = anchor.to_wall_ns(until_ns)
    lost = [
        lost_of(item, time_of_gap(items, index, anchor) or died_ns + 1)
        for items in polls
        for index, item in enumerate(items)
        if isinstance(item, Gap)
    ]
    if not is_live:
        lost += unannounced_of(words, died_ns + 1)
    config, slots = _config_of(segment)
    stem = path.with_suffix("")
    return Remains(
        peer=Peer(identity.peer_id, identity.epoch, identity.name, pid),
        anchor=anchor,
        chunks=[item for items in polls for item in items if isinstance(item, Chunk)],
        lost=lost,
        open_spans=spans,
        statistics=peer_statistics(readers, words, slots, torn=torn),
        config=config,
        died_ns=died_ns,
        fault_text=read_tail(stem.with_suffix(".fault"), FAULT_LIMIT_BYTES),
        stderr_tail=read_tail(stem.with_suffix(".stderr"), TAIL_LIMIT_BYTES),
        stdout_tail=read_tail(stem.with_suffix(".stdout"), TAIL_LIMIT_BYTES),
        header=header_of(segment),
        segment_path=segment.path,
        is_live=is_live,
        **said._asdict(),
    )


def _maps(pid: int, fd: int) -> bool:
    """Whether process `pid` has the file mapped. A number that was used again names a process that has not."""
    try:
        status = os.fstat(fd)
        with open(f"/proc/{pid}/maps", "rb") as file:
            maps = file.read(_MAPS_BYTES)
    except OSError:
        return False
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    wanted = [device.encode(), str(status.st_ino).encode()]
    return any(line.split(None, 5)[3:5] == wanted for line in maps.splitlines())


def _config_of(segment: SegmentFile) -> tuple[str, dict[str, int]]:
    """Text of the filter in force, and where the cell counts by key; nothing where it cannot be read."""
    generation = segment.word(HostWord.GENERATION)
    slot = segment.read(MAILBOX_OFFSET + (generation & 1) * MAILBOX_SLOT_BYTES, MAILBOX_SLOT_BYTES)
    if len(slot) < MAILBOX_SLOT_BYTES:
        return "", {}
    found, length, _ = MAILBOX_HEAD.unpack_from(slot)
    if found != generation or length > LIMIT_BYTES:
        return "", {}
    body = slot[MAILBOX_HEAD.size : MAILBOX_HEAD.size + length]
    try:
        return str(TracingConfig.from_bytes(body).capture), slots_of(body)
    except ValueError:
        return "", {}
