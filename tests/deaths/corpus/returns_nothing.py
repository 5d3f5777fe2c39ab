"""The target returns None."""

from __future__ import annotations

from roam.exit import ExitKind
from roam.stage import Stage
from tests.deaths.death import Death

DEATH = Death(ExitKind.RETURNED, "returned", code=0, stage=Stage.EXIT)


def plant() -> None:
    pass
