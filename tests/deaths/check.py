"""One death: let it happen, load the post-mortem from its file, and hold it against what the cell did.

A normal end leaves no post-mortem: there the handle has to tell the same.
"""

from __future__ import annotations

import re
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import roam
from roam.exit import CellExit, ExitKind
from roam.postmortem import PostMortem
from roam.postmortem.stacks import CrashSite
from roam.tracing.peer import OpenSpan
from roam.tracing.records import Record
from tests.support import wait_until

from . import targets
from .targets import DEATHS, LAST_WORDS, RECORD_COUNT, Death

__all__ = ["METHODS", "Outcome", "Row", "begin", "conclude", "provoke", "run_row"]

METHODS = ("forkserver", "spawn", "fork")
PATIENCE_S = 60.0


@dataclass
class Outcome:
    """What was right about one death. `problems` says in words what was not."""

    is_complete: bool = False
    are_spans_named: bool = False
    is_stack_named: bool | None = None
    """None where the death leaves no stack."""
    is_exit_right: bool = False
    died_ns: int | None = None
    """When the cell wrote its last record, on the monotonic clock."""
    problems: list[str] = field(default_factory=list)


@dataclass
class Row:
    """Several runs of one death under one start method."""

    method: str
    death: str
    outcomes: list[Outcome] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Files in the directory of the dumps that no handle knew of."""
    seconds: float = 0.0

    @property
    def problems(self) -> list[str]:
        """Everything that went wrong, with the number of the run."""
        return [
            f"{self.method}, {self.death}, run {number}: {problem}"
            for number, outcome in enumerate(self.outcomes, 1)
            for problem in outcome.problems
        ] + [f"{self.method}, {self.death}: {name} is left" for name in self.left]

    def count(self, attribute: str) -> str:
        """How many outcomes have it; `-` where the death leaves nothing of the kind."""
        found = [getattr(outcome, attribute) for outcome in self.outcomes]
        return "-" if None in found else str(sum(found))


@dataclass
class Left:
    """What a death left, from the dump's file or, without one, from the handle."""

    exit: CellExit
    records: list[Record]
    open_spans: list[OpenSpan]
    stacks: str = ""
    crash_site: CrashSite | None = None
    damage: list[str] = field(default_factory=list)

    @classmethod
    def of_handle(cls, cell: roam.Cell, ended: CellExit) -> Left:
        return cls(ended, cell.records(), cell.open_spans())

    @classmethod
    def of_dump(cls, found: PostMortem) -> Left:
        return cls(found.exit, found.records, found.open_spans, found.stacks, found.crash_site, found.damage)


def run_row(method: str, death: str, run_count: int) -> Row:
    """Run one death `run_count` times, one cell after the other, under one host."""
    row, started = Row(method, death), time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="roam-deaths-") as place,
        roam.TracingHost(dump_dir=place, forward=False) as host,
    ):
        for _ in range(run_count):
            cell = begin(host, method, death)
            provoke(cell, death)
            row.outcomes.append(conclude(cell, death))
        row.left += [path.name for path in Path(place).iterdir()]
    row.seconds = time.monotonic() - started
    return row


def begin(host: roam.TracingHost, method: str, death: str) -> roam.Cell:
    """Start the cell that is going to die."""
    return roam.spawn_cell(targets.die, death, host=host, start_method=method)


def provoke(cell: roam.Cell, death: str) -> int | None:
    """Do to the cell what this death needs, once it has said its last words. Returns when, on the monotonic clock;
    None for a cell that dies without help."""
    act = DEATHS[death].act
    if act is None:
        return None
    last = [LAST_WORDS]
    wait_until(
        lambda: [record.message for record in cell.records(1)] == last or not cell.is_alive(),
        PATIENCE_S,
        message="the cell waits for its end",
    )
    now_ns = time.monotonic_ns()
    act(cell)
    return now_ns


