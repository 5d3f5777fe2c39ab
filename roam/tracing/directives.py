"""The grammar of filters: text to directives, and back.

What directives let through is said in `roam.tracing.filter`. The grammar is that of the `EnvFilter` of Rust's tracing-subscriber::

    filter    = [ directive { "," directive } ]
    directive = level | target [ "=" level ] | [ target ] "[" spans "]" [ "=" level ]
    spans     = [ name ] [ "{" field { "," field } "}" ]
    field     = name [ "=" value ]
    value     = integer | decimal | "true" | "false" | text | quoted text
    level     = "off" | "critical" | "error" | "warn" | "warning" | "info" | "debug" | "trace" | number

Levels are in any letter case; 0 to 5 are off, error, warning, info, debug and trace, 10 to 50 the numbers of
`logging`. A directive without a level means everything. Blanks around every part are ignored. Names and texts that hold
one of ``, = [ ] { } "`` or begin or end with a blank stand in double quotes, within which a backslash makes the next
character an ordinary one.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from ..errors import FilterError
from .records import CRITICAL, DEBUG, ERROR, INFO, TRACE, WARNING

__all__ = ["EVERYTHING", "OFF", "Condition", "Directive", "parse_directives"]

EVERYTHING = 0
"""The level of a directive that names none: below that of any record."""
OFF = 1 << 30
"""Above that of any record."""
_LEVELS = {
    "trace": TRACE,
    "debug": DEBUG,
    "info": INFO,
    "warn": WARNING,
    "warning": WARNING,
    "error": ERROR,
    "critical": CRITICAL,
    "off": OFF,
    "0": OFF,
    "1": ERROR,
    "2": WARNING,
    "3": INFO,
    "4": DEBUG,
    "5": TRACE,
}
_WORDS = {
    OFF: "off",
    CRITICAL: "critical",
    ERROR: "error",
    WARNING: "warning",
    INFO: "info",
    DEBUG: "debug",
    TRACE: "trace",
}
_EXPECTED_LEVEL = "a level (off, critical, error, warning, info, debug, trace; 0 to 5, 10 to 50)"
_DIGITS = re.compile(r"[0-9]+")
_INTEGER = re.compile(r"[+-]?[0-9]{1,40}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][+-]?[0-9]{1,3})?")
_PLAIN = re.compile(r'[^,=\[\]{}"]*')
_SPECIAL = re.compile(r'[,=\[\]{}"]|\A\s|\s\Z|\A\Z')

Value = str | bool | int | float


class Condition(NamedTuple):
    """What one field of a span has to be: of this value, or, without one, just there."""

    name: str
    kind: str
    """`presence`, `truth`, `number` or `text`: in Python, 1, 1.0 and True are equal, and "1" is written as 1 is."""
    value: Value

    def __str__(self) -> str:
        """As it is written in a filter."""
        if self.kind == "presence":
            return _quoted(self.name)
        if self.kind == "truth":
            return f"{_quoted(self.name)}={'true' if self.value else 'false'}"
        if self.kind == "number":
            return f"{_quoted(self.name)}={self.value!r}"
        text = str(self.value)
        return f"{_quoted(self.name)}={_quoted(text) if _value_of(text) == ('text', text) else _quote(text)}"


class Directive(NamedTuple):
    """A level, and what it holds for: a target and those below it ("" for all), inside of certain spans."""

    target: str
    level: int
    is_inside: bool = False
    """Whether it holds only inside of spans that match; then it may still leave open which."""
    span: str | None = None
    """The span's name, None for any."""
    conditions: tuple[Condition, ...] = ()
    """What its fields have to be; sorted, each once."""

    def __str__(self) -> str:
        """As it is written in a filter."""
        place = self.target
        if self.is_inside:
            fields = f"{{{','.join(map(str, self.conditions))}}}" if self.conditions else ""
            place += f"[{'' if self.span is None else _quoted(self.span)}{fields}]"
        if self.level == EVERYTHING:
            return place
        level = _WORDS.get(self.level) or str(self.level)
        return f"{place}={level}" if place else level


def _quoted(text: str) -> str:
    return _quote(text) if _SPECIAL.search(text) else text


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _level_of(word: str) -> int | None:
    level = _LEVELS.get(word.lower())
    if level is None and _DIGITS.fullmatch(word) and len(word) < 3 and 10 <= int(word) <= 50:
        return int(word)
    return level


def _value_of(text: str) -> tuple[str, Value]:
    """The kind and the value of what stands without quotes."""
    if text.lower() in ("true", "false"):
        return "truth", text.lower() == "true"
    if _INTEGER.fullmatch(text):
        return "number", int(text)
    if _DECIMAL.fullmatch(text):
        number = float(text)
        # One number has one text.
        return "number", int(number) if number.is_integer() and abs(number) < 2**53 else number
    return "text", text


