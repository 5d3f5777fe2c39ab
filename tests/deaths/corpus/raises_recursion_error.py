"""Recursion in Python, which the interpreter stops."""

from __future__ import annotations

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.RAISED, "exception", code=1, raises="RecursionError")


def plant() -> None:
    plant()  # dies here
