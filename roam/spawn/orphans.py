"""What a host does for those that were killed before it: when it starts, it salvages what they have left."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from ..shm.rundir import RunDirectory, run_directories, run_root

__all__ = ["salvage_orphans"]

_PATIENCE_S = 0.25
"""After this time nothing new is begun; the next host goes on, or `roam gc`."""
_LARGE_BYTES = 32 << 20
"""A larger segment takes long to read and to write, and is left for `roam gc`."""


def salvage_orphans(dump_dir: Path) -> None:
    """Make post-mortems of what killed hosts have left, and tell the logger `roam` of it. Never raises.

    In the caller's thread, so that a host that has started has no thread or descriptor more for it, and for a quarter
    of a second at most, apart from the segment in hand then. Without orphans it is a look into the root, and a try for
    each lock there.
    """
    until_s = time.monotonic() + _PATIENCE_S
    # r[impl dump.salvage.start]
    try:
        for path in run_directories(run_root()):
            if time.monotonic() > until_s:
                return
            _salvage(path, dump_dir, until_s)
    except Exception:
        # A host starts, whatever others have left.
        logging.getLogger("roam").debug("what killed hosts have left could not be salvaged", exc_info=True)


def _salvage(path: Path, dump_dir: Path, until_s: float) -> None:
    try:
        run = RunDirectory.claim(path)
    except OSError:
        run = None
        _remove_empty(path)
    if run is None:
        return
    # Imported late: most hosts find nothing.
    from ..postmortem.salvage import Fate, salvage_claimed

    findings = salvage_claimed(run, dump_dir, most_bytes=_LARGE_BYTES)
    try:
        for finding in findings:
            level = logging.INFO if finding.fate in (Fate.SAVED, Fate.STUCK) else logging.DEBUG
            logger = logging.getLogger("roam")
            logger.log(level, "of a host that is gone: %s is %s: %s", finding.what, finding.fate, finding.why)
            if time.monotonic() > until_s:
                break
    finally:
        findings.close()


def _remove_empty(path: Path) -> None:
    """A host was killed before it had a lock in its directory. If one is just about to, it makes another directory."""
    try:
        path.rmdir()
    except OSError:
        return
