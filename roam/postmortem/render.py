"""A post-mortem as text for people, root cause last.

Nothing that a cell wrote gets into the text but through `escape`; texts of several lines keep their line breaks, each
line behind a bar of its own, so that none of them can pass for a line of this report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ..stage import ExceptionText
from ..tracing.lanes import STDIO_NAME
from ..tracing.lines import CUT_CAUSE
from ..tracing.records import ERROR, WARNING, Event, Lost, Record, SpanClose, SpanEnter, SpanExit, level_name
from .escape import escape
from .spantree import SpanLine, span_lines
from .units import calendar, clock, duration
from .values import fact_text, fields_text

if TYPE_CHECKING:
    from .model import PostMortem

__all__ = ["render"]

_BOLD, _DIM, _RED, _YELLOW = "1", "2", "31", "33"
_MOST_DAMAGE_LINES = 20
_GAPS = ("overwritten", "corrupt", CUT_CAUSE)
"""Causes of losses that the numbers of a lane count as lost."""
_MARKS = {"span_enter": "> ", "span_exit": "| ", "span_close": "< "}


def render(pm: PostMortem, *, last: int | None = 50, color: bool = False) -> str:
    """The text of `PostMortem.render`."""
    return "\n".join(_Report(pm, last, color).lines()) + "\n"


class _Report:
    """One rendering: what is shown, and how."""

    def __init__(self, pm: PostMortem, last: int | None, color: bool) -> None:
        self.pm = pm
        self.records: Sequence[Record] = pm.records if last is None else pm.records[max(0, len(pm.records) - last) :]
        self.color = color
        self.names = {record.span_id: record.message for record in pm.records if isinstance(record, SpanEnter)}
        self.names.update({span.span_id: span.name for span in pm.open_spans})
        self.threads = {record.thread for record in self.records if record.thread is not None}

    def paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.color else text

    def lines(self) -> Iterator[str]:
        yield from self.head()
        for title, body in (
            ("damage", self.damage()),
            ("process", self.process()),
            ("losses", self.losses()),
            ("config in force", self.config()),
            ("end of stdout", self.tail("stdout", self.pm.stdout_tail)),
            ("end of stderr", self.tail("stderr", self.pm.stderr_tail)),
            (self.records_title(), self.record_lines()),
            ("open spans, outermost first", self.spans()),
            ("stacks at the fatal signal", self.block(self.pm.stacks)),
        ):
            yield from self.section(title, body)
        yield from self.cause()

    def section(self, title: str, body: Iterable[str]) -> Iterator[str]:
        is_first = True
        for line in body:
            if is_first:
                yield ""
                yield self.paint(_BOLD, title)
                is_first = False
            yield f"  {line}"

    def block(self, text: str) -> Iterator[str]:
        for line in text.rstrip("\n").split("\n") if text else ():
            yield f"| {escape(line)}".rstrip()

    def tail(self, stream: str, text: str) -> Iterator[str]:
        """What was printed last, unless the records show it: those of a cell whose host was killed do not."""
        if not any(record.lane == STDIO_NAME and record.target == stream for record in self.records):
            yield from self.block(text)

    def head(self) -> Iterator[str]:
        pm, exit = self.pm, self.pm.exit
        pid = "no process yet" if pm.peer.pid is None else f"pid {pm.peer.pid}"
        yield self.paint(_BOLD, f'{"Cell" if pm.is_live else "Post-mortem of cell"} "{escape(pm.peer.name)}"') + (
            f" (peer {pm.peer.peer_id}, epoch {pm.peer.epoch}), {pid}"
        )
        if pm.is_live:
            yield f"  started {calendar(exit.started_ns)}, running for {duration(exit.ended_ns - exit.started_ns)}"
        else:
            yield (
                f"  started {calendar(exit.started_ns)}, ended {calendar(exit.ended_ns)},"
                f" after {duration(exit.ended_ns - exit.started_ns)}"
            )
        # Once there is a dump the segment is gone, and its path leads nowhere.
        if pm.path is not None:
            yield f"  dump {escape(str(pm.path))}"
        elif pm.segment_path:
            yield f"  segment {escape(pm.segment_path)}"

    def damage(self) -> Iterator[str]:
        damage = self.pm.damage
        for text in damage[:_MOST_DAMAGE_LINES]:
            yield self.paint(_YELLOW, escape(text))
        if len(damage) > _MOST_DAMAGE_LINES:
            yield f"and {len(damage) - _MOST_DAMAGE_LINES:,} more"

    def process(self) -> Iterator[str]:
        exit = self.pm.exit
        known: dict[str, object] = {
            "stage": self.pm.stage.label,
            "cpu_s": exit.cpu_s,
            "max_rss_bytes": exit.max_rss_bytes,
            "core_dumped": exit.core_dumped,
        }
        known.update(self.pm.facts)
        known.update({name: value for name, value in self.pm.header.items() if name not in known})
        pairs = [fact_text(name, value) for name, value in known.items() if value is not None and value != []]
        width = min(24, max(len(name) for name, _ in pairs))
        for name, text in pairs:
            yield f"{name:<{width}}  {text}"

    def losses(self) -> Iterator[str]:
        is_any = False
        for text in self.loss_texts():
            is_any = True
            yield self.paint(_YELLOW, text)
        if not is_any:
            yield "nothing lost"

    def loss_texts(self) -> Iterator[str]:
        """One line per lane and cause, only for what is not zero."""
        # r[impl dump.render.losses]
        statistics = self.pm.statistics
        lost: dict[str, Counter[str]] = {}
        for record in self.pm.records:
            if isinstance(record, Lost) and record.first_seq is not None:
                lost.setdefault(record.lane, Counter())[record.cause] += record.count
        for lane in dict.fromkeys((*statistics.lanes, *lost)):
            counts = lost.get(lane, Counter())
            numbers = statistics.lanes.get(lane)
            if numbers is not None:
                unexplained = numbers.lost - sum(counts[cause] for cause in _GAPS)
                counts["lost, cause not in this file"] += max(0, unexplained)
            yield from (f"{escape(lane)}: {count:,} {escape(cause)}" for cause, count in counts.items() if count)
            if numbers is not None:
                for cause, count in numbers.dropped.items():
                    if count:
                        yield f"{escape(lane)}: {count:,} dropped before writing: {escape(cause)}"
        for count, what in (
            (statistics.spans_torn, "open-span slots torn"),
            (statistics.spans_overflowed, "spans had no room in the open-span table"),
            (statistics.evicted, "older records had left the host's memory before the end"),
        ):
            if count:
                yield f"{count:,} {what}"

    def config(self) -> Iterator[str]:
        yield escape(self.pm.config) or "none"

    def records_title(self) -> str:
        shown, total = len(self.records), len(self.pm.records)
        return f"records, all {total:,}" if shown == total else f"records, last {shown:,} of {total:,}"

    def record_lines(self) -> Iterator[str]:
        day = ""
        for record in self.records:
            date = calendar(record.time_ns).partition(" ")[0]
            if date != day:
                day = date
                yield self.paint(_DIM, f"{date} (UTC)")
            yield self.record_line(record)
            if record.exception is not None:
                yield from (f"    {line}" for line in self.exception_lines(record.exception))
        if not self.records:
            yield "none"

    def exception_lines(self, exception: ExceptionText) -> Iterator[str]:
        if exception.traceback and exception == self.pm.exit.exception:
            yield self.paint(_DIM, "(the traceback stands at the end)")
        else:
            yield from self.block(exception.traceback or _one_line(exception))

    def record_line(self, record: Record) -> str:
        level = f"{level_name(record.level):<8}"
        code = _RED if record.level >= ERROR else _YELLOW if record.level >= WARNING else ""
        parts = [
            self.paint(_DIM, clock(record.time_ns)),
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
        if isinstance(record, Event) and record.span_id in self.names:
            parts.append(self.paint(_DIM, f"in {escape(self.names[record.span_id])}"))
        if len(self.threads) > 1 and record.thread is not None:
            parts.append(self.paint(_DIM, f"[thread {record.thread}]"))
        return "  ".join(parts)

    def spans(self) -> Iterator[str]:
        suspended = {record.span_id for record in self.last_of_spans() if isinstance(record, SpanExit)}
        lines = span_lines(self.pm.open_spans, suspended)
        width = max((len(duration(line.span.age_ns)) for line in lines), default=0)
        for line in lines:
            yield self.span_line(line, width)

    def last_of_spans(self) -> Iterable[Record]:
        last: dict[bytes, Record] = {}
        for record in self.pm.records:
            if isinstance(record, SpanEnter | SpanExit):
                last[record.span_id] = record
        return last.values()

    def span_line(self, line: SpanLine, width: int) -> str:
        span = line.span
        parts = [f"{duration(span.age_ns):>{width}}", "  " * line.depth + escape(span.name)]
        if span.fields:
            parts.append(fields_text(span.fields))
        parts.append(self.paint(_DIM, f"{escape(span.target)}, since {clock(span.started_ns)}"))
        if line.state:
            parts.append(self.paint(_BOLD, f"<- {line.state}"))
        return "  ".join(parts)

    def cause(self) -> Iterator[str]:
        """The last lines: the exception's own traceback, then how it ended, then why."""
        # r[impl dump.render.cause]
        pm, exit = self.pm, self.pm.exit
        if exit.exception is not None:
            yield from self.section("exception", self.block(exit.exception.traceback or _one_line(exit.exception)))
        yield ""
        yield self.paint(_BOLD, pm.summary)
        if pm.is_live:
            return
        for evidence in exit.evidence:
            yield f"  evidence: {escape(evidence)}"
        yield self.paint(_RED, f"verdict: {escape(exit.verdict)}")


def _one_line(exception: Sequence[str]) -> str:
    return f"{exception[0]}: {exception[1]}"
