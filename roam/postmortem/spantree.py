"""The open spans of a dead cell as a tree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from typing import NamedTuple

from ..tracing.peer import OpenSpan

__all__ = ["SpanLine", "span_lines"]


class SpanLine(NamedTuple):
    """A span, how deep it stands, and what it was doing.

    `state` is `executing`, `suspended`, `executing or waiting` (one of several tasks of its thread), or empty where a
    span inside it was executing.
    """

    span: OpenSpan
    depth: int
    state: str


def span_lines(spans: Sequence[OpenSpan], suspended: Container[bytes] = ()) -> list[SpanLine]:
    """`spans` with every parent before its children, older ones first. Each exactly once, whatever the ids claim."""
    ordered = sorted(range(len(spans)), key=lambda index: (spans[index].started_ns, index))
    known = {span.span_id for span in spans}
    children: dict[bytes, list[int]] = {}
    roots = []
    for index in ordered:
        parent_id = spans[index].parent_id
        if parent_id is None or parent_id not in known or parent_id == spans[index].span_id:
            roots.append(index)
        else:
            children.setdefault(parent_id, []).append(index)
    lines: list[SpanLine] = []
    taken: set[int] = set()
    # Spans that are each other's ancestors have no root; the oldest of them stands in for one.
    for root in (*roots, *ordered):
        pending = [(root, 0)]
        while pending:
            index, depth = pending.pop()
            if index in taken:
                continue
            taken.add(index)
            span = spans[index]
            below = children.get(span.span_id, ())
            lines.append(SpanLine(span, depth, _state(span, [spans[at] for at in below], suspended)))
            pending.extend((at, depth + 1) for at in reversed(below))
    return _shared(lines)


def _state(span: OpenSpan, children: Sequence[OpenSpan], suspended: Container[bytes]) -> str:
    if span.span_id in suspended:
        return "suspended"
    # A child of another thread runs beside its parent; one of the same thread runs inside it, unless it is suspended.
    is_inside = any(child.thread == span.thread and child.span_id not in suspended for child in children)
    return "" if is_inside else "executing"


def _shared(lines: Sequence[SpanLine]) -> list[SpanLine]:
    """Of several tasks on one thread only one executes, and the table does not say which."""
    threads = Counter(line.span.thread for line in lines if line.state == "executing")
    return [
        line._replace(state="executing or waiting")
        if line.state == "executing" and threads[line.span.thread] > 1
        else line
        for line in lines
    ]
