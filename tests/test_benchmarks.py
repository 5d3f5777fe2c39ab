"""The benchmarks measure pairs in turn, and say what they measured."""

from __future__ import annotations

import re

import pytest

from benchmarks.__main__ import rows
from benchmarks.table import Measured, Row, interleave, markdown, median_ratio, medians, time_ns
from tests.support import REPOSITORY, run_script


def test_pairs_are_measured_in_turn():
    """Anchor and roam alternate, so that a change of the machine's mood meets both."""
    order = []
    interleave(2, lambda: order.append("anchor") or 1.0, lambda: order.append("roam") or 2.0)

    assert ["anchor", "roam", "anchor", "roam"] == order


def test_a_ratio_is_taken_within_a_round():
    """A slow round slows both sides and changes no ratio."""
    pairs = [(10.0, 1.0), (1000.0, 100.0), (20.0, 2.0)]

    assert (20.0, 2.0) == medians(pairs)
    assert median_ratio(pairs) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("nanoseconds", "text"), [(812.4, "812 ns"), (1810, "1.81 µs"), (11.7e6, "11.70 ms"), (2e9, "2.00 s")]
)
def test_durations_have_the_unit_that_suits_them(nanoseconds, text):
    """A reader sees three or four digits and a unit."""
    assert text == time_ns(nanoseconds)


def test_the_table_says_whether_a_target_was_reached():
    """Each row ends with yes, no, or that it is only reported."""
    rows = [Row(key, key, "≤ 1", lambda *_: outcomes[0]) for key in "abc"]
    outcomes = [
        Measured(anchor="1", roam="2", ratio=r, reached=reached)
        for r, reached in ((0.5, True), (2, False), (None, None))
    ]
    lines = markdown(zip(rows, outcomes, strict=True)).splitlines()

    assert [("0.5", "yes"), ("2", "no"), ("-", "reported")] == [
        (cells[3].strip(), cells[5].strip()) for cells in (line.strip("|").split("|") for line in lines[2:])
    ]


@pytest.mark.slow
def test_every_row_can_be_measured():
    """`python -m benchmarks --quick` fills every row, whether its target is reached or not."""
    done = run_script("-m", "benchmarks", "--quick", cwd=REPOSITORY, timeout_s=110)

    assert len(re.findall(r"\| (?:yes|no|reported) +\|$", done.stdout, re.MULTILINE)) == len(rows())
