"""The cell's side: attach to the segment, arm the fault file, be the process's tracing.

Ownership: the process that attached, checked again after every fork; a forked child stops tracing and never writes
into its parent's stream. Threads: any; no thread of roam runs in a cell. Failure: attaching raises typed errors;
afterwards nothing here raises.
"""

from __future__ import annotations

# The C half of `signal`, which takes a cell a fraction of the time to load.
import _signal  # type: ignore[import-not-found]  # typeshed leaves it out
import faulthandler
import os
import time

from ..errors import TicketError
from ..shm.descriptors import forget_private, private_descriptor
from ..shm.doorbell import Doorbell
from ..shm.layout import STACKS_SIGNAL, HostWord, StatusWord
from ..shm.mapping import MappedSegment
from ..stage import Stage
from ..ticket import SpawnTicket
from . import emitter as emitters
from .emitter import Emitter
from .records import CRITICAL, Peer
from .scope import active_scope

__all__ = ["CellTracing", "attach", "attached", "init_cell_tracing"]


class CellTracing:
    """This process as a cell. Made by `attach`."""

    def __init__(self, ticket: SpawnTicket) -> None:
        try:
            self._segment = MappedSegment(ticket.segment_fd, nonce=bytes.fromhex(ticket.nonce))
            doorbell_fd = private_descriptor(ticket.doorbell_fd)
            fault_fd = private_descriptor(ticket.fault_fd)
            os.close(ticket.segment_fd)
        except (OSError, ValueError) as error:
            raise TicketError(f"its descriptors are not open here ({error})") from error
        identity = self._segment.identity
        self.pid = os.getpid()
        self.peer = Peer(identity.peer_id, identity.epoch, identity.name, self.pid)
        self._doorbell = Doorbell(doorbell_fd)
        self._words = self._segment.words
        self.emitter = Emitter(self._segment, ring=self._doorbell.ring)
        self._arm(fault_fd)

    def _arm(self, fault_fd: int) -> None:
        """Let fatal signals write all stacks into the fault file, and the host's signal as well."""
        self.had_faulthandler = faulthandler.is_enabled()
        """Whether the program wants them on its stderr, which is what its forked children do."""
        faulthandler.enable(file=fault_fd, all_threads=True)
        # In C and without the GIL, so that whatever holds that does not matter.
        faulthandler.register(STACKS_SIGNAL, file=fault_fd, all_threads=True, chain=False)
        # A thread of the host that blocks all signals has passed that on.
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (STACKS_SIGNAL,))
        # Last: before, the signal would end the process.
        self._words[StatusWord.FAULT_ARMED] = 1

    def ring(self) -> None:
        """Make the host look at the segment."""
        self._doorbell.ring()

    def enter_stage(self, stage: Stage) -> None:
        """Say how far this process has come."""
        self._words[StatusWord.STAGE] = stage
        self.beat()

    def beat(self) -> None:
        """Give a sign of life."""
        if self.pid == os.getpid():
            # Pairs with the host's look at how long a cell has been silent.
            self._words[StatusWord.BEAT] = time.monotonic_ns()

    @property
    def stopping(self) -> bool:
        """Whether the host has asked this cell to stop."""
        return bool(self._words[HostWord.STOP])

    def failure(self, exc: BaseException) -> None:
        """Write the exception that ends the current stage into the life lane. Never raises."""
        stage = Stage(min(self._words[StatusWord.STAGE], Stage.EXIT)).label
        self.emitter.report(CRITICAL, f"uncaught exception in stage {stage}", exc, {"stage": stage})

    def result_length(self, length_bytes: int) -> None:
        """Say that the result is complete, and how long it is."""
        self._words[StatusWord.RESULT] = length_bytes + 1

    def install_hooks(self) -> None:
        """Capture `logging`, `warnings` and uncaught exceptions from now on."""
        from . import hooks

        hooks.install()

    def goodbye(self) -> None:
        """The last thing before the process ends by itself: resource use, and the state word."""
        self.emitter.report_suppressed(at_once=True)
        self.sample_resources()
        self._words[StatusWord.STATE] = 2

    def sample_resources(self) -> None:
        """Store processor time and peak memory, for hosts that are not the parent of this process."""
        self._words[StatusWord.CPU_NS] = time.process_time_ns()
        self._words[StatusWord.MAX_RSS] = _peak_bytes()


def _peak_bytes() -> int:
    """Peak memory of this program; 0 where the kernel does not tell. Not by `getrusage`, which counts what its process was
    before it ran this program."""
    try:
        with open("/proc/self/status", "rb") as file:
            for line in file:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return 0
    return 0


_attached: CellTracing | None = None
_registered = False


def attached() -> CellTracing | None:
    """This process as a cell, or None."""
    return _attached


def attach(ticket: SpawnTicket) -> CellTracing:
    """Make this process a cell. Replaces whatever tracing it inherited by fork.

    The ticket's descriptors belong to roam afterwards. Raises `TicketError` or a `SegmentError`.
    """
    global _attached, _registered
    tracing = CellTracing(ticket)
    if not _registered:
        # Once per process: these cannot be taken back, so they look at what is attached when they run.
        os.register_at_fork(after_in_child=_forget_in_child)
        import atexit

        atexit.register(_at_exit)
        _registered = True
    _attached = tracing
    emitters.install(tracing.emitter)
    # By fork it has inherited the active span as an object; in the segment's header it stands as what it is here.
    active_scope.set(None)
    return tracing


def _forget_in_child() -> None:
    """A forked child is not the cell, and does not own the fault file."""
    global _attached
    tracing = _attached
    if tracing is None:
        return
    _attached = None
    forget_private()
    faulthandler.unregister(STACKS_SIGNAL)
    try:
        if tracing.had_faulthandler:
            faulthandler.enable(file=2)
        else:
            faulthandler.disable()
    except (OSError, ValueError):
        faulthandler.disable()


def _at_exit() -> None:
    tracing = _attached
    if tracing is not None and tracing.pid == os.getpid():
        tracing.goodbye()
        tracing.emitter.writer.finalize()


def init_cell_tracing() -> bool:
    """Attach a process that roam did not start, by the ticket in the environment variable `ROAM_TICKET`.

    Returns True if this process is a cell now, False if there is no ticket (or `ROAM_DISABLE` is set). A second call
    does nothing. The variable is removed, so that children of this process do not try the same ticket. Raises
    `TicketError` or a `SegmentError` where the ticket does not lead to a segment.
    """
    if _attached is not None:
        return True
    if os.environ.get("ROAM_DISABLE"):
        return False
    ticket = SpawnTicket.from_environ(os.environ)
    if ticket is None:
        return False
    for fd in ticket.fds:
        try:
            os.fstat(fd)
        except OSError:
            raise TicketError(f"descriptor {fd} is not open in this process") from None
    tracing = attach(ticket)
    os.environ.pop("ROAM_TICKET", None)
    tracing.enter_stage(Stage.RUN)
    tracing.install_hooks()
    # The host did not start this process, and learns of it by the ring.
    tracing.ring()
    return True
