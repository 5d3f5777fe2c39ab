"""The cell's answer: how its target ended, and what it returned or raised.

An answer is `outcome u8 | pickler u8 | pad | text length u64 | text | body`. The text, JSON of an `ExceptionText`,
is for people and for the post-mortem; the body is a pickle that is loaded only in the thread that
asks for the result.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
from typing import IO, Any

from ..stage import ExceptionText
from .pickling import BY_DILL, BY_PICKLE, PROTOCOL, PicklerWithoutMain

__all__ = ["EXITED", "RAISED", "RETURNED", "Answer", "read", "write"]

RETURNED, RAISED, EXITED = 1, 2, 3
"""Outcomes. `EXITED` is SystemExit with 0 or None: a normal end without a value."""

_PREFIX = struct.Struct("<BB6xQ")
_TEXT_LIMIT_BYTES = 16 << 20
"""More than the largest exception that `dissect_exception` makes takes as JSON."""
_NO_BODY = 255
_SETTLED_BYTES = 64 << 10


def write(fd: int, outcome: int, value: object, text: ExceptionText | None, *, main_is_importable: bool) -> int:
    """Cell side: write the answer into the empty file `fd`. Returns its length in bytes.

    A returned value that cannot be pickled raises what the pickler raised; an exception that cannot be pickled is
    left out, its text remains.
    """
    packed_text = _pack_text(text)
    with open(fd, "w+b", closefd=False) as file:
        file.seek(_PREFIX.size)
        file.write(packed_text)
        try:
            pickler = _dump(value, file, main_is_importable=main_is_importable)
        except Exception:
            if outcome == RETURNED:
                raise
            pickler = _NO_BODY
        file.flush()
        length = max(os.fstat(fd).st_size, _PREFIX.size)
    os.pwrite(fd, _PREFIX.pack(outcome, pickler, len(packed_text)), 0)
    return length


def _dump(value: object, file: IO[bytes], *, main_is_importable: bool) -> int:
    start = file.tell()
    try:
        (pickle.Pickler if main_is_importable else PicklerWithoutMain)(file, PROTOCOL).dump(value)
        return BY_PICKLE
    except Exception:
        file.seek(start)
        file.truncate()
    from . import by_value

    try:
        by_value.dump(value, file, main_is_importable=main_is_importable)
    except Exception:
        file.seek(start)
        file.truncate()
        raise
    return BY_DILL


def _pack_text(text: ExceptionText | None) -> bytes:
    if text is None:
        return b""
    import msgspec

    return msgspec.json.encode(text)


class Answer:
    """Host side: a complete answer. Reading the text costs nothing of the body.

    A large one stays in its file until the value was loaded or the object is closed.
    """

    __slots__ = ("_body", "_fd", "_offset", "_pickler", "outcome", "text")

    def __init__(self, fd: int, prefix: tuple[int, ...], text: ExceptionText | None, offset: int) -> None:
        self._fd = fd
        self._offset = offset
        self._body: bytes | None = None
        self.outcome, self._pickler, _ = prefix
        self.text = text

    @property
    def has_body(self) -> bool:
        """False where an exception could not be pickled."""
        return self._pickler != _NO_BODY

    def load(self) -> Any:
        """The value or exception. Runs code of the classes in it; raises whatever that raises."""
        load: Any = pickle.load
        if self._pickler == BY_DILL:
            from .by_value import load
        if self._body is not None:
            return load(io.BytesIO(self._body))
        with open(self._fd, "rb", closefd=False) as file:
            file.seek(self._offset)
            return load(file)

    def settle(self) -> None:
        """Keep a small answer in memory and close the file, so that handles of dead cells hold no descriptors."""
        try:
            body = os.pread(self._fd, _SETTLED_BYTES + 1, self._offset)
        except OSError:
            return  # whoever loads the value is told
        if len(body) <= _SETTLED_BYTES:
            self._body = body
            self.close()

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


def read(fd: int, length: int) -> Answer | None:
    """Host side: the answer of `length` bytes in `fd`, or None if the file does not hold one, or cannot be read. Takes
    over `fd` if it does."""
    try:
        return _read(fd, length)
    except OSError:
        return None


def _read(fd: int, length: int) -> Answer | None:
    prefix_bytes = os.pread(fd, _PREFIX.size, 0)
    if length < _PREFIX.size or len(prefix_bytes) < _PREFIX.size or os.fstat(fd).st_size < length:
        return None
    prefix = _PREFIX.unpack(prefix_bytes)
    text_length = prefix[2]
    if prefix[0] not in (RETURNED, RAISED, EXITED) or text_length > min(_TEXT_LIMIT_BYTES, length - _PREFIX.size):
        return None
    return Answer(fd, prefix, _unpack_text(os.pread(fd, text_length, _PREFIX.size)), _PREFIX.size + text_length)


def _unpack_text(packed: bytes) -> ExceptionText | None:
    if not packed:
        return None
    import msgspec

    from ..tracing.dissection import check_bounds

    try:
        text = msgspec.json.decode(packed, type=ExceptionText)
        check_bounds(text)
    except Exception:
        # msgspec raises more than its own errors for bytes that nobody meant it to see.
        return None
    return text
