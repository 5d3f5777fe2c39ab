"""An exception with a cause leaves the target."""

from __future__ import annotations

from roam.exit import ExitKind
from tests.deaths.death import Death, Mishap

DEATH = Death(ExitKind.RAISED, "exception", code=1, raises="tests.deaths.death.Mishap")


def plant() -> None:
    try:
        int("no number")  # dies here
    except ValueError as error:
        raise Mishap("a step went wrong") from error
