"""roam's own fork server: a process with roam imported, which forks a cell on request.

The server that `multiprocess` shares belongs to the user: it has the user's preload list, and on Python 3.13 it imports
the user's `__main__`. This one imports roam only. It ends by itself with the last process that holds its alive pipe.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
from typing import Any

from multiprocess import connection, forkserver, resource_tracker, spawn, util

__all__ = ["ForkServer", "read_number", "server"]

PRELOAD = (
    "roam.spawn.bootstrap",
    "roam.spawn.kin",
    "roam.tracing.hooks",
    "roam.tracing.tracer",
    "multiprocess.util",
    "resource",
    "dill",
)
"""Imported once in the server, never the user's modules."""

_COMMAND = "import sys; sys.path[:] = {path!r}; from multiprocess.forkserver import main; main({listener}, {alive}, {preload!r})"


class ForkServer(forkserver.ForkServer):  # type: ignore[misc]  # multiprocess has no annotations
    """`multiprocess`'s fork server with a fixed preload list. Threads: any. Restarted when it is found dead."""

    _forkserver_pid: int | None
    _forkserver_alive_fd: int | None
    _forkserver_address: Any

    def __init__(self) -> None:
        super().__init__()
        self._pidfd: int | None = None

    @property
    def pid(self) -> int | None:
        """The server's process id; None before its first start."""
        return self._forkserver_pid

    def ensure_running(self) -> None:
        """Start the server if it is not running. Raises OSError if it cannot be started."""
        with self._lock:
            resource_tracker.ensure_running()
            if self._pidfd is not None:
                if not _is_readable(self._pidfd):
                    return
                self._bury()
            self._start()

    def _bury(self) -> None:
        if self._forkserver_pid is not None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._forkserver_pid, os.WNOHANG)
        self._let_go()

    def _let_go(self) -> None:
        fds = self._pidfd, self._forkserver_alive_fd
        self._pidfd = self._forkserver_alive_fd = self._forkserver_address = self._forkserver_pid = None
        for fd in fds:
            if fd is not None:
                os.close(fd)

    def _start(self) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            address = connection.arbitrary_address("AF_UNIX")
            listener.bind(address)
            if not util.is_abstract_socket_namespace(address):
                os.chmod(address, 0o600)
            listener.listen(128)
            alive_r, alive_w = os.pipe()
            try:
                command = _COMMAND.format(
                    path=[entry or os.getcwd() for entry in sys.path],
                    listener=listener.fileno(),
                    alive=alive_r,
                    preload=list(PRELOAD),
                )
                executable = spawn.get_executable()
                arguments = [executable, *util._args_from_interpreter_flags(), "-c", command]
                pid = util.spawnv_passfds(executable, arguments, [listener.fileno(), alive_r])
            except BaseException:
                os.close(alive_w)
                raise
            finally:
                os.close(alive_r)
        self._forkserver_address, self._forkserver_alive_fd, self._forkserver_pid = address, alive_w, pid
        self._pidfd = os.pidfd_open(pid)

    def after_fork_in_child(self) -> None:
        """A forked process is not the server's parent: it starts its own when it needs one."""
        self._lock = threading.Lock()
        self._let_go()


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


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


def read_number(fd: int) -> int:
    """One number from the server's relay: the process id first, the exit code at last. Raises EOFError if the server is gone."""
    number: Any = forkserver.read_signed(fd)
    return int(number)
