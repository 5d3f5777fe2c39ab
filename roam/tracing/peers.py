"""The peers a host remembers: the living, and the newest of the dead."""

from __future__ import annotations

import threading
from collections import deque

from ..shm.reader import Chunk, Gap
from .link import PeerLink
from .records import Peer, TaggedRecord
from .retention import CHUNK_OVERHEAD_BYTES

__all__ = ["PeerTable"]

DEAD_KEPT = 256
"""How many dead peers are remembered, whatever they keep."""


class PeerTable:
    """Links by peer id. Threads: any. `limit_bytes` bounds what all of them keep together."""

    def __init__(self, limit_bytes: int) -> None:
        self.own: PeerLink | None = None
        """The host itself: among `all`, not among the `live`, which can end."""
        self._limit_bytes = limit_bytes
        self._most_bytes = 0
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
        links.sort(key=lambda link: link.peer.peer_id)
        return [self.own, *links] if self.own is not None else links

    @property
    def retained_bytes(self) -> int:
        """What all of them keep."""
        return sum(link.retention.size_bytes for link in self.all)

    @property
    def evicted(self) -> int:
        """Records that were kept and given up since."""
        return sum(link.retention.evicted for link in self.all) + self._forgotten

    def trim(self, added: list[Chunk | Gap]) -> None:
        """Get back within the limit, now that `added` is kept. Collector thread only.

        The dead give first, oldest first, then whoever keeps most; a bit more than they have to, so that not every
        call has to ask everybody.
        """
        self._most_bytes += sum(len(item.data) + CHUNK_OVERHEAD_BYTES for item in added if isinstance(item, Chunk))
        if self._most_bytes <= self._limit_bytes:
            return
        links = self.all
        self._most_bytes = sum(link.retention.size_bytes for link in links)
        if self._most_bytes <= self._limit_bytes:
            return
        excess = self._most_bytes - self._limit_bytes * 15 // 16
        while excess > 0:
            with self._lock:
                dead = next((link for link in self._dead if link.retention.size_bytes), None)
            freed = (dead or max(links, key=lambda link: link.retention.size_bytes)).retention.evict()
            if not freed:
                return
            excess -= freed
            self._most_bytes -= freed

    def forget(self) -> list[PeerLink]:
        """In a forked child, where nobody releases a lock that another thread holds in the parent: everybody."""
        self._lock = threading.Lock()
        return self.all

    def records(self, cell: object) -> list[TaggedRecord]:
        """What is kept of the peers that `cell` means, of everybody for None, in time order."""
        links = self.all if cell is None else self.named(cell)
        found = [TaggedRecord(link.peer, record) for link in links for record in link.records()]
        found.sort(key=lambda tagged: tagged.record.time_ns)
        return found

    def named(self, cell: object) -> list[PeerLink]:
        """The peers that `cell` means: a name, a peer id, a `Peer`, a link or its owner. Raises `TypeError` for
        anything else."""
        found = [link for link in self.all if _is_meant(cell, link)]
        if not found and not isinstance(cell, (str, int, Peer, PeerLink)) and not hasattr(cell, "peer"):
            raise TypeError(f"a cell is meant by its handle, name, Peer or peer id, not by {cell!r}")
        return found


def _is_meant(cell: object, link: PeerLink) -> bool:
    if isinstance(cell, str):
        return link.peer.name == cell
    if isinstance(cell, int):
        return link.peer.peer_id == cell
    if isinstance(cell, Peer):
        return link.peer.peer_id == cell.peer_id
    # A handle: of a dead peer nobody keeps the owner, but the handle knows its peer.
    return cell is link or cell is link.owner or getattr(cell, "peer", None) == link.peer
