"""What was left of a cell, as one object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..exit import CellExit
from ..stage import Stage
from ..tracing.peer import OpenSpan, Remains
from ..tracing.records import Peer, Record
from ..tracing.statistics import PeerStatistics
from .escape import escape
from .plain import plain
from .stacks import CrashSite, crash_site
from .units import duration

__all__ = ["PostMortem"]


@dataclass(slots=True, kw_only=True)
class PostMortem:
    """Everything that is known of a cell after its death. Times are wall-clock nanoseconds since the epoch.

    Texts and fields are as the cell wrote them: to show them on a terminal use `render`, or `roam.postmortem.escape`.
    """

    peer: Peer
    exit: CellExit
    """How the cell ended. Of a cell that still runs it says `lost`; see `is_live`."""
    stage: Stage
    """How far the cell had come."""
    died_ns: int
    """When the host noticed the death; of a live cell, when this was taken."""
    records: list[Record]
    """The last records of all lanes in time order, `Lost` included."""
    open_spans: list[OpenSpan]
    """The spans that were open, as the open-span table had them."""
    stacks: str
    """What `faulthandler` wrote: the Python stacks of all threads at a fatal signal, behind those that its host asked for;
    else empty."""
    stdout_tail: str
    """The end of what it wrote to standard output; bytes that are not UTF-8 stand as `\\xNN`. Empty where that was no
    file: see `stdio` of `roam.spawn_cell`."""
    stderr_tail: str
    """Likewise of standard error."""
    statistics: PeerStatistics
    config: str
    """The filter that was in force."""
    facts: dict[str, Any]
    """What the host could learn of the process, by name; units stand last in a name."""
    header: dict[str, Any]
    """What the segment says of its host: process, boot, versions."""
    segment_path: str
    path: Path | None = None
    """The dump file, or None where this was never written."""
    damage: list[str] = field(default_factory=list)
    """What could not be read, of the dump or of the segment before, one line each; empty where all was sound."""
    is_live: bool = False
    """True where this was taken from a cell that still runs."""

    @classmethod
    def of(
        cls,
        remains: Remains,
        exit: CellExit,
        facts: Mapping[str, object],
        *,
        path: Path | None = None,
        damage: list[str] | None = None,
        is_live: bool = False,
    ) -> PostMortem:
        """Decode what is left of a cell. Never raises for what the cell wrote: it is listed in `damage` instead.

        `damage` is what was already found wrong with a dump; what was wrong with the segment is in `remains`.
        """
        faults = [*(damage or ()), *remains.damage]
        records: list[Record] = []
        try:
            records = remains.records()
        except Exception as error:
            # The records are counted as they are decoded; this is for a dump that somebody made by hand.
            faults.append(f"the records could not be decoded: {error}")
        return cls(
            peer=remains.peer,
            exit=exit,
            stage=remains.stage,
            died_ns=remains.died_ns,
            records=records,
            open_spans=list(remains.open_spans),
            stacks=remains.fault_text.decode("utf-8", "backslashreplace"),
            stdout_tail=remains.stdout_tail.decode("utf-8", "backslashreplace"),
            stderr_tail=remains.stderr_tail.decode("utf-8", "backslashreplace"),
            statistics=remains.statistics,
            config=remains.config,
            facts={str(name): plain(value) for name, value in facts.items()},
            header=dict(remains.header),
            segment_path=str(remains.segment_path),
            path=path,
            damage=faults,
            is_live=is_live,
        )

    @property
    def crash_site(self) -> CrashSite | None:
        """File, line and function that a fatal signal interrupted, or None where no stack says so."""
        return crash_site(self.stacks)

    @property
    def summary(self) -> str:
        """One safe line: who, how, where, and in which span."""
        # r[impl dump.crash.site]
        how = "still running" if self.is_live else self.exit.describe()
        parts = [f'cell "{escape(self.peer.name)}" {escape(how)}']
        if (site := self.crash_site) is not None:
            line = "" if site.line is None else f":{site.line}"
            parts.append(f"at {escape(site.file)}{line} in {escape(site.function)}")
        if self.open_spans:
            innermost = min(self.open_spans, key=lambda span: span.age_ns)
            parts.append(f"in span {escape(innermost.name)}, open for {duration(innermost.age_ns)}")
        return ", ".join(parts)

    def brief(self) -> str:
        """At most 79 lines, safe for a terminal: the last 20 records, the open spans, the stack that crashed or the
        exception, and the root cause last. `CellCrashed` shows it."""
        from .brief import brief

        return brief(self)

    def render(self, last: int | None = 50, color: bool = False) -> str:
        """The whole post-mortem as text, root cause last, safe for a terminal. `last` limits the records; None shows all."""
        from .render import render

        return render(self, last=last, color=color)
