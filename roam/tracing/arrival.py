"""Who a peer is: known once its process has attached to the segment that was reserved for it."""

from __future__ import annotations

import errno
import os

from .collector import Collector
from .link import PeerLink
from .records import Peer

__all__ = ["identify"]


def identify(link: PeerLink, collector: Collector) -> None:
    """Note who the peer is, as soon as it can be known, and watch a process that roam did not start from then on.
    Collector thread only."""
    if link.peer.pid is None and (pid := link.claimed_pid()):
        # Its first records can overtake whoever started it.
        link.peer = Peer(link.peer.peer_id, link.peer.epoch, link.peer.name, pid)
    if link.is_awaited and link.peer.pid is not None:
        _welcome(link, link.peer.pid, collector)


def _welcome(link: PeerLink, pid: int, collector: Collector) -> None:
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
