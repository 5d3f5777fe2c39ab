"""What a host that was killed has left behind: its segments become post-mortems, and then its run directory goes.

Whether the host is gone is asked of the lock that it held on its run directory, and whether a cell is gone of the
kernel, which knows every writer of a segment in every pid namespace; what cannot be found out counts as alive. A
segment is removed when its post-mortem is safe on disk, so whatever fails, be it this process, leaves the segment or
the dump, or both.

A cell that reached the end of its target leaves a post-mortem only if its host had not taken all of its records: those
nobody has seen. One that never attached and printed nothing leaves none. The host's own records make one of the host.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DumpError, RoamError, SegmentCorrupt
from ..shm.header import Identity
from ..shm.layout import HEADER_BYTES, LANES, MAGIC, HostWord, StatusWord
from ..shm.rundir import LOCK_NAME, PEER_SUFFIXES, RunDirectory
from ..shm.segment import SegmentFile, boot_id, is_written, process_start_ticks
from ..stage import Stage
from ..tracing.offline import remains_of_segment
from ..tracing.peer import Remains
from .file import write
from .segment import SEGMENT_SUFFIX, birth_order, end_of_orphan

__all__ = ["Fate", "Finding", "salvage", "salvage_claimed"]

_STEM = re.compile(r"[0-9]+-[0-9a-f]{16}")
"""As `RunDirectory.new_stem` makes them."""
_PIECE_BYTES = 1 << 20


class Fate(enum.StrEnum):
    """What became of a file, or of a run directory."""

    SAVED = "saved"
    """It is a post-mortem now."""
    REMOVED = "removed"
    """There was nothing to tell."""
    KEPT = "kept"
    """Somebody may still write it. It is looked at again the next time."""
    STUCK = "stuck"
    """Something is wrong with it. It is kept as it is."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `what` names it for people, as the cell wrote it; `why` says the reason in a few
    words, for what became a post-mortem the path of that."""

    fate: Fate
    path: Path
    what: str
    why: str


def salvage(path: Path, dump_dir: Path, *, is_rehearsal: bool = False) -> Iterator[Finding]:
    """Salvage one run directory, as far as its host and its cells are gone. Nothing is raised: it is found.

    Dumps go where the host put its own, or into `dump_dir` where that place is gone. A rehearsal changes nothing.
    """
    what = f"run {path}"
    try:
        run = RunDirectory.claim(path)
    except FileNotFoundError:
        yield from _without_lock(path, is_rehearsal)
        return
    except OSError as error:
        yield Finding(Fate.STUCK, path, what, f"it cannot be locked: {error.strerror}")
        return
    if run is None:
        yield Finding(Fate.KEPT, path, what, "its host lives")
        return
    yield from salvage_claimed(run, dump_dir, is_rehearsal=is_rehearsal)


def salvage_claimed(
    run: RunDirectory, dump_dir: Path, *, most_bytes: int | None = None, is_rehearsal: bool = False
) -> Generator[Finding, None, None]:
    """As `salvage`, for a directory that this process has claimed. It is given up at the end, also when the generator
    is closed before. Segments of more than `most_bytes` are left for another time."""
    try:
        places = (run.dump_dir or dump_dir, dump_dir)
        try:
            segments, others = _contents(run.path)
        except OSError as error:
            yield Finding(Fate.STUCK, run.path, f"run {run.path}", f"it cannot be read: {error.strerror}")
            return
        for segment in segments:
            yield _salvage_segment(segment, places, most_bytes, is_rehearsal)
        for path in others:
            if path.suffix not in PEER_SUFFIXES or not _STEM.fullmatch(path.stem):
                yield Finding(Fate.STUCK, path, f"file {path}", "it is no file of roam's")
            elif not is_rehearsal and not path.with_suffix(SEGMENT_SUFFIX).exists():
                # Of a peer whose segment was removed first, by a host that was killed while it cleaned up.
                with contextlib.suppress(OSError):
                    path.unlink()
    finally:
        if is_rehearsal:
            run.forget()
        else:
            run.remove()


def _without_lock(path: Path, is_rehearsal: bool) -> Iterator[Finding]:
    """A directory without a lock file. An empty one was never a run: if its maker is still at it, it makes another."""
    try:
        if is_rehearsal:
            is_empty = not any(path.iterdir())
        else:
            path.rmdir()
            is_empty = True
    except FileNotFoundError:
        return
    except OSError:
        is_empty = False
    if not is_empty and not (path / LOCK_NAME).exists():
        why = f"it has no {LOCK_NAME}, so nobody can say whether its host lives"
        yield Finding(Fate.STUCK, path, f"run {path}", why)


def _contents(directory: Path) -> tuple[list[Path], list[Path]]:
    """The segments in the order of birth, and everything else but the lock."""
    paths = [path for path in directory.iterdir() if path.name != LOCK_NAME]
    segments = [path for path in paths if path.suffix == SEGMENT_SUFFIX]
    return sorted(segments, key=birth_order), [path for path in paths if path.suffix != SEGMENT_SUFFIX]


def _salvage_segment(path: Path, places: tuple[Path, Path], most_bytes: int | None, is_rehearsal: bool) -> Finding:
    what = f"segment {path}"
    try:
        segment = SegmentFile.open(path)
    except SegmentCorrupt as error:
        return _corrupt(path, error, is_rehearsal)
    except RoamError as error:
        return Finding(Fate.STUCK, path, what, str(error))
    except OSError as error:
        return Finding(Fate.STUCK, path, what, f"it cannot be opened: {error.strerror}")
    try:
        what = _describe(segment)
        kept = _why_kept(segment, most_bytes)
        if kept is not None:
            return Finding(Fate.KEPT, path, what, kept)
        remains = remains_of_segment(path)
        nothing_to_tell = _why_not_told(remains, segment)
        if nothing_to_tell is not None:
            if not is_rehearsal:
                _discard(path)
            return Finding(Fate.REMOVED, path, what, nothing_to_tell)
        if is_rehearsal:
            return Finding(Fate.SAVED, path, what, f"in {places[0]}")
        dump = _write(remains, places)
        # r[impl dump.salvage.evidence] Only now: the dump is safe on disk.
        _discard(path)
        return Finding(Fate.SAVED, path, what, str(dump))
    except Exception as error:
        # One segment, whatever its bytes do to the code that reads it, keeps nobody from the next.
        return Finding(Fate.STUCK, path, what, str(error) or type(error).__name__)
    finally:
        segment.close()


def _describe(segment: SegmentFile) -> str:
    identity, pid = segment.identity, segment.word(StatusWord.PID)
    return f'{"cell" if identity.peer_id else "host"} "{identity.name}"' + (f" (pid {pid})" if pid else "")


def _why_kept(segment: SegmentFile, most_bytes: int | None) -> str | None:
    """Why a segment has to stay where it is, None if its process is gone."""
    if most_bytes is not None and segment.geometry.total_bytes > most_bytes:
        return "it is large; `roam gc` takes it"
    # r[impl dump.salvage.alive]
    is_used = is_written(segment.fd)
    if segment.identity.peer_id == 0:
        # The lock was its own. What it forked has it mapped and never writes.
        return "its process lives, without its lock" if is_used is not False and _runs(segment.identity) else None
    if is_used:
        return "a process has it open"
    if is_used is None:
        return "the file system cannot say whether a process has it open"
    return None


def _runs(identity: Identity) -> bool:
    """Whether the process that made a segment is seen here."""
    ticks = process_start_ticks(identity.host_pid)
    return bool(ticks) and ticks == identity.host_start_ticks and identity.boot_id == boot_id()


def _why_not_told(remains: Remains, segment: SegmentFile) -> str | None:
    """Why a post-mortem would have nothing to tell, None if it would."""
    if remains.peer.peer_id == 0 or remains.fault_text:
        return None
    if remains.said_goodbye and remains.stage is Stage.EXIT:
        emitted = [remains.statistics.lanes[name].emitted for name in LANES]
        is_taken = all(segment.word(HostWord.TAKEN + lane) >= count for lane, count in enumerate(emitted))
        return "it was done, and its host had all of its records" if is_taken else None
    has_printed = remains.stdout_tail or remains.stderr_tail
    if remains.peer.pid is None and not remains.chunks and not remains.lost and not has_printed:
        return "no process had attached"
    return None


def _write(remains: Remains, places: tuple[Path, Path]) -> Path:
    """Write the post-mortem into the first of the places that takes it. Raises `DumpError`."""
    end = end_of_orphan(remains)
    first, second = places
    if first != second:
        with contextlib.suppress(DumpError):
            return write(remains, end, {}, first)
    return write(remains, end, {}, second)


def _discard(segment: Path) -> None:
    for suffix in PEER_SUFFIXES:
        segment.with_suffix(suffix).unlink(missing_ok=True)


def _corrupt(path: Path, error: SegmentCorrupt, is_rehearsal: bool) -> Finding:
    what = f"segment {path}"
    try:
        # Zeros are anybody's: only the name says that these are roam's.
        if not _STEM.fullmatch(path.stem) or not _is_blank(path):
            return Finding(Fate.STUCK, path, what, str(error))
        if not is_rehearsal:
            _discard(path)
    except OSError as trouble:
        return Finding(Fate.STUCK, path, what, f"{error} {trouble.strerror}")
    return Finding(Fate.REMOVED, path, what, "its host had not finished making it")


def _is_blank(path: Path) -> bool:
    """Whether no header was finished, which is before any process can have the file, and nothing was written since."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if os.read(fd, len(MAGIC)).strip(b"\0"):
            return False
        os.lseek(fd, HEADER_BYTES, os.SEEK_SET)
        while piece := os.read(fd, _PIECE_BYTES):
            if piece.strip(b"\0"):
                return False
        return True
    finally:
        os.close(fd)
