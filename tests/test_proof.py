"""The small form of every goal of `python -m tests.proof`, and that the proof can fail."""

from __future__ import annotations

import json
import os

import pytest

from tests.proof.goals import GOALS
from tests.proof.run import run_goal
from tests.support import REPOSITORY

SEED = int(os.environ.get("ROAM_SEED") or 1)
SHORT = 4_000
"""Characters of a case that are worth showing; the replay file has the rest."""


@pytest.mark.parametrize("name", GOALS)
def test_a_goal_holds(name):
    """Every promise of the goal holds, and what it is to cover did happen."""
    verdict = run_goal(GOALS[name], small=True, seed=SEED, evidence=REPOSITORY / ".proof")
    if verdict.skipped is not None:
        pytest.skip(verdict.skipped)
    if verdict.failure is not None:
        case = json.dumps(verdict.failure.case)
        pytest.fail(
            f"{verdict.failure.brief}\nseed {SEED}, case {case if len(case) <= SHORT else 'in the file'}\n"
            f"again: python -m tests.proof --replay {verdict.replay_file}",
            pytrace=False,
        )
