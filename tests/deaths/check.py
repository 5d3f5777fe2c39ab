"""One death: let it happen, load the post-mortem from its file, and hold it against what the cell did.

A normal end leaves no post-mortem: there the handle has to tell the same.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import roam
from roam.exit import CellExit, Confidence, ExitKind
from roam.postmortem import PostMortem
from roam.postmortem.stacks import CrashSite
from roam.tracing.peer import OpenSpan
from roam.tracing.records import Record
from tests.support import wait_until

from .cell import LAST_WORDS, RECORD_COUNT, die
from .death import Death
from .planted import DEATHS, Planted
from .watch import Watch

__all__ = ["METHODS", "Ended", "Outcome", "end", "examine", "run", "without_standard_error"]

METHODS = ("forkserver", "spawn", "fork")
PATIENCE_S = 60.0


@contextlib.contextmanager
def without_standard_error() -> Iterator[None]:
    """What the dying cells print is in their dumps; here it would stand between the lines of a table."""
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


@dataclass
class Ended:
    """A cell that is dead, or never was."""

    planted: Planted
    cell: roam.Cell | None = None
    refused: Exception | None = None
    """Why there is no cell."""
    to_dump_ms: float | None = None
    """From the death to the end of its conclusion, when the dump is written; None where nobody saw the death."""


@dataclass
class Outcome:
    """What was right about one death, None where the death leaves nothing of the kind. `problems` says in words what was
    not."""

    is_complete: bool | None = None
    are_spans_named: bool | None = None
    is_stack_named: bool | None = None
    is_exit_right: bool = False
    is_verdict_right: bool = False
    is_confidently_wrong: bool = False
    exit: CellExit | None = None
    has_dump: bool = False
    to_dump_ms: float | None = None
    problems: list[str] = field(default_factory=list)


@dataclass
class Left:
    """What a death left, from the dump's file or, without one, from the handle."""

    exit: CellExit
    records: list[Record]
    open_spans: list[OpenSpan]
    stacks: str = ""
    stderr_tail: str = ""
    crash_site: CrashSite | None = None
    damage: list[str] = field(default_factory=list)

    @classmethod
    def of_handle(cls, cell: roam.Cell, ended: CellExit) -> Left:
        return cls(ended, cell.records(), cell.open_spans())

    @classmethod
    def of_dump(cls, found: PostMortem) -> Left:
        return cls(
            found.exit,
            found.records,
            found.open_spans,
            found.stacks,
            found.stderr_tail,
            found.crash_site,
            found.damage,
        )


