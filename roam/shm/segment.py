"""A segment: one mapped file per peer, made and removed by the host only.

Ownership: the host creates the file, writes the header and its own words by `pwrite`, and reads by `pread` on the
descriptor, never through a mapping, so that a cell that truncates the file cannot kill it. The cell maps the
descriptor it inherited. Failure: the whole size is reserved before anything starts, so a full file system is an error
at creation and never a SIGBUS later.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from ..clock import ClockAnchor
from ..errors import NoSpace, SegmentCorrupt, SegmentTaken, SegmentVersionMismatch
from .layout import (
    ABI_VERSION,
    HEADER,
    HEADER_BYTES,
    LANES,
    MAGIC,
    MAILBOX_SLOT_BYTES,
    SPAN_SLOT_BYTES,
    STATUS_OFFSET,
    STATUS_WORDS,
    Geometry,
    SegmentConfig,
    StatusWord,
)
from .reader import RingReader
from .words import Words, words_of

__all__ = ["Identity", "MappedSegment", "SegmentFile", "boot_id", "process_start_ticks", "reserve_file"]

_CRC_OFFSET = HEADER.size - 4


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a segment belongs to, as its header says. `nonce` is 16 random bytes."""

    peer_id: int
    epoch: int
    name: str
    nonce: bytes
    host_pid: int
    host_start_ticks: int
    boot_id: bytes
    anchor: ClockAnchor
    roam_version: str
    python_version: str


def boot_id() -> bytes:
    """16 bytes that are new at every boot; zeros where the kernel does not say."""
    try:
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


def process_start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 if it is gone. With the pid it names a process for good."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[19])


def reserve_file(path: Path, size_bytes: int) -> int:
    """Create a file that nobody else has, of a size that is really there. Returns its descriptor.

    Raises `NoSpace`, with nothing left behind, where the file system cannot hold it, and `OSError` otherwise.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        # r[impl shm.segment.reserved]
        os.posix_fallocate(fd, 0, size_bytes)
    except OSError as error:
        os.close(fd)
        path.unlink()
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        space = os.statvfs(path.parent)
        raise NoSpace(
            path=str(path.parent), needed_bytes=size_bytes, free_bytes=space.f_bavail * space.f_frsize
        ) from error
    return fd


class SegmentFile:
    """The host's and the inspector's view of a segment: everything by descriptor. Threads: any, one per lane reader."""

    def __init__(self, fd: int, path: str, config: SegmentConfig, identity: Identity) -> None:
        self.fd = fd
        self.path = path
        self.config = config
        self.geometry = Geometry(config)
        self.identity = identity

    @classmethod
    def create(cls, path: Path, config: SegmentConfig, identity: Identity) -> SegmentFile:
        """Reserve the file and write its header. Raises `NoSpace` or `OSError`; nothing is left behind then."""
        fd = reserve_file(path, Geometry(config).total_bytes)
        try:
            return cls._initialise(fd, str(path), config, identity)
        except BaseException:
            os.close(fd)
            path.unlink()
            raise

    @classmethod
    def create_anonymous(cls, config: SegmentConfig, identity: Identity) -> SegmentFile:
        """A segment without a file, for a peer in this same process. Raises `OSError`."""
        fd = os.memfd_create("roam", os.MFD_CLOEXEC)
        try:
            os.posix_fallocate(fd, 0, Geometry(config).total_bytes)
            return cls._initialise(fd, f"memory:{identity.name}", config, identity)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def _initialise(cls, fd: int, path: str, config: SegmentConfig, identity: Identity) -> SegmentFile:
        segment = cls(fd, path, config, identity)
        header = _pack_header(segment.geometry, identity)
        # r[impl shm.segment.magic] The magic last: a file without it is not a segment yet.
        os.pwrite(fd, header[len(MAGIC) :], len(MAGIC))
        os.pwrite(fd, MAGIC, 0)
        return segment

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, writable: bool = False) -> SegmentFile:
        """Open a segment, live or dead: to inspect it, or, `writable`, to store a reader's words into it.

        Raises `SegmentCorrupt` or `SegmentVersionMismatch` where the header is not sound, `OSError` where the file
        cannot be opened.
        """
        access = os.O_RDWR if writable else os.O_RDONLY
        fd = os.open(path, access | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise SegmentCorrupt(path=str(path), offset=0, why="it is not a regular file")
            config, identity = _read_header(fd, str(path))
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, str(path), config, identity)

    def read(self, offset: int, size: int) -> bytes:
        """Copy bytes; fewer, or none, where the file has become shorter or cannot be read."""
        try:
            return os.pread(self.fd, size, offset)
        except OSError:
            return b""

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes of the host's own areas."""
        os.pwrite(self.fd, data, offset)

    def store_word(self, index: int, value: int) -> None:
        """Store one of the host's words. A torn store is possible and harmless: see `HostWord`."""
        os.pwrite(self.fd, value.to_bytes(8, "little"), index * 8)

    def status_words(self) -> list[int]:
        """A copy of all status words, in the order of `StatusWord` from `STATE`; zeros where the file is too short."""
        raw = self.read(STATUS_OFFSET, STATUS_WORDS * 8).ljust(STATUS_WORDS * 8, b"\0")
        return list(memoryview(raw).cast("Q"))

    def word(self, index: int) -> int:
        """One word; 0 where the file is too short."""
        return int.from_bytes(self.read(index * 8, 8).ljust(8, b"\0"), "little")

    def lane_reader(self, lane: int) -> RingReader:
        """A reader of one lane, from its first record on."""
        return RingReader(
            self.read,
            lane=lane,
            offset=self.geometry.lane_offsets[lane],
            page_bytes=self.config.page_bytes,
            page_count=self.geometry.lane_pages[lane],
        )

    def lane_readers(self) -> list[RingReader]:
        """Readers of all lanes, in the order of `LANES`."""
        return [self.lane_reader(lane) for lane in range(len(LANES))]

    def close(self) -> None:
        """Close the descriptor. The file stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class MappedSegment:
    """The cell's view of its segment: a mapping of the inherited descriptor. Claims it for this process."""

    def __init__(self, fd: int, *, nonce: bytes | None = None) -> None:
        """Map and claim. Raises `SegmentCorrupt`, `SegmentVersionMismatch`, or `SegmentTaken`.

        The descriptor is not needed afterwards and stays the caller's. `nonce` proves that it is the right one.
        """
        path = f"descriptor {fd}"
        self.config, self.identity = _read_header(fd, path)
        if nonce is not None and nonce != self.identity.nonce:
            raise SegmentCorrupt(path=path, offset=0, why="its nonce is not the ticket's")
        self.geometry = Geometry(self.config)
        self.mapping = _map(fd, self.geometry.total_bytes)
        self.memory = memoryview(self.mapping)
        self.words: Words = words_of(self.memory)
        self._claim(fd, path)

    def _claim(self, fd: int, path: str) -> None:
        # r[impl shm.segment.claim] Under a lock that is not waited for: of two that attach at once, one is refused.
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 8, StatusWord.PID * 8)
        except OSError as error:
            raise SegmentTaken(path=path, pid=self.words[StatusWord.PID]) from error
        try:
            claimed = self.words[StatusWord.PID]
            if claimed:
                raise SegmentTaken(path=path, pid=claimed)
            self.words[StatusWord.PID] = os.getpid()
            self.words[StatusWord.STATE] = 1
        finally:
            fcntl.lockf(fd, fcntl.LOCK_UN, 8, StatusWord.PID * 8)


