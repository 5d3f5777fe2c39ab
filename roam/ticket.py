"""The one object that a process needs to attach to its segment.

A ticket holds file descriptor numbers, valid in the process that made it and, under the same numbers, in a
child that inherits them. It carries no path: a cell gets its segment by inheritance only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .errors import TicketError

__all__ = ["SpawnTicket"]

VARIABLE = "ROAM_TICKET"
_FORMAT = "1"


class SpawnTicket(NamedTuple):
    """What a process needs to attach: inherited descriptors, and the nonce that proves they are the right ones."""

    segment_fd: int
    doorbell_fd: int
    fault_fd: int
    nonce: str
    """32 hexadecimal digits, as in the segment's header."""

    @property
    def fds(self) -> tuple[int, ...]:
        """For `subprocess.Popen(pass_fds=…)`."""
        return (self.segment_fd, self.doorbell_fd, self.fault_fd)

    @property
    def environ(self) -> dict[str, str]:
        """For `subprocess.Popen(env=os.environ | …)`."""
        return {VARIABLE: ":".join((_FORMAT, *map(str, self.fds), self.nonce))}

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> SpawnTicket | None:
        """The ticket in `ROAM_TICKET`, or None where the variable is absent or empty. Raises `TicketError` if it is malformed."""
        text = environ.get(VARIABLE, "")
        if not text:
            return None
        version, _, rest = text.partition(":")
        if version != _FORMAT:
            raise TicketError(f"it has format {version!r} and this roam knows {_FORMAT!r}")
        parts = rest.split(":")
        if len(parts) != 4 or not all(part.isdecimal() and len(part) < 10 for part in parts[:3]) or len(parts[3]) != 32:
            raise TicketError("it is malformed")
        return cls(int(parts[0]), int(parts[1]), int(parts[2]), parts[3])
