"""A process that roam did not start has attached to the segment that was reserved for it."""

from __future__ import annotations

import errno
import os

from .collector import Collector
from .link import PeerLink

__all__ = ["welcome"]


def welcome(link: PeerLink, pid: int, collector: Collector) -> None:
    """Watch the process from now on. Collector thread only."""
    try:
        link.pidfd = os.pidfd_open(pid)
    except (OSError, OverflowError) as error:
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            # It lives, and is watched from a later record on, when there is room.
            return
        # It came and went, or wrote a number that is none. Nobody will ever say that it has ended.
        collector.call(lambda: collector.conclude(link))
    else:
        collector.watch(link)
    link.is_awaited = False
    link.close_cell_end()
