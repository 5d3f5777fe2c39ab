"""Whoever stands behind a peer that roam collects from but did not start."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..exit import CellExit, ExitKind
from ..stage import Stage
from . import status, verdict
from .facts import examine
from .ladder import Interference

if TYPE_CHECKING:
    from ..tracing.dumps import DumpKeeper
    from ..tracing.link import PeerLink
    from ..tracing.peer import Remains

__all__ = ["RegisteredPeer"]


class RegisteredPeer:
    """The owner of a peer made by `TracingHost.register_peer`: says how its process ended, and never reaps or ends it."""

    def __init__(self, link: PeerLink, dumps: DumpKeeper) -> None:
        self._link = link
        self._dumps = dumps
        self._registered_ns = time.time_ns()
        self._exit: CellExit | None = None
        self._dump_path: Path | None = None

    @property
    def exit(self) -> CellExit | None:
        """How the process ended, or None while it runs."""
        return self._exit

    @property
    def dump_path(self) -> Path | None:
        """The post-mortem of an abnormal exit."""
        return self._dump_path

    def end(self) -> None:
        """Called when the host closes: the process is not roam's, it runs on."""

    def abort(self) -> None:
        """As `end`."""

    def catch_up(self) -> None:
        """Called by the host before `conclude`: whatever the process prints is not roam's."""

    def conclude(self, remains: Remains) -> None:
        """Called once by the host, after the final drain. Never raises."""
        found = status.take(remains.peer.pid or 0, self._link.pidfd, None, reap=False)
        ended = verdict.judge(
            found, remains, None, Interference(self._registered_ns), corpse=examine(remains.peer.pid or 0)
        )
        if ended.kind is ExitKind.LOST and remains.said_goodbye:
            ended = CellExit(
                kind=ExitKind.EXITED,
                code=0,
                stage=Stage.EXIT,
                started_ns=self._registered_ns,
                ended_ns=remains.died_ns,
                evidence=("it said goodbye; its exit code went to its parent",),
            )
        if ended.is_normal or self._preserve(remains, ended):
            self._link.discard()
        self._exit = ended

    def _preserve(self, remains: Remains, ended: CellExit) -> bool:
        """True if the segment may go. Without a file what the host keeps of the peer is left: its records, its spans."""
        kept = self._dumps.keep(remains, ended, {})
        self._dump_path = kept.path
        return kept.is_settled
