"""Every way to die, twice under each start method. `python -m tests.deaths` runs each 40 times."""

from __future__ import annotations

import pytest

from tests.deaths.check import METHODS, run_row
from tests.deaths.targets import DEATHS
from tests.support import expect_none


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("death", DEATHS)
def test_a_death_loses_nothing(death, method):
    """All 1,000 records are in the dump in order, the open spans are named, and so are exit, function and line."""
    expect_none(run_row(method, death, 2).problems)
