"""Bugs that were put into the shipped code on purpose: the schedules that pass over roam have to find each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .altered import MODULES, Code
from .goal import Broken, Case, Goal, Tally, UnknownCase, expect
from .interleavings import run_batch
from .mutations import CONTROLS, MUTANTS, Mutant

__all__ = ["Mutants"]

MOST_SCHEDULES = 200_000
"""Of each kind, before a mutant has survived."""


class Mutants(Goal):
    """One mutant is one case; so is one control, which differs from what is shipped in nothing that matters."""

    name = "mutants"
    unit = "mutants"
    promise = "every seeded bug is found by the schedules of `interleavings`, and in the controls nothing is"
    covers = ("controls",)
    shards = 2

    def cases(self, *, small: bool, seed: int) -> Iterator[Case]:
        """Every bug, then the controls."""
        for mutant in MUTANTS:
            yield {"mutant": mutant.name, "seed": seed}
        for mutant in CONTROLS:
            yield {"control": mutant.name, "seed": seed, "schedules": 100 if small else 5000}

    def check(self, case: Case, tally: Tally) -> None:
        """Look for the bug, or run a control."""
        if "control" in case:
            mutant = _named(case["control"], CONTROLS)
            found = _search(mutant, case["seed"], case["schedules"])
            expect(found is None, f"the control {mutant.name} is not to be found: {found}")
            tally.counts["controls"] += 1
            return
        mutant = _named(case["mutant"], MUTANTS)
        found = _search(mutant, case["seed"], MOST_SCHEDULES)
        expect(found is not None, f"the mutant {mutant.name} survives {MOST_SCHEDULES:,} schedules of each kind")
        first, *_ = str(found).split(":")
        tally.counts[self.unit] += 1
        tally.counts[f"first: {mutant.name} {first}"] += 1

    def conclude(self, tally: Tally, *, small: bool) -> None:
        """All were tried."""
        expect(tally.counts[self.unit] == len(MUTANTS), f"{tally.counts[self.unit]} of {len(MUTANTS)} mutants tried")

    def figures(self, tally: Tally) -> str:
        """For each mutant the kind and the number of the first schedule that found it."""
        found = [name.removeprefix("first: ") for name in tally.counts if name.startswith("first: ")]
        return f"{tally.counts['controls']} controls pass; found first by: {', '.join(sorted(found))}"


def _named(name: str, mutants: tuple[Mutant, ...]) -> Mutant:
    for mutant in mutants:
        if mutant.name == name:
            return mutant
    raise UnknownCase(f"there is no mutant {name!r}")


def _search(mutant: Mutant, seed: int, schedules: int) -> Broken | None:
    """What the first schedule that finds something says; kind after kind."""
    # A control without edits is a copy of everything all the same.
    code = Code(mutant.edits, () if mutant.edits else tuple(MODULES))
    for kind in mutant.kinds:
        weave = kind(code)
        numbers = range(schedules if weave.total is None else min(schedules, weave.total))
        try:
            run_batch(weave, numbers, seed, Counter())
        except Broken as broken:
            return broken
    return None
