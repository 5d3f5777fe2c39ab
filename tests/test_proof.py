"""The small form of every goal of `python -m tests.proof`, and that the proof can fail."""

from __future__ import annotations

import os

import pytest

from tests.proof.goals import GOALS
from tests.proof.run import run_goal

SEED = int(os.environ.get("ROAM_SEED") or 1)


@pytest.mark.parametrize("name", GOALS)
def test_a_goal_holds(name, tmp_path):
    """Every promise of the goal holds, and what it is to cover did happen."""
    verdict = run_goal(GOALS[name], small=True, seed=SEED, evidence=tmp_path)
    if verdict.skipped is not None:
        pytest.skip(verdict.skipped)
    if verdict.failure is not None:
        evidence = verdict.replay_file.read_text()
        pytest.fail(f"{verdict.failure.problem}\nseed {SEED}\n{evidence[:20_000]}", pytrace=False)
