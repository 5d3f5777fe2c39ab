"""The three ways to start a cell.

All end in `bootstrap.live`, with the same descriptors under other numbers.
Nothing larger than a few hundred bytes goes through a pipe, and no call here waits for the child beyond its deadline.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import RoamError
from ..ticket import SpawnTicket
from .handover import ABSENT, GIVEN_UP, GO, Handover
from .parcel import Parcel

__all__ = ["METHODS", "LaunchFailed", "Launched", "Start", "launch"]

METHODS = ("forkserver", "spawn", "fork")

_SPAWN_COMMAND = (
    "import sys; sys.path[:] = [entry for entry in sys.path if entry]; "
    "sys.path += [{home!r}]; from roam.spawn.bootstrap import main; main{values!r}"
)
_HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

_fork_lock = threading.RLock()


class LaunchFailed(RoamError):
    """There is no process, or it was gone before it took its parcel. `exitcode` is None where nobody knows it."""

    def __init__(self, why: str, exitcode: int | None = None) -> None:
        super().__init__(why, exitcode=exitcode)


@dataclass(frozen=True, slots=True)
class Launched:
    """A process that exists. All descriptors belong to whoever gets this."""

    pid: int
    pidfd: int
    relay_fd: int | None
    """Where the fork server reports the exit code; None for a child of this process."""


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
            "gate_fd": ABSENT,
        }
        return Handover(*(fds | changed).values(), self.ticket.nonce, self.method, self.die_with_host)


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
    child = subprocess.Popen(
        [os.fsdecode(spawn.get_executable()), *util._args_from_interpreter_flags(), "-c", command],
        pass_fds=fds,
        stdin=_or_none(start.stdin_fd),
        stdout=_or_none(start.stdout_fd),
        stderr=_or_none(start.stderr_fd),
        # Not what libraries have put into the C environment behind Python's back: the same as under the fork server.
        env={name: value for name, value in os.environ.items() if name != "ROAM_TICKET"},
    )
    # The collector watches the process; left as it is, this object would reap it.
    child.returncode = 0
    return Launched(child.pid, _pidfd_of_child(child.pid), None)


def _or_none(fd: int) -> int | None:
    return None if fd == ABSENT else fd


def _fork_by_server(start: Start) -> Launched:
    gate_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    word = GIVEN_UP
    try:
        launched = _ask_server(start, start.handover(**_standard_fds(start), gate_fd=gate_fd))
        word = GO
    finally:
        os.eventfd_write(gate_fd, word)
        os.close(gate_fd)
    return launched


def _standard_fds(start: Start) -> dict[str, int]:
    """What the cell gets for 0, 1 and 2; this process's own have to be sent, as the server has others."""
    found = {"stdin_fd": start.stdin_fd, "stdout_fd": start.stdout_fd, "stderr_fd": start.stderr_fd}
    return {name: number if fd == ABSENT else fd for number, (name, fd) in enumerate(found.items())}


def _ask_server(start: Start, handover: Handover) -> Launched:
    from . import forkserver
    from .bootstrap import Entry

    entry = Entry(handover.renumbered(tuple(range(Handover.FD_COUNT))))
    # What `multiprocess` reads before the process object; only where roam is may matter at that moment.
    message = pickle.dumps({"sys_path": list(sys.path)}) + pickle.dumps(entry)
    with contextlib.ExitStack() as cleanup:
        fds = [fd if _is_open(fd) else _null(cleanup) for fd in handover.fds]
        relay_fd, data_fd = forkserver.server().connect_to_new_process(fds + start.parcel.extra_fds)
        cleanup.callback(os.close, data_fd)
        on_failure = cleanup.enter_context(contextlib.ExitStack())
        on_failure.callback(os.close, relay_fd)
        _send(data_fd, message)
        if not _wait(relay_fd, select.POLLIN, start.deadline):
            raise LaunchFailed("the fork server did not answer in time")
        try:
            pid = forkserver.read_number(relay_fd)
        except EOFError:
            raise LaunchFailed("the fork server died while it was starting the cell") from None
        # The cell makes itself ready meanwhile, and waits before the first line of the user's: it is alive, or its start failed.
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise LaunchFailed("the cell died before it was ready", _late_code(relay_fd)) from None
        on_failure.callback(os.close, pidfd)
        on_failure.pop_all()
    return Launched(pid, pidfd, relay_fd)


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


def _wait(fd: int, event: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


def _late_code(relay_fd: int) -> int | None:
    from . import forkserver

    if not _wait(relay_fd, select.POLLIN, time.monotonic() + 1.0):
        return None
    try:
        return forkserver.read_number(relay_fd)
    except EOFError:
        return None


def _send(fd: int, message: bytes) -> None:
    """Write to a pipe whose reader may die, or be stopped, at any time: it has to fit into the pipe."""
    os.set_blocking(fd, False)
    try:
        sent = os.write(fd, message)
    except BrokenPipeError:
        raise LaunchFailed("the cell died before it took its start message") from None
    if sent < len(message):
        raise LaunchFailed(f"the start message of {len(message)} bytes does not fit into a pipe; sys.path is too long")


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
    return Launched(pid, _pidfd_of_child(pid), None)


def _pidfd_of_child(pid: int) -> int:
    """Hold on to a child that was just started. Raises OSError where that is not possible, and then there is no child."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


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
