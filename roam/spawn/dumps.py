"""The post-mortems of one host: written, counted, kept within limits, and in a crash loop kept in memory."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ..exit import CellExit
from ..tracing.bucket import Bucket
from ..tracing.dumps import DumpLimits, KeptDump
from ..tracing.peer import Remains
from ..tracing.statistics import DumpStatistics

__all__ = ["DumpStore"]

WRITE_S = 2.0
"""How long a dump may take until what is still to be written of it is left out."""
STORM_S = 10.0
"""A storm is over when for so long no death was beyond the limits."""


class DumpStore:
    """Whoever writes the dumps of a host; see `DumpKeeper`."""

    def __init__(self, directory: Path, limits: DumpLimits) -> None:
        self.directory = directory
        self._limits = limits
        self._bucket = Bucket(limits.burst_count, limits.burst_count / limits.rate_per_s)
        self._written = self._failed = self._suppressed = self._removed = self._untold = 0
        self._storm_until_s = 0.0
        self._lock = threading.Lock()
        self._prune(None)

    def keep(self, remains: Remains, exit: CellExit, facts: Mapping[str, object]) -> KeptDump:
        """Write a post-mortem, as far as the limits allow. Never raises. Any thread."""
        with self._lock:
            return self._keep(remains, exit, facts)

    def _keep(self, remains: Remains, exit: CellExit, facts: Mapping[str, object]) -> KeptDump:
        # Imported late: only a process that had a cell die pays for it.
        from ..postmortem import PostMortem, load, write

        in_memory = partial(PostMortem.of, remains, exit, facts)
        # r[impl dump.storm]
        now_s = time.monotonic()
        if not self._bucket.take():
            self._suppressed += 1
            self._untold += 1
            self._storm_until_s = now_s + STORM_S
            return KeptDump(None, True, in_memory)
        if now_s > self._storm_until_s:
            self._tell()
        until_s = now_s + WRITE_S
        try:
            path = write(
                remains, exit, facts, self.directory, time_left=iter(lambda: time.monotonic() < until_s, False)
            )
        except Exception:
            self._failed += 1
            _log(logging.ERROR, "the post-mortem of %r is kept in memory only", remains.peer.name)
            return KeptDump(None, False, in_memory)
        self._written += 1
        self._prune(path)
        return KeptDump(path, True, partial(load, path))

    def statistics(self) -> DumpStatistics:
        """What became of them. Any thread."""
        return DumpStatistics(
            written=self._written, failed=self._failed, suppressed=self._suppressed, removed=self._removed
        )

    def close(self) -> None:
        """No more deaths will come: say what has still to be said."""
        self._tell()

    def _tell(self) -> None:
        """Say once, when a storm is over, how many post-mortems it cost."""
        count, self._untold = self._untold, 0
        if count:
            _log(
                logging.WARNING,
                "%d post-mortems were not written, because cells died too fast; they are in memory, with the handles. "
                "See TracingHost(dump_limits=...).",
                count,
            )

    def _prune(self, newest: Path | None) -> None:
        from ..postmortem.directory import prune

        limits = self._limits
        try:
            self._removed += prune(
                self.directory, most_count=limits.most_count, most_bytes=limits.most_bytes, newest=newest
            )
        except OSError:
            _log(logging.DEBUG, "old post-mortems could not be removed")


def _log(level: int, text: str, *arguments: object) -> None:
    # What handlers and filters of the program raise must not keep a death from being concluded.
    with contextlib.suppress(Exception):
        logging.getLogger("roam").log(level, text, *arguments, exc_info=sys.exc_info()[0] is not None)
