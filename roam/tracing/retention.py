"""What a host keeps of one peer: raw chunks, bounded in bytes, each lane evicting only its own.

Threads: any, under a lock of its own.
"""

from __future__ import annotations

import threading
from collections import deque

from ..shm.layout import VITAL
from ..shm.reader import Chunk
from .lanes import LANES
from .records import Lost

__all__ = ["CHUNK_OVERHEAD_BYTES", "Retention"]

CHUNK_OVERHEAD_BYTES = 256
"""What keeping a chunk costs beside its bytes."""
LOST_KEPT = 512


class Retention:
    """Keeps up to `limit_bytes`, shared out over the lanes as `lane_pages` are, `stdio` as much as `vital`, so that a
    flood in one lane never costs another its records. The newest chunk of a lane is always kept."""

    def __init__(self, limit_bytes: int, lane_pages: tuple[int, ...]) -> None:
        self._lock = threading.Lock()
        self._lanes: list[deque[Chunk]] = [deque() for _ in LANES]
        self._lane_bytes = [0] * len(LANES)
        shares = (*lane_pages, lane_pages[VITAL])
        self._limits = [limit_bytes * share // sum(shares) for share in shares]
        self._lost: deque[Lost] = deque(maxlen=LOST_KEPT)
        self.evicted = 0
        """Records that were kept and given up since."""

    @property
    def size_bytes(self) -> int:
        """What is kept now."""
        return sum(self._lane_bytes)

    def keep(self, chunk: Chunk) -> None:
        """Keep a chunk; the oldest of its lane make room."""
        lane = chunk.lane
        with self._lock:
            self._lanes[lane].append(chunk)
            self._lane_bytes[lane] += len(chunk.data) + CHUNK_OVERHEAD_BYTES
            while self._lane_bytes[lane] > self._limits[lane] and len(self._lanes[lane]) > 1:
                self._evict(lane)

    def lose(self, lost: Lost) -> None:
        """Keep a notice of loss; of too many the newest."""
        with self._lock:
            self._lost.append(lost)

    def evict(self) -> int:
        """Give up the oldest chunk of the fullest lane; returns the bytes freed, 0 when nothing is left."""
        with self._lock:
            lane = max(range(len(LANES)), key=self._lane_bytes.__getitem__)
            return self._evict(lane) if self._lanes[lane] else 0

    def forget(self) -> None:
        """In a forked child: do without a lock that another thread holds in the parent."""
        self._lock = threading.Lock()

    def newest(self, lane: int) -> Chunk | None:
        """The newest chunk of a lane, None where nothing of it is kept."""
        with self._lock:
            return self._lanes[lane][-1] if self._lanes[lane] else None

    def snapshot(self) -> tuple[list[Chunk], list[Lost]]:
        """All that is kept."""
        with self._lock:
            return [chunk for lane in self._lanes for chunk in lane], list(self._lost)

    def _evict(self, lane: int) -> int:
        chunk = self._lanes[lane].popleft()
        freed = len(chunk.data) + CHUNK_OVERHEAD_BYTES
        self._lane_bytes[lane] -= freed
        self.evicted += chunk.count
        return freed