def parse_directives(text: str) -> list[Directive]:
    """The directives of a filter, in its order. Raises `FilterError`."""
    return _Parser(text).parse()


class _Parser:
    """Goes through the text once, from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def parse(self) -> list[Directive]:
        if not self._text.strip():
            return []
        found = [self._directive()]
        while self._take(","):
            found.append(self._directive())
        if self._at < len(self._text):
            hint = (
                "Fields stand in brackets: [{user=7}]."
                if self._peek() == "{"
                else "Directives are separated by commas."
            )
            raise self._error("a comma or the end", hint)
        return found

    def _directive(self) -> Directive:
        self._skip_blanks()
        start = self._at
        word = self._plain()
        if not word and self._peek() in ("", ","):
            raise self._error("a directive", "Remove the extra comma.")
        if self._peek() in ("", ","):
            return self._bare(word, start)
        if word or self._peek() != "[":
            self._check_target(word, start)
        name: str | None = None
        conditions: tuple[Condition, ...] = ()
        is_inside = False
        if self._take("["):
            name, conditions = self._spans(self._at - 1)
            is_inside = True
        return Directive(word, self._level() if self._take("=") else EVERYTHING, is_inside, name, conditions)

    def _bare(self, word: str, start: int) -> Directive:
        """A directive of one word: a level for everything, or everything of a target."""
        level = _level_of(word)
        if level is not None:
            return Directive("", level)
        if _DIGITS.fullmatch(word):
            raise self._error(_EXPECTED_LEVEL, f"{word} is not one; a target of that name is {word}=trace.", start)
        self._check_target(word, start)
        return Directive(word, EVERYTHING)

    def _check_target(self, word: str, start: int) -> None:
        if not all(word.split(".")) or any(character.isspace() for character in word):
            raise self._error("a dotted target", "For example app.db=debug.", start)

    def _level(self) -> int:
        self._skip_blanks()
        start = self._at
        # All that could have been meant to be a level, which the hint repeats.
        stop = self._text.find(",", start)
        word = self._text[start : stop if stop >= 0 else len(self._text)].strip()
        level = _level_of(word)
        if level is None:
            raise self._error(_EXPECTED_LEVEL, f"{word!r} is not one." if word else "", start)
        self._at = start + len(word)
        self._skip_blanks()
        return level

    def _spans(self, start: int) -> tuple[str | None, tuple[Condition, ...]]:
        """What stands between the brackets, the first of which is at `start`."""
        name = self._name()
        conditions: list[Condition] = []
        if self._take("{"):
            brace = self._at - 1
            conditions.append(self._condition())
            while self._take(","):
                conditions.append(self._condition())
            if not self._take("}"):
                raise self._unclosed("'}' after the fields", "{", brace)
        if not self._take("]"):
            raise self._unclosed("']' after the span", "[", start)
        return name, tuple(sorted(set(conditions), key=str))

    def _condition(self) -> Condition:
        self._skip_blanks()
        start = self._at
        name = self._name()
        if not name:
            raise self._error("the name of a field", "For example [request{user=7}].", start)
        if not self._take("="):
            return Condition(name, "presence", "")
        self._skip_blanks()
        if self._peek() == '"':
            return Condition(name, "text", self._in_quotes())
        start = self._at
        text = self._plain()
        if not text:
            raise self._error("a value", 'The empty text is "".', start)
        kind, value = _value_of(text)
        if isinstance(value, float) and not math.isfinite(value):
            raise self._error("a number", f"{text} is too large for one.", start)
        return Condition(name, kind, value)

    def _name(self) -> str | None:
        self._skip_blanks()
        if self._peek() == '"':
            return self._in_quotes()
        return self._plain() or None

    def _in_quotes(self) -> str:
        start = self._at
        self._at += 1
        found: list[str] = []
        while (character := self._peek()) != '"':
            if character == "\\":
                self._at += 1
                character = self._peek()
            if not character:
                raise self._error("a second '\"'", "", start)
            found.append(character)
            self._at += 1
        self._at += 1
        self._skip_blanks()
        return "".join(found)

    def _plain(self) -> str:
        found = _PLAIN.match(self._text, self._at)
        assert found is not None
        self._at = found.end()
        return found.group().strip()

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, character: str) -> bool:
        self._skip_blanks()
        is_there = self._peek() == character
        self._at += is_there
        return is_there

    def _skip_blanks(self) -> None:
        while self._peek().isspace():
            self._at += 1

    def _unclosed(self, expected: str, opened: str, start: int) -> FilterError:
        return self._error(expected, f"The '{opened}' of column {start + 1} is still open.")

    def _error(self, expected: str, hint: str, at: int | None = None) -> FilterError:
        return FilterError(text=self._text, column=(self._at if at is None else at) + 1, expected=expected, hint=hint)
