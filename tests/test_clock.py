"""Two clocks and one anchor."""

from __future__ import annotations

import os
import signal
import time

from hypothesis import given
from hypothesis import strategies as st

import roam
from roam.clock import ClockAnchor
from roam.exit import ExitKind


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_a_wall_time_fits_into_a_dump(monotonic_ns, wall_ns, anchor_ns):
    """Whatever a cell writes as its time, what the host makes of it is a signed 64-bit number, and exact if it can be."""
    found = ClockAnchor(wall_ns, anchor_ns).to_wall_ns(monotonic_ns)
    exact = wall_ns + monotonic_ns - anchor_ns

    assert 0 <= found < 2**63
    assert found == exact or not 0 <= exact < 2**63


def lie_about_the_time():
    """A target whose clock is at the end of the 64 bits."""
    roam.info("before")
    time.monotonic_ns = lambda: 2**64 - 9
    with roam.span("late"):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_forged_time_costs_no_evidence():
    """A cell that forges its clock still leaves a whole dump, with its open span."""
    with roam.TracingHost() as host:
        cell = roam.spawn_cell(lie_about_the_time, host=host)

        assert cell.join(60).kind is ExitKind.SIGNALED
        assert cell.post_mortem.damage == []
        assert [span.name for span in cell.post_mortem.open_spans] == ["late"]
        assert cell.post_mortem.records[0].message == "before"
