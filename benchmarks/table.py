"""One row of the result, and the table that is printed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Measured", "Pairs", "Row", "interleave", "markdown", "median_ratio", "medians", "per_second", "time_ns"]

Pairs: TypeAlias = list[tuple[float, float]]
"""For each round the anchor's figure and roam's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The outcome of a row. `ratio` is roam over its anchor, None where there is nothing to compare with."""

    anchor: str
    roam: str
    ratio: float | None
    reached: bool | None
    """None where a row is only reported."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is measured, what it has to reach, and how: `measure(rounds, scale)`, where `scale` multiplies all counts."""

    key: str
    title: str
    target: str
    measure: Callable[[int, float], Measured]


def interleave(rounds: int, anchor: Callable[[], float], roam: Callable[[], float]) -> Pairs:
    """Measure one after the other, `rounds` times, so that a change of the machine's mood meets both."""
    return [(anchor(), roam()) for _ in range(rounds)]


def medians(pairs: Pairs) -> tuple[float, float]:
    """The median figure of the anchor, and that of roam."""
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def median_ratio(pairs: Pairs) -> float:
    """The median of roam over its anchor, each taken within one round."""
    return statistics.median(roam / anchor for anchor, roam in pairs)


def time_ns(nanoseconds: float) -> str:
    """A duration with the unit that suits it."""
    for limit, unit in ((1e3, "ns"), (1e6, "µs"), (1e9, "ms")):
        if nanoseconds < limit:
            return f"{nanoseconds / (limit / 1e3):,.{0 if unit == 'ns' else 2}f} {unit}"
    return f"{nanoseconds / 1e9:,.2f} s"


def per_second(rate: float) -> str:
    """A rate in thousands."""
    return f"{rate / 1e3:,.0f} k/s"


def markdown(lines: Iterable[tuple[Row, Measured]]) -> str:
    """The table, aligned, so that it reads well as plain text too."""
    cells = [("what", "anchor", "roam", "ratio", "target", "reached")]
    for row, measured in lines:
        ratio = f"{measured.ratio:.3g}" if measured.ratio is not None else "-"
        reached = {True: "yes", False: "no", None: "reported"}[measured.reached]
        cells.append((row.title, measured.anchor, measured.roam, ratio, row.target, reached))
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    cells.insert(1, tuple("-" * width for width in widths))
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells)
