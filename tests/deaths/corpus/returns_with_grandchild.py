"""The target returns, and a process that it forked lives on, with the cell's streams."""

from __future__ import annotations

from roam.exit import ExitKind
from roam.stage import Stage
from tests.deaths.aftermath import grandchild_runs_on
from tests.deaths.death import Death
from tests.deaths.tools import start_grandchild

DEATH = Death(ExitKind.RETURNED, "returned", code=0, stage=Stage.EXIT, after=grandchild_runs_on)


def plant() -> None:
    start_grandchild()
