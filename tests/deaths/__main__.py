"""The table of deaths: 1,000 records, every way to die, three start methods, and what is left of it."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator

from .check import METHODS, Row, run_row
from .targets import DEATHS, RECORD_COUNT

COLUMNS = ("method", "death", "runs", "complete", "spans named", "stack named", "exit right", "seconds")
WIDTHS = (10, 18, 4, 8, 11, 11, 10, 7)


@contextlib.contextmanager
def without_standard_error() -> Iterator[None]:
    """What the dying cells print is in their dumps; here it would stand between the lines of the table."""
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


def line(cells: tuple[str, ...]) -> str:
    return "  ".join(
        text.ljust(width) if index < 2 else text.rjust(width)
        for index, (text, width) in enumerate(zip(cells, WIDTHS, strict=True))
    )


def cells_of(row: Row) -> tuple[str, ...]:
    counts = [row.count(name) for name in ("is_complete", "are_spans_named", "is_stack_named", "is_exit_right")]
    return (row.method, row.death, str(len(row.outcomes)), *counts, f"{row.seconds:.1f}")


def main() -> int:
    """Print the table. Returns 1 if anything is missing anywhere."""
    parser = argparse.ArgumentParser(prog="python -m tests.deaths", description=__doc__)
    parser.add_argument("--runs", type=int, default=7, help="runs of each death under each start method")
    parser.add_argument("--method", choices=METHODS, action="append", help="only this start method; may be repeated")
    options = parser.parse_args()
    print(f"complete: {RECORD_COUNT:,} of {RECORD_COUNT:,} records are left, in order")
    print(line(COLUMNS), flush=True)
    problems = []
    for method in options.method or METHODS:
        for death in DEATHS:
            with without_standard_error():
                row = run_row(method, death, options.runs)
            print(line(cells_of(row)), flush=True)
            problems += row.problems
    print(*problems, sep="\n", file=sys.stderr, end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
