"""What programs call: `roam.info("decoded", size=123)` and tracers bound to a target."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol

from ..shm.layout import HostWord
from . import emitter as emitters
from .draft import wire_level
from .emitter import Emitter, ExceptionArgument
from .filter import plain_text
from .records import CRITICAL, DEBUG, ERROR, INFO, TRACE, WARNING
from .spans import Span, open_span

__all__ = [
    "LogFunction",
    "Tracer",
    "critical",
    "debug",
    "error",
    "event",
    "get_tracer",
    "info",
    "span",
    "trace",
    "warning",
]

_GENERATION = int(HostWord.GENERATION)
_emitter: Emitter | None = None


def _use(emitter: Emitter | None) -> None:
    global _emitter
    _emitter = emitter


emitters.on_install(_use)


class LogFunction(Protocol):
    """Calls of the shape of `roam.info`.

    `message` is positional-only and is the text of the record. Every keyword is a field, except `exc_info`, which
    means what it means in `logging`. Returns nothing and raises nothing; any thread may call it. In a process
    that is neither a host nor a cell it does nothing.
    """

    def __call__(self, message: object, /, exc_info: ExceptionArgument = None, **fields: Any) -> None:
        """Write a record."""


def event(level: int, message: object, /, exc_info: ExceptionArgument = None, **fields: Any) -> None:
    """Write a record of any level, with the caller's module as its target. See `LogFunction`."""
    emitter = _emitter
    if emitter is not None:
        _judge(emitter, wire_level(level), _module_of_caller(), message, fields, exc_info)


def _module_of_caller() -> str:
    """The module that called the caller of this; "?" where Python code did not: at exit, in a thread's first frame."""
    try:
        name = sys._getframe(2).f_globals.get("__name__", "?")
    except ValueError:
        return "?"
    return plain_text(name) if issubclass(type(name), str) else "?"


def _judge(
    emitter: Emitter, level: int, target: str, message: object, fields: dict[str, Any], exc_info: ExceptionArgument
) -> None:
    seen = emitter.words[_GENERATION]
    if seen != emitter.generation:
        seen = emitter.refresh()
    if level >= emitter.filter.threshold(target):
        emitter.event(level, target, message, fields, exc_info, seen)


def _module_function(name: str, level: int) -> LogFunction:
    # r[impl trace.filter.early] The checks stand here and not in a helper, because a call is what costs most.
    caller = sys._getframe
    word = _GENERATION

    def log(message: object, /, exc_info: ExceptionArgument = None, **fields: Any) -> None:
        emitter = _emitter
        if emitter is None:
            return
        seen = emitter.words[word]
        if seen != emitter.generation:
            seen = emitter.refresh()
        if level < emitter.lowest:
            return
        try:
            target = caller(1).f_globals["__name__"]
            passes = level >= emitter.thresholds[target]
        except Exception:
            # Not known yet, no caller in Python, or a module whose name is not a plain text.
            target = _module_of_caller()
            passes = level >= emitter.filter.threshold(target)
        if passes:
            emitter.event(level, target, message, fields, exc_info, seen)

    log.__name__ = log.__qualname__ = name
    log.__doc__ = f"Write a record of level {name.upper()}, with the caller's module as its target. See `LogFunction`."
    return log


trace: LogFunction = _module_function("trace", TRACE)
debug: LogFunction = _module_function("debug", DEBUG)
info: LogFunction = _module_function("info", INFO)
warning: LogFunction = _module_function("warning", WARNING)
error: LogFunction = _module_function("error", ERROR)
critical: LogFunction = _module_function("critical", CRITICAL)


def span(name: str, /, **fields: Any) -> Span:
    """A span for `with`, named `name`, in the caller's module. `with roam.span("resize", width=n) as span: …`."""
    return open_span(_emitter, _module_of_caller(), name, fields)


def _bound_function(name: str, level: int, target: str) -> LogFunction:
    # As in `_module_function`, without the frame.
    word = _GENERATION

    def log(message: object, /, exc_info: ExceptionArgument = None, **fields: Any) -> None:
        emitter = _emitter
        if emitter is None:
            return
        seen = emitter.words[word]
        if seen != emitter.generation:
            seen = emitter.refresh()
        if level < emitter.lowest:
            return
        threshold = emitter.thresholds.get(target)
        if threshold is None:
            threshold = emitter.filter.threshold(target)
        if level >= threshold:
            emitter.event(level, target, message, fields, exc_info, seen)

    log.__name__ = name
    log.__qualname__ = f"Tracer.{name}"
    log.__doc__ = f"Write a record of level {name.upper()}. See `LogFunction`."
    return log


class Tracer:
    """The same calls with a target of their own. Threads: any. Make one with `get_tracer`."""

    __slots__ = ("critical", "debug", "error", "info", "target", "trace", "warning")

    def __init__(self, target: str) -> None:
        self.target = target
        """The name that filters and records know it by."""
        self.trace: LogFunction = _bound_function("trace", TRACE, target)
        self.debug: LogFunction = _bound_function("debug", DEBUG, target)
        self.info: LogFunction = _bound_function("info", INFO, target)
        self.warning: LogFunction = _bound_function("warning", WARNING, target)
        self.error: LogFunction = _bound_function("error", ERROR, target)
        self.critical: LogFunction = _bound_function("critical", CRITICAL, target)

    def __reduce__(self) -> tuple[Callable[[str], Tracer], tuple[str]]:
        return get_tracer, (self.target,)

    def event(self, level: int, message: object, /, exc_info: ExceptionArgument = None, **fields: Any) -> None:
        """Write a record of any level."""
        if _emitter is not None:
            _judge(_emitter, wire_level(level), self.target, message, fields, exc_info)

    def span(self, name: str, /, **fields: Any) -> Span:
        """A span for `with`."""
        return open_span(_emitter, self.target, name, fields)

    def is_enabled(self, level: int) -> bool:
        """Whether a record of that level would be written just now."""
        return _emitter is not None and _emitter.admits(level, self.target)


def get_tracer(target: str) -> Tracer:
    """A tracer whose records have `target`. Raises `TypeError` if it is not a string."""
    if not isinstance(target, str):
        raise TypeError(f"a target is a dotted name, not {type(target).__name__}")
    return Tracer(plain_text(target))
