"""A post-mortem as text for people, root cause last.

Nothing that a cell wrote gets into the text but through `escape`; texts of several lines keep their line breaks, each
line behind a bar of its own, so that none of them can pass for a line of this report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ..exit import CellExit, Confidence
from ..stage import ExceptionText
from ..tracing.lanes import STDIO_NAME
from ..tracing.lines import CUT_CAUSE
from ..tracing.records import Lost, Record, SpanEnter, SpanExit
from .escape import escape
from .lines import BOLD, DIM, RED, YELLOW, RecordLines
from .spantree import SpanLine, span_lines
from .stacks import fatal_error
from .units import calendar, clock, duration
from .values import fact_text, fields_text

if TYPE_CHECKING:
    from .model import PostMortem

__all__ = ["Report", "render", "verdict_line"]

_MOST_DAMAGE_LINES = 20
_GAPS = ("overwritten", "corrupt", CUT_CAUSE)
"""Causes of losses that the numbers of a lane count as lost."""


def render(pm: PostMortem, *, last: int | None = 50, color: bool = False) -> str:
    """The text of `PostMortem.render`."""
    return "\n".join(Report(pm, last, color).lines()) + "\n"


class Report:
    """One rendering, and each of its parts as lines without an end."""

    def __init__(self, pm: PostMortem, last: int | None, color: bool = False) -> None:
        self.pm = pm
        self.records: Sequence[Record] = pm.records if last is None else pm.records[max(0, len(pm.records) - last) :]
        self.record_lines = RecordLines(pm, self.records, color=color)
        self.paint = self.record_lines.paint

    def lines(self) -> Iterator[str]:
        """The whole report."""
        yield from self.head()
        for title, body in (
            ("damage", self.damage()),
            ("process", self.process()),
            ("losses", self.losses()),
            ("config in force", self.config()),
            *self.tails(),
            (self.records_title(), self.history()),
            ("open spans, outermost first", self.spans()),
            (self.stacks_title(), self.block(self.pm.stacks)),
            ("exception", self.exception()),
        ):
            yield from self.section(title, body)
        yield from self.conclusion()

    def section(self, title: str, body: Iterable[str]) -> Iterator[str]:
        """`body` below a title; nothing where there is none."""
        is_first = True
        for line in body:
            if is_first:
                yield ""
                yield self.paint(BOLD, title)
                is_first = False
            yield f"  {line}"

    def block(self, text: str) -> Iterator[str]:
        """A text of several lines, each behind a bar."""
        for line in text.rstrip("\n").split("\n") if text else ():
            yield f"| {escape(line)}".rstrip()

    def tails(self) -> Iterator[tuple[str, Iterator[str]]]:
        """Titles, and what was printed last, unless the records show it: those of a cell whose host was killed do not."""
        shown = {record.target for record in self.records if record.lane == STDIO_NAME}
        for stream, text in (("stdout", self.pm.stdout_tail), ("stderr", self.pm.stderr_tail)):
            if stream not in shown:
                yield f"end of {stream}", self.block(text)

    def head(self) -> Iterator[str]:
        """Who it was, and when."""
        pm, exit = self.pm, self.pm.exit
        pid = "no process yet" if pm.peer.pid is None else f"pid {pm.peer.pid}"
        yield self.paint(BOLD, f'{"Cell" if pm.is_live else "Post-mortem of cell"} "{escape(pm.peer.name)}"') + (
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
        """What could not be read."""
        damage = self.pm.damage
        for text in damage[:_MOST_DAMAGE_LINES]:
            yield self.paint(YELLOW, escape(text))
        if len(damage) > _MOST_DAMAGE_LINES:
            yield f"and {len(damage) - _MOST_DAMAGE_LINES:,} more"

    def process(self) -> Iterator[str]:
        """What is known of the process."""
        exit = self.pm.exit
        known: dict[str, object] = {
            "stage": self.pm.stage.label,
            "cpu_s": exit.cpu_s,
            "max_rss_bytes": exit.max_rss_bytes,
            "core_dumped": exit.core_dumped,
            "last_beat_before_end_ns": None if exit.last_beat_ns is None else exit.ended_ns - exit.last_beat_ns,
        }
        known.update(self.pm.facts)
        known.update({name: value for name, value in self.pm.header.items() if name not in known})
        pairs = [fact_text(name, value) for name, value in known.items() if value is not None and value != []]
        width = min(24, max(len(name) for name, _ in pairs))
        for name, text in pairs:
            yield f"{name:<{width}}  {text}"

    def losses(self) -> Iterator[str]:
        """What is missing."""
        is_any = False
        for text in self.loss_texts():
            is_any = True
            yield self.paint(YELLOW, text)
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
        """The filter."""
        yield escape(self.pm.config) or "none"

    def records_title(self) -> str:
        """How many of the records are shown."""
        shown, total = len(self.records), len(self.pm.records)
        return f"records, all {total:,}" if shown == total else f"records, last {shown:,} of {total:,}"

    def history(self) -> Iterator[str]:
        """The records, with dates and tracebacks."""
        day = ""
        for record in self.records:
            date = calendar(record.time_ns).partition(" ")[0]
            if date != day:
                day = date
                yield self.paint(DIM, f"{date} (UTC)")
            yield self.record_lines.line(record)
            if record.exception is not None:
                yield from (f"    {line}" for line in self.exception_lines(record.exception))
        if not self.records:
            yield "none"

    def stacks_title(self) -> str:
        """Whether the stacks are those of a fatal signal, or were asked for before the end."""
        return "stacks taken by its host" if fatal_error(self.pm.stacks) is None else "stacks at the fatal signal"

    def exception_lines(self, exception: ExceptionText) -> Iterator[str]:
        """The traceback of a record's exception."""
        ending = self.pm.exit.exception
        if exception.traceback and ending is not None and exception[:3] == ending[:3]:
            yield self.paint(DIM, "(the traceback stands at the end)")
        else:
            yield from self.block(exception.traceback or _one_line(exception))

    def spans(self) -> Iterator[str]:
        """The open spans as a tree."""
        suspended = {record.span_id for record in self.last_of_spans() if isinstance(record, SpanExit)}
        lines = span_lines(self.pm.open_spans, suspended)
        width = max((len(duration(line.span.age_ns)) for line in lines), default=0)
        for line in lines:
            yield self.span_line(line, width)

    def last_of_spans(self) -> Iterable[Record]:
        """The last record of each span that was entered."""
        last: dict[bytes, Record] = {}
        for record in self.pm.records:
            if isinstance(record, SpanEnter | SpanExit):
                last[record.span_id] = record
        return last.values()

    def span_line(self, line: SpanLine, width: int) -> str:
        """One open span."""
        span = line.span
        parts = [f"{duration(span.age_ns):>{width}}", "  " * line.depth + escape(span.name)]
        if span.fields:
            parts.append(fields_text(span.fields))
        parts.append(self.paint(DIM, f"{escape(span.target)}, since {clock(span.started_ns)}"))
        if line.state:
            parts.append(self.paint(BOLD, f"<- {line.state}"))
        return "  ".join(parts)

    def exception(self) -> Iterator[str]:
        """What left the target, with its own traceback."""
        exception = self.pm.exit.exception
        if exception is not None:
            yield from self.block(exception.traceback or _one_line(exception))

    def conclusion(self) -> Iterator[str]:
        """The last lines: how it ended, what its host did about it, and why."""
        # r[impl dump.render.cause]
        pm, exit = self.pm, self.pm.exit
        yield ""
        yield self.paint(BOLD, pm.summary)
        if pm.is_live and exit.verdict == "unknown":
            return
        for step in exit.steps:
            yield f"  host: {escape(step)}"
        for evidence in exit.evidence:
            yield f"  evidence: {escape(evidence)}"
        yield self.paint(RED, verdict_line(exit))


def verdict_line(exit: CellExit) -> str:
    """The cause in one safe line, and how sure it is."""
    sure = "" if exit.confidence is Confidence.UNKNOWN else f" ({exit.confidence})"
    return f"verdict: {escape(exit.verdict)}{sure}"


def _one_line(exception: ExceptionText) -> str:
    return f"{exception.type}: {exception.message}"
