"""What a kind of schedule is: numbered, each the same for the same seed, and checked by itself."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter
from typing import ClassVar

from .altered import Code

__all__ = ["Weave", "source_of"]


def source_of(seed: int, number: int) -> random.Random:
    """The random decisions of one schedule."""
    return random.Random(seed << 40 | number)


class Weave(ABC):
    """Schedules of one kind, numbered from 0 on, over the code that is given."""

    name: ClassVar[str]
    retries: ClassVar[int | None] = 2
    """How often the reader of a ring gives damage time; None for what is shipped."""

    kills: int = 0
    """So many numbers, the first ones, are kills alone; the small form leaves out none of these."""

    def __init__(self, code: Code) -> None:
        self.code = code

    @property
    @abstractmethod
    def total(self) -> int | None:
        """How many there are; None where chance makes as many as one likes."""

    @abstractmethod
    def run(self, number: int, seed: int, counts: Counter[str]) -> int:
        """Check a schedule, or all that differ in nothing but the place of one break and the kill. Returns how many
        these were; raises `Broken`."""