def _map(fd: int, size_bytes: int) -> mmap.mmap:
    """Map a descriptor; where Python can, without a duplicate of it that a program could close under the mapping."""
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size_bytes, trackfd=False)
    return mmap.mmap(fd, size_bytes)


def _pack_header(geometry: Geometry, identity: Identity) -> bytes:
    config = geometry.config
    body = HEADER.pack(
        MAGIC,
        ABI_VERSION,
        HEADER_BYTES,
        geometry.total_bytes,
        config.page_bytes,
        config.life_pages,
        config.vital_pages,
        config.bulk_pages,
        config.record_bytes,
        config.span_slots,
        SPAN_SLOT_BYTES,
        MAILBOX_SLOT_BYTES,
        identity.peer_id,
        identity.epoch,
        identity.nonce,
        identity.host_pid,
        identity.host_start_ticks,
        identity.anchor.wall_ns,
        identity.anchor.monotonic_ns,
        identity.boot_id,
        _fit(identity.name, 128),
        _fit(identity.roam_version, 32),
        _fit(identity.python_version, 32),
        0,
    )
    return body[:_CRC_OFFSET] + crc32(body[len(MAGIC) : _CRC_OFFSET]).to_bytes(4, "little")


def _fit(text: str, size: int) -> bytes:
    """UTF-8 of at most `size` bytes, cut between characters."""
    return text.encode("utf-8", "backslashreplace")[:size].decode("utf-8", "ignore").encode()


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("utf-8", "replace")


def _read_header(fd: int, path: str) -> tuple[SegmentConfig, Identity]:
    if sys.byteorder != "little":
        raise SegmentCorrupt(path=path, offset=0, why="segments are little-endian and this machine is not")
    raw = os.pread(fd, HEADER.size, 0)
    if len(raw) < HEADER.size:
        raise SegmentCorrupt(path=path, offset=len(raw), why="the file ends inside the header")
    fields = HEADER.unpack(raw)
    if fields[0] != MAGIC:
        raise SegmentCorrupt(path=path, offset=0, why="it does not begin with the magic")
    if fields[1] != ABI_VERSION:
        raise SegmentVersionMismatch(path=path, found=fields[1], wanted=ABI_VERSION)
    if fields[-1] != crc32(raw[len(MAGIC) : _CRC_OFFSET]):
        raise SegmentCorrupt(path=path, offset=_CRC_OFFSET, why="the header's checksum does not match")
    try:
        config = SegmentConfig(
            page_bytes=fields[4],
            life_pages=fields[5],
            vital_pages=fields[6],
            bulk_pages=fields[7],
            record_bytes=fields[8],
            span_slots=fields[9],
        )
    except ValueError as error:
        raise SegmentCorrupt(path=path, offset=24, why=str(error)) from error
    total_bytes = Geometry(config).total_bytes
    if fields[2:4] != (HEADER_BYTES, total_bytes) or fields[10:12] != (SPAN_SLOT_BYTES, MAILBOX_SLOT_BYTES):
        raise SegmentCorrupt(path=path, offset=8, why="the sizes in the header contradict each other")
    if os.fstat(fd).st_size < total_bytes:
        raise SegmentCorrupt(path=path, offset=os.fstat(fd).st_size, why="the file is shorter than its header says")
    identity = Identity(
        peer_id=fields[12],
        epoch=fields[13],
        nonce=fields[14],
        host_pid=fields[15],
        host_start_ticks=fields[16],
        anchor=ClockAnchor(fields[17], fields[18]),
        boot_id=fields[19],
        name=_text(fields[20]),
        roam_version=_text(fields[21]),
        python_version=_text(fields[22]),
    )
    return config, identity
