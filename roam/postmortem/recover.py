"""Everything that is left of runs whose processes are all gone, put together again; nothing of it is changed.

Unlike `salvage` this takes no lock and removes nothing, so it also reads what lives, what lies on a disk that was taken
out of another machine, and what cannot be written. Time is told by the anchor of each segment, so that records from
before and after a reboot stand in the order in which they were written.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DumpError, RoamError
from ..exit import CellExit
from ..shm.rundir import LOCK_NAME, is_held, is_run_name, noted_dump_dir
from ..tracing.offline import remains_of_segment
from ..tracing.peer import Remains
from ..tracing.records import Record
from .directory import DUMP_SUFFIX, check_dump_dir
from .file import load, stem_at, write
from .model import PostMortem
from .segment import SEGMENT_SUFFIX, birth_order, end_of, end_of_orphan
from .units import size

__all__ = ["Recovered", "Run", "save", "timeline"]

_OVERHEAD_BYTES = 64 << 10
"""What a dump takes beside records and texts, at most as a rule."""


@dataclass(slots=True)
class Recovered:
    """One peer of a run. `remains` and `end` are None where it has a dump already."""

    pm: PostMortem
    remains: Remains | None = None
    end: CellExit | None = None


class Run:
    """One run directory, read as it is now. `problems` lists what could not be read, or not wholly."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_held = is_held(path)
        """Whether its host lives, and may still change what was read; None where nobody can say."""
        self.problems: list[str] = []
        self.peers = [*self._segments()]
        """In the order of their ids, the host itself first."""
        self.peers += self._earlier()
        self.peers.sort(key=lambda found: (found.pm.peer.peer_id, found.pm.peer.epoch))

    @classmethod
    def all_in(cls, directory: Path) -> list[Run]:
        """The runs in a `ROAM_DIR`, in a root of run directories, or the one in a run directory, the oldest first.

        Raises `DumpError` where there are none.
        """
        try:
            if _is_run(directory):
                paths = [directory]
            else:
                root = directory / "run" if (directory / "run").is_dir() else directory
                paths = [path for path in root.iterdir() if is_run_name(path.name) and _is_run(path)]
        except OSError as error:
            raise DumpError(path=str(directory), why=f"it cannot be read: {error.strerror}") from error
        if not paths:
            raise DumpError(
                path=str(directory),
                why="there is no run in this directory",
                remedy="Name a ROAM_DIR, a directory of runs, or one run directory.",
            )
        runs = [cls(path) for path in paths]
        return sorted(
            runs, key=lambda run: (min((found.pm.exit.started_ns for found in run.peers), default=0), run.path)
        )

    def _segments(self) -> Iterator[Recovered]:
        for path in sorted(self.path.glob(f"*{SEGMENT_SUFFIX}"), key=birth_order):
            try:
                remains = remains_of_segment(path)
            except (RoamError, OSError) as error:
                self.problems.append(str(error) if isinstance(error, RoamError) else f"{path}: {error.strerror}")
                continue
            is_orphan = self.is_held is False and not remains.is_live
            end = end_of_orphan(remains) if is_orphan else end_of(remains)
            yield self._noted(Recovered(PostMortem.of(remains, end, {}, is_live=remains.is_live), remains, end))

    def _earlier(self) -> Iterator[Recovered]:
        """The dumps of those peers that had died before the host did."""
        if not self.peers:
            return
        known = {found.pm.peer.peer_id for found in self.peers}
        first = stem_at(min(found.pm.exit.started_ns for found in self.peers))
        # The second is the place where a ROAM_DIR has them, wherever it is mounted now.
        places = {noted_dump_dir(self.path), self.path.parent.parent / "dumps"}
        for path in sorted(path for place in places if place is not None for path in place.glob(f"*{DUMP_SUFFIX}")):
            if path.name < first or path.name.startswith("."):
                continue
            try:
                pm = load(path)
            except DumpError as error:
                self.problems.append(str(error))
                continue
            # The name of a run is random: no other host has had it.
            if pm.peer.peer_id not in known and Path(pm.segment_path).parent.name == self.path.name:
                yield self._noted(Recovered(pm))

    def _noted(self, found: Recovered) -> Recovered:
        self.problems += [f"{found.pm.path or found.pm.segment_path} is damaged: {text}" for text in found.pm.damage]
        return found


def _is_run(path: Path) -> bool:
    """Whether there is, or was, a host's lock or a segment in a directory."""
    if path.is_symlink() or not path.is_dir():
        return False
    return (path / LOCK_NAME).exists() or any(path.glob(f"*{SEGMENT_SUFFIX}"))


def timeline(peers: Iterable[Recovered]) -> list[tuple[Recovered, Record]]:
    """The records of all, in the order of their wall times."""
    # r[impl dump.recover.timeline]
    streams = [[(found, record) for record in found.pm.records] for found in peers]
    return list(heapq.merge(*streams, key=lambda item: item[1].time_ns))


def save(peers: Sequence[Recovered], directory: Path) -> list[str]:
    """Write the post-mortems that are in no file yet, apart from those of processes that live; returns what went wrong.
    `directory` is made where it is missing.

    Raises `DumpError` before anything is written where the directory cannot be used, or has no room for all of them.
    """
    wanted = [
        (found, found.remains, found.end) for found in peers if found.remains and found.end and not found.pm.is_live
    ]
    place = check_dump_dir(directory)
    needed_bytes = sum(_dump_bytes(remains) for _, remains, _ in wanted)
    room = os.statvfs(place)
    if needed_bytes > room.f_bavail * room.f_frsize:
        raise DumpError(
            path=str(directory),
            why=f"the post-mortems may take {size(needed_bytes)} and {size(room.f_bavail * room.f_frsize)} are free",
            remedy="Name a directory with more room.",
        )
    problems = []
    for found, remains, end in wanted:
        try:
            found.pm.path = write(remains, end, {}, place)
        except DumpError as error:
            problems.append(str(error))
    return problems


def _dump_bytes(remains: Remains) -> int:
    texts = len(remains.fault_text) + len(remains.stdout_tail) + len(remains.stderr_tail)
    return _OVERHEAD_BYTES + texts + sum(len(chunk.data) for chunk in remains.chunks)
