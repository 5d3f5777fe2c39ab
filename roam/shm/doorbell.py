"""The doorbell: one byte on a socket pair wakes the host; its end of file says that the other side is gone."""

from __future__ import annotations

# The C half of `socket`, which takes a cell a fortieth of the time to load.
import _socket as socket
import os
from typing import NamedTuple

__all__ = ["Doorbell", "DoorbellPair", "drain_doorbell"]


class DoorbellPair(NamedTuple):
    """The two ends as descriptors, both non-blocking and not inheritable."""

    host_fd: int
    cell_fd: int

    @classmethod
    def create(cls) -> DoorbellPair:
        """Raises `OSError` when descriptors run out."""
        host, cell = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        return cls(host.detach(), cell.detach())


class Doorbell:
    """The cell's end. Ringing never blocks and never raises: a full socket means that the host has been woken."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd

    def ring(self) -> None:
        """Wake the host."""
        try:
            # Borrowed for one call. `os.write` would raise SIGPIPE in a program that took back its default when the
            # host is gone, and would write into a file that got the number of a doorbell closed by the program.
            bell = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, self._fd)
            try:
                bell.send(b"!", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            finally:
                bell.detach()
        except OSError:
            # Full: it is awake. Broken: it is gone. Closed by the program: it looks by itself soon.
            return

    def close(self) -> None:
        """Close the descriptor; errors of a program that closed it first are of no interest."""
        try:
            os.close(self._fd)
        except OSError:
            return


def drain_doorbell(fd: int) -> bool:
    """Take all rings from the host's end; False once the other side is gone."""
    try:
        return bool(os.read(fd, 4096))
    except BlockingIOError:
        return True
    except OSError:
        return False
