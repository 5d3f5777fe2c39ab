"""The table of planted deaths: what was planted, what roam said and by which evidence, and what bare `multiprocess` says."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.session import end_session  # isort: skip  # before anything that imports roam

from tests.proof.goal import quantile

from .bare import say_bare
from .check import METHODS, Outcome, run, without_standard_error
from .planted import DEATHS, Planted

COLUMNS = ("planted", "said", "by", "dump", "ms", "multiprocess")
WIDTHS = (33, 62, 46, 4, 6, 12)


@dataclass
class Row:
    """Several runs of one death under one start method."""

    method: str
    planted: Planted
    bare: str
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """Everything that went wrong, with the number of the run."""
        return [
            f"{self.method}, {self.planted.name}, run {number}: {problem}"
            for number, outcome in enumerate(self.outcomes, 1)
            for problem in outcome.problems
        ]

    def cells(self, name: str) -> tuple[str, ...]:
        """What stands in the table: the last run, and the median of the times."""
        last = self.outcomes[-1]
        times = [outcome.to_dump_ms for outcome in self.outcomes if outcome.has_dump and outcome.to_dump_ms is not None]
        return (
            ("! " if self.problems else "") + name,
            _said(last),
            "; ".join(last.exit.evidence[:2]) if last.exit is not None else "",
            "yes" if last.has_dump else "no",
            f"{quantile(times, 0.5):.1f}" if times else "",
            self.bare,
        )


def _said(outcome: Outcome) -> str:
    found = outcome.exit
    if found is None:
        return "start_failed: refused by spawn_cell"
    return f"{found.kind} in {found.stage.label}: {found.verdict} ({found.confidence})"


def _plain(cells: tuple[str, ...]) -> str:
    return "  ".join(
        (text if len(text) <= width else f"{text[: width - 1]}…").ljust(width)
        for text, width in zip(cells, WIDTHS, strict=True)
    ).rstrip()


def _markdown(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in cells)} |"


def _print_head(show: Callable[[tuple[str, ...]], str], method: str) -> None:
    if show is _markdown:
        print(f"\n### {method}\n\n{show(COLUMNS)}\n{show(('---',) * len(COLUMNS))}", flush=True)
    else:
        print(f"\n{method}\n{show(COLUMNS)}", flush=True)


def _row(method: str, planted: Planted, run_count: int) -> Row:
    with without_standard_error():
        row = Row(method, planted, say_bare(method, planted))
        row.outcomes += [run(method, planted.name) for _ in range(run_count)]
    return row


def _print_end(rows: list[Row], skipped: dict[str, str]) -> None:
    outcomes = [outcome for row in rows for outcome in row.outcomes]
    counts = Counter(
        name
        for outcome in outcomes
        for name in ("is_exit_right", "is_verdict_right", "is_complete", "is_confidently_wrong")
        if getattr(outcome, name)
    )
    times = [outcome.to_dump_ms for outcome in outcomes if outcome.has_dump and outcome.to_dump_ms is not None]
    complete = [outcome for outcome in outcomes if outcome.is_complete is not None]
    print(
        f"\n{len({row.planted.name for row in rows})} planted deaths, {len(outcomes)} died: "
        f"kind, code, signal and stage right {counts['is_exit_right']}, verdict right {counts['is_verdict_right']}, "
        f"confident errors {counts['is_confidently_wrong']}; "
        f"every record left in {counts['is_complete']} of {len(complete)} that wrote any"
    )
    if times:
        print(
            f"death to written post-mortem, {len(times)} times: median {quantile(times, 0.5):.1f} ms, "
            f"p99 {quantile(times, 0.99):.1f} ms, most {quantile(times, 1.0):.1f} ms"
        )
    for name, lack in skipped.items():
        print(f"not planted: {name}, which needs {lack}")


def main() -> int:
    """Print the table. Returns 1 if anything is wrong anywhere."""
    parser = argparse.ArgumentParser(prog="python -m tests.deaths", description=__doc__)
    parser.add_argument("--method", choices=METHODS, action="append", help="this start method; may be repeated")
    parser.add_argument("--only", metavar="NAME", choices=DEATHS, action="append", help="this death; may be repeated")
    parser.add_argument("--runs", type=int, default=1, help="runs of each death under each start method")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    options = parser.parse_args()
    show = _markdown if options.markdown else _plain
    rows, skipped = [], {}
    for method in options.method or METHODS[:2]:
        _print_head(show, method)
        for name in options.only or DEATHS:
            planted = DEATHS[name]
            if lack := planted.death.lack():
                skipped[name] = lack
            elif method in planted.death.methods:
                rows.append(_row(method, planted, options.runs))
                shown = f"`{name}`: {planted.what}" if show is _markdown else name
                print(show(rows[-1].cells(shown)), flush=True)
    _print_end(rows, skipped)
    problems = [problem for row in rows for problem in row.problems]
    print(*problems, sep="\n", file=sys.stderr, end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        end_session()
