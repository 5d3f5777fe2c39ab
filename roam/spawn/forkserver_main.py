"""The fork server's own side: wait for requests, fork, and keep the dead until they were looked at.

A request is one message on the control socket: the pickled values of a `Handover`, and the descriptors of one end of a
relay, of the resource tracker, and of the cell. On the relay the server tells the birth: the process id, and with it a
descriptor of the process. When the process has ended, the host looks at what the kernel still says of it, and then asks
for the `REAP`: the answer is an `OBITUARY`. `GIVE_UP` instead means that the host will not have the process. A relay
that ends without a word belonged to a host that is gone.

So a process id stays the cell's as long as its host needs it, and nobody polls: a dead cell costs the server nothing
until it is asked. What the kernel refuses the server is told on the relay, and ends that one request, not the server.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import resource
import select
import signal
import socket
import struct
import sys
from typing import NoReturn

from . import pidfd
from .handover import Handover

__all__ = ["BIRTH", "GIVE_UP", "OBITUARY", "REAP", "main"]

BIRTH = struct.Struct("<q")
"""The process id, or minus the errno where there is no process."""
OBITUARY = struct.Struct("<iddQ")
"""The status as `os.wait4` gives it; user and system time in seconds; peak resident memory in bytes."""
REAP, GIVE_UP = b"r", b"k"

PRELOAD = (
    "roam.spawn.bootstrap",
    "roam.spawn.kin",
    "roam.tracing.hooks",
    "roam.tracing.tracer",
    "multiprocess.util",
    "multiprocess.forkserver",
    "dill",
)
"""Imported once in the server, never the user's modules."""
_MESSAGE_BYTES = 4096
_MOST_FDS = 253


def main(control_fd: int) -> NoReturn:
    """Serve until the host is gone, which closes the other end of the control socket."""
    for name in PRELOAD:
        with contextlib.suppress(ImportError):
            __import__(name)
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    _Server(control).serve()
    os._exit(0)


class _Server:
    """The one loop. `relays` is by descriptor: the line to the host of a process, and its id."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.relays: dict[int, tuple[socket.socket, int]] = {}
        self.orphans: dict[int, int] = {}
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)
        # It holds a descriptor for each cell, of which its host may be allowed more by now.
        self.limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.limits[1], self.limits[1]))
        # A cell gets back what its host has. With SIGCHLD ignored the kernel would keep no dead.
        self.handlers = {
            signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
            signal.SIGCHLD: signal.signal(signal.SIGCHLD, signal.SIG_DFL),
        }

    def serve(self) -> None:
        """Answer one thing after the other."""
        while True:
            for fd, _ in self.poll.poll():
                if fd in self.relays:
                    self.listen(fd)
                elif fd in self.orphans:
                    self.bury_orphan(fd)
                elif not self.take_request():
                    return

    def take_request(self) -> bool:
        """Fork a cell; False when nobody can ask any more."""
        message, fds, flags, _ = socket.recv_fds(self.control, _MESSAGE_BYTES, _MOST_FDS)
        if fds:
            relay = socket.socket(fileno=fds[0])
            try:
                if flags & socket.MSG_CTRUNC:
                    raise OSError(errno.EMFILE, "descriptors were lost on the way")
                if _is_given_up(relay):
                    relay.close()
                else:
                    self.fork(message, relay, fds)
            except OSError as error:
                # r[impl spawn.server]
                with relay, contextlib.suppress(OSError):
                    relay.send(BIRTH.pack(-(error.errno or errno.EIO)), socket.MSG_DONTWAIT)
            for fd in fds[1:]:
                os.close(fd)
        return bool(message)

    def fork(self, message: bytes, relay: socket.socket, fds: list[int]) -> None:
        """Make the process. Raises OSError, and then there is none."""
        told_fd, telling_fd = os.pipe()
        try:
            pid = os.fork()
            if pid == 0:
                os.close(telling_fd)
                self.be_born(message, fds, told_fd)
            self.tell_birth(relay, pid)
            os.write(telling_fd, b"b")
        finally:
            os.close(told_fd)
            os.close(telling_fd)

    def be_born(self, message: bytes, fds: list[int], told_fd: int) -> NoReturn:
        """In the child: forget the server, and live as a cell once its host was told of it."""
        try:
            self.control.close()
            for fd in (fds[0], *self.orphans):
                os.close(fd)
            for fd in fds[1:]:
                os.set_inheritable(fd, False)
            for relay, _ in self.relays.values():
                relay.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, self.limits)
            for number, handler in self.handlers.items():
                signal.signal(number, handler)
            from multiprocess import forkserver, resource_tracker

            from .bootstrap import live

            resource_tracker._resource_tracker._fd = fds[1]
            inherited = forkserver._forkserver._inherited_fds = fds[2:]
            handover = Handover(*pickle.loads(message))
            # Where the server was killed before it told of this process, nobody would ever know of it.
            if os.read(told_fd, 1):
                os.close(told_fd)
                live(handover.renumbered(tuple(inherited[index] for index in handover.fds)))
        except BaseException:
            # Only where something is wrong with the server itself: `live` never returns.
            sys.excepthook(*sys.exc_info())
        os._exit(1)

    def tell_birth(self, relay: socket.socket, pid: int) -> None:
        """Let the host have the process, and wait for what it says of it. Raises OSError, and then there is none."""
        process_fd = pidfd.of_child(pid)
        fd = relay.fileno()
        self.relays[fd] = relay, pid
        self.poll.register(fd, select.POLLIN)
        # If it is gone, the end of the relay says so.
        with contextlib.suppress(OSError):
            socket.send_fds(relay, [BIRTH.pack(pid)], [process_fd])
        os.close(process_fd)

    def listen(self, fd: int) -> None:
        """A host has something to say about its process, or is gone."""
        relay, pid = self.relays[fd]
        try:
            said = relay.recv(1)
        except OSError:
            said = b""
        # r[impl spawn.held]
        if said == REAP:
            found = _reap(pid)
            if found is None:
                return  # asked too early: it lives
            with contextlib.suppress(OSError):
                relay.send(found, socket.MSG_DONTWAIT)
        elif said == GIVE_UP:
            with contextlib.suppress(PermissionError):  # it has become somebody else's program
                os.kill(pid, signal.SIGKILL)
        self.poll.unregister(fd)
        del self.relays[fd]
        relay.close()
        if said != REAP:
            # The relay was closed first: so there is a number left for this.
            process_fd = os.pidfd_open(pid)
            self.orphans[process_fd] = pid
            self.poll.register(process_fd, select.POLLIN)

    def bury_orphan(self, process_fd: int) -> None:
        """A process that nobody asks for has ended."""
        _reap(self.orphans.pop(process_fd))
        self.poll.unregister(process_fd)
        os.close(process_fd)


def _is_given_up(relay: socket.socket) -> bool:
    """Whether the host has gone away, or given up, before there was a process."""
    try:
        relay.recv(1, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _reap(pid: int) -> bytes | None:
    """Take a dead child off the process table; None for one that lives."""
    found, status, usage = os.wait4(pid, os.WNOHANG)
    if found == 0:
        return None
    return OBITUARY.pack(status, usage.ru_utime, usage.ru_stime, usage.ru_maxrss * 1024)
