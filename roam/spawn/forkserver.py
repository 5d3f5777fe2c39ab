"""roam's own fork server, as its host sees it: a process with roam imported, which forks a cell on request.

The server that `multiprocess` shares belongs to the user: it has the user's preload list, on Python 3.13 it imports the
user's `__main__`, and it reaps whoever dies at once. This one imports roam only, and keeps a dead cell on the process
table until its host has looked at it. It ends with the process that started it. The other side, and what the two say to
each other, is in `roam.spawn.forkserver_main`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from ..shm.descriptors import close_quietly
from .forkserver_main import BIRTH, GIVE_UP
from .handover import Handover

__all__ = ["Born", "ForkServer", "NotBorn", "server"]

_MOST_FDS = 250
"""The kernel passes 253 at once, and two are the server's own."""
_COMMAND = "import sys; sys.path[:] = {path!r}; from roam.spawn.forkserver_main import main; main({control})"


class NotBorn(Exception):
    """The server did not make a process; the text says why. `launch` tells the caller."""


class Born(NamedTuple):
    """A process that the server has forked. The descriptors belong to whoever gets this."""

    pid: int
    pidfd: int
    relay_fd: int
    """The line to the server about this one process: see `roam.spawn.forkserver_main`."""


class ForkServer:
    """A fork server and the line to it. Threads: any. Restarted when it is found dead."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # A number, because an open socket object complains when the interpreter ends.
        self._control_fd = -1
        self._pid: int | None = None
        self._pidfd = -1

    @property
    def pid(self) -> int | None:
        """The server's process id; None before its first start."""
        return self._pid

    @property
    def control_fd(self) -> int:
        """This end of the line to the server; -1 while there is none."""
        return self._control_fd

    def fork(self, handover: Handover, fds: Sequence[int], deadline: float) -> Born:
        """Have a cell forked that gets `fds`; `handover` has the places of its descriptors among them.

        `deadline` is on `time.monotonic`, in seconds. Raises `NotBorn`, or OSError where there are no descriptors left or
        the server cannot be started.
        """
        from multiprocess import resource_tracker

        if len(fds) > _MOST_FDS:
            raise NotBorn(f"the arguments need {len(fds)} descriptors, and a cell can be sent {_MOST_FDS}")
        with contextlib.ExitStack() as cleanup:
            mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            cleanup.callback(its.close)
            on_failure = cleanup.enter_context(contextlib.ExitStack())
            on_failure.callback(_give_up, mine)
            self._send(pickle.dumps(handover.values), [its.fileno(), resource_tracker.getfd(), *fds], deadline)
            its.close()
            if not _wait(mine, select.POLLIN, deadline):
                raise NotBorn("the fork server did not answer in time")
            data, received, _, _ = socket.recv_fds(mine, BIRTH.size, 1)
            on_failure.callback(close_quietly, *received)
            (pid,) = BIRTH.unpack(data) if data else (0,)
            if pid <= 0:
                why = f"was refused it: {os.strerror(-pid)}" if data else "ended while it was starting the cell"
                raise NotBorn(f"the fork server {why}")
            if not received:
                raise NotBorn("there is no descriptor left to hold on to the cell")
            os.set_inheritable(received[0], False)
            on_failure.pop_all()
        return Born(pid, received[0], mine.detach())

    def _send(self, message: bytes, fds: list[int], deadline: float) -> None:
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise NotBorn("other threads have been waiting for the fork server for too long")
        try:
            self._start_if_dead()
            control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, self._control_fd)
            try:
                if not _wait(control, select.POLLOUT, deadline):
                    raise NotBorn("the fork server takes no requests")
                socket.send_fds(control, [message], fds)
            except (BrokenPipeError, ConnectionResetError):
                raise NotBorn("the fork server ended before it was asked for the cell") from None
            finally:
                control.detach()
        finally:
            self._lock.release()

    def _start_if_dead(self) -> None:
        if self._control_fd >= 0:
            # One that comes to its end by itself has closed its side before; of one that was killed, a cell that it had
            # just forked may still have that open.
            if not (_wait(self._pidfd, select.POLLIN, 0) or _wait(self._control_fd, select.POLLHUP, 0)):
                return
            self._bury()
        self._start()

    def _bury(self) -> None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        self._let_go()

    def _let_go(self) -> None:
        fds = self._control_fd, self._pidfd
        self._control_fd, self._pidfd, self._pid = -1, -1, None
        close_quietly(*fds)

    def _start(self) -> None:
        from multiprocess import spawn, util

        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its, contextlib.ExitStack() as undo:
            undo.callback(mine.close)
            command = _COMMAND.format(path=[entry or os.getcwd() for entry in sys.path], control=its.fileno())
            child = subprocess.Popen(
                [os.fsdecode(spawn.get_executable()), *util._args_from_interpreter_flags(), "-c", command],
                stdin=subprocess.DEVNULL,
                pass_fds=[its.fileno()],
                # Ctrl-C at the terminal is not for it.
                process_group=0,
            )
            undo.callback(child.wait)
            undo.callback(child.kill)
            self._pidfd = os.pidfd_open(child.pid)
            undo.pop_all()
        child.returncode = 0  # left as it is, this object would reap it
        self._control_fd, self._pid = mine.detach(), child.pid

    def after_fork_in_child(self) -> None:
        """A forked process is not the server's parent: it starts its own when it needs one."""
        self._lock = threading.Lock()
        self._let_go()


def _give_up(relay: socket.socket) -> None:
    """The server, if it gets so far, kills what it forks for this, or does not fork it."""
    with relay, contextlib.suppress(OSError):
        relay.send(GIVE_UP, socket.MSG_DONTWAIT)


def _wait(fd: int | socket.socket, event: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


_server: ForkServer | None = None
_lock = threading.Lock()


def server() -> ForkServer:
    """The fork server of this process. It is started by the first cell that needs it."""
    global _server
    with _lock:
        if _server is None:
            _server = ForkServer()
        return _server


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    if _server is not None:
        _server.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
