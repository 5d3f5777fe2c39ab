"""The record codec: what a cell says as msgpack, and untrusted msgpack as records.

Pure functions that know no process, file or clock. The encoder runs in the traced program and never raises,
whatever it is given, except that KeyboardInterrupt and SystemExit pass through (it has no state to protect). The
decoder runs in the host and raises nothing but `RecordError`.

Encoding takes the fast path where every part is a short plain scalar: one look at each type, one call of msgspec.
Everything else, whatever makes that call raise and whatever comes out too long is normalised and cut by
`roam.tracing.draft`. No value reaches msgspec's own conversions (datetime, Enum, dataclass, Struct).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any, TypeAlias

import msgspec

from ..errors import RecordError
from ..stage import ExceptionText
from .draft import LEVEL_MAX, Draft, fit
from .exceptions import describe_exception
from .records import INFO, Dropped, Event, Record, SpanClose, SpanEnter, SpanExit
from .redaction import Redactor

__all__ = [
    "LEVEL_MAX",
    "MAX_PAYLOAD_BYTES",
    "decode",
    "describe_exception",
    "encode_dropped",
    "encode_event",
    "encode_line",
    "encode_span_close",
    "encode_span_enter",
    "encode_span_exit",
    "level_of",
]

MAX_PAYLOAD_BYTES = 65536
"""The decoder refuses longer bodies unseen."""
DEFAULT_LIMIT_BYTES = 8192
MAX_DECODED_DEPTH = 16
MAX_DECODED_NODES = 1024

_EVENT, _ENTER, _EXIT, _CLOSE, _DROPPED = range(5)
_LONG_TEXT = 4096
_LONG_KEY = 128
_MANY_FIELDS = 64
_MAX_CAUSES = 64
_LARGEST_WORD = 2**64 - 1
_NUMBERS = frozenset((int, float, bool, NoneType))
_SCALARS = frozenset((int, float, bool, NoneType, str, bytes))
_pack = msgspec.msgpack.Encoder().encode

Fields: TypeAlias = Mapping[str, Any]


def encode_event(
    level: int,
    target: str,
    message: object,
    fields: Fields,
    thread: int,
    span_id: bytes,
    trace_id: bytes,
    exception: ExceptionText | None = None,
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
    flags: int = 0,
    redactor: Redactor | None = None,
) -> bytes | None:
    """The body of an `Event`, at most `limit_bytes` long; None where it cannot be made that short (never from 512 on)."""
    try:
        # `_is_plain`, written out: this is the hottest line of the emit path, and a call is a tenth of it.
        if (
            exception is None
            and not flags
            and type(message) is str
            and type(target) is str
            and type(level) is int
            and 0 <= level <= LEVEL_MAX
            and len(message) + len(target) <= _LONG_TEXT
            and len(fields) <= _MANY_FIELDS
            and (redactor is None or redactor.safe.issuperset(fields))
        ):
            for key, value in fields.items():
                kind = type(value)
                if kind is str:
                    if len(value) > _LONG_TEXT:
                        break
                elif kind not in _NUMBERS and (kind is not bytes or len(value) > _LONG_TEXT):
                    break
                if type(key) is not str or len(key) > _LONG_KEY:
                    break
            else:
                body = _pack((_EVENT, level, target, message, fields, thread, span_id, trace_id))
                if len(body) <= limit_bytes:
                    return body
    except Exception:
        # r[impl trace.encode.total]
        pass  # 2**64, a lone surrogate, a dict that another thread changes: the slow path sorts them out.
    draft = Draft(_EVENT, level, target, message, fields, (thread, span_id, trace_id), exception, redactor)
    draft.flags = flags
    return fit(draft, limit_bytes)


def encode_span_enter(
    level: int,
    target: str,
    name: str,
    fields: Fields,
    thread: int,
    span_id: bytes,
    trace_id: bytes,
    parent_id: bytes | None,
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
    redactor: Redactor | None = None,
) -> bytes | None:
    """The body of a `SpanEnter`, at most `limit_bytes` long; None where it cannot be made that short."""
    try:
        if _is_plain(level, target, name, fields, redactor):
            body = _pack((_ENTER, level, target, name, fields, thread, span_id, trace_id, parent_id))
            if len(body) <= limit_bytes:
                return body
    except Exception:
        pass
    ids = (thread, span_id, trace_id, parent_id)
    return fit(Draft(_ENTER, level, target, name, fields, ids, None, redactor), limit_bytes)


def encode_span_exit(
    level: int,
    target: str,
    name: str,
    thread: int,
    span_id: bytes,
    trace_id: bytes,
    parent_id: bytes | None,
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
) -> bytes | None:
    """The body of a `SpanExit`, at most `limit_bytes` long; None where it cannot be made that short."""
    try:
        if _is_plain(level, target, name, {}):
            body = _pack((_EXIT, level, target, name, thread, span_id, trace_id, parent_id))
            if len(body) <= limit_bytes:
                return body
    except Exception:
        pass
    return fit(Draft(_EXIT, level, target, name, {}, (thread, span_id, trace_id, parent_id), None), limit_bytes)


def encode_span_close(
    level: int,
    target: str,
    name: str,
    fields: Fields,
    thread: int,
    span_id: bytes,
    trace_id: bytes,
    parent_id: bytes | None,
    duration_ns: int,
    exception: ExceptionText | None = None,
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
    redactor: Redactor | None = None,
) -> bytes | None:
    """The body of a `SpanClose`, at most `limit_bytes` long; None where it cannot be made that short."""
    duration_ns = min(max(duration_ns, 0), _LARGEST_WORD)
    try:
        if exception is None and _is_plain(level, target, name, fields, redactor):
            body = _pack((_CLOSE, level, target, name, fields, thread, span_id, trace_id, parent_id, duration_ns))
            if len(body) <= limit_bytes:
                return body
    except Exception:
        pass
    ids = (thread, span_id, trace_id, parent_id, duration_ns)
    return fit(Draft(_CLOSE, level, target, name, fields, ids, exception, redactor), limit_bytes)


def encode_line(stream: str, text: str, fields: Fields, ids: tuple[bytes | None, bytes | None], flags: int) -> bytes:
    """The body of the `Event` that a host makes of a line that was printed. The text comes from bytes, so it is plain and
    has no surrogates; `ids` are those of span and trace."""
    return _pack((_EVENT, INFO, stream, text, fields, None, *ids, None, flags))


def encode_dropped(counts: Mapping[str, int]) -> bytes:
    """The body of a `Dropped`. `counts` comes from roam itself: few causes, none negative."""
    return _pack((_DROPPED, counts))


def _is_plain(level: object, target: object, name: object, fields: Fields, redactor: Redactor | None = None) -> bool:
    """Whether all of it may go to msgspec as it is."""
    if (
        type(name) is not str
        or type(target) is not str
        or type(level) is not int
        or not 0 <= level <= LEVEL_MAX
        or len(name) + len(target) > _LONG_TEXT
        or len(fields) > _MANY_FIELDS
        or (redactor is not None and not redactor.safe.issuperset(fields))
    ):
        return False
    for key, value in fields.items():
        kind = type(value)
        if kind is str:
            if len(value) > _LONG_TEXT:
                return False
        elif kind not in _NUMBERS and (kind is not bytes or len(value) > _LONG_TEXT):
            return False
        if type(key) is not str or len(key) > _LONG_KEY:
            return False
    return True


_TEXT_ALONE = ExceptionText("", "", "")[3:]
_unpack = msgspec.msgpack.Decoder(Event | SpanEnter | SpanExit | SpanClose | Dropped).decode
# By tag, the msgpack header of the longest array a cell may send: it ends before `time_ns`, `seq` and `lane`.
_LONGEST = bytes(
    0x90 + 1 + kind.__struct_fields__.index("time_ns") for kind in (Event, SpanEnter, SpanExit, SpanClose, Dropped)
)


def decode(payload: bytes) -> Record:
    """The record in `payload`, with `time_ns`, `seq` and `lane` still at their defaults. Any thread.

    Raises `RecordError` for everything that is not a record in the form the encoder writes. Memory and time are
    bounded by the size of the payload: msgspec allocates as elements arrive, never by a claimed length.
    """
    try:
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"{len(payload)} bytes are too many")
        if payload[0] > _LONGEST[payload[1]]:
            raise ValueError("too many items, or not an array")
        record: Event | SpanEnter | SpanExit | SpanClose | Dropped = _unpack(payload)
        if type(record) is Dropped:
            return _checked_dropped(record)
        if not 0 <= record.level <= LEVEL_MAX:
            raise ValueError("level out of range")
        span_id, trace_id, thread = record.span_id, record.trace_id, record.thread
        # Only in lines that were printed: see `Event`.
        if (span_id is not None and len(span_id) != 8) or (trace_id is not None and len(trace_id) != 16):
            raise ValueError("ids out of range")
        if (parent_id := record.parent_id) is not None and len(parent_id) != 8:
            raise ValueError("a parent id needs 8 bytes")
        if (thread is not None and thread < 0) or record.flags < 0:
            raise ValueError("thread or flags out of range")
        if record.exception is not None and record.exception[3:] != _TEXT_ALONE:
            raise ValueError("an exception with more than its text")
        fields = record.fields
        for value in fields.values():
            if type(value) not in _SCALARS:
                _check_nested(fields)
                break
        if len(fields) > MAX_DECODED_NODES:
            raise ValueError("too many fields")
        if record.cuts:
            _check_counts(record.cuts, MAX_DECODED_NODES)
        if type(record) is SpanClose and record.duration_ns < 0:
            raise ValueError("a negative duration")
        return record
    except Exception as error:
        # r[impl trace.decode.typed]
        raise RecordError(f"{type(error).__name__}: {error}"[:200]) from error


def _checked_dropped(record: Dropped) -> Dropped:
    _check_counts(record.counts, _MAX_CAUSES)
    return record


def _check_counts(counts: Mapping[str, int], most: int) -> None:
    if len(counts) > most:
        raise ValueError("too many counts")
    if min(counts.values(), default=0) < 0:
        raise ValueError("a negative count")


def _check_nested(fields: Mapping[str, Any]) -> None:
    """Depth, number and types of nested values, level by level, without recursion."""
    nodes = 0
    level: list[Any] = [fields]
    for _ in range(MAX_DECODED_DEPTH + 1):
        deeper: list[Any] = []
        for container in level:
            nodes += len(container)
            if nodes > MAX_DECODED_NODES:
                raise ValueError("too many nested values")
            if type(container) is dict and any(type(key) is not str for key in container):
                raise ValueError("a key that is not text")
            for value in container.values() if type(container) is dict else container:
                kind = type(value)
                if kind is list or kind is dict:
                    deeper.append(value)
                elif kind not in _SCALARS:
                    raise ValueError(f"a value of type {kind.__name__}")
        if not deeper:
            return
        level = deeper
    raise ValueError("nested too deeply")


def level_of(payload: bytes) -> int | None:
    """The level of a record, read from its first bytes without decoding; None where it is not as the encoder writes it.

    Never raises. Says nothing about the rest: a body whose level can be read may still not decode.
    """
    if len(payload) < 5 or payload[0] & 0xF0 != 0x90:
        return Dropped.level if len(payload) > 2 and payload[0] == 0x92 and payload[1] == _DROPPED else None
    tag, first = payload[1], payload[2]
    if tag >= _DROPPED:
        return Dropped.level if tag == _DROPPED else None
    if first < 0x80:
        return first
    if first == 0xCC:
        return payload[3]
    if first == 0xCD:
        level = payload[3] << 8 | payload[4]
        return level if level <= LEVEL_MAX else None
    return None
