"""The host: makes segments, collects what peers write, hands it on, keeps some of it.

Ownership: a `TracingHost` owns its run directory, its segments and its threads (`roam-collector`, `roam-undertaker`,
`roam-forwarder`); closing it leaves none of them. Threads: every method may be called from any thread. A host belongs
to the process that made it; in a forked child it is inert. Failure: what cannot be made raises at the call, with
nothing left behind.
"""

from __future__ import annotations

import atexit
import contextlib
import fnmatch
import itertools
import os
import threading
import time
import weakref
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import HostClosed
from ..shm.layout import SegmentConfig
from ..shm.mapping import MappedSegment
from ..shm.reader import Chunk, Gap
from ..shm.rundir import RunDirectory
from . import emitter as emitters
from .arrival import identify
from .collector import Collector
from .concluder import Concluder
from .config import ConfigResult, TracingConfig
from .defects import report_defect
from .dumps import DumpLimits
from .emitter import Emitter
from .fanout import FanOut
from .link import PeerLink
from .peer import PeerOwner, Undertaker
from .peers import PeerTable
from .records import Peer, TaggedRecord
from .reservation import check_options, refusals_told, reserve_link
from .statistics import DumpStatistics, HostStatistics
from .subscription import Subscription
from .threads import run_together

__all__ = ["TracingHost"]

CLOSE_TIMEOUT_S = 15.0

undertaker: Undertaker | None = None
"""Set by the layer above when it is imported, which `roam.TracingHost` sees to; without it there are no dumps."""

_open_hosts: weakref.WeakSet[TracingHost] = weakref.WeakSet()


