"""Which records are let through: `info,app.db=debug,noisy=off`.

A filter is a comma-separated list of directives: a level, which is the default for every target, or `target=level`,
which holds for that target and those below it (`app.db` covers `app.db.pool`, not `app.dbx`); the longest target
wins. Levels are `off`, `critical`, `error`, `warn`, `warning`, `info`, `debug`, `trace` in any letter case. The target
`dill` starts at `warning` unless a directive names it.
"""

from __future__ import annotations

from ..errors import FilterError
from .records import CRITICAL, DEBUG, ERROR, INFO, TRACE, WARNING

__all__ = ["Filter"]

OFF = 1 << 30
_LEVELS = {
    "trace": TRACE,
    "debug": DEBUG,
    "info": INFO,
    "warn": WARNING,
    "warning": WARNING,
    "error": ERROR,
    "critical": CRITICAL,
    "off": OFF,
}
_NARRATORS = {"dill": WARNING}
"""Targets that need a directive of their own to say more. dill tells at INFO of each object that it pickles, and
`multiprocess` pickles through it: every `Pipe.send` would push a program's own records out of the ring."""
_WORDS = {level: word for word, level in _LEVELS.items() if word != "warn"}
_EXPECTED = "a level (off, critical, error, warning, info, debug, trace)"


class Filter:
    """A parsed filter. Immutable; equal filters let the same records through and have the same text.

    `Filter(text)` raises `FilterError`, naming the column, where the text does not parse.
    """

    __slots__ = ("_default", "_targets", "thresholds")

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(
                f"a filter is a string of directives, not {type(text).__name__}: for example 'info,app.db=debug'"
            )
        self._default = OFF
        self._targets: dict[str, int] = {}
        column = 1
        for part in text.split(","):
            self._parse(text, part, column)
            column += len(part) + 1
        self.thresholds: dict[str, int] = {}
        """Cache: the level a target's records must reach. Filled by `threshold`; ask there."""

    def _parse(self, text: str, part: str, column: int) -> None:
        directive = part.strip()
        if not directive:
            if text.strip():
                raise FilterError(text=text, column=column, expected="a directive", hint="Remove the extra comma.")
            return
        column += len(part) - len(part.lstrip())
        target, equals, word = directive.partition("=")
        if not equals:
            level = _LEVELS.get(directive.lower())
            if level is None:
                raise FilterError(
                    text=text,
                    column=column,
                    expected=_EXPECTED,
                    hint=f"To set a target's level write {directive}=debug.",
                )
            self._default = level
            return
        target = target.strip()
        if (
            not target
            or any(character.isspace() for character in target)
            or any(not piece for piece in target.split("."))
        ):
            raise FilterError(text=text, column=column, expected="a dotted target before '='")
        level = _LEVELS.get(word.strip().lower())
        if level is None:
            after = directive.index("=") + 1
            column += after + len(word) - len(word.lstrip())
            raise FilterError(text=text, column=column, expected=_EXPECTED, hint=f"{word.strip()!r} is not one.")
        self._targets[target] = level

    def threshold(self, target: str) -> int:
        """The level that a record of `target` must reach. Threads: any."""
        level = self.thresholds.get(target)
        if level is None:
            level = self._resolve(target)
            # Bounded, because a program may make up targets without end.
            if len(self.thresholds) < 4096:
                self.thresholds[target] = level
        return level

    def _resolve(self, target: str) -> int:
        if target == "__mp_main__":
            target = "__main__"
        # `str`: a hand-made `logging.LogRecord` can have any name.
        rest = str(target)
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
        return min(self._default, *self._targets.values()) if self._targets else self._default

    def __str__(self) -> str:
        """Canonical text, which parses back to an equal filter."""
        parts = [] if self._default == OFF and not self._targets else [_WORDS[self._default]]
        parts += [f"{target}={_WORDS[level]}" for target, level in sorted(self._targets.items())]
        return ",".join(parts)

    def __repr__(self) -> str:
        return f"Filter({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Filter):
            return NotImplemented
        return self._default == other._default and self._targets == other._targets

    def __hash__(self) -> int:
        return hash((self._default, tuple(sorted(self._targets.items()))))
