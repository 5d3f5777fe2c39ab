"""An exception as bounded text.

`traceback` is imported only when the first exception is described: a cell that raises nothing never pays for it.
Chains are walked here and not by `traceback.TracebackException`, which follows them to any length, copies messages of
any size, and for some exceptions runs `__dir__` of user objects to make suggestions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from ..stage import ExceptionText
from .normalise import Normaliser, cut_middle, cut_text, safe_text, type_name
from .redaction import Redactor

if TYPE_CHECKING:
    from traceback import StackSummary

__all__ = [
    "MAX_CHAIN",
    "MAX_FRAMES",
    "MAX_GROUP_DEPTH",
    "MAX_NOTES",
    "MAX_NOTE_BYTES",
    "MAX_TYPE_BYTES",
    "cause_of",
    "context_of",
    "describe_exception",
    "ends_of_stack",
    "is_context_suppressed",
    "members_of",
    "notes_of",
    "qualified_name",
    "traceback_of",
]

MAX_CHAIN = 16
"""Exceptions in one text: causes, contexts and members of groups together."""
MAX_FRAMES = 64
MAX_NOTES = 8
MAX_NOTE_BYTES = 512
MAX_TYPE_BYTES = 256
MAX_GROUP_DEPTH = 4
MAX_FRAMES_WITH_LOCALS = 4
"""Innermost frames of each exception that show their variables, where these are asked for."""
MAX_LOCALS = 16
MAX_LOCAL_BYTES = 160

_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"
_module_of = type.__dict__["__module__"].__get__
_qualname_of = type.__dict__["__qualname__"].__get__
# Read past whatever a subclass defines under the same names.
cause_of = BaseException.__dict__["__cause__"].__get__
context_of = BaseException.__dict__["__context__"].__get__
is_context_suppressed = BaseException.__dict__["__suppress_context__"].__get__
traceback_of = BaseException.__dict__["__traceback__"].__get__
members_of = BaseExceptionGroup.__dict__["exceptions"].__get__


def _frames_of(tb: TracebackType | None) -> Iterator[FrameType]:
    while tb is not None:
        yield tb.tb_frame
        tb = tb.tb_next


def ends_of_stack(tb: TracebackType) -> tuple[StackSummary, StackSummary, int]:
    """The frames of a stack, of one longer than `MAX_FRAMES` those at both ends, and how many lie between."""
    import traceback

    count, walk = 1, tb
    while walk.tb_next is not None:
        count, walk = count + 1, walk.tb_next
    if count <= MAX_FRAMES:
        return traceback.extract_tb(tb), traceback.StackSummary(), 0
    half = MAX_FRAMES // 2
    return traceback.extract_tb(tb, half), traceback.extract_tb(tb, -half), count - 2 * half


def notes_of(exc: BaseException) -> tuple[list[str], int]:
    """The texts given to `add_note`, few and short, and how many are not among them."""
    try:
        notes: Any = getattr(exc, "__notes__", None)
    except Exception:
        return [], 0  # a property, or a `__getattribute__`, with a fault in it
    if type(notes) is not list:
        return [], 0
    found = [safe_text(note, str, MAX_NOTE_BYTES)[0] for note in islice(notes, MAX_NOTES)]
    return found, max(0, len(notes) - len(found))


def qualified_name(kind: type) -> str:
    """`module.Class.Inner`; without the module for builtins, and with `__main__` for a cell's `__mp_main__`."""
    module, name = _module_of(kind), cut_text(_qualname_of(kind), MAX_TYPE_BYTES)
    if type(module) is not str or module == "builtins":
        return name
    if module == "__mp_main__":
        module = "__main__"
    return cut_text(f"{cut_text(module, MAX_TYPE_BYTES)}.{name}", MAX_TYPE_BYTES)


