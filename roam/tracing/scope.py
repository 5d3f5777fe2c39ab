"""What stands around a record: a span, or the process itself where there is none."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from .sampling import Verdict

__all__ = ["Scope", "active_scope"]


class Scope:
    """An inner node of what is open in one context, or, without anything around it, the root of a process.

    Records inherit its ids; filters look at name and fields. Threads: written by the one that opens and ends the span,
    read by those that its context is copied to.
    """

    __slots__ = ("fields", "has_ended", "name", "outer", "recorded", "span_id", "trace_id", "verdict")

    def __init__(self, span_id: bytes, trace_id: bytes) -> None:
        """A root."""
        self.span_id = span_id
        """8 bytes. A span that is not written has that of the one around it."""
        self.trace_id = trace_id
        """16 bytes."""
        self.outer: Scope | None = None
        """The span around it, or the root; None for the root. Not the parent, where that has ended before this began."""
        self.name = ""
        self.fields: dict[str, Any] = {}
        """What the span was opened with."""
        self.recorded: dict[str, Any] = {}
        """What was recorded since."""
        self.has_ended = False
        self.verdict: Verdict | None = None
        """What sampling has decided for everything inside."""

    def innermost_open(self) -> Scope:
        """Itself, or the innermost scope around it that has not ended. Leaves out what has ended for good, so that
        tasks which start one another inside of their spans do not keep all that came before them."""
        found = self
        while found.has_ended and found.outer is not None:
            found = found.outer
        above = found.outer
        while above is not None and above.has_ended:
            found.outer = above = above.outer
        return found


active_scope: ContextVar[Scope | None] = ContextVar("roam_active_scope", default=None)
"""The innermost span of this context; None outside of all spans."""
