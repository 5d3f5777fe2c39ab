"""Every goal of the proof, in the order of the table."""

from __future__ import annotations

from .goal import Goal
from .kills import RandomKills

__all__ = ["GOALS"]

GOALS: dict[str, Goal] = {goal.name: goal for goal in (RandomKills(),)}
"""By name."""
