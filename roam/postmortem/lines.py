"""A record as one line of text, the same wherever records are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..tracing.lanes import STDIO_NAME
from ..tracing.records import ERROR, WARNING, Event, Lost, Record, SpanClose, SpanEnter, level_name
from .escape import escape
from .units import clock, duration
from .values import fields_text

if TYPE_CHECKING:
    from .model import PostMortem

__all__ = ["BOLD", "DIM", "RED", "YELLOW", "RecordLines"]

BOLD, DIM, RED, YELLOW = "1", "2", "31", "33"
_MARKS = {"span_enter": "> ", "span_exit": "| ", "span_close": "< "}


class RecordLines:
    """How `records` of one post-mortem are shown: with the names of its spans, and with threads where there are several."""

    def __init__(self, pm: PostMortem, records: Sequence[Record], *, color: bool = False) -> None:
        self._color = color
        self._names = {record.span_id: record.message for record in pm.records if isinstance(record, SpanEnter)}
        self._names.update({span.span_id: span.name for span in pm.open_spans})
        self._shows_threads = len({record.thread for record in records if record.thread is not None}) > 1

    def paint(self, code: str, text: str) -> str:
        """`text` in a colour, where colours are wanted."""
        return f"\x1b[{code}m{text}\x1b[0m" if self._color else text

    def line(self, record: Record, tag: str = "") -> str:
        """One safe line. `tag` is safe text that stands behind the time."""
        level = f"{level_name(record.level):<8}"
        code = RED if record.level >= ERROR else YELLOW if record.level >= WARNING else ""
        parts = [
            self.paint(DIM, clock(record.time_ns)),
            *([tag] if tag else []),
            self.paint(code, level) if code else level,
            escape(record.target),
        ]
        parts.append(_MARKS.get(record.kind, "") + escape(record.message))
        if isinstance(record, SpanClose):
            parts.append(f"({duration(record.duration_ns)})")
        # Of a line that was printed the target says from which stream.
        fields = {name: value for name, value in record.fields.items() if (record.lane, name) != (STDIO_NAME, "stream")}
        if fields and not isinstance(record, Lost):
            parts.append(fields_text(fields))
        if record.cuts:
            parts.append("[cut, original lengths: " + fields_text(record.cuts) + "]")
        if isinstance(record, Event) and record.span_id in self._names:
            parts.append(self.paint(DIM, f"in {escape(self._names[record.span_id])}"))
        if self._shows_threads and record.thread is not None:
            parts.append(self.paint(DIM, f"[thread {record.thread}]"))
        return "  ".join(parts)
