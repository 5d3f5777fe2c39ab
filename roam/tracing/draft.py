"""The slow path of the encoder: a record in parts, normalised, and cut until it fits."""

from __future__ import annotations

from typing import Any

import msgspec

from ..stage import ExceptionText
from .normalise import Normaliser, cut_middle, cut_text, normalise, safe_text, water_level
from .records import CUT, INFO, MESSAGE_CONVERTED
from .redaction import Redactor

__all__ = ["LEVEL_MAX", "Draft", "fit", "wire_level"]

LEVEL_MAX = 2**15
"""Levels lie in 0 .. LEVEL_MAX; the encoder moves others to the nearer end."""

_MAX_TARGET_BYTES = 160
_EXIT = 2
_HAS_EXCEPTION = (0, 3)
_CUT_ROUNDS = 4
_LEAST_PART_BYTES = 16
"""Parts shorter than this are not cut: numbers stay what they are, and a shorter text says nothing."""
_pack = msgspec.msgpack.Encoder().encode


class Draft:
    """The parts of one record before they are packed. `ids` are the items that stand after the fields as they are."""

    __slots__ = ("cuts", "exception", "fields", "flags", "ids", "level", "message", "redactor", "tag", "target")

    def __init__(
        self,
        tag: int,
        level: object,
        target: object,
        message: object,
        fields: Any,
        ids: tuple[Any, ...],
        exception: ExceptionText | None,
        redactor: Redactor | None = None,
    ) -> None:
        self.tag, self.level, self.target, self.message = tag, level, target, message
        self.fields, self.ids, self.exception = fields, ids, exception
        self.redactor = redactor
        self.flags = 0
        self.cuts: dict[str, int] = {}

    def settle(self, limit_bytes: int) -> None:
        """Makes every part a wire value that is no longer than the whole may be."""
        self.level = wire_level(self.level)
        if issubclass(type(self.target), str):
            self.target = cut_text(self.target, _MAX_TARGET_BYTES)  # type: ignore[arg-type]
        else:
            self.target = safe_text(self.target, str, _MAX_TARGET_BYTES)[0]
        if type(self.message) is not str:
            self.flags |= MESSAGE_CONVERTED
        if issubclass(type(self.message), str):
            text, length, is_whole = safe_text(self.message, _itself, limit_bytes)
        else:
            text, length, is_whole = safe_text(self.message, str, limit_bytes)
        self.message = text
        if not is_whole:
            self.note_cut("message", length)
        if self.tag != _EXIT:
            self.fields, flags, cuts = normalise(self.fields, limit_bytes, self.redactor)
            self.flags |= flags
            self.cuts.update(cuts)
        if self.exception is not None:
            self.cut_exception(limit_bytes)

    def note_cut(self, part: str, length: int) -> None:
        """Keeps the original length of a part, which is the first one noted."""
        self.flags |= CUT
        self.cuts.setdefault(part, length)

    def pack(self) -> bytes:
        """The body, without the trailing items that hold their default."""
        head: tuple[Any, ...] = (self.tag, self.level, self.target, self.message)
        if self.tag == _EXIT:
            return _pack(head + self.ids + ((self.flags,) if self.flags else ()))
        head += (self.fields, *self.ids)
        if self.tag in _HAS_EXCEPTION and (self.flags or self.exception is not None):
            # Of the exception that ends a stage the answer carries the rest.
            head += (self.exception[:3] if self.exception is not None else None,)
        if self.flags:
            head += (self.flags, self.cuts) if self.cuts else (self.flags,)
        return _pack(head)

    def sizes(self) -> dict[str, int]:
        """The packed size of each part that can be cut."""
        sizes = {f"fields.{key}": len(_pack(value)) for key, value in self.fields.items()}
        sizes["message"] = len(_pack(self.message))
        if self.exception is not None:
            sizes["exception"] = len(_pack(self.exception[:3]))
        return sizes

    def cut_part(self, part: str, room_bytes: int) -> None:
        """Cuts one part to about `room_bytes` and notes its original length."""
        if part == "message":
            text: str = self.message  # type: ignore[assignment]
            self.message = cut_text(text, room_bytes - 3)
            self.note_cut(part, len(text))
        elif part == "exception":
            self.cut_exception(room_bytes)
        else:
            key = part[len("fields.") :]
            normaliser = Normaliser()
            self.fields[key] = normaliser.top_level(self.fields[key], room_bytes - 3)
            if normaliser.was_cut:
                self.note_cut(part, normaliser.length)

    def cut_exception(self, room_bytes: int) -> None:
        """Cuts the exception: an eighth for its type, a quarter for its message, the rest for both ends of the traceback."""
        if self.exception is None:
            return
        kind = cut_text(self.exception.type, max(room_bytes // 8, 16))
        message = cut_text(self.exception.message, max(room_bytes // 4, 16))
        room = room_bytes - len(kind.encode()) - len(message.encode()) - 10
        short = ExceptionText(kind, message, cut_middle(self.exception.traceback, room))
        if short[:3] != self.exception[:3]:
            self.note_cut("exception", len(self.exception.traceback))
        self.exception = short

    def drop_fields(self) -> None:
        """Drops the second half of the fields."""
        count = len(self.fields)
        kept = list(self.fields)[: count // 2]
        self.note_cut("fields", count)
        self.fields = {key: self.fields[key] for key in kept}
        self.cuts = {part: n for part, n in self.cuts.items() if part[:7] != "fields." or part[7:] in self.fields}


def _itself(value: Any) -> Any:
    return value


def wire_level(level: object) -> int:
    """`level` within 0 .. LEVEL_MAX; INFO for what is no number."""
    try:
        kind = type(level)
        number = int.__int__(level) if issubclass(kind, int) else int(level)  # type: ignore[arg-type, call-overload]
        return min(max(int.__int__(number), 0), LEVEL_MAX)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return INFO


def fit(draft: Draft, limit_bytes: int) -> bytes | None:
    """The body of `draft`, cut to `limit_bytes`; None where that is too little for the least of it."""
    try:
        draft.settle(limit_bytes)
        return _cut_to_fit(draft, limit_bytes)
    except Exception:
        # r[impl trace.encode.total]
        # The recursion limit or the memory is reached: what is known to be small goes out, and nothing is called.
        try:
            tail = (None, CUT) if draft.tag in _HAS_EXCEPTION else (CUT,)
            fields: tuple[Any, ...] = () if draft.tag == _EXIT else ({},)
            level = draft.level if type(draft.level) is int and 0 <= draft.level <= LEVEL_MAX else INFO
            body = _pack((draft.tag, level, "roam", "<record could not be encoded>", *fields, *draft.ids, *tail))
            return body if len(body) <= limit_bytes else None
        except Exception:
            return None


def _cut_to_fit(draft: Draft, limit_bytes: int) -> bytes | None:
    """Cuts the longest parts to one common length; where that leaves too little of each, drops fields from the end."""
    while True:
        body = draft.pack()
        if len(body) <= limit_bytes:
            return body
        sizes = draft.sizes()
        room = limit_bytes - (len(body) - sum(sizes.values()))
        for _ in range(_CUT_ROUNDS):
            level = water_level(sizes.values(), room)
            if level < _LEAST_PART_BYTES:
                break
            for part, size in sizes.items():
                if size > level:
                    draft.cut_part(part, level)
            body = draft.pack()
            if len(body) <= limit_bytes:
                return body
            room -= len(body) - limit_bytes  # What noting the cuts took, and rounding.
        if draft.fields:
            draft.drop_fields()
        elif draft.exception is not None:
            draft.note_cut("exception", len(draft.exception.traceback))
            draft.exception = None
        elif draft.message:
            draft.cut_part("message", 0)
        else:
            return None
