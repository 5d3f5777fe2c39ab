"""For tests: a cell without a process."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from .shm.mapping import MappedSegment
from .tracing import emitter as emitters
from .tracing.config import ConfigResult, TracingConfig
from .tracing.emitter import Emitter
from .tracing.host import TracingHost
from .tracing.link import PeerLink
from .tracing.peer import OpenSpan
from .tracing.records import Peer, Record
from .tracing.statistics import PeerStatistics

__all__ = ["InProcessCell"]


class InProcessCell:
    """Traces the code inside its `with` block as a cell of `host`, in this process.

    The same segment, ring, mailbox and records as a real cell's, over memory that has no file. While it is open it is
    the process's tracing; the one before comes back afterwards. One at a time, opened and closed by one thread; any
    thread may write records meanwhile. `logging` is not captured.
    """

    def __init__(self, host: TracingHost, name: str) -> None:
        self._host = host
        self._name = name
        self._link: PeerLink | None = None
        self._emitter: Emitter | None = None

    def __enter__(self) -> Self:
        self._link = self._host.register_peer(self._name, in_process=True)
        self._emitter = Emitter(MappedSegment(self._link.segment.fd), ring=self._link.stir)
        emitters.install(self._emitter)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        emitter, self._emitter = self._emitter, None
        if emitter is not None:
            emitters.withdraw(emitter)
        self._opened.release()

    @property
    def _opened(self) -> PeerLink:
        if self._link is None:
            raise RuntimeError("an InProcessCell is used inside its `with` block")
        return self._link

    @property
    def peer(self) -> Peer:
        """Who its records are tagged with."""
        return self._opened.peer

    def records(self, last: int | None = None) -> list[Record]:
        """What the host keeps of its records; see `Cell.records`."""
        return self._opened.records(last)

    def open_spans(self) -> list[OpenSpan]:
        """The spans that are open now."""
        return self._opened.open_spans()

    def statistics(self) -> PeerStatistics:
        """The numbers of its accounting identity."""
        return self._opened.statistics()

    def set_config(self, config: TracingConfig, timeout: float = 1.0) -> ConfigResult:
        """Put a configuration in force here; it is acknowledged by the next record. See `Cell.set_config`."""
        return self._opened.set_config(config, timeout)