class TracingHost:
    """Collects the records of its peers.

    `config` is what new peers start with. `segment` gives the sizes of their segments. `dump_dir` is where
    post-mortems go, the user's state directory by default, and `dump_limits` what they may take of it. `retain_bytes` is what is kept of one peer,
    `retain_total_bytes` of all together, dead peers first to go. `forward` hands events to this process's `logging`.
    With `promote_on_error` a span that ends with an exception promotes its trace, see `promote`.

    Raises `NoSpace` where a segment does not fit, `DumpError` where no dump could be written, `RoamError` where no
    run directory can be made.
    """

    def __init__(
        self,
        config: TracingConfig | None = None,
        *,
        segment: SegmentConfig | None = None,
        dump_dir: str | os.PathLike[str] | None = None,
        dump_limits: DumpLimits | None = None,
        retain_bytes: int = 2 << 20,
        retain_total_bytes: int = 256 << 20,
        forward: bool = True,
        promote_on_error: bool = False,
    ) -> None:
        self._config = config or TracingConfig()
        self._segment_config = segment or SegmentConfig()
        limits = dump_limits or DumpLimits()
        check_options(self._segment_config, limits, retain_bytes, retain_total_bytes)
        self.pid = os.getpid()
        self.dumps = undertaker.prepare(dump_dir, limits) if undertaker is not None else None
        """Whoever writes post-mortems; None where nobody does."""
        self.dump_dir = self.dumps.directory if self.dumps is not None else None
        """Where post-mortems are written."""
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._peers = PeerTable(retain_total_bytes)
        self._state = "open"
        self._emitter: Emitter
        self._own: PeerLink | None = None
        self._run = RunDirectory.create(self.dump_dir)
        self._reserve = partial(
            reserve_link, run=self._run, config=self._segment_config, keeper=self, retain_bytes=retain_bytes
        )
        with refusals_told(), contextlib.ExitStack() as undo:
            undo.callback(self._run.remove)
            self._fan_out = FanOut(forward=forward, config=self._config, peers=lambda: self._peers.all)
            undo.callback(self._fan_out.close)
            self._fan_out.promotes_failures = promote_on_error
            self._concluder = Concluder(self._peers.bury)
            undo.callback(self._concluder.close)
            self._collector = Collector(self._deliver, self._concluder.put)
            undo.callback(self._collector.close)
            self._peers.own = self._own = self._make_own_peer()
            undo.pop_all()
        _open_hosts.add(self)
        # A cell that is also a host goes on as the cell that it is.
        emitters.install(self._emitter, beneath=True)

    # Peers.

    def register_peer(self, name: str, *, owner: PeerOwner | None = None, in_process: bool = False) -> PeerLink:
        """Reserve an id, a segment and everything else that a process needs to attach.

        For a process that roam does not start, give its ticket to `subprocess.Popen(cmd, env=os.environ |
        peer.ticket.environ, pass_fds=peer.ticket.fds)` and call `roam.init_cell_tracing()` there. The process is the
        caller's: it is neither ended nor waited for, and when the host closes it goes on untraced. `owner` is whoever
        stands behind the peer; `in_process` takes memory instead of a file, for a peer in this process.

        Raises `HostClosed`, `NoSpace` or `OSError`, with nothing left behind; `TypeError` or `ValueError` for a name
        that is none.
        """
        if not isinstance(name, str):
            raise TypeError(f"a peer's name is a string, not {type(name).__name__}")
        if not name:
            raise ValueError("a peer needs a name of at least one character")
        with self._lock:
            if not self.is_open:
                raise HostClosed("register_peer")
            peer = Peer(next(self._ids), 1, name, self.pid if in_process else None)
            link = self._reserve(peer, owner=owner, in_process=in_process)
            with contextlib.ExitStack() as undo:
                undo.callback(link.close)
                undo.callback(link.discard)
                link.is_awaited = owner is None and not in_process
                if link.is_awaited and undertaker is not None:
                    undertaker.adopt(link)
                # Under the lock, so that a configuration that `set_config` posts meanwhile comes after it.
                link.post_config(self._config)
                undo.pop_all()
            self._peers.add(link)
            self._collector.call(lambda: self._collector.add(link))
        return link

    def started(self, link: PeerLink, pid: int, pidfd: int) -> None:
        """The peer's process exists. The host owns `pidfd` from now on and watches it."""
        link.peer = Peer(link.peer.peer_id, link.peer.epoch, link.peer.name, pid)
        link.pidfd = pidfd
        link.close_cell_end()
        self._collector.call(lambda: self._collector.watch(link))

    def abandon(self, link: PeerLink) -> None:
        """The start failed before there was a process: remove everything of the peer."""
        self._collector.ask(lambda: self._collector.remove(link), CLOSE_TIMEOUT_S)
        self._peers.remove(link)
        link.discard()
        link.close()

    def stir(self, link: PeerLink) -> None:
        """Make the collector look at a peer now. Never blocks."""
        self._collector.call(lambda: self._collector.stir(link))

    def bring(self, link: PeerLink, items: list[Chunk | Gap]) -> None:
        """Take records of a peer that are in no segment, and wait until they are taken."""
        self._collector.bring(link, items, CLOSE_TIMEOUT_S)

    @property
    def config(self) -> TracingConfig:
        """What new peers start with."""
        return self._config

    @property
    def is_open(self) -> bool:
        """Whether cells can be spawned and records arrive."""
        return self._state == "open" and self.pid == os.getpid()

    @property
    def run_dir(self) -> Path:
        """Where the segments of this host's peers lie."""
        return self._run.path

    @property
    def peers(self) -> tuple[Peer, ...]:
        """All peers that the host remembers, in the order of their ids. The host itself is peer 0."""
        return tuple(link.peer for link in self._peers.all)

    @property
    def cells(self) -> tuple[PeerOwner, ...]:
        """The owners of living peers: `Cell` handles, mostly."""
        return tuple(link.owner for link in self._peers.live if link.owner is not None)

    # Records.

    def subscribe(self, filter: str | None = None, *, capacity: int = 10_000, replay: bool = False) -> Subscription:
        """A bounded stream of tagged records from all peers.

        `filter` is a filter as in `TracingConfig`; None lets everything through that was captured and forwarded. With
        `replay`, what the host still keeps comes first. When `capacity` records wait, the oldest are dropped and
        counted. Raises `HostClosed`, `FilterError`, or `ValueError` for a capacity below 1.
        """
        if not self.is_open:
            raise HostClosed("subscribe")
        return self._fan_out.subscribe(filter, capacity, is_replayed=replay)

    def records(self, *, cell: object = None, last: int | None = None) -> list[TaggedRecord]:
        """What the host keeps, in time order: of one peer (a name, a `Cell`, a `Peer` or a peer id) or of all; the
        `last` ones only, where given."""
        found = self._peers.records(cell)
        return found if last is None else found[max(0, len(found) - last) :]

    def promote(self, trace_id: bytes) -> int:
        """Send subscribers, and this process's logging, what was captured of a trace and kept back by the forward level:
        all that is still kept of it, from every peer, and what comes of it from now on. Returns how many are sent now.
        Raises `HostClosed`, or ValueError for what is no trace id, which has 16 bytes."""
        if not self.is_open:
            raise HostClosed("promote")
        return self._fan_out.promote(trace_id)

    def statistics(self) -> HostStatistics:
        """The numbers of all peers at this moment."""
        return HostStatistics(
            peers={link.peer.peer_id: link.statistics() for link in self._peers.all},
            retained_bytes=self._peers.retained_bytes,
            evicted=self._peers.evicted,
            forwarding=self._fan_out.forwarding_statistics(),
            promotions_skipped=self._fan_out.promotions_skipped,
            dumps=self.dumps.statistics() if self.dumps is not None else DumpStatistics(),
        )

    def set_config(
        self, config: TracingConfig, *, cells: str = "*", timeout: float = 1.0
    ) -> dict[PeerOwner, ConfigResult]:
        """Put a configuration in force at all living peers whose name matches the pattern `cells`, and for new ones
        if it is `"*"`. Returns what became of it at each, after at most `timeout` seconds for all together.
        Raises `ConfigTooLarge`, `HostClosed`, `TypeError` for what is no configuration, or `ValueError` where the host
        itself would count for more than 48 keys of `sample` and `rate` in its life; nothing changes then."""
        deadline = time.monotonic() + timeout
        with self._lock:
            if not self.is_open:
                raise HostClosed("set_config")
            if cells == "*":
                if self._own is not None and (refused := self._own.post_config(config).refused):
                    raise ValueError(refused)
                self._config = config
                self._fan_out.configure(config)
            links = [link for link in self._peers.live if fnmatch.fnmatchcase(link.peer.name, cells)]
            posted = [(link, link.post_config(config)) for link in links]
        return {link.owner: link.acknowledged(result, deadline) for link, result in posted if link.owner is not None}

    def flush_forwarding(self, timeout_s: float = 5.0) -> bool:
        """Wait until this process's logging was offered everything collected so far; False if it is stuck."""
        return self._fan_out.flush_forwarding(timeout_s)

    # The end.

    def close(self) -> None:
        """Stop the cells, drain, write what is due, and leave no process, thread, descriptor or file. Idempotent.

        Ctrl-C while the cells have time to stop kills them, and is raised when everything is done.
        """
        self._close(at_once=False)

    def abort(self) -> None:
        """As `close`, but kill the cells at once."""
        self._close(at_once=True)

    def _close(self, *, at_once: bool) -> None:
        if self.pid != os.getpid():
            return
        with self._lock:
            if self._state != "open":
                return
            self._state = "closing"
        try:
            self._end_peers(at_once=at_once)
        except BaseException:
            # The next call goes on from here, the one at interpreter exit at the latest: otherwise threads, segments
            # and the run directory would stay.
            self._state = "open"
            if not at_once:
                # r[impl spawn.interrupt]
                self.abort()
            raise
        self._shut_down()

    def _end_peers(self, *, at_once: bool) -> None:
        links = self._peers.live
        run_together(
            [
                link.owner.abort if at_once else link.owner.end
                for link in links
                if link.owner is not None and not link.concluded.is_set()
            ],
            "roam-ender",
        )
        for link in links:
            # What still lives was not started by roam: it goes on, and its records end here.
            if not link.has_ended() or not link.concluded.wait(CLOSE_TIMEOUT_S):
                self.release(link)

    def release(self, link: PeerLink) -> None:
        """Take what a peer has written so far, and let go of it without an end."""
        if link.concluded.is_set():
            return
        self._collector.ask(lambda: self._drain_last(link), CLOSE_TIMEOUT_S)
        self._peers.bury(link)
        link.discard()
        link.close()

    def _drain_last(self, link: PeerLink) -> None:
        try:
            self._collector.remove(link)
            self._collector.drain(link)
        except Exception:
            # Closing goes on.
            report_defect()

    def __enter__(self) -> Self:
        if not self.is_open:
            raise HostClosed("with")
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _shut_down(self) -> None:
        self._state = "closed"
        emitters.withdraw(self._emitter)
        del self._emitter
        self._concluder.close()
        if self.dumps is not None:
            self.dumps.close()
        own = self._own
        if own is not None:
            self._collector.ask(lambda: self._drain_last(own), CLOSE_TIMEOUT_S)
        self._collector.close()
        self._fan_out.close()
        if own is not None:
            own.discard()
            own.close()
        self._run.remove()

    def forget(self) -> None:
        """In a forked child: close this host's ends of everything, touch nothing else."""
        if self._state not in ("open", "closing"):
            return
        self._state = "forked"
        # Other threads of the parent may hold any lock, and are not here to release it.
        self._lock = threading.Lock()
        for link in self._peers.forget():
            link.forget()
        self._fan_out.forget()
        self._collector.forget()
        self._run.forget()

    # Inside.

    def _make_own_peer(self) -> PeerLink:
        """Peer 0: this process, with a segment of its own, so that `roam.info` here is collected like any cell's."""
        link = self._reserve(Peer(next(self._ids), 1, "host", None))
        try:
            link.post_config(self._config)
            link.peer = Peer(0, link.peer.epoch, "host", self.pid)
            self._emitter = Emitter(MappedSegment(link.segment.fd), ring=self._ring_own)
            self._collector.ask(lambda: self._collector.add(link), CLOSE_TIMEOUT_S)
        except BaseException:
            link.discard()
            link.close()
            raise
        return link

    def _ring_own(self) -> None:
        if self._own is not None:
            self.stir(self._own)

    def _deliver(self, link: PeerLink, items: list[Chunk | Gap], final: bool) -> None:
        """Collector thread: hand on what was read."""
        identify(link, self._collector)
        self._fan_out.deliver(link, items, final)
        if items:
            self._peers.trim(items)


def _forget_hosts() -> None:
    for host in list(_open_hosts):
        host.forget()


def _close_hosts() -> None:
    for host in list(_open_hosts):
        host.close()


os.register_at_fork(after_in_child=_forget_hosts)
atexit.register(_close_hosts)
