"""`Cell`: the handle of a child process, and what its host does when it dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HostClosed, StacksUnavailable
from ..exit import CellExit, ExitKind
from ..shm.descriptors import close_quietly
from ..tracing.defects import report_defect
from . import answer, facts, kindred, lifeline, memory, status, verdict
from .activity import Activity, ActivityKind, observe
from .ladder import Interference, descend
from .outcome import End
from .stacks import take_stacks
from .watchdog import Hang, unwatch

if TYPE_CHECKING:
    from ..postmortem import PostMortem
    from ..tracing.config import ConfigResult, TracingConfig
    from ..tracing.host import TracingHost
    from ..tracing.link import PeerLink
    from ..tracing.peer import OpenSpan, Remains
    from ..tracing.records import Peer, Record
    from ..tracing.statistics import PeerStatistics
    from .feed import Feed
    from .launch import Launched
    from .parcel import Parcel

__all__ = ["Cell"]

_FORWARD_S = 10.0


class Cell:
    """A child process. Made by `spawn_cell`; methods may be called from any thread of the process that made it.

    It reads like `multiprocessing.Process` (`pid`, `name`, `join`, `is_alive`, `exitcode`, `terminate`, `kill`,
    `sentinel`) and like a future (`result`). A cell runs on if its handle is dropped.
    """

    def __init__(self, *, name: str, host: TracingHost, start_method: str, target_name: str, has_session: bool) -> None:
        self.start_method = start_method
        """`forkserver`, `spawn` or `fork`."""
        self.target_name = target_name
        """Module and qualified name of the target."""
        self.interference = Interference()
        """What this host did to end the cell."""
        self.hangs: tuple[Hang, ...] = ()
        """When it was silent for longer than `hang_after`, oldest first."""
        self._name = name
        self._host = host
        self._link: PeerLink
        # Taken again by a signal handler that ends the cell, wherever that interrupts this.
        self._lock = threading.RLock()
        self._memory_kills = memory.kills_by_now()
        self._started_s = time.monotonic()
        self._corpse = facts.Corpse()
        self._has_session = has_session
        self._descendants: list[tuple[int, int]] = []
        self._launched: Launched | None = None
        self._is_unwanted = False
        self._answer_fd = -1
        self._feed: Feed | None = None
        self._exit: CellExit | None = None
        self._answer: answer.Answer | None = None
        self._outcome: tuple[bool, Any] | None = None
        self._dump_path: Path | None = None
        self._load: Callable[[], PostMortem] | None = None
        self._sentinel_fd = -1

    # Who it is.

    @property
    def name(self) -> str:
        """The name given to `spawn_cell`. It need not be unique."""
        return self._name

    @property
    def pid(self) -> int:
        """The process id. It may belong to another process once the cell has ended."""
        assert self._launched is not None
        return self._launched.pid

    @property
    def peer(self) -> Peer:
        """This attachment, as tagged records name it."""
        return self._link.peer

    def __repr__(self) -> str:
        # What a cell said of itself gets no further than into a representation.
        state = repr(self._exit.describe())[1:-1] if self._exit is not None else "running"
        return f"<Cell {self._name!r} pid={self.pid} {state}>"

    # How it is.

    def is_alive(self) -> bool:
        """True until the death was concluded; False means that `exit` is there."""
        return self._exit is None

    @property
    def exit(self) -> CellExit | None:
        """How it ended, or None while it runs."""
        return self._exit

    @property
    def exitcode(self) -> int | None:
        """As `multiprocessing.Process.exitcode`: None while it runs, and where nobody knows."""
        return self._exit.exitcode if self._exit is not None else None

    @property
    def sentinel(self) -> int:
        """A descriptor that becomes readable when the death is concluded, for `select` and event loops.

        It belongs to the cell and is closed with it.
        """
        with self._lock:
            if self._sentinel_fd < 0:
                self._sentinel_fd = os.eventfd(1 if self._exit is not None else 0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            return self._sentinel_fd

    @property
    def post_mortem(self) -> PostMortem | None:
        """What was left of it after an abnormal exit; None while it runs and after a normal end. Raises `DumpError`
        if the file is gone or damaged."""
        return self._load() if self._load is not None else None

    @property
    def dump_path(self) -> Path | None:
        """The file of the post-mortem, where there is one."""
        return self._dump_path

    def records(self, last: int | None = None) -> list[Record]:
        """What the host keeps of its records, in time order; the `last` ones only, where given."""
        return self._link.records(last)

    def open_spans(self) -> list[OpenSpan]:
        """The spans that are open just now, or were when it died."""
        return self._link.open_spans()

    def statistics(self) -> PeerStatistics:
        """The accounting of its records at this moment."""
        return self._link.statistics()

    def activity(self) -> Activity:
        """What its process is doing: busy, quiet, stopped, traced or uninterruptible, what it waits for, and how long ago
        it gave a sign of life. Takes 30 ms."""
        if self._exit is not None:
            return Activity(ActivityKind.ENDED, "", self.silent_s)  # its number may be somebody else's
        return observe(self.pid, self.silent_s)

    @property
    def silent_s(self) -> float:
        """How long ago it wrote a record, entered a span or called `roam.current_cell().beat()`; since its start, where it
        did not yet."""
        beat_ns = self._link.last_beat_ns
        now_ns = time.monotonic_ns()
        if beat_ns is None or beat_ns > now_ns:
            return time.monotonic() - self._started_s
        return (now_ns - beat_ns) / 1e9

    def dump_stacks(self, timeout: float = 1.0) -> str:
        """The Python stacks of all its threads as they are now, whatever it is doing, also while C code holds the GIL.

        They also stay in its post-mortem. Looking at threads that run is not without danger for the cell, see
        `roam.spawn.stacks`. Waits up to `timeout` seconds; raises `StacksUnavailable`, which says why, for a cell that has
        ended, is stopped, or has taken away the handler for it.
        """
        if self._exit is not None:
            raise StacksUnavailable("the cell has ended", "Look at Cell.post_mortem.")
        return take_stacks(self._link, self.pid, self.interference.unanswered, timeout)

    def set_config(self, config: TracingConfig, *, timeout: float = 1.0) -> ConfigResult:
        """Put a configuration in force in this cell, and wait up to `timeout` seconds for what becomes of it. Raises
        `ConfigTooLarge`, or `TypeError` for what is no configuration; the one before stays then."""
        return self._link.set_config(config, timeout)

    # Waiting for it.

    def join(self, timeout: float | None = None) -> CellExit | None:
        """Wait for its end. Returns None when `timeout` seconds are over and it still runs.

        After the end, all its records were offered to subscribers and to this process's logging, and its dump is written.
        """
        # r[impl spawn.concluded]
        if not self._link.concluded.wait(timeout):
            return None
        self._host.flush_forwarding(_FORWARD_S)
        return self._exit

    def result(self, timeout: float | None = None) -> Any:
        """Wait for its end and return what the target returned; None if the target left by `sys.exit(0)`.

        Raises the target's own exception, whose `__cause__` is `CellFailed` with the remote traceback; `CellFailed` itself
        if that exception cannot be rebuilt here or would end this process (KeyboardInterrupt, SystemExit);
        `SpawnFailed` if the target never ran; `CellCrashed` after any other death; TimeoutError when `timeout` seconds are over.
        """
        if self.join(timeout) is None and self._exit is None:
            raise TimeoutError(f"cell {self._name!r} still runs after {timeout} s; it goes on running")
        with self._lock:
            if self._outcome is None:
                assert self._exit is not None
                self._outcome = End(self._name, self._exit, self._answer, self._dump_path, self._load).outcome()
        returned, value = self._outcome
        if returned:
            return value
        raise value

    # Ending it.

    def terminate(self) -> None:
        """Send SIGTERM. Does nothing if it has ended."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL. Does nothing if it has ended."""
        self._send(signal.SIGKILL)

    def stop(self, timeout: float = 5.0, grace: float = 2.0) -> CellExit:
        """Ask it to stop (`roam.current_cell().stopping`). After `timeout` seconds take its stacks and send SIGTERM; after
        `grace` more take them again and send SIGKILL. One that had to be forced takes with it what it has started and is
        still in its session. Returns when it has ended.
        """
        return descend(self, timeout, grace)

    def request_stop(self) -> None:
        """Ask it to stop, and do not wait."""
        with self._lock:
            if not self._link.has_ended():
                self.interference.stop_requested = True
                self.interference.note("asked to stop")
        self._link.request_stop()

    def force(self, number: signal.Signals) -> None:
        """Send a signal of a stop: what the cell has started will end with it."""
        if not self._has_session:
            # Before its end: afterwards nobody knows any more whose they were.
            self._descendants += kindred.known_descendants(self.pid)
        with self._lock:
            self.interference.is_forced = True
        self._send(number)
        if self._exit is not None:
            self._forget_descendants()

    def _forget_descendants(self) -> None:
        """Close what is held of them, when the cell is dead and that was of use, or came too late."""
        with self._lock:
            descendants, self._descendants = self._descendants, []
        close_quietly(*(pidfd for pidfd, _ in descendants))

    def _send(self, number: signal.Signals) -> None:
        with self._lock:
            # Noted first: the death that follows may be judged before the next line runs here.
            self.interference.signals.append(int(number))
            try:
                self._link.send_signal(number)
            except OSError as refusal:
                self.interference.signals.remove(int(number))
                if not isinstance(refusal, ProcessLookupError):
                    raise
            else:
                self.interference.note(f"{number.name} sent")

    # What the host calls.

    def adopt(self, link: PeerLink, feed: Feed | None, parcel: Parcel, launched: Launched) -> None:
        """Called by `spawn_cell`, once, when the process exists; it is watched from now on. Raises `HostClosed`, and takes
        over nothing, where the host began to close meanwhile."""
        with self._lock:
            # r[impl spawn.overtaken]
            if self._is_unwanted:
                raise HostClosed("spawn_cell")
            self._link, self._feed, self._answer_fd, self._launched = link, feed, parcel.detach(), launched
            link.started(launched.pid, launched.pidfd)

    def end(self) -> None:
        """Called when the host closes."""
        if self._is_there():
            self.stop()

    def abort(self) -> None:
        """Called when the host closes at once."""
        if self._is_there():
            self.force(signal.SIGKILL)
            self.join()

    def catch_up(self) -> None:
        """Called once by the host, before `conclude`: all that the cell has printed becomes records."""
        if self._feed is not None:
            self._feed.finish()

    def _is_there(self) -> bool:
        """Whether there is a process to end. One that is just being started is not to become this cell."""
        with self._lock:
            self._is_unwanted = True
            return self._exit is None and self._launched is not None

    def conclude(self, remains: Remains) -> None:
        """Called once by the host, after the final drain. Never raises."""
        try:
            ended = self._examine(remains)
        except Exception:
            report_defect()
            ended = CellExit(
                kind=ExitKind.LOST,
                stage=remains.stage,
                started_ns=self.interference.started_ns,
                ended_ns=remains.died_ns,
            )
        kept = ended.is_normal or self._preserve(remains, ended)
        if kept:
            self._link.discard()
        with self._lock:
            self._exit = ended
            if self._sentinel_fd >= 0:
                os.eventfd_write(self._sentinel_fd, 1)
        self._forget_descendants()
        unwatch()

    def _examine(self, remains: Remains) -> CellExit:
        launched = self._launched
        assert launched is not None
        try:
            # Before it is reaped: then its number may be somebody else's.
            self._corpse = facts.examine(launched.pid)
            self._clear_up(launched.pid)
            found = status.take(
                launched.pid, launched.pidfd, launched.relay_fd, foreign_rss_bytes=launched.foreign_rss_bytes
            )
        finally:
            # Whatever comes of it: what is not let go of here stays as long as this process.
            if launched.relay_fd is not None:
                os.close(launched.relay_fd)
            lifeline.release()
        if remains.result_length is not None:
            self._answer = answer.read(self._answer_fd, remains.result_length)
        if self._answer is None:
            os.close(self._answer_fd)
        else:
            self._answer.settle()
        return verdict.judge(
            found,
            remains,
            self._answer,
            self.interference,
            corpse=self._corpse,
            find_memory_kill=partial(
                memory.find_kill, launched.pid, self._corpse.cgroups, self._memory_kills, self._started_s
            ),
        )

    def _clear_up(self, pid: int) -> None:
        """End what a cell that had to be forced has started."""
        did = self.interference
        if not did.is_forced:
            return
        # r[impl spawn.stop.group]
        killed = kindred.kill_session(pid) if self._has_session else kindred.kill_descendants(self._descendants)
        if killed:
            whom = "1 process" if len(killed) == 1 else f"{len(killed)} processes"
            did.note(f"SIGKILL sent to {whom} that it had started")

    def report_hang(self, activity: Activity) -> Path | None:
        """Write a post-mortem of the cell as it is, hung and alive; None where that cannot be done. Called by the watchdog."""
        assert self._host.dumps is not None
        remains = self._link.snapshot()
        ended = verdict.of_hang(activity, remains, self.interference)
        return self._host.dumps.keep(remains, ended, facts.gather(self, facts.Corpse())).path

    def _preserve(self, remains: Remains, ended: CellExit) -> bool:
        """Write the dump, or keep the post-mortem in memory. True if the segment may go."""
        assert self._host.dumps is not None
        kept = self._host.dumps.keep(remains, ended, facts.gather(self, self._corpse))
        # Read once, for all who ask.
        self._dump_path, self._load = kept.path, cache(kept.load)
        return kept.is_settled

    def __del__(self) -> None:
        if getattr(self, "_sentinel_fd", -1) >= 0:
            os.close(self._sentinel_fd)
