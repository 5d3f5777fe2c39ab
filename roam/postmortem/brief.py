"""A post-mortem in few lines: what the text of an exception has room for, root cause last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from .render import Report
from .stacks import crashing_stack

if TYPE_CHECKING:
    from .model import PostMortem

__all__ = ["MOST_LINES", "brief"]

MOST_LINES = 79
"""Titles, blank lines and what is bounded below, together."""
_RECORDS, _SPANS, _STACK, _EXCEPTION, _CAUSES = 20, 10, 14, 10, 10
_LONGEST_LINE = 300


def brief(pm: PostMortem) -> str:
    """The text of `PostMortem.brief`."""
    report = Report(pm, _RECORDS)
    blank, summary, *causes = report.conclusion()
    lines = [
        *report.section(report.records_title(), map(report.record_lines.line, report.records)),
        *report.section("open spans, outermost first", _last(report.spans(), _SPANS)),
        *report.section("stack", _first(report.block("\n".join(crashing_stack(pm.stacks))), _STACK)),
        *report.section("exception", _last(report.exception(), _EXCEPTION)),
        blank,
        summary,
        *_last(causes, _CAUSES),
    ]
    # r[impl dump.crashed.brief]
    return "\n".join(line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} ..." for line in lines)


def _first(lines: Iterable[str], count: int) -> Iterator[str]:
    found = list(lines)
    is_cut = len(found) > count
    yield from islice(found, count - is_cut)
    if is_cut:
        yield f"... and {len(found) - count + 1:,} more"


def _last(lines: Iterable[str], count: int) -> Iterator[str]:
    found = list(lines)
    is_cut = len(found) > count
    if is_cut:
        yield f"{len(found) - count + 1:,} more, and ..."
    yield from found[max(0, len(found) - count + is_cut) :]
