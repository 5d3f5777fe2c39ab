"""The few numbers a new cell needs before it can read its parcel.

A handover travels by the shortest way each start method has: on the command line (spawn), in the request to the fork
server (forkserver) or in memory (fork). Everything larger is in the parcel.
"""

from __future__ import annotations

__all__ = ["ABSENT", "Handover"]

ABSENT = -1
"""Stands for a descriptor that the cell has in its place already, or does not get."""


class Handover:
    """Descriptor numbers, valid in the cell, and what it must know to attach.

    `stdin_fd`, `stdout_fd` and `stderr_fd` are `ABSENT` where 0, 1 and 2 are already right. `process_group` is the one to
    join, 0 for a session of its own.
    """

    FIELDS = (
        "segment_fd",
        "doorbell_fd",
        "fault_fd",
        "parcel_fd",
        "lifeline_fd",
        "stdin_fd",
        "stdout_fd",
        "stderr_fd",
        "nonce",
        "method",
        "die_with_host",
        "process_group",
    )
    FD_COUNT = 8
    __slots__ = FIELDS

    segment_fd: int
    doorbell_fd: int
    fault_fd: int
    parcel_fd: int
    lifeline_fd: int
    stdin_fd: int
    stdout_fd: int
    stderr_fd: int
    nonce: str
    method: str
    die_with_host: bool
    process_group: int

    def __init__(self, *values: object) -> None:
        for field, value in zip(self.FIELDS, values, strict=True):
            setattr(self, field, value)

    @property
    def values(self) -> tuple[object, ...]:
        """The arguments that make an equal handover."""
        return tuple(getattr(self, field) for field in self.FIELDS)

    @property
    def fds(self) -> tuple[int, ...]:
        """All descriptors in the order of `FIELDS`; `ABSENT` where there is none."""
        return tuple(getattr(self, field) for field in self.FIELDS[: self.FD_COUNT])

    def renumbered(self, fds: tuple[int, ...]) -> Handover:
        """The same handover with other descriptor numbers, in the order of `fds`."""
        return Handover(*fds, *self.values[self.FD_COUNT :])
