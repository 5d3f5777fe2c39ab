"""The host's second thread: owners of dead peers conclude here, so that the collector never waits for a disk."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from .defects import report_defect
from .link import PeerLink

__all__ = ["Concluder"]


class Concluder:
    """Concludes links in the order of their deaths. `bury(link)` is called when the owner has concluded, before the
    link closes and whoever joined it goes on. Threads: any may `put`."""

    def __init__(self, bury: Callable[[PeerLink], None]) -> None:
        self._bury = bury
        self._links: queue.SimpleQueue[PeerLink | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="roam-undertaker", daemon=True)
        self._thread.start()

    def put(self, link: PeerLink) -> None:
        """Conclude a link whose last records were taken. Never blocks."""
        self._links.put(link)

    def close(self) -> None:
        """Conclude what there is, then end the thread."""
        self._links.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (link := self._links.get()) is not None:
            for step in (_catch_up, _conclude, self._bury, PeerLink.close):
                try:
                    step(link)
                except Exception:
                    # Whatever fails, whoever joined the link goes on, and the next link is concluded.
                    report_defect()


def _catch_up(link: PeerLink) -> None:
    if link.owner is not None:
        link.owner.catch_up()


def _conclude(link: PeerLink) -> None:
    remains = link.remains()
    if link.owner is not None:
        link.owner.conclude(remains)
    else:
        link.discard()
