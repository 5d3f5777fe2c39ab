"""Post-mortem files: written whole or not at all, read as far as they are sound.

Ownership: a dump belongs to whoever wrote it, mode 0600, and roam never changes one. Failure: a crash of the host while it
writes leaves a hidden `.part` file and no dump, and the segment is still there.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..errors import DumpError
from ..exit import CellExit
from ..tracing.peer import Remains
from .directory import DUMP_SUFFIX, part_name
from .format import MOST_BYTES, decode, encode
from .model import PostMortem

__all__ = ["load", "read_bounded", "read_head", "stem_at", "write"]

_MOST_NAMES = 10_000
_PIECE_BYTES = 1 << 20
_SYNC_BYTES = 8 << 20


def write(
    remains: Remains,
    exit: CellExit,
    facts: Mapping[str, object],
    dump_dir: Path,
    *,
    time_left: Iterable[object] = itertools.repeat(True),
) -> Path:
    """Write a post-mortem into `dump_dir` and return its path; when this returns, the file is safe on disk.

    The name begins with the UTC time of death, so names sort by time, and no file is ever replaced. `time_left` is as
    in `encode`. For any thread. Raises `DumpError`, and then leaves nothing behind.
    """
    # r[impl dump.write.atomic]
    try:
        pieces = encode(remains, exit, facts, time_left)
        directory = os.open(dump_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return Path(dump_dir) / _write_new(directory, _stem(remains), pieces)
        finally:
            os.close(directory)
    except OSError as error:
        raise DumpError(
            path=str(dump_dir),
            why=f"the post-mortem could not be written: {error.strerror or error}",
            remedy="The segment is kept as the evidence; make room or set ROAM_DIR.",
        ) from error


def stem_at(died_ns: int) -> str:
    """How the name of a dump begins whose cell died then. Names sort as their times do."""
    try:
        moment = datetime.datetime.fromtimestamp(died_ns // 1000 / 1e6, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        moment = datetime.datetime.now(datetime.UTC)
    return f"{moment:%Y%m%dT%H%M%S.%f}Z"


def _stem(remains: Remains) -> str:
    name = re.sub(r"[^A-Za-z0-9_.]+", "_", remains.peer.name)[:60] or "cell"
    return f"{stem_at(remains.died_ns)}-{name}-{remains.peer.pid or 0}"


def _write_new(directory: int, stem: str, pieces: Iterable[bytes]) -> str:
    for number in range(1, _MOST_NAMES):
        name = f"{stem}-{number}{DUMP_SUFFIX}" if number > 1 else stem + DUMP_SUFFIX
        part = part_name(name)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(part, flags, 0o600, dir_fd=directory)
        except FileExistsError:
            continue
        try:
            try:
                # Whoever holds the part file alone may make the name, so nothing can appear between look and rename.
                if _exists(directory, name):
                    os.unlink(part, dir_fd=directory)
                    continue
                _write_all(file, pieces)
                os.fsync(file)
            finally:
                os.close(file)
            os.rename(part, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part, dir_fd=directory)
            raise
        os.fsync(directory)
        return name
    raise FileExistsError(errno.EEXIST, f"there are {_MOST_NAMES} dumps of this name")


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _write_all(file: int, pieces: Iterable[bytes]) -> None:
    unsynced_bytes = 0
    for piece in pieces:
        view = memoryview(piece)
        while view:
            view = view[os.write(file, view[:_PIECE_BYTES]) :]
        unsynced_bytes += len(piece)
        if unsynced_bytes > _SYNC_BYTES:
            # Memory takes bytes at once; how fast the disk is shows only here, and the time that is left is asked next.
            os.fdatasync(file)
            unsynced_bytes = 0


def load(path: str | os.PathLike[str]) -> PostMortem:
    """Read a dump. What is damaged is left out and listed in `damage`. Raises `DumpError` where nothing can be used."""
    text = os.fspath(path)
    decoded = decode(read_bounded(text), text)
    remains = decoded.remains
    return PostMortem.of(
        remains, decoded.exit, decoded.facts, path=Path(text), damage=decoded.damage, is_live=remains.is_live
    )


def read_bounded(path: str, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file of at most `most_bytes`. Never waits for a writer, as a FIFO would. Raises `DumpError`."""
    with _opened(path) as (file, size_bytes):
        if size_bytes > most_bytes:
            raise DumpError(path=path, why=f"it has {size_bytes} bytes and a dump has at most {most_bytes}")
        return _read_up_to(file, size_bytes)


def read_head(path: str, length: int) -> bytes:
    """The first bytes of a regular file, `length` of them or as many as there are. Raises `DumpError`."""
    with _opened(path) as (file, _):
        return _read_up_to(file, length)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[int, int]]:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise DumpError(path=path, why="it is not a regular file")
            yield file, status.st_size
        finally:
            os.close(file)
    except (OSError, ValueError) as error:
        # ValueError: a path with a zero byte in it.
        why = getattr(error, "strerror", None) or str(error)
        raise DumpError(path=path, why=f"it cannot be read: {why}") from error


def _read_up_to(file: int, length: int) -> bytes:
    pieces = []
    while length and (piece := os.read(file, min(length, _PIECE_BYTES))):
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)
