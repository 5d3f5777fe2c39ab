"""An exception group leaves the target."""

from __future__ import annotations

from roam.exit import ExitKind
from tests.deaths.death import Death, Mishap

DEATH = Death(ExitKind.RAISED, "exception", code=1, raises="ExceptionGroup")


def plant() -> None:
    raise ExceptionGroup("two steps went wrong", [Mishap("one"), ValueError("other")])  # dies here
