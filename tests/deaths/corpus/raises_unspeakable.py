"""An exception whose text cannot be had leaves the target."""

from __future__ import annotations

from roam.exit import ExitKind
from tests.deaths.death import Death, Mishap

DEATH = Death(ExitKind.RAISED, "exception", code=1, raises="tests.deaths.corpus.raises_unspeakable.Unspeakable")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise Mishap("no words")


def plant() -> None:
    raise Unspeakable  # dies here
