"""What a goal of the proof is: cases that can be told apart by JSON, one check for each, and numbers that add up.

A case is a dictionary of JSON values that says everything the check needs. What fails is written down as it is: a
replay file holds the case, and the same check runs on it again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

__all__ = ["Broken", "Case", "Goal", "Tally", "UnknownCase", "expect", "quantile"]

Case = dict[str, Any]


class Broken(AssertionError):
    """A promise that did not hold. `evidence` is merged into the case before that goes into the replay file: a smaller
    case of the same kind, or what was seen and cannot be made to happen again."""

    def __init__(self, problem: str, **evidence: Any) -> None:
        super().__init__(problem)
        self.evidence = evidence


class UnknownCase(LookupError):
    """A case, from a replay file of another version, that its goal does not have any more."""


def expect(is_so: object, problem: str, **evidence: Any) -> None:
    """Raise `Broken` unless `is_so`."""
    if not is_so:
        raise Broken(problem, **evidence)


@dataclass
class Tally:
    """What the checks of a goal saw, in numbers."""

    counts: Counter[str] = field(default_factory=Counter)
    samples: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Measurements by name, of which the table shows a quantile."""

    def add(self, other: Tally) -> None:
        """Take in what another process saw."""
        self.counts.update(other.counts)
        for name, values in other.samples.items():
            self.samples[name] += values


def quantile(values: list[float], share: float) -> float:
    """The value that this share of the values does not exceed; the largest for 1.0. There has to be one."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class Goal(ABC):
    """One line of the table.

    `cases` says what to check and `check` checks one; both are called in the process of the goal, or, with `shards`
    above 1, in as many processes that share the cases. `small` is the form for the default test run.
    """

    name: ClassVar[str]
    """For the command line."""
    unit: ClassVar[str]
    """What the counted things are called; `check` counts them under this name."""
    promise: ClassVar[str]
    """What exactly a pass means."""
    covers: ClassVar[tuple[str, ...]] = ()
    """Counts that must be above zero after a whole run, so that no check passes because nothing happened."""
    shards: ClassVar[int] = 1
    is_exact: ClassVar[bool] = True
    """Whether a replay fails in the same way at once. Otherwise the scheduler has a say, and the case is tried again
    and again."""

    def why_not(self) -> str | None:
        """Why this goal cannot be tried here, None if it can."""
        return None

    @abstractmethod
    def cases(self, *, small: bool, seed: int) -> Iterator[Case]:
        """Every case of a run. Two calls with the same arguments give the same cases."""

    @abstractmethod
    def check(self, case: Case, tally: Tally) -> None:
        """Try one case. Raises `AssertionError`, of which `Broken` can say more, where the promise does not hold."""

    def conclude(self, tally: Tally, *, small: bool) -> None:  # noqa: B027 – most goals have nothing to add
        """Check what only the whole run can show. Raises `AssertionError`."""

    def figures(self, tally: Tally) -> str:
        """What the table says beside the count: the numbers in `covers`, unless there is something better to say."""
        return ", ".join(f"{tally.counts[name]:,} {name}" for name in self.covers)
