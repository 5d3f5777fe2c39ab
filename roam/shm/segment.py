"""A segment: one mapped file per peer, made and removed by the host only.

Ownership: the host creates the file, writes the header and its own words by `pwrite`, and reads by `pread` on the
descriptor, never through a mapping, so that a cell that truncates the file cannot kill it. The cell
maps the descriptor it inherited: `roam.shm.mapping`. Failure: the whole size is reserved before anything starts, so a full file system is an error
at creation and never a SIGBUS later.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import signal
import stat
from pathlib import Path

from ..errors import NoSpace, SegmentCorrupt
from .descriptors import close_quietly
from .header import Identity, pack_header, read_header
from .layout import LANES, MAGIC, STATUS_OFFSET, STATUS_WORDS, Geometry, SegmentConfig
from .reader import RingReader

__all__ = ["SegmentFile", "boot_id", "is_written", "process_start_ticks", "reserve_file"]


@functools.cache
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


def is_written(fd: int) -> bool | None:
    """Whether any process has the file open or mapped for writing, in whatever pid namespace and of whatever user;
    None where that cannot be found out. `fd` is open for reading only, and so does not count.

    The kernel counts writers, mappings among them, and grants a lease for reading only where there is none. The lease
    is given back at once.
    """
    try:
        # Whoever opens the file in between breaks the lease, and the signal for that would end this process.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


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
        header = pack_header(segment.geometry, identity)
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
            config, identity = read_header(fd, str(path))
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
        """Store bytes of the host's own areas. Raises `SegmentCorrupt` where the file does not take them."""
        try:
            os.pwrite(self.fd, data, offset)
        except OSError as error:
            raise SegmentCorrupt(
                path=self.path, offset=offset, why=f"it cannot be written: {error.strerror}"
            ) from error

    def store_word(self, index: int, value: int) -> None:
        """Store one of the host's words. A store that is torn or refused is harmless: see `HostWord`."""
        # An error here would cost the records that the caller has just read.
        with contextlib.suppress(OSError):
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
        # Forgotten first: a free number may belong to somebody else at once, also in a forked child.
        fd, self.fd = self.fd, -1
        close_quietly(fd)
