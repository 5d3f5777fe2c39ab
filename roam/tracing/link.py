"""The host's end of one peer: its segment, what was read from it, and what is kept of that.

Ownership: made and removed by `TracingHost`. Threads: the collector reads; any thread may ask for records, spans or
numbers, under the link's lock. Failure: damaged or truncated segments become counted losses.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import threading
import time
from pathlib import Path

from ..clock import ClockAnchor
from ..exit import CellExit
from ..shm.descriptors import close_quietly
from ..shm.doorbell import DoorbellPair
from ..shm.layout import HostWord, StatusWord
from ..shm.reader import Chunk, Gap
from ..shm.rundir import PEER_SUFFIXES
from ..shm.segment import SegmentFile
from ..stage import Stage
from ..ticket import SpawnTicket
from .config import ConfigResult, TracingConfig
from .faults import FaultFile
from .inspection import (
    TAIL_LIMIT_BYTES,
    config_result,
    header_of,
    open_spans_of,
    peer_statistics,
    read_tail,
    unannounced_of,
)
from .lanes import LANES
from .lines import Lines
from .peer import Entry, LinkKeeper, OpenSpan, PeerOwner, Remains, decode_chunks, lost_of, time_of_gap
from .post import ConfigPost
from .records import Lost, Peer, Record
from .retention import Retention
from .statistics import PeerStatistics
from .testimony import Testimony, status_word

__all__ = ["PeerLink"]

_POLL_S = 0.001


class PeerLink:
    """One peer as its host sees it; what `TracingHost.register_peer` returns.

    Whoever registered it uses `ticket`, `peer`, `stage`, `records`, `open_spans`, `statistics`, `set_config`, `join`,
    `exit` and `dump_path`, from any thread. A launcher of processes also uses `started` or `abandon`, `request_stop`,
    and `discard` when the evidence is safe. The rest is for the host.
    """

    def __init__(
        self,
        *,
        peer: Peer,
        segment: SegmentFile,
        doorbell: DoorbellPair | None,
        fault_fd: int,
        run_path: Path,
        stem: str,
        owner: PeerOwner | None,
        keeper: LinkKeeper,
        retain_bytes: int,
    ) -> None:
        self.peer = peer
        self.segment = segment
        self.run_path = run_path
        self.stem = stem
        self.owner = owner
        self._ended: tuple[CellExit | None, Path | None] = (None, None)
        self._keeper = keeper
        self.doorbell_fd = doorbell.host_fd if doorbell is not None else -1
        self._cell_fd = doorbell.cell_fd if doorbell is not None else -1
        self.fault = FaultFile(fault_fd)
        self.pidfd = -1
        self.is_awaited = False
        """Whether a process that roam does not start has still to attach."""
        self.concluded = threading.Event()
        """Set once the owner has concluded and everything was closed."""
        self.quiet_polls = 0
        self.heartbeat = 0
        self.held: list[Entry] = []
        """Records that were read, and wait one poll for older ones of another lane."""
        self.offered_seq = [0] * len(LANES)
        """Per lane, the sequence below which everything was offered to subscribers or is in `held`."""
        self._parks = 0
        self._post = ConfigPost(segment)
        self._lock = threading.RLock()
        self._readers = segment.lane_readers()
        self.retention = Retention(retain_bytes, segment.geometry.lane_pages)
        self.lines: Lines | None = None
        """What makes records of its output, where that is captured."""
        self._last: tuple[PeerStatistics, list[OpenSpan], list[int]] | None = None

    # What the launcher needs.

    @property
    def ticket(self) -> SpawnTicket:
        """The descriptors a process needs to attach, as numbered in this process."""
        return SpawnTicket(self.segment.fd, self._cell_fd, self.fault.fd, self.segment.identity.nonce.hex())

    def started(self, pid: int, pidfd: int) -> None:
        """The process exists. The host owns `pidfd` from now on and watches it."""
        self._keeper.started(self, pid, pidfd)

    def abandon(self) -> None:
        """There will be no process: remove everything of the peer."""
        self._keeper.abandon(self)

    def release(self) -> None:
        """Take what the peer has written so far and let go of it, whether its process lives or not."""
        self._keeper.release(self)

    def stir(self) -> None:
        """Ring for this peer, from inside the host's process. Never blocks."""
        self._keeper.stir(self)

    def bring(self, items: list[Chunk | Gap]) -> None:
        """Bring in what `lines` has made. Waits until the collector has taken it."""
        self._keeper.bring(self, items)

    def flush_forwarding(self, timeout_s: float = 5.0) -> bool:
        """Wait until the host's logging was offered all that was collected; False if that took longer."""
        return self._keeper.flush_forwarding(timeout_s)

    def join(self, timeout: float | None = None) -> CellExit | None:
        """Wait until the peer's end is concluded; None when `timeout` seconds have passed."""
        return self.exit if self.concluded.wait(timeout) else None

    @property
    def exit(self) -> CellExit | None:
        """How the process ended; None while it lives."""
        return self.owner.exit if self.owner is not None else self._ended[0]

    @property
    def dump_path(self) -> Path | None:
        """The post-mortem file, where there is one."""
        return self.owner.dump_path if self.owner is not None else self._ended[1]

    @property
    def anchor(self) -> ClockAnchor:
        """Turns the peer's monotonic times into wall time."""
        return self.segment.identity.anchor

    def close_cell_end(self) -> None:
        """The process has its own copy of the doorbell now; only then does its death close the socket."""
        with self._lock:
            fd, self._cell_fd = self._cell_fd, -1
            close_quietly(fd)

    # What the collector does.

    def collect(self, *, final: bool = False) -> list[Chunk | Gap]:
        """Copy what is new in all lanes, keep it, and tell the cell how far the host has come."""
        found: list[Chunk | Gap] = []
        with self._lock:
            if self.segment.fd < 0:
                return found
            # Read before the lanes: every record up to this time is in one of them now.
            self.heartbeat = self.segment.word(StatusWord.HEARTBEAT)
            for lane, reader in enumerate(self._readers):
                items = reader.poll(final=final)
                if items:
                    found.extend(items)
                    self.segment.store_word(HostWord.TAKEN + lane, reader.next_seq)
            self._keep(found)
        return found

    def take(self, items: list[Chunk | Gap]) -> None:
        """Keep what was brought in."""
        with self._lock:
            self._keep(items)
            if self.lines is not None:
                self.lines.count(items)

    def _keep(self, items: list[Chunk | Gap]) -> None:
        for index, item in enumerate(items):
            if isinstance(item, Chunk):
                self.retention.keep(item)
            else:
                self.retention.lose(self.gap_record(items, index))

    def gap_record(self, items: list[Chunk | Gap], index: int) -> Lost:
        """The `Lost` for the gap at `index` of what `collect` returned."""
        item = items[index]
        assert isinstance(item, Gap)
        newest = self.retention.newest(item.lane)
        return lost_of(item, time_of_gap(items, index, self.anchor, newest) or self.anchor.wall_ns)

    def arm(self) -> None:
        """Ask the cell to ring once, with its next record."""
        with self._lock:
            if self.segment.fd >= 0:
                self._parks += 1
                # Pairs with the cell's load after its commit; the scan that follows closes the window between.
                self.segment.store_word(HostWord.PARKED, self._parks)

    def has_stirred(self) -> bool:
        """Whether the cell's heartbeat moved since the last poll: one read, for peers that sleep."""
        with self._lock:
            if self.segment.fd < 0:
                return False
            if self.is_awaited and self.claimed_pid():
                # It attached, and died before it could ring.
                return True
            return self.segment.word(StatusWord.HEARTBEAT) != self.heartbeat

    def claimed_pid(self) -> int:
        """The process id that the cell has written, 0 before it attached."""
        return self.segment.word(StatusWord.PID)

    def unannounced(self) -> list[Lost]:
        """What the cell dropped and could not announce any more, for the end of its stream."""
        found = unannounced_of(self.segment.status_words(), time.time_ns())
        for lost in found:
            self.retention.lose(lost)
        return found

    # What handles ask.

    @property
    def shows_stacks(self) -> bool:
        """Whether the cell says that a signal makes it write its stacks."""
        return bool(status_word(self._words(), StatusWord.FAULT_ARMED))

    @property
    def last_beat_ns(self) -> int | None:
        """When the cell last gave a sign of life, on the monotonic clock; None before its first."""
        return Testimony.of(self._words()).last_beat_ns

    @property
    def stage(self) -> Stage:
        """How far the cell says it has come."""
        return Testimony.of(self._words()).stage

    def records(self, last: int | None = None) -> list[Record]:
        """What is kept of the peer's records, in time order; the `last` ones only, where given."""
        chunks, lost = self.retention.snapshot()
        found = decode_chunks(chunks, lost, self.anchor)
        return found if last is None else found[max(0, len(found) - last) :]

    def open_spans(self) -> list[OpenSpan]:
        """The spans that are open just now, or were when the peer died."""
        with self._lock:
            if self._last is not None:
                return self._last[1]
            return open_spans_of(self.segment, time.monotonic_ns())[0]

    def statistics(self) -> PeerStatistics:
        """The accounting identity's numbers at this moment."""
        with self._lock:
            if self._last is not None:
                return self._last[0]
            return self._measure(self.segment.status_words(), 0)

    def post_config(self, config: TracingConfig) -> ConfigResult:
        """Put a configuration in force, unless it is refused; see `ConfigPost.post`."""
        with self._lock:
            return self._post.post(config)

    @property
    def config(self) -> TracingConfig:
        """The configuration in force."""
        return self._post.config

    def acknowledged(self, posted: ConfigResult, deadline: float) -> ConfigResult:
        """Wait for what becomes of it, until `deadline` on `time.monotonic`."""
        while True:
            # The end is asked for first: what the cell did before it counts.
            has_ended = self.has_ended()
            result = config_result(posted, self._words(), has_ended=has_ended)
            if result.applied or result.refused or time.monotonic() >= deadline:
                return result
            time.sleep(_POLL_S)

    def set_config(self, config: TracingConfig, timeout: float) -> ConfigResult:
        """Post a configuration and wait up to `timeout` seconds for what becomes of it. Raises as `post_config`."""
        return self.acknowledged(self.post_config(config), time.monotonic() + timeout)

    def request_stop(self) -> None:
        """Set the word that `roam.current_cell().stopping` reads."""
        with self._lock:
            if self.segment.fd >= 0:
                self.segment.store_word(HostWord.STOP, 1)

    # The end.

    def has_ended(self) -> bool:
        """Whether the process has ended, as far as the host can know."""
        with self._lock:
            if self.pidfd < 0:
                return self.concluded.is_set()
            poll = select.poll()
            poll.register(self.pidfd, select.POLLIN)
            return bool(poll.poll(0))

    def send_signal(self, number: int) -> None:
        """Send the process a signal. Raises ProcessLookupError where it has ended, whoever has its number by now, and OSError
        where the kernel refuses it."""
        with self._lock:
            # A dead process that nobody has reaped takes every signal, and would seem to have died of this one.
            if self.pidfd < 0 or self.has_ended():
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            signal.pidfd_send_signal(self.pidfd, number)

    def remains(self) -> Remains:
        """Everything that is left, after the final drain."""
        return self._take(is_final=True)

    def snapshot(self) -> Remains:
        """The same of a peer that lives, as far as its records were collected."""
        return self._take(is_final=False)

    def _take(self, *, is_final: bool) -> Remains:
        now_ns = time.monotonic_ns()
        with self._lock:
            words = self.segment.status_words()
            spans, torn = open_spans_of(self.segment, now_ns)
            statistics = self._measure(words, torn)
            if is_final:
                self._last = (statistics, spans, words)
            chunks, lost = self.retention.snapshot()
        return Remains(
            peer=self.peer,
            anchor=self.anchor,
            chunks=chunks,
            lost=lost,
            open_spans=spans,
            statistics=statistics,
            config=str(self._post.config.capture),
            died_ns=self.anchor.to_wall_ns(now_ns),
            fault_text=self.fault.text(),
            stderr_tail=read_tail(self.run_path / f"{self.stem}.stderr", TAIL_LIMIT_BYTES),
            stdout_tail=read_tail(self.run_path / f"{self.stem}.stdout", TAIL_LIMIT_BYTES),
            header=header_of(self.segment),
            segment_path=self.segment.path,
            is_live=not is_final,
            **Testimony.of(words)._asdict(),
        )

    def _measure(self, words: list[int], torn: int) -> PeerStatistics:
        return peer_statistics(
            self._readers, words, self._post.slots, torn=torn, retention=self.retention, lines=self.lines
        )

    def _words(self) -> list[int]:
        with self._lock:
            return self._last[2] if self._last is not None else self.segment.status_words()

    def discard(self) -> None:
        """Remove the peer's files: its evidence is safe elsewhere, or nobody wants it."""
        with self._lock:
            if self._last is None and self.segment.fd >= 0:
                self.remains()
        for suffix in PEER_SUFFIXES:
            # What cannot be removed stays, and the run directory with it; the end goes on all the same.
            with contextlib.suppress(OSError):
                (self.run_path / f"{self.stem}{suffix}").unlink(missing_ok=True)

    def close(self) -> None:
        """Close every descriptor; the files stay unless `discard` removed them."""
        try:
            with self._lock:
                if self._last is None and self.segment.fd >= 0:
                    self.remains()
                self.close_cell_end()
                # Forgotten first: a number that is free may belong to a cell that another thread forks just now.
                fds = (self.doorbell_fd, self.pidfd)
                self.doorbell_fd = self.pidfd = -1
                close_quietly(*fds)
                self.fault.close()
                self.segment.close()
                if self.owner is not None:
                    # A remembered peer must not keep its owner, and with it a result of any size.
                    self._ended, self.owner = (self.owner.exit, self.owner.dump_path), None
        finally:
            self.concluded.set()

    def forget(self) -> None:
        """In a forked child of the host: close the descriptors, touch nothing else. Those of a cell that is being
        started stay: the child may be that cell."""
        self._lock = threading.RLock()
        self.retention.forget()
        if self.peer.pid is None and not self.is_awaited:
            return
        fds = (self.doorbell_fd, self._cell_fd, self.pidfd, self.segment.fd)
        self.doorbell_fd = self._cell_fd = self.pidfd = self.segment.fd = -1
        close_quietly(*fds)
        self.fault.close()