def run(method: str, name: str) -> Outcome:
    """One death under a host of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="roam-deaths-") as place,
        roam.TracingHost(dump_dir=place, forward=False) as host,
    ):
        own_files = set(os.listdir(host.run_dir))
        outcome = examine(end(host, method, name))
        if host.is_open:
            outcome.problems += [f"{left} is left in the run" for left in set(os.listdir(host.run_dir)) - own_files]
        outcome.problems += [f"{path.name} is left beside the dump" for path in Path(place).iterdir()]
    return outcome


def _has_said(cell: roam.Cell, words: str) -> bool:
    """Whether it has written a record; what it prints is another matter."""
    return any(record.message == words for record in cell.records() if record.lane != "stdio")


def end(host: roam.TracingHost, method: str, name: str) -> Ended:
    """Start the cell, do to it what its death needs, and wait for its end."""
    planted = DEATHS[name]
    death = planted.death
    with death.scene() as arguments:
        try:
            cell = roam.spawn_cell(die, name, *arguments, host=host, start_method=method, **death.options)
        except Exception as refused:
            return Ended(planted, refused=refused)
        watch = Watch(cell)
        if death.act is not None:
            wait_until(
                lambda: _has_said(cell, LAST_WORDS) or not cell.is_alive(),
                PATIENCE_S,
                message="the cell waits for its end",
            )
            death.act(cell)
        if cell.join(PATIENCE_S) is None:
            cell.kill()
            cell.join()
        return Ended(planted, cell, to_dump_ms=watch.death_to_dump_ms())


def examine(ended: Ended) -> Outcome:
    """Hold what is left against the death that left it. The dump is removed."""
    planted, cell = ended.planted, ended.cell
    if cell is None:
        return _examine_refusal(planted.death, ended.refused)
    found = cell.exit
    assert found is not None
    outcome = Outcome(exit=found, has_dump=cell.dump_path is not None, to_dump_ms=ended.to_dump_ms)
    left = Left.of_handle(cell, found)
    if cell.dump_path is not None:
        left = Left.of_dump(roam.postmortem.load(cell.dump_path))
        cell.dump_path.unlink()
        if left.exit != found:
            outcome.problems.append(f"the handle says {found}, the dump {left.exit}")
    if outcome.has_dump != planted.death.leaves_dump:
        outcome.problems.append(f"{'a' if outcome.has_dump else 'no'} dump; {found}")
    outcome.problems += [f"damage: {text}" for text in left.damage]
    if planted.death.reaches_target:
        _examine_records(left, planted, outcome)
    _examine_exit(left, planted, outcome)
    return outcome


def _examine_refusal(death: Death, refused: Exception | None) -> Outcome:
    is_right = death.is_refused and isinstance(refused, roam.SpawnFailed) and refused.stage == death.stage.label
    problems = [] if is_right else [f"refused: {type(refused).__name__}: {refused}"]
    return Outcome(is_exit_right=is_right, is_verdict_right=is_right, problems=problems)


def _examine_records(left: Left, planted: Planted, outcome: Outcome) -> None:
    """Every record up to the last, the interrupted spans, and what the cell's own processes came to."""
    death = planted.death
    numbers = [record.fields["number"] for record in left.records if record.message == "record"]
    said = [record.message for record in left.records if record.kind == "event"]
    outcome.is_complete = numbers == list(range(RECORD_COUNT)) and LAST_WORDS in said
    if not outcome.is_complete:
        order = "in" if numbers == sorted(numbers) else "not in"
        outcome.problems.append(
            f"{len(set(numbers))} of {RECORD_COUNT} records, {order} order, last {said[-1] if said else None!r}"
        )
    expected = [("job", {"death": planted.name}), ("step", {"number": 7})]
    spans = named_spans(left, death)
    outcome.are_spans_named = spans == expected
    if not outcome.are_spans_named:
        outcome.problems.append(f"spans {spans} instead of {expected}")
    if death.after is not None:
        outcome.problems += death.after(left.records)


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


def _examine_exit(left: Left, planted: Planted, outcome: Outcome) -> None:
    """Kind, code, signal, stage, verdict, and the words and stacks that go with them."""
    found = left.exit
    death = planted.death.as_known(found.kind)
    said = (found.kind.value, found.code, found.signal, found.stage.label)
    expected = (death.kind.value, death.code, death.signal, death.stage.label)
    outcome.is_exit_right = said == expected
    if not outcome.is_exit_right:
        outcome.problems.append(f"exit {said} instead of {expected}")
    outcome.is_verdict_right = death.allows(found.verdict)
    if not outcome.is_verdict_right:
        outcome.is_confidently_wrong = found.confidence is not Confidence.UNKNOWN
        sure = f"{found.confidence}, by {'; '.join(found.evidence)}"
        outcome.problems.append(f"verdict {found.verdict!r} ({sure}) instead of {death.verdict!r}")
    if death.raises and death.kind in (ExitKind.RAISED, ExitKind.START_FAILED):
        raised = found.exception.type if found.exception is not None else None
        if raised != death.raises:
            outcome.problems.append(f"exception {raised} instead of {death.raises}")
    if death.stderr not in left.stderr_tail:
        outcome.problems.append(f"standard error {left.stderr_tail[-200:]!r} without {death.stderr!r}")
    if planted.line is not None:
        missing = _missing_stack(left, planted)
        outcome.is_stack_named = not missing
        outcome.problems += missing


def _missing_stack(left: Left, planted: Planted) -> list[str]:
    """What a traceback or a stack does not say of where it happened: file and line, and the innermost function."""
    missing = []
    text, death = left.stacks, planted.death
    if left.exit.exception is not None:
        text = left.exit.exception.traceback
    elif death.kind is ExitKind.SIGNALED and death.innermost is not None:
        site = left.crash_site
        if site is None or site.function != death.innermost or not site.line:
            missing.append(f"crash site {site} instead of {death.innermost}")
    place = rf'File "{re.escape(planted.path)}", line {planted.line},? in '
    if not re.search(place, text):
        missing.append(f"no {place} in {text!r}")
    return missing