def describe_exception(
    exc: BaseException, limit_bytes: int = 6144, shown_locals: Redactor | None = None
) -> ExceptionText:
    """Type, message and traceback of `exc` as text: the traceback at most `limit_bytes` with its middle cut, the message a quarter.

    With `shown_locals`, which keeps secrets out, the innermost frames show their local variables. Never raises, except
    that KeyboardInterrupt and SystemExit pass through; what cannot be formatted says so in the text.
    """
    try:
        message = safe_text(exc, str, limit_bytes // 4)[0]
        kind = qualified_name(type(exc))
    except Exception as error:
        return ExceptionText(type_name(type(exc)), "", f"<traceback failed: {type_name(type(error))}>")
    try:
        text = _Formatter(limit_bytes, shown_locals).chain(exc, 0)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        text = f"<traceback failed: {type_name(type(error))}>\n{kind}: {message}\n"
    return ExceptionText(kind, message, cut_middle(text, limit_bytes))


class _Formatter:
    """Formats one exception with all that hangs on it; `seen` bounds the whole and cuts cycles."""

    def __init__(self, limit_bytes: int, shown_locals: Redactor | None) -> None:
        self.limit_bytes = limit_bytes
        self.shown_locals = shown_locals
        self.seen: set[int] = set()

    def chain(self, exc: BaseException, depth: int) -> str:
        """`exc` after its causes and contexts, oldest first, as the interpreter prints it."""
        links: list[tuple[BaseException, str]] = []
        current: BaseException | None = exc
        link = ""
        first = ""
        while current is not None:
            if id(current) in self.seen or len(self.seen) >= MAX_CHAIN:
                first = "[earlier exceptions left out]\n" + link
                break
            self.seen.add(id(current))
            links.append((current, link))
            cause = cause_of(current)
            if cause is None and not is_context_suppressed(current):
                current, link = context_of(current), _CONTEXT
            else:
                current, link = cause, _CAUSE
        parts = [self.one(error, depth) + link for error, link in reversed(links)]
        return first + "".join(parts)

    def one(self, exc: BaseException, depth: int) -> str:
        """`exc` alone: frames, type, message, notes, and the members of a group."""
        tb = traceback_of(exc)
        lines = ["Traceback (most recent call last):\n", *self.frames(tb)] if tb is not None else []
        name = qualified_name(type(exc))
        message = safe_text(exc, str, self.limit_bytes // 4)[0]
        lines.append(f"{name}: {message}\n" if message else f"{name}\n")
        lines += [f"{note}\n" for note in notes_of(exc)[0]]
        if issubclass(type(exc), BaseExceptionGroup):
            lines += self.members(exc, depth)
        return "".join(lines)

    def frames(self, tb: TracebackType) -> list[str]:
        """The lines of at most `MAX_FRAMES` frames, from both ends of the stack."""
        first, last, left_out = ends_of_stack(tb)
        gap = [f"  [{left_out} frames left out]\n"] if left_out else []
        lines = [self.line(text) for text in (*first.format(), *gap, *last.format())]
        if self.shown_locals is not None:
            # One text for each frame, from the innermost one outwards.
            innermost = deque(_frames_of(tb), maxlen=MAX_FRAMES_WITH_LOCALS)
            for index, frame in enumerate(reversed(innermost), 1):
                lines[-index] += self.locals(frame, self.shown_locals)
        return lines

    def locals(self, frame: FrameType, redactor: Redactor) -> str:
        """The local variables of a frame, few and short, one on a line; what cannot be read says so in their place."""
        try:
            values: Any = frame.f_locals
            # The body of a class has whatever its metaclass made for it.
            base: Any = dict if issubclass(type(values), dict) else type(values)
            items = list(islice(base.items(values), MAX_LOCALS))
            left_out = base.__len__(values) - len(items)
            normaliser = Normaliser(redactor)
            lines: list[str] = []
            for index, (key, value) in enumerate(items):
                name, whole = normaliser.key(key, index, {})
                plain = normaliser.top_level(normaliser.permitted(whole, value), MAX_LOCAL_BYTES)
                lines.append(f"      {name} = {cut_text(repr(plain), MAX_LOCAL_BYTES)}\n")
            if left_out > 0:
                lines.append(f"      [{left_out} variables left out]\n")
            return "".join(lines)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            return f"      <variables failed: {type_name(type(error))}>\n"

    def line(self, text: str) -> str:
        """The text of one frame, cut: a source line may be megabytes long."""
        short = cut_text(text, 1024)
        return short if len(short) == len(text) else short + "\n"

    def members(self, exc: BaseException, depth: int) -> list[str]:
        """The exceptions in a group, indented."""
        lines: list[str] = []
        members = members_of(exc)
        for index, member in enumerate(members):
            if len(self.seen) >= MAX_CHAIN or depth >= MAX_GROUP_DEPTH:
                lines.append(f"  | [{len(members) - index} more exceptions left out]\n")
                break
            lines.append(f"  +---------------- {index + 1} ----------------\n")
            lines += [f"  | {line}\n" for line in self.chain(member, depth + 1).splitlines()]
        return lines
