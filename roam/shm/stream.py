"""One-way streams of typed items: `Tx` sends, `Rx` receives; over a ring in shared memory, or in process.

Both kinds keep the same promises, which one conformance suite checks: items arrive in order and at most once; `send`
says whether an item was taken and never loses one that was; a full stream refuses or waits, by the caller's timeout;
an ended stream delivers what it holds and then ends. A stream whose sending process is gone has ended.

The codec is handed in: `encode` turns an item into bytes, `decode` turns them back and raises for bytes that are none.

Ownership: `open_stream` makes the segment and `Stream.close` removes it. Threads: each end serialises its callers.
Processes: an end attaches in the process that first uses it; send one to a cell by passing it as an argument. One
process may send; a second, also a forked child of the first, gets `SegmentTaken`.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar
from zlib import crc32

from ..clock import ClockAnchor
from ..errors import SegmentCorrupt, SegmentError, SegmentTaken
from .header import Identity
from .layout import BULK, HostWord, SegmentConfig, StatusWord
from .mapping import MappedSegment
from .reader import Chunk, RingReader
from .ring import RingWriter
from .segment import SegmentFile, boot_id, process_start_ticks

__all__ = ["QueueRx", "QueueTx", "RingRx", "RingTx", "Rx", "Stream", "Tx", "open_stream", "queue_stream"]

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
T_co = TypeVar("T_co", covariant=True)

STREAM_CONFIG = SegmentConfig(page_bytes=32 * 1024, life_pages=2, vital_pages=2, bulk_pages=16, span_slots=1)
ENDED = 2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.0002, 0.01
_SENDER_CHECK_S = 0.1
"""How often an idle receiver looks whether its sender is still there."""


class Tx(Protocol[T_contra]):
    """The sending end."""

    def send(self, item: T_contra, timeout: float = 0.0) -> bool:
        """Hand an item over. False if there was no room within `timeout` seconds. Raises `ValueError` for an item
        whose encoding is larger than the stream's records, and `RuntimeError` after `close`."""
        ...

    def close(self) -> None:
        """End the stream: the receiver gets what was sent, then its iteration ends."""
        ...


class Rx(Protocol[T_co]):
    """The receiving end; an iterator that ends with the stream."""

    lost: int
    """Items that arrived damaged, and were left out."""

    def get(self, timeout: float | None = None) -> T_co | None:
        """The next item; None when `timeout` seconds passed without one, or the stream has ended."""
        ...

    def __iter__(self) -> Iterator[T_co]: ...


