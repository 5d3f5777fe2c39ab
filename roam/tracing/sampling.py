"""Fewer records of what there is too much of: by chance, and by rate; what is kept out is counted by key.

A key is a target, for which the rule holds and for those below it, and the longest key wins. WARNING and above are
never kept out, unless the key names a level: `app.tick=error` reaches up to ERROR. The first span on the way in whose
target has a share decides, by the trace's id, for everything inside of it, itself included; so processes that have the
same rule for their outermost spans keep and leave out the same traces.

Rates are for events; the records of spans follow shares only, so that none begins and never ends. They are kept by token
buckets, one for each key in each process, which start full: so many at once, then as many as time brings.

Threads: any. Failure: nothing raises once the rules are parsed.
"""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, NamedTuple

from .bucket import Bucket
from .directives import EVERYTHING, parse_directives
from .records import WARNING

__all__ = ["Rule", "Sampler", "Tally", "Verdict", "parse_rate", "parse_rules", "rate_text", "succeed"]

REPORT_S = 10.0
"""How often a cell that keeps records out says so in its stream."""

_RATE = re.compile(r"([1-9][0-9]{0,8})/(s|m|h)")
_PERIOD_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
_MOST_TARGETS = 4096


class Rule(NamedTuple):
    """What holds for one key."""

    key: str
    target: str
    limit: int
    """The highest level that may be kept out."""
    share: float | None
    """What part of the records, or traces, is written; None for all."""
    rate: tuple[int, float] | None
    """How many records in how many seconds; None for any number."""


class Verdict(NamedTuple):
    """What was decided for all records of a trace, in one process."""

    is_kept: bool
    limit: int
    slot: int


