"""Fewer records of what there is too much of: by chance, and by rate; what is kept out is counted by key.

A key is a target, for which the rule holds and for those below it, and the longest key wins. WARNING and above are
never kept out, unless the key names a level: `app.tick=error` reaches up to ERROR. The first span on the way in whose
target has a share decides, by the trace's id, for everything inside of it, itself included; so processes that have the
same rule for their outermost spans keep and leave out the same traces.

Threads: any. Failure: nothing raises. Rates are kept by token buckets: so many at once, then as many as time brings.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from .directives import EVERYTHING, parse_directives
from .records import WARNING

__all__ = ["Rule", "Sampler", "Verdict", "parse_rate", "parse_rules", "rate_text"]

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
    """The rules for the keys of both, by key. Raises `FilterError` or `ValueError`."""
    rules = []
    for key in sorted({*sample, *rate}):
        directives = parse_directives(key)
        if len(directives) != 1 or not directives[0].target or directives[0].is_inside:
            raise ValueError(f"{key!r} is no target to sample; for example app.tick, or app.tick=error")
        share = sample.get(key)
        if share is not None and not 0 <= share <= 1:
            raise ValueError(f"sample[{key!r}] = {share!r}: a share is from 0 to 1")
        level = directives[0].level
        limit = WARNING - 1 if level == EVERYTHING else level
        rules.append(Rule(key, directives[0].target, limit, share, parse_rate(rate[key]) if key in rate else None))
    return tuple(rules)


class _Bucket:
    """So many tokens, which come back with time."""

    __slots__ = ("_level", "_most", "_per_s", "_since")

    def __init__(self, count: int, period_s: float) -> None:
        self._most = self._level = float(count)
        self._per_s = count / period_s
        self._since = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        level = min(self._most, self._level + (now - self._since) * self._per_s)
        self._since = now
        self._level = level - 1 if level >= 1 else level
        return level >= 1


class _Active(NamedTuple):
    """A rule at work in this process."""

    rule: Rule
    slot: int
    bucket: _Bucket | None


class Sampler:
    """Applies rules in one process. `slots` says where each key is counted; `count(lane, slot)` counts."""

    def __init__(self, rules: tuple[Rule, ...], slots: Mapping[str, int], count: Callable[[int, int], None]) -> None:
        self._active = {
            rule.target: _Active(rule, slots.get(rule.key, 0), _Bucket(*rule.rate) if rule.rate else None)
            for rule in rules
        }
        self._found: dict[str, _Active | None] = {}
        self._keys = {slots.get(rule.key, 0): rule.key for rule in rules}
        self._count = count
        self._unreported = dict.fromkeys(self._keys, 0)
        self._due = time.monotonic() + REPORT_S

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

    def due(self, *, at_once: bool = False) -> dict[str, int]:
        """Key to number of records kept out since this was asked last, if it is time to report them."""
        now = time.monotonic()
        if now < self._due and not at_once:
            return {}
        self._due = now + REPORT_S
        found, self._unreported = self._unreported, dict.fromkeys(self._keys, 0)
        return {self._keys[slot]: count for slot, count in found.items() if count}

    def _keep_out(self, lane: int, slot: int) -> None:
        self._count(lane, slot)
        if slot in self._unreported:
            self._unreported[slot] += 1

    def _of(self, target: str) -> _Active | None:
        """The rule with the longest key that covers a target."""
        try:
            return self._found[target]
        except KeyError:
            pass
        rest = "__main__" if target == "__mp_main__" else target
        found = self._active.get(rest)
        while found is None and "." in rest:
            rest = rest.rpartition(".")[0]
            found = self._active.get(rest)
        # Bounded, because a program may make up targets without end.
        if len(self._found) < _MOST_TARGETS:
            self._found[target] = found
        return found