class RingTx(Generic[T]):
    """`Tx` over a segment. Picklable until it is used; attaches at the first `send`."""

    def __init__(self, path: str, nonce: bytes, encode: Callable[[T], bytes]) -> None:
        self._path = path
        self._nonce = nonce
        self._encode = encode
        self._lock = threading.Lock()
        self._segment: MappedSegment | None = None
        self._ring: RingWriter | None = None
        self._pid = 0
        self._closed = False

    def __reduce__(self) -> tuple[Any, ...]:
        return RingTx, (self._path, self._nonce, self._encode)

    def send(self, item: T, timeout: float = 0.0) -> bool:
        """See `Tx.send`. Raises `SegmentTaken` where another process sends, `OSError` where the stream was gone before
        its first use."""
        payload = self._encode(item)
        crc = crc32(payload)
        deadline = time.monotonic() + timeout
        pause = _FIRST_PAUSE_S
        while True:
            with self._lock:
                if self._closed:
                    raise RuntimeError("send() on a stream that this end has closed")
                segment, ring = self._attach()
                if len(payload) > segment.config.record_bytes:
                    raise ValueError(
                        f"the item takes {len(payload)} bytes and the stream's records hold {segment.config.record_bytes}"
                    )
                # r[impl shm.stream.credit] Pairs with the receiver's store after its copy. That store goes through the
                # kernel and may be seen half done; the smaller of two looks never gives credit that is not there.
                taken = min(segment.words[HostWord.TAKEN + BULK], segment.words[HostWord.TAKEN + BULK])
                if ring.append(payload, crc, time.monotonic_ns(), taken=taken):
                    return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    def close(self) -> None:
        """See `Tx.close`. Nothing happens where the stream is gone, or another process sends."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                self._attach()[0].words[StatusWord.STATE] = ENDED
            except (OSError, SegmentError):
                # Nobody to tell, or nothing to end.
                return
            finally:
                self._segment = self._ring = None

    def _attach(self) -> tuple[MappedSegment, RingWriter]:
        if self._segment is None or self._ring is None:
            fd = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                segment = self._segment = MappedSegment(fd, nonce=self._nonce)
            finally:
                os.close(fd)
            self._ring = RingWriter(
                segment.memory,
                segment.words,
                offset=segment.geometry.lane_offsets[BULK],
                page_bytes=segment.config.page_bytes,
                page_count=segment.config.bulk_pages,
            )
            self._pid = os.getpid()
        elif self._pid != os.getpid():
            raise SegmentTaken(path=self._path, pid=self._pid)
        return self._segment, self._ring


class RingRx(Generic[T]):
    """`Rx` over a segment. Picklable until it is used; attaches at the first `get`."""

    def __init__(self, path: str, nonce: bytes, decode: Callable[[bytes], T]) -> None:
        self._path = path
        self._nonce = nonce
        self._decode = decode
        self._lock = threading.Lock()
        self._file: SegmentFile | None = None
        self._reader: RingReader | None = None
        self._waiting: deque[T] = deque()
        self._closed = False
        self._sender = (0, 0)
        self._sender_checked = 0.0
        self.lost = 0
        """See `Rx.lost`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return RingRx, (self._path, self._nonce, self._decode)

    def get(self, timeout: float | None = None) -> T | None:
        """See `Rx.get`. Raises a `SegmentError` or `OSError` where the stream was gone before its first use."""
        found, item = self._next(timeout)
        return item if found else None

    def __iter__(self) -> Iterator[T]:
        while True:
            found, item = self._next(None)
            if not found:
                return
            yield item  # type: ignore[misc]

    def close(self) -> None:
        """Let go of the segment. What was not received by now is not received."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            if self._file is not None:
                self._file.close()

    def _next(self, timeout: float | None) -> tuple[bool, T | None]:
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_PAUSE_S
        while True:
            with self._lock:
                ended = self._closed
                if not self._waiting and not ended:
                    # Asked before the look: what was sent before the end is seen by it.
                    ended = self._has_ended()
                    self._poll(final=ended)
                if self._waiting:
                    return True, self._waiting.popleft()
                if ended:
                    return False, None
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False, None
            time.sleep(pause if left is None else min(pause, left))
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    def _has_ended(self) -> bool:
        file, _ = self._attach()
        if file.word(StatusWord.STATE) == ENDED:
            return True
        now = time.monotonic()
        if now - self._sender_checked < _SENDER_CHECK_S:
            return False
        self._sender_checked = now
        pid = file.word(StatusWord.PID)
        if pid != self._sender[0]:
            # With its start time, a process id names one process only.
            self._sender = (pid, process_start_ticks(pid))
        return pid != 0 and (not self._sender[1] or process_start_ticks(pid) != self._sender[1] or _is_zombie(pid))

    def _poll(self, *, final: bool) -> None:
        file, reader = self._attach()
        items = reader.poll(final=final)
        for item in items:
            if not isinstance(item, Chunk):
                self.lost += item.count
                continue
            for _, _, payload in item:
                try:
                    self._waiting.append(self._decode(payload))
                except Exception:
                    self.lost += 1
        if items:
            file.store_word(HostWord.TAKEN + BULK, reader.next_seq)

    def _attach(self) -> tuple[SegmentFile, RingReader]:
        if self._file is None or self._reader is None:
            file = SegmentFile.open(self._path, writable=True)
            if file.identity.nonce != self._nonce:
                file.close()
                raise SegmentCorrupt(path=self._path, offset=0, why="its nonce is not the stream's")
            self._file, self._reader = file, file.lane_reader(BULK)
        return self._file, self._reader


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


class Stream(Generic[T]):
    """Both ends of a stream, as its maker holds them; a context manager that removes the segment."""

    def __init__(self, tx: RingTx[T], rx: RingRx[T], path: Path) -> None:
        self.tx = tx
        self.rx = rx
        self._path = path

    def close(self) -> None:
        """Remove the segment. Ends that are attached keep what they have mapped."""
        self.rx.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_stream(
    directory: str | os.PathLike[str],
    *,
    encode: Callable[[T], bytes],
    decode: Callable[[bytes], T],
    config: SegmentConfig = STREAM_CONFIG,
) -> Stream[T]:
    """Make a stream with a segment of its own in `directory`. Raises `NoSpace` or `OSError`, with nothing left behind.

    Its capacity is that of the bulk lane in `config`. To pass an end to a cell, `encode` and `decode` must be
    picklable.
    """
    nonce = secrets.token_bytes(16)
    path = Path(directory) / f"stream-{nonce.hex()}.segment"
    identity = Identity(
        peer_id=0,
        epoch=1,
        name="stream",
        nonce=nonce,
        host_pid=os.getpid(),
        host_start_ticks=process_start_ticks(os.getpid()),
        boot_id=boot_id(),
        anchor=ClockAnchor.now(),
        roam_version="",
        python_version="",
    )
    SegmentFile.create(path, config, identity).close()
    return Stream(RingTx(str(path), nonce, encode), RingRx(str(path), nonce, decode), path)


class _Queue(Generic[T]):
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.items: deque[T] = deque()
        self.changed = threading.Condition(threading.Lock())
        self.ended = False


class QueueTx(Generic[T]):
    """`Tx` in process."""

    def __init__(self, queue: _Queue[T]) -> None:
        self._queue = queue

    def send(self, item: T, timeout: float = 0.0) -> bool:
        """See `Tx.send`."""
        queue = self._queue
        with queue.changed:
            if queue.ended:
                raise RuntimeError("send() on a stream that this end has closed")
            if not queue.changed.wait_for(lambda: queue.ended or len(queue.items) < queue.capacity, timeout):
                return False
            if queue.ended:
                raise RuntimeError("send() on a stream that was closed meanwhile")
            queue.items.append(item)
            queue.changed.notify_all()
            return True

    def close(self) -> None:
        """See `Tx.close`."""
        with self._queue.changed:
            self._queue.ended = True
            self._queue.changed.notify_all()


class QueueRx(Generic[T]):
    """`Rx` in process."""

    def __init__(self, queue: _Queue[T]) -> None:
        self._queue = queue
        self.lost = 0
        """See `Rx.lost`; always 0 here."""

    def get(self, timeout: float | None = None) -> T | None:
        """See `Rx.get`."""
        queue = self._queue
        with queue.changed:
            queue.changed.wait_for(lambda: bool(queue.items) or queue.ended, timeout)
            if not queue.items:
                return None
            item = queue.items.popleft()
            queue.changed.notify_all()
            return item

    def __iter__(self) -> Iterator[T]:
        queue = self._queue
        while True:
            with queue.changed:
                queue.changed.wait_for(lambda: bool(queue.items) or queue.ended)
                if not queue.items:
                    return
                item = queue.items.popleft()
                queue.changed.notify_all()
            yield item


def queue_stream(capacity: int = 1024) -> tuple[QueueTx[Any], QueueRx[Any]]:
    """A stream within this process that holds up to `capacity` items. Raises `ValueError` for less than 1."""
    if capacity < 1:
        raise ValueError(f"queue_stream(capacity={capacity}): a stream holds at least one item")
    queue: _Queue[Any] = _Queue(capacity)
    return QueueTx(queue), QueueRx(queue)