def parse_rate(text: str) -> tuple[int, float]:
    """`100/s`, `100/m` or `100/h`. Raises `ValueError`."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError(f"rate {text!r}: expected a number per second, minute or hour, as in 100/s")
    return int(found[1]), _PERIOD_S[found[2]]


def rate_text(rate: tuple[int, float]) -> str:
    """What `parse_rate` reads."""
    count, period_s = rate
    return f"{count}/{next(unit for unit, seconds in _PERIOD_S.items() if seconds == period_s)}"


def parse_rules(sample: Mapping[str, float], rate: Mapping[str, str]) -> tuple[Rule, ...]:
    """The rules for the keys of both, by key. Raises `FilterError`, `TypeError` or `ValueError`."""
    _check_keys("sample", sample, "shares by target, as in sample={'app.tick': 0.01}")
    _check_keys("rate", rate, "rates by target, as in rate={'app.spam': '100/s'}")
    rules: list[Rule] = []
    keys: dict[str, str] = {}
    for key in sorted({*sample, *rate}):
        directives = parse_directives(key)
        if len(directives) != 1 or not directives[0].target or directives[0].is_inside:
            raise ValueError(f"{key!r} is no target to sample; for example app.tick, or app.tick=error")
        target, level = directives[0].target, directives[0].level
        # Only one of them would hold, and nothing would say which.
        other = keys.setdefault(target, key)
        if other != key:
            raise ValueError(f"sample and rate: {other!r} and {key!r} are for the same target; write one key for both")
        limit = WARNING - 1 if level == EVERYTHING else level
        share = _share(key, sample[key]) if key in sample else None
        rules.append(Rule(key, target, limit, share, _rate(key, rate[key]) if key in rate else None))
    return tuple(rules)


def _check_keys(option: str, given: Any, expected: str) -> None:
    if not isinstance(given, Mapping):
        raise TypeError(f"{option}={given!r}: expected {expected}")
    for key in given:
        if not isinstance(key, str):
            raise TypeError(f"{option}: the key {key!r} is no text; expected {expected}")


def _share(key: str, share: Any) -> float:
    # A truth value is a number to Python, but not where the configuration is read again.
    if isinstance(share, bool) or not isinstance(share, Real):
        raise TypeError(f"sample[{key!r}] = {share!r}: a share is a number from 0 to 1")
    try:
        number = float(share)
    except OverflowError:
        number = math.inf
    if not 0 <= number <= 1:
        raise ValueError(f"sample[{key!r}] = {share!r}: a share is from 0 to 1")
    return number


def _rate(key: str, rate: Any) -> tuple[int, float]:
    if not isinstance(rate, str):
        raise TypeError(f"rate[{key!r}] = {rate!r}: a rate is a text, as in '100/s'")
    return parse_rate(rate)


class _Active(NamedTuple):
    """A rule at work in this process."""

    rule: Rule
    slot: int
    bucket: Bucket | None


class Tally:
    """What was kept out and not reported yet. One for each process: it outlasts the samplers."""

    def __init__(self) -> None:
        self._keys: dict[int, str] = {}
        self._unreported: dict[int, int] = {}
        self._due = time.monotonic() + REPORT_S

    def name(self, slots: Mapping[str, int]) -> None:
        """Say which keys the slots are for. A key keeps its slot for the life of the process."""
        for key, slot in slots.items():
            self._keys[slot] = key

    def add(self, slot: int) -> None:
        """One more was kept out."""
        self._unreported[slot] = self._unreported.get(slot, 0) + 1

    def due(self, *, at_once: bool = False) -> dict[str, int]:
        """Key to number of records kept out since this was asked last, if it is time to report them."""
        now = time.monotonic()
        if now < self._due and not at_once:
            return {}
        self._due = now + REPORT_S
        found, self._unreported = self._unreported, {}
        # As a list, because another thread may be adding to it still.
        return {self._keys[slot]: count for slot, count in list(found.items()) if slot in self._keys}


class Sampler:
    """Applies rules in one process. `slots` says where each key is counted; `count(lane, slot)` counts.

    Of `before`, the sampler that it takes the place of, it goes on with the buckets of the keys whose rate is the same.
    """

    def __init__(
        self,
        rules: tuple[Rule, ...],
        slots: Mapping[str, int],
        count: Callable[[int, int], None],
        tally: Tally,
        before: Sampler | None = None,
    ) -> None:
        self.rules = rules
        self.slots = {rule.key: slots.get(rule.key, 0) for rule in rules}
        """Where each key is counted."""
        known = before.buckets if before is not None else {}
        self.buckets: dict[tuple[str, tuple[int, float]], Bucket] = {
            (rule.key, rule.rate): known.get((rule.key, rule.rate)) or Bucket(*rule.rate)
            for rule in rules
            if rule.rate is not None
        }
        self._active = {
            rule.target: _Active(
                rule, self.slots[rule.key], self.buckets[rule.key, rule.rate] if rule.rate is not None else None
            )
            for rule in rules
        }
        self._found: dict[str, _Active | None] = {}
        self._count = count
        self._tally = tally
        tally.name(self.slots)

    def decide(self, target: str, trace_id: bytes) -> Verdict | None:
        """What a span of this target decides for what is inside of it; None if it decides nothing."""
        active = self._of(target)
        if active is None or active.rule.share is None:
            return None
        is_kept = int.from_bytes(trace_id[8:], "big") < active.rule.share * 2**64
        return Verdict(is_kept, active.rule.limit, active.slot)

    def admits(self, level: int, target: str, verdict: Verdict | None, lane: int) -> bool:
        """Whether an event is written; counts it if not."""
        # r[impl trace.sampled]
        if verdict is not None and not self.admits_span(level, verdict, lane):
            return False
        active = self._of(target)
        if active is None or level > active.rule.limit:
            return True
        share = active.rule.share
        if share is not None and verdict is None and random.random() >= share:
            self._keep_out(lane, active.slot)
            return False
        if active.bucket is not None and not active.bucket.take():
            self._keep_out(lane, active.slot)
            return False
        return True

    def admits_span(self, level: int, verdict: Verdict, lane: int) -> bool:
        """Whether a record of a trace with a verdict is written; counts it if not."""
        if verdict.is_kept or level > verdict.limit:
            return True
        self._keep_out(lane, verdict.slot)
        return False

    def _keep_out(self, lane: int, slot: int) -> None:
        self._count(lane, slot)
        self._tally.add(slot)

    def _of(self, target: str) -> _Active | None:
        """The rule with the longest key that covers a target."""
        try:
            return self._found[target]
        except (KeyError, TypeError):
            # A log record may have anything for a name, also what cannot be looked up.
            target = target if type(target) is str else _text_of(target)
        rest = "__main__" if target == "__mp_main__" else target
        found = self._active.get(rest)
        while found is None and "." in rest:
            rest = rest.rpartition(".")[0]
            found = self._active.get(rest)
        # Bounded, because a program may make up targets without end.
        if len(self._found) < _MOST_TARGETS:
            self._found[target] = found
        return found


def succeed(
    before: Sampler | None,
    rules: tuple[Rule, ...],
    slots: Mapping[str, int],
    count: Callable[[int, int], None],
    tally: Tally,
) -> Sampler | None:
    """The sampler for a new configuration: the one before it, if nothing has changed for it; None without rules."""
    if not rules:
        return None
    if (
        before is not None
        and before.rules == rules
        and all(before.slots[key] == slots.get(key, 0) for key in before.slots)
    ):
        return before
    return Sampler(rules, slots, count, tally, before)


def _text_of(target: object) -> str:
    try:
        return str(target)
    except Exception:
        # What has no text is below no target.
        return ""
