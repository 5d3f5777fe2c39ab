"""An exception in parts: frames, notes, cause, context and members, for the exception that ends a stage of a cell.

A cell imports this when the first such exception is there. The host believes nothing of what it reads until
`check_bounds` has seen it.
"""

from __future__ import annotations

from itertools import islice

from ..stage import ExceptionText, Frame
from .exceptions import (
    MAX_CHAIN,
    MAX_FRAMES,
    MAX_GROUP_DEPTH,
    MAX_NOTE_BYTES,
    MAX_NOTES,
    MAX_TYPE_BYTES,
    cause_of,
    context_of,
    describe_exception,
    ends_of_stack,
    is_context_suppressed,
    members_of,
    notes_of,
    qualified_name,
    traceback_of,
)
from .normalise import cut_text, safe_text

__all__ = ["check_bounds", "dissect_exception"]

_MAX_TRACEBACK_BYTES = 64 << 10
_MAX_MESSAGE_BYTES = _MAX_TRACEBACK_BYTES // 4
_MAX_FILE_BYTES = 512
_MAX_FUNCTION_BYTES = 256
_MAX_SOURCE_BYTES = 512
_LARGEST_COUNT = 2**31 - 1


def dissect_exception(exc: BaseException) -> ExceptionText:
    """`exc` as `describe_exception` has it, and in parts.

    Of all that hangs on it `MAX_CHAIN` exceptions are kept together, each once, with at most `MAX_FRAMES` frames each.
    Never raises, except that KeyboardInterrupt and SystemExit pass through; where there is a fault in the parts they
    are left out.
    """
    # r[impl spawn.exception]
    text = describe_exception(exc, _MAX_TRACEBACK_BYTES)
    try:
        parts = _Dissector().dissect(exc, 0)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return text
    return parts._replace(type=text.type, message=text.message, traceback=text.traceback)


class _Dissector:
    """Takes one exception apart; `seen` bounds the whole and cuts cycles."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def dissect(self, exc: BaseException, depth: int) -> ExceptionText:
        """`exc` without its formatted traceback. `depth` is the number of groups around it."""
        self.seen.add(id(exc))
        frames, frames_left_out = _frames(exc)
        notes, notes_left_out = notes_of(exc)
        cause, context = cause_of(exc), context_of(exc)
        if context is cause:
            context = None
        members = members_of(exc) if issubclass(type(exc), BaseExceptionGroup) else ()
        shown_cause, shown_context = self.link(cause, depth), self.link(context, depth)
        inside = [self.link(member, depth + 1) for member in islice(members, MAX_CHAIN)]
        shown_members = tuple(member for member in inside if member is not None)
        hanging = (cause is not None) + (context is not None) + len(members)
        shown = (shown_cause is not None) + (shown_context is not None) + len(shown_members)
        return ExceptionText(
            type=qualified_name(type(exc)),
            message=safe_text(exc, str, _MAX_MESSAGE_BYTES)[0],
            traceback="",
            frames=frames,
            frames_left_out=frames_left_out,
            notes=tuple(notes),
            notes_left_out=notes_left_out,
            cause=shown_cause,
            context=shown_context,
            is_context_suppressed=bool(is_context_suppressed(exc)),
            members=shown_members,
            left_out=hanging - shown,
        )

    def link(self, exc: BaseException | None, depth: int) -> ExceptionText | None:
        """What hangs on another exception; None where it has no place any more, or has one already."""
        if exc is None or id(exc) in self.seen or len(self.seen) >= MAX_CHAIN or depth > MAX_GROUP_DEPTH:
            return None
        return self.dissect(exc, depth)


def _frames(exc: BaseException) -> tuple[tuple[Frame, ...], int]:
    tb = traceback_of(exc)
    if tb is None:
        return (), 0
    first, last, left_out = ends_of_stack(tb)
    frames = tuple(
        Frame(
            cut_text(frame.filename, _MAX_FILE_BYTES),
            min(max(frame.lineno or 0, 0), _LARGEST_COUNT),
            cut_text(frame.name, _MAX_FUNCTION_BYTES),
            cut_text(frame.line or "", _MAX_SOURCE_BYTES),
        )
        for frame in (*first, *last)
    )
    return frames, left_out


def check_bounds(found: ExceptionText) -> None:
    """Raise ValueError where an exception that was decoded is beyond the bounds of those that `dissect_exception` makes."""
    # r[impl spawn.exception.untrusted]
    count, todo = 0, [(found, 0)]
    while todo:
        one, depth = todo.pop()
        count += 1
        if count > MAX_CHAIN or depth > MAX_GROUP_DEPTH:
            raise ValueError("an exception with too much hanging on it")
        if len(one.frames) > MAX_FRAMES or len(one.notes) > MAX_NOTES or len(one.members) > MAX_CHAIN:
            raise ValueError("an exception with too many frames, notes or members")
        if not _fits(one):
            raise ValueError("an exception with a text that is too long")
        numbers = (one.frames_left_out, one.notes_left_out, one.left_out, *(frame.line for frame in one.frames))
        if not 0 <= min(numbers) <= max(numbers) <= _LARGEST_COUNT:
            raise ValueError("an exception with a number out of range")
        todo += [(link, depth) for link in (one.cause, one.context) if link is not None]
        todo += [(member, depth + 1) for member in one.members]


def _fits(one: ExceptionText) -> bool:
    return (
        len(one.type) <= MAX_TYPE_BYTES
        and len(one.message) <= _MAX_MESSAGE_BYTES
        and len(one.traceback) <= _MAX_TRACEBACK_BYTES
        and all(len(note) <= MAX_NOTE_BYTES for note in one.notes)
        and all(
            len(frame.file) <= _MAX_FILE_BYTES
            and len(frame.function) <= _MAX_FUNCTION_BYTES
            and len(frame.source) <= _MAX_SOURCE_BYTES
            for frame in one.frames
        )
    )
