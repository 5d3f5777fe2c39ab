"""Every way to die, once under each start method. `python -m tests.deaths` runs each 7 times, `python -m tests.proof
deaths` 500 deaths."""

from __future__ import annotations

import pytest

from tests.deaths.check import METHODS, run_row
from tests.deaths.targets import DEATHS
from tests.support import expect_none


@pytest.mark.parametrize("death", DEATHS)
def test_a_death_loses_nothing(death):
    """All 1,000 records are left in order, the interrupted spans are named, and so are exit, function and line."""
    expect_none(problem for method in METHODS for problem in run_row(method, death, 1).problems)
