"""The target returns what no pickle can carry: a generator."""

from __future__ import annotations

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.RAISED, "exception", code=1, raises="")


def plant() -> object:
    return (number for number in ())
