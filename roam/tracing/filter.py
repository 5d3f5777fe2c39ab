"""Which records are let through: `info,app.db=debug,worker[request{user=7}]=trace,noisy=off`.

The grammar is in `roam.tracing.directives`. A level alone is the default for every target. `target=level` holds for
that target and those below it (`app.db` covers `app.db.pool`, not `app.dbx`). `[request{user=7}]` narrows a directive to
records made inside of such a span, however far inside; the span's own records count as inside.

Of the directives that hold for a record the most specific decides alone: one with a span before one without; then the
longer target; then the one that names its span; then the one with more fields; then the one whose span is further
inside; then the lower level. A record that no directive holds for is not let through: the empty filter is `off`. The
target `dill` starts at `warning` unless a directive names it or one with a span holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import FilterError
from .directives import OFF, Condition, Directive, parse_directives
from .normalise import safe_text
from .records import WARNING
from .scope import Scope

__all__ = ["Filter", "plain_text"]

_NARRATORS = {"dill": WARNING}
"""Targets that need a directive of their own to say more. dill tells at INFO of each object that it pickles, and
`multiprocess` pickles through it: every `Pipe.send` would push a program's own records out of the ring."""


MOST_TARGETS = 4096
LONGEST_TARGET = 160
"""Longer ones are not remembered, and what is no text is cut to this."""


class Filter:
    """A parsed filter. Immutable; equal filters let the same records through and have the same text.

    `Filter(text)` raises `FilterError`, naming the column, where the text does not parse.
    """

    __slots__ = ("_default", "_inside", "_targets", "is_contextual", "thresholds")

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(
                f"a filter is a string of directives, not {type(text).__name__}: for example 'info,app.db=debug'"
            )
        self._default = OFF
        self._targets: dict[str, int] = {}
        inside: dict[Directive, Directive] = {}
        for directive in parse_directives(text):
            if directive.is_inside:
                # Of two that differ in their levels only, the last counts, as it does for targets.
                inside[directive._replace(level=OFF)] = directive
            elif directive.target:
                self._targets[directive.target] = directive.level
            else:
                self._default = directive.level
        self._inside = sorted(inside.values(), key=_order)
        """Those with a span, the most specific first."""
        self.is_contextual = bool(self._inside)
        """Whether it takes more than target and level to judge a record."""
        self.thresholds: dict[str, int] = {}
        """Cache: the level a target's records must reach. Filled by `threshold`; ask there."""

    def threshold(self, target: str) -> int:
        """The level that a record of `target` must reach; with `is_contextual`, the lowest that any span could lead to.
        Threads: any."""
        if type(target) is not str:
            target = plain_text(target)
        level = self.thresholds.get(target)
        if level is None:
            level = min((each.level for each in self._inside if _covers(each.target, target)), default=OFF)
            level = min(level, self._base(target))
            # Bounded, because a program may make up targets without end.
            if len(self.thresholds) < MOST_TARGETS and len(target) <= LONGEST_TARGET:
                self.thresholds[target] = level
        return level

    def admits(self, level: int, target: str, scope: Scope) -> bool:
        """Whether a record made inside of `scope` is let through. Calls no code of the values of fields. Threads: any."""
        if type(target) is not str:
            target = plain_text(target)
        if level < self.threshold(target):
            return False
        deciding = self._decide(target, scope) if self.is_contextual and scope.outer is not None else None
        return level >= (self._base(target) if deciding is None else deciding)

    def _decide(self, target: str, scope: Scope) -> int | None:
        """The level of the most specific directive with a span that holds; None if none does."""
        # r[impl trace.filter.specific]
        everywhere, by_name = _spans_around(scope)
        best: tuple[tuple[int, int, int], int] | None = None
        deciding = OFF
        for directive in self._inside:
            rank = _specificity(directive)
            if best is not None and rank < best[0]:
                break
            spans = everywhere if directive.span is None else by_name.get(directive.span)
            if not spans or not _covers(directive.target, target):
                continue
            distance = next((at for at, span in spans if _all_hold(directive, span)), None)
            if distance is None:
                continue
            if best is None or (distance, directive.level) < (best[1], deciding):
                best, deciding = (rank, distance), directive.level
        return None if best is None else deciding

    def _base(self, target: str) -> int:
        """What the directives without a span say."""
        rest = "__main__" if target == "__mp_main__" else target
        while rest:
            if rest in self._targets:
                return self._targets[rest]
            root, rest = rest, rest.rpartition(".")[0]
            if root in _NARRATORS:
                return max(self._default, _NARRATORS[root])
        return self._default

    @property
    def lowest(self) -> int:
        """No record below this level passes, whatever its target."""
        return min(self._default, *self._targets.values(), *(each.level for each in self._inside), OFF)

    def require_targets_only(self) -> None:
        """Raise `FilterError` if it asks for spans, which only the process that makes a record can know."""
        if self._inside:
            text = str(self)
            raise FilterError(
                text=text,
                column=text.index("[") + 1,
                expected="targets and levels only",
                hint="Spans can be asked for where records are captured: TracingConfig(capture=...).",
            )

    def __str__(self) -> str:
        """Canonical text, which parses back to an equal filter."""
        found = (
            [] if self._default == OFF and (not self._targets and not self._inside) else [Directive("", self._default)]
        )
        found += [Directive(target, level) for target, level in sorted(self._targets.items())]
        return ",".join(map(str, [*found, *self._inside]))

    def __repr__(self) -> str:
        return f"Filter({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Filter):
            return NotImplemented
        return str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


