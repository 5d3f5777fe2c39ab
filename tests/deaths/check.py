"""One death: run it, load the post-mortem from its file, and hold it against what the cell did."""

from __future__ import annotations

import re
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import roam
from roam.postmortem import PostMortem

from . import targets
from .targets import DEATHS, RECORD_COUNT, Death

__all__ = ["METHODS", "Outcome", "Row", "run_row"]

METHODS = ("forkserver", "spawn", "fork")
PATIENCE_S = 60.0


@dataclass
class Outcome:
    """What one post-mortem got right. `problems` says in words what it did not."""

    is_complete: bool = False
    are_spans_named: bool = False
    is_stack_named: bool | None = None
    """None where the death leaves no stack."""
    is_exit_right: bool = False
    problems: list[str] = field(default_factory=list)


@dataclass
class Row:
    """Several runs of one death under one start method."""

    method: str
    death: str
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def problems(self) -> list[str]:
        """Everything that went wrong, with the number of the run."""
        return [
            f"{self.method}, {self.death}, run {number}: {problem}"
            for number, outcome in enumerate(self.outcomes, 1)
            for problem in outcome.problems
        ]

    def count(self, attribute: str) -> str:
        """How many outcomes have it; `-` where the death leaves nothing of the kind."""
        found = [getattr(outcome, attribute) for outcome in self.outcomes]
        return "-" if None in found else str(sum(found))


def run_row(method: str, death: str, run_count: int) -> Row:
    """Run one death `run_count` times, one cell after the other, under one host."""
    row, started = Row(method, death), time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="roam-deaths-") as place,
        roam.TracingHost(dump_dir=place, forward=False) as host,
    ):
        for _ in range(run_count):
            row.outcomes.append(_run(host, Path(place), method, death))
    row.seconds = time.monotonic() - started
    return row


def _run(host: roam.TracingHost, dump_dir: Path, method: str, death: str) -> Outcome:
    cell = roam.spawn_cell(targets.die, death, host=host, start_method=method)
    if cell.join(PATIENCE_S) is None:
        cell.kill()
        return Outcome(problems=[f"it was not dead after {PATIENCE_S} s"])
    dumps = list(dump_dir.glob("*.roam"))
    if len(dumps) != 1:
        return Outcome(problems=[f"{len(dumps)} dumps instead of 1; {cell.exit}"])
    outcome = examine(roam.postmortem.load(dumps[0]), death)
    dumps[0].unlink()
    return outcome


def examine(post_mortem: PostMortem, name: str) -> Outcome:
    """Hold a loaded post-mortem against the death it is of."""
    death, outcome = DEATHS[name], Outcome()
    found = outcome.problems
    found += [f"damage: {text}" for text in post_mortem.damage]

    numbers = [record.fields["number"] for record in post_mortem.records if record.message == "record"]
    outcome.is_complete = numbers == list(range(RECORD_COUNT))
    if not outcome.is_complete:
        is_sorted = numbers == sorted(numbers)
        found.append(f"{len(set(numbers))} of {RECORD_COUNT} records, {'in' if is_sorted else 'not in'} order")

    expected = [("job", {"death": name}), ("step", {"number": 7})]
    spans = named_spans(post_mortem, death)
    outcome.are_spans_named = spans == expected
    if not outcome.are_spans_named:
        found.append(f"spans {spans} instead of {expected}")

    ended = post_mortem.exit
    is_as, should_be = (ended.kind, ended.code, ended.signal), (death.kind, death.code, death.signal)
    outcome.is_exit_right = is_as == should_be
    if not outcome.is_exit_right:
        found.append(f"exit {is_as} instead of {should_be}")

    outcome.is_stack_named, missing = named_stack(post_mortem, death)
    found += missing
    return outcome


def named_spans(post_mortem: PostMortem, death: Death) -> list[tuple[str, dict[str, object]]]:
    """Names and fields of the spans that the death interrupted, from the outside in.

    An exception leaves the `with` blocks before it ends the process: the spans' last records say that it did.
    """
    if death.end is not targets.fail:
        spans = sorted(post_mortem.open_spans, key=lambda span: span.started_ns)
        return [(span.name, dict(span.fields)) for span in spans]
    entered = {record.span_id: record for record in post_mortem.records if record.kind == "span_enter"}
    closed = [record for record in post_mortem.records if record.kind == "span_close"]
    return [
        (record.message, dict(entered[record.span_id].fields))
        for record in reversed(closed)
        if record.exception is not None and record.exception.type.endswith("Mishap")
    ]


def named_stack(post_mortem: PostMortem, death: Death) -> tuple[bool | None, list[str]]:
    """Whether function and line of the end are named: the innermost ones, and those of the user's own frame."""
    missing = []
    place = rf'File "{re.escape(targets.__file__)}", line {death.line},? in {death.end.__name__}\b'
    if death.end is targets.fail:
        exception = post_mortem.exit.exception
        text = exception.traceback if exception is not None else ""
    elif death.crash_function is not None:
        text, site = post_mortem.stacks, post_mortem.crash_site
        if site is None or site.function != death.crash_function or not site.line:
            missing.append(f"crash site {site} instead of {death.crash_function}")
    else:
        return None, []
    if not re.search(place, text):
        missing.append(f"no {place} in {text!r}")
    return not missing, missing
