"""The three ways to start a cell.

All end in `bootstrap.live`, with the same descriptors under other numbers.
Nothing larger than a few hundred bytes goes through a pipe or socket, and no call here waits for the child beyond its deadline.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import RoamError
from ..shm.descriptors import close_quietly
from ..ticket import SpawnTicket
from . import pidfd, status
from .handover import ABSENT, Handover
from .parcel import Parcel

__all__ = ["METHODS", "LaunchFailed", "Launched", "Start", "discard", "launch"]

METHODS = ("forkserver", "spawn", "fork")

_SPAWN_COMMAND = (
    "import sys; sys.path[:] = [entry for entry in sys.path if entry]; "
    "sys.path += [{home!r}]; from roam.spawn.bootstrap import main; main{values!r}"
)
_END_S = 5.0
"""How long a process may take to die of a SIGKILL."""
_HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

_fork_lock = threading.RLock()


class LaunchFailed(RoamError):
    """There is no process."""


@dataclass(frozen=True, slots=True)
class Launched:
    """A process that exists. All descriptors belong to whoever gets this."""

    pid: int
    pidfd: int
    relay_fd: int | None
    """The line to the fork server about it; None for a child of this process."""
    foreign_rss_bytes: int = 0
    """What the kernel counts as its peak memory from before it was a program of its own."""


@dataclass(frozen=True, slots=True)
class Start:
    """All there is to say about a start."""

    method: str
    ticket: SpawnTicket
    parcel: Parcel
    stdin_fd: int
    stdout_fd: int
    stderr_fd: int
    lifeline_fd: int
    die_with_host: bool
    process_group: int
    """The one that the cell joins; 0 for a session, and so a group, of its own."""
    deadline: float
    """On the monotonic clock, in seconds."""
    head: dict[str, Any]
    call: tuple[Any, ...]

    def handover(self, **changed: int) -> Handover:
        """With this process's descriptor numbers."""
        fds = {
            "segment_fd": self.ticket.segment_fd,
            "doorbell_fd": self.ticket.doorbell_fd,
            "fault_fd": self.ticket.fault_fd,
            "parcel_fd": self.parcel.fd,
            "lifeline_fd": self.lifeline_fd,
            "stdin_fd": ABSENT,
            "stdout_fd": ABSENT,
            "stderr_fd": ABSENT,
        }
        options = self.ticket.nonce, self.method, self.die_with_host, self.process_group
        return Handover(*(fds | changed).values(), *options)


def launch(start: Start) -> Launched:
    """Start the process. Raises `LaunchFailed`, or OSError where the executable cannot be run."""
    return {"spawn": _spawn, "forkserver": _fork_by_server, "fork": _fork}[start.method](start)


def _spawn(start: Start) -> Launched:
    from multiprocess import spawn, util

    handover = start.handover()
    command = _SPAWN_COMMAND.format(home=_HOME, values=handover.values)
    tracker_fd = start.head["kin"]["tracker_fd"]
    fds = [fd for fd in handover.fds if fd != ABSENT] + start.parcel.extra_fds + [tracker_fd]
    _flush()
    # Until it runs its program the child is in this process's memory, and the kernel counts that for its own.
    foreign_rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    child = subprocess.Popen(
        [os.fsdecode(spawn.get_executable()), *util._args_from_interpreter_flags(), "-c", command],
        pass_fds=fds,
        stdin=_or_none(start.stdin_fd),
        stdout=_or_none(start.stdout_fd),
        stderr=_or_none(start.stderr_fd),
        # From its first instruction on: Ctrl-C at the terminal belongs to the host.
        start_new_session=not start.process_group,
        # Not what libraries have put into the C environment behind Python's back: the same as under the fork server.
        env={name: value for name, value in os.environ.items() if name != "ROAM_TICKET"},
    )
    # The collector watches the process; left as it is, this object would reap it.
    child.returncode = 0
    return Launched(child.pid, pidfd.of_child(child.pid), None, foreign_rss_bytes)


def _or_none(fd: int) -> int | None:
    return None if fd == ABSENT else fd


def _fork_by_server(start: Start) -> Launched:
    from . import forkserver

    handover = start.handover(**_standard_fds(start))
    with contextlib.ExitStack() as cleanup:
        fds = [fd if _is_open(fd) else _null(cleanup) for fd in handover.fds]
        try:
            born = forkserver.server().fork(
                handover.renumbered(tuple(range(Handover.FD_COUNT))), fds + start.parcel.extra_fds, start.deadline
            )
        except forkserver.NotBorn as error:
            raise LaunchFailed(str(error)) from None
    return Launched(*born)


def _standard_fds(start: Start) -> dict[str, int]:
    """What the cell gets for 0, 1 and 2; this process's own have to be sent, as the server has others."""
    found = {"stdin_fd": start.stdin_fd, "stdout_fd": start.stdout_fd, "stderr_fd": start.stderr_fd}
    return {name: number if fd == ABSENT else fd for number, (name, fd) in enumerate(found.items())}


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError as error:
        return error.errno != errno.EBADF
    return True


def _null(cleanup: contextlib.ExitStack) -> int:
    fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    cleanup.callback(os.close, fd)
    return fd


def _fork(start: Start) -> Launched:
    # Imported here once, not in every cell.
    from ..tracing import hooks, tracer  # noqa: F401
    from .bootstrap import live

    handover = start.handover(stdin_fd=start.stdin_fd, stdout_fd=start.stdout_fd, stderr_fd=start.stderr_fd)
    _warn_of_threads()
    _flush()
    with _quiet_fork():
        pid = os.fork()
    if pid == 0:
        live(handover, start.head, start.call)
    return Launched(pid, pidfd.of_child(pid), None)


def discard(launched: Launched) -> None:
    """End a process that nobody wants any more, and let go of it."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(launched.pidfd, signal.SIGKILL)
    pidfd.await_end(launched.pidfd, _END_S)
    status.take(launched.pid, launched.pidfd, launched.relay_fd)
    close_quietly(launched.pidfd, -1 if launched.relay_fd is None else launched.relay_fd)


@contextlib.contextmanager
def _quiet_fork() -> Iterator[None]:
    # From 3.12 on the interpreter warns at every fork of a process with threads, and a host always has some of its own.
    with _fork_lock:
        if sys.version_info < (3, 12):
            yield
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                yield


def _warn_of_threads() -> None:
    me = threading.current_thread()
    others = [
        thread.name for thread in threading.enumerate() if thread is not me and not thread.name.startswith("roam-")
    ]
    if others:
        warnings.warn(
            f"start_method='fork' while {len(others)} other threads run ({', '.join(others[:3])}): a lock that one of "
            "them holds stays locked in the cell for ever. Use 'forkserver' or 'spawn'.",
            RuntimeWarning,
            stacklevel=5,
        )


def _flush() -> None:
    from .streams import flush

    flush()
