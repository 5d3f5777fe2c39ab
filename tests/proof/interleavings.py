"""Every kind of schedule over the shipped code: what another process sees, and what a kill leaves, at any store."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .altered import Code, patience
from .duets import ClaimWeave, CreditWeave, DoorbellWeave, JudgedWeave, SparedWeave
from .goal import Broken, Case, Goal, Tally
from .loom import STEP_KINDS
from .rings import ChanceWeave, HasteWeave, HostileWeave, KillWeave, OneBreakWeave, ShippedPatienceWeave, WeakWeave
from .tables import BirthWeave, MailboxWeave, SpanWeave, WideSpanWeave
from .weave import Weave

__all__ = ["PLANS", "Interleavings", "Plan", "run_batch"]


class Plan(NamedTuple):
    """How many numbers of a kind are run; of a kind that has an end, the full form runs all."""

    kind: type[Weave]
    small: int
    full: int
    batch: int


PLANS = (
    Plan(KillWeave, 0, 0, 100),
    Plan(OneBreakWeave, 50, 0, 400),
    Plan(ChanceWeave, 4000, 350_000, 5000),
    Plan(HasteWeave, 1000, 100_000, 5000),
    Plan(ShippedPatienceWeave, 500, 50_000, 5000),
    Plan(WeakWeave, 1000, 100_000, 2000),
    Plan(HostileWeave, 500, 50_000, 2000),
    Plan(SpanWeave, 40, 0, 200),
    Plan(WideSpanWeave, 100, 20_000, 2000),
    Plan(MailboxWeave, 80, 0, 100),
    Plan(BirthWeave, 25, 0, 200),
    Plan(DoorbellWeave, 300, 20_000, 1000),
    Plan(JudgedWeave, 300, 20_000, 1000),
    Plan(CreditWeave, 300, 20_000, 1000),
    Plan(SparedWeave, 300, 20_000, 1000),
    Plan(ClaimWeave, 400, 0, 2000),
)


def run_batch(weave: Weave, numbers: Iterable[int], seed: int, counts: Counter[str]) -> int:
    """Check these schedules. Returns how many they were; raises `Broken` that names the one."""
    ran = 0
    with patience(weave.code, weave.retries):
        for number in numbers:
            try:
                ran += weave.run(number, seed, counts)
            except Exception as error:
                problem = str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}"
                raise Broken(f"{weave.name} {number}: {problem}", numbers=[number]) from error
    return ran


# r[verify shm.record.commit]
# r[verify shm.page.turn]
# r[verify shm.page.copy]
# r[verify shm.reader.resume]
class Interleavings(Goal):
    """Schedules at the granularity of one store and one load; the kinds are in `PLANS`, with what each promises."""

    name = "interleavings"
    unit = "schedules"
    promise = (
        "0 records torn, mixed, twice, out of order or unaccounted for, with a kill at every store; spans, "
        "configurations and headers old or new; no wake-up lost, no credit given twice, one claim"
    )
    covers = (
        "laps",
        "page turns",
        "breaks within a copy",
        "records delivered",
        "one break x kill",
        *(f"kills before: {kind}" for kind in STEP_KINDS),
        "records delivered on weak memory",
        "records delivered by a hostile writer",
        "spans shown",
        "spans torn",
        "spans without room",
        "configurations kept",
        "configurations taken",
        "configurations too large",
        "hosts dead between posts",
        "hosts dead within a word",
        "unfinished segments refused",
        "whole segments opened",
        "parks",
        "rings",
        "kills between commit and ring",
        "records judged again",
        "acknowledgements seen",
        "items refused",
        "items received",
        "records spared",
        "claims refused",
        "claims of dead processes",
    )
    shards = 2

    def __init__(self) -> None:
        self._weaves: dict[str, Weave] = {}

    def cases(self, *, small: bool, seed: int) -> Iterator[Case]:
        """Batches of numbers: all that there are; in the small form kills alone, and some of the rest."""
        for plan in PLANS:
            weave = self._weave(plan.kind.name)
            case = {"kind": plan.kind.name, "seed": seed}
            total, kills = weave.total, weave.kills
            if small and total is not None:
                chosen = random.Random(seed).sample(range(kills, total), plan.small)
                yield case | {"numbers": [*range(kills), *sorted(chosen)]}
                continue
            count = total or (plan.small if small else plan.full)
            for first in range(0, count, plan.batch):
                yield case | {"first": first, "count": min(plan.batch, count - first)}

    def check(self, case: Case, tally: Tally) -> None:
        """One batch."""
        numbers = case.get("numbers") or range(case["first"], case["first"] + case["count"])
        tally.counts[self.unit] += run_batch(self._weave(case["kind"]), numbers, case["seed"], tally.counts)

    def figures(self, tally: Tally) -> str:
        """What the table says."""
        counts = tally.counts
        kills = ", ".join(f"{kind} {counts[f'kills before: {kind}']:,}" for kind in STEP_KINDS)
        return (
            f"one break in every place: {counts['one break x kill']:,} with a kill at every store, "
            f"{counts['distinct drains']:,} of them different; {counts['laps']:,} laps, {counts['page turns']:,} page "
            f"turns, {counts['breaks within a copy']:,} breaks within a copy; kills before {kills}; on weak memory "
            f"{counts['accounts off on weak memory']:,} accounts off"
        )

    def _weave(self, name: str) -> Weave:
        if name not in self._weaves:
            kinds = {plan.kind.name: plan.kind for plan in PLANS}
            self._weaves[name] = kinds[name](Code())
        return self._weaves[name]

    def __getstate__(self) -> dict[str, object]:
        # Another process makes its own: logs and images are large.
        return {"_weaves": {}}
