"""The parcel: one memory file that carries the call to a cell, and later the cell's answer back.

On the way out it holds `head length u64 | pickler u64 | head | body`: the head is plain data, the body is
`(target, args, kwargs)`. Once the cell has read it, it empties the file, writes its answer there (see `answer.py`) and
stores the answer's length in its segment. Nobody ever waits for room, and half an answer is no answer.
"""

from __future__ import annotations

import os
import pickle
import struct
from typing import IO, Any

from .pickling import BY_DILL, PROTOCOL

__all__ = ["Parcel", "read_body", "read_head"]

_PREFIX = struct.Struct("<QQ")


class Parcel:
    """Host side: a packed call, waiting for its cell. The descriptor belongs to the parcel until `detach`."""

    __slots__ = ("extra_fds", "fd")

    def __init__(self, extra_fds: list[int]) -> None:
        # r[impl spawn.parcel] A file takes everything at once; a pipe would wait for its reader.
        self.fd = os.memfd_create("roam-parcel", os.MFD_CLOEXEC)
        self.extra_fds = extra_fds
        """Descriptors that arguments refer to (connections, queues): the cell must inherit them."""

    @classmethod
    def pack(
        cls, method: str, head: dict[str, Any], call: tuple[Any, ...], *, main_is_importable: bool, first_index: int
    ) -> Parcel:
        """Pickle head and call, `(target, args, kwargs)`. `first_index` is how many descriptors precede the parcel's own.

        Raises `CannotSend`, which names the part that no pickler can carry.
        """
        from .courier import Courier, encode_call

        courier = Courier(method, first_index)
        parcel = cls(courier.fds)
        try:
            packed_head = pickle.dumps(head, PROTOCOL)
            with open(parcel.fd, "w+b", closefd=False) as file:
                file.seek(_PREFIX.size)
                file.write(packed_head)
                pickler = encode_call(call, file, courier, main_is_importable=main_is_importable)
            os.pwrite(parcel.fd, _PREFIX.pack(len(packed_head), pickler), 0)
        except BaseException:
            parcel.close()
            raise
        return parcel

    def detach(self) -> int:
        """Hand over the descriptor; the caller closes it."""
        fd, self.fd = self.fd, -1
        return fd

    def close(self) -> None:
        """Close the descriptor unless it was handed over. Safe to call twice."""
        if self.fd >= 0:
            os.close(self.detach())


def read_head(file: IO[bytes]) -> tuple[dict[str, Any], int]:
    """Cell side: the head and the pickler of the body. Leaves `file` at the body."""
    file.seek(0)
    length, pickler = _PREFIX.unpack(file.read(_PREFIX.size))
    head: dict[str, Any] = pickle.loads(file.read(length))
    return head, pickler


def read_body(file: IO[bytes], pickler: int) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Cell side: the call, `(target, args, kwargs)`; then the file is empty. Raises whatever unpickling raises."""
    load: Any = pickle.load
    if pickler == BY_DILL:
        from .by_value import load
    try:
        target, args, kwargs = load(file)
    finally:
        os.ftruncate(file.fileno(), 0)
    return target, args, kwargs
