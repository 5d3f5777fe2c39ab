"""The peers a host remembers: the living, and the newest of the dead."""

from __future__ import annotations

import threading
from collections import deque

from .link import PeerLink
from .records import Peer

__all__ = ["PeerTable"]

DEAD_KEPT = 256
"""How many dead peers are remembered, whatever they keep."""


class PeerTable:
    """Links by peer id. Threads: any. `limit_bytes` bounds what all of them keep together."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._live: dict[int, PeerLink] = {}
        self._dead: deque[PeerLink] = deque()
        self._forgotten = 0

    def add(self, link: PeerLink) -> None:
        """Remember a living peer."""
        with self._lock:
            self._live[link.peer.peer_id] = link

    def remove(self, link: PeerLink) -> None:
        """Forget a peer that never lived."""
        with self._lock:
            self._live.pop(link.peer.peer_id, None)

    def bury(self, link: PeerLink) -> None:
        """A living peer is dead now. The oldest dead are forgotten, and their records counted as evicted."""
        with self._lock:
            if self._live.pop(link.peer.peer_id, None) is None:
                return
            self._dead.append(link)
            while len(self._dead) > DEAD_KEPT:
                gone = self._dead.popleft()
                self._forgotten += sum(lane.delivered for lane in gone.statistics().lanes.values())

    @property
    def live(self) -> list[PeerLink]:
        """The living, in the order of their ids."""
        with self._lock:
            return list(self._live.values())

    @property
    def all(self) -> list[PeerLink]:
        """Everybody, in the order of their ids."""
        with self._lock:
            links = [*self._dead, *self._live.values()]
        return sorted(links, key=lambda link: link.peer.peer_id)

    @property
    def retained_bytes(self) -> int:
        """What all of them keep."""
        return sum(link.retention.size_bytes for link in self.all)

    @property
    def evicted(self) -> int:
        """Records that were kept and given up since."""
        return sum(link.retention.evicted for link in self.all) + self._forgotten

    def trim(self) -> None:
        """Get back within the limit: the dead give first, oldest first, then whoever keeps most."""
        links = self.all
        excess = sum(link.retention.size_bytes for link in links) - self._limit_bytes
        while excess > 0:
            with self._lock:
                dead = next((link for link in self._dead if link.retention.size_bytes), None)
            freed = (dead or max(links, key=lambda link: link.retention.size_bytes)).retention.evict()
            if not freed:
                return
            excess -= freed

    def named(self, cell: object) -> list[PeerLink]:
        """The peers that `cell` means: a name, a peer id, a `Peer`, a link or its owner."""
        return [link for link in self.all if _is_meant(cell, link)]


def _is_meant(cell: object, link: PeerLink) -> bool:
    if isinstance(cell, str):
        return link.peer.name == cell
    if isinstance(cell, int):
        return link.peer.peer_id == cell
    if isinstance(cell, Peer):
        return link.peer.peer_id == cell.peer_id
    return cell is link.owner or cell is link