def conclude(cell: roam.Cell, death: str) -> Outcome:
    """Wait for the end, and examine what it left. The dump is removed."""
    ended = cell.join(PATIENCE_S)
    if ended is None:
        cell.kill()
        return Outcome(problems=[f"it was not dead after {PATIENCE_S} s"])
    if (cell.dump_path is not None) != DEATHS[death].leaves_dump:
        return Outcome(problems=[f"{'a' if cell.dump_path else 'no'} dump; {ended}"])
    if cell.dump_path is None:
        return examine(Left.of_handle(cell, ended), death)
    found = roam.postmortem.load(cell.dump_path)
    outcome = examine(Left.of_dump(found), death)
    if found.exit != ended:
        outcome.problems.append(f"the handle says {ended}, the dump {found.exit}")
    cell.dump_path.unlink()
    return outcome


def examine(left: Left, name: str) -> Outcome:
    """Hold what is left against the death that left it."""
    death, outcome = DEATHS[name], Outcome()
    found = outcome.problems
    found += [f"damage: {text}" for text in left.damage]

    numbers = [record.fields["number"] for record in left.records if record.message == "record"]
    said = [record for record in left.records if record.kind == "event" and record.lane in ("vital", "bulk")]
    has_last_words = bool(said) and said[-1].message == LAST_WORDS
    if has_last_words:
        outcome.died_ns = said[-1].fields["monotonic_ns"]
    outcome.is_complete = numbers == list(range(RECORD_COUNT)) and has_last_words
    if not outcome.is_complete:
        is_sorted = numbers == sorted(numbers)
        last = said[-1].message if said else None
        found.append(
            f"{len(set(numbers))} of {RECORD_COUNT} records, {'in' if is_sorted else 'not in'} order, last {last!r}"
        )

    expected = [("job", {"death": name}), ("step", {"number": 7})]
    spans = named_spans(left, death)
    outcome.are_spans_named = spans == expected
    if not outcome.are_spans_named:
        found.append(f"spans {spans} instead of {expected}")

    is_as, should_be = _end_of(left.exit), _end_of(death)
    outcome.is_exit_right = is_as == should_be
    if not outcome.is_exit_right:
        found.append(f"exit {is_as} instead of {should_be}")

    outcome.is_stack_named, missing = named_stack(left, death)
    found += missing
    return outcome


def _end_of(of: CellExit | Death) -> tuple[ExitKind, int | None, int | None]:
    return of.kind, of.code, of.signal


def named_spans(left: Left, death: Death) -> list[tuple[str, dict[str, object]]]:
    """Names and fields of the spans that the death interrupted, from the outside in.

    An exception leaves the `with` blocks before it ends the process, and a return does so in peace: the spans' last
    records say which, and none may be open.
    """
    if death.unwound_by is None:
        spans = sorted(left.open_spans, key=lambda span: span.started_ns)
        return [(span.name, dict(span.fields)) for span in spans]
    if left.open_spans:
        return [(f"{span.name}, open", dict(span.fields)) for span in left.open_spans]
    entered = {record.span_id: record for record in left.records if record.kind == "span_enter"}
    closed = [record for record in left.records if record.kind == "span_close"]
    return [
        (record.message, dict(entered[record.span_id].fields))
        for record in reversed(closed)
        if (record.exception.type if record.exception is not None else "") == death.unwound_by
    ]


def named_stack(left: Left, death: Death) -> tuple[bool | None, list[str]]:
    """Whether function and line of the end are named: the innermost ones, and those of the user's own frame."""
    missing = []
    place = rf'File "{re.escape(targets.__file__)}", line {death.line},? in {death.function}\b'
    if death.kind is ExitKind.RAISED and death.unwound_by:
        exception = left.exit.exception
        text = exception.traceback if exception is not None else ""
        if exception is None or exception.type != death.unwound_by:
            missing.append(f"exception {exception} instead of {death.unwound_by}")
    elif death.crash_function is not None:
        text, site = left.stacks, left.crash_site
        if site is None or site.function != death.crash_function or not site.line:
            missing.append(f"crash site {site} instead of {death.crash_function}")
    else:
        return None, []
    if not re.search(place, text):
        missing.append(f"no {place} in {text!r}")
    return not missing, missing