def _specificity(directive: Directive) -> tuple[int, int, int]:
    return len(directive.target), directive.span is not None, len(directive.conditions)


def _order(directive: Directive) -> tuple[int, int, int, str]:
    length, is_named, fields = _specificity(directive)
    return -length, -is_named, -fields, str(directive)


def _covers(ancestor: str, target: str) -> bool:
    """Whether a directive for `ancestor` holds for `target`."""
    if not ancestor:
        return True
    name = "__main__" if target == "__mp_main__" else target
    return name == ancestor or (name.startswith(ancestor) and name[len(ancestor)] == ".")


def _spans_around(innermost: Scope) -> tuple[list[tuple[int, Scope]], dict[str, list[tuple[int, Scope]]]]:
    """The open spans from the inside out, each with its distance: all of them, and by name."""
    everywhere: list[tuple[int, Scope]] = []
    by_name: dict[str, list[tuple[int, Scope]]] = {}
    scope: Scope | None = innermost
    # r[impl trace.filter.inside] What has nothing around it is the process, and no span.
    while scope is not None and scope.outer is not None:
        if not scope.has_ended:
            entry = (len(everywhere), scope)
            everywhere.append(entry)
            by_name.setdefault(plain_text(scope.name), []).append(entry)
        scope = scope.outer
    return everywhere, by_name


def _all_hold(directive: Directive, scope: Scope) -> bool:
    return all(_holds(condition, scope) for condition in directive.conditions)


def plain_text(value: object) -> str:
    """A text as a plain `str`, without code of its type; of something else, which a hand-made `logging.LogRecord` can
    have for a name, its `repr`."""
    if type(value) is str:
        return value
    if issubclass(type(value), str):
        return str.__str__(value)
    return safe_text(value, repr, LONGEST_TARGET)[0]


def _holds(condition: Condition, scope: Scope) -> bool:
    name, kind, expected = condition
    holder = scope.recorded if name in scope.recorded else scope.fields
    if name not in holder:
        return False
    return kind == "presence" or _TESTS[kind](holder[name], expected)


# By `type`, and the methods of the plain types: `isinstance` asks a value for its class, and a value's own type may have
# made anything of the methods.


def _is_truth(value: Any, expected: Any) -> bool:
    return value is expected


def _is_number(value: Any, expected: Any) -> bool:
    kind = type(value)
    if kind is bool:
        return False
    if issubclass(kind, float):
        return float.__eq__(value, expected) is True
    if issubclass(kind, int):
        answer = int.__eq__(value, expected) if isinstance(expected, int) else float.__eq__(expected, value)
        return answer is True
    return False


def _is_text(value: Any, expected: Any) -> bool:
    return issubclass(type(value), str) and str.__eq__(value, expected) is True


_TESTS: dict[str, Callable[[Any, Any], bool]] = {"truth": _is_truth, "number": _is_number, "text": _is_text}
