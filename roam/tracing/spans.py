"""Spans: periods with a parent, written when they begin and when they end, and listed while they are open."""

from __future__ import annotations

import functools
import inspect
import sys
import time
from _thread import get_ident
from collections.abc import AsyncGenerator, Callable, Generator
from contextvars import Token
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast

from ..shm.layout import HostWord
from ..stage import ExceptionText
from . import emitter as emitters
from .codec import describe_exception, encode_span_close, encode_span_enter, encode_span_exit
from .emitter import Emitter
from .filter import plain_text
from .records import INFO
from .scope import Scope, active_scope

__all__ = ["Span", "instrument", "open_span"]

_GENERATION = int(HostWord.GENERATION)
_NO_FIELDS: dict[str, Any] = {}
"""What an ended span has; nobody changes it."""
P = ParamSpec("P")
R = TypeVar("R")


class Span(Scope):
    """One period. Enter it with `with`, once; records made inside, also in tasks started inside, belong to it.

    Threads: a span is entered and left in one context; `record` may be called from any thread. Of a span that the
    filter does not let through when it is made nothing is written; it is only remembered for directives that ask for
    it, also for those that come later. Entering one twice raises `RuntimeError`, whether it is traced or not.
    """

    __slots__ = ("_emitter", "_is_live", "_parent", "_parent_id", "_slot", "_started_ns", "_token", "target")

    def __init__(
        self, emitter: Emitter | None, target: str, name: str, fields: dict[str, Any], *, is_live: bool = True
    ) -> None:
        self._emitter = emitter
        self._is_live = is_live
        self._parent_id: bytes | None = None
        self.target = "__main__" if target == "__mp_main__" else target
        self.name = name
        """What the span is called."""
        self.fields = fields
        self.recorded = {}
        self.has_ended = False
        self._parent: Scope | None = None
        self._slot = -1
        self._started_ns = 0
        self._token: Token[Scope | None] | None = None

    def __enter__(self) -> Self:
        if self._started_ns:
            raise RuntimeError(
                f"span {self.name!r} was entered before; make a new one with roam.span() for each `with`"
            )
        emitter = self._emitter
        if emitter is None:
            self._started_ns = 1
            return self
        around = active_scope.get()
        self._parent = parent = around or emitter.root
        # What is outermost begins a trace, unless this process is a part of one.
        is_first = around is None and not emitter.is_caused
        self.trace_id = emitter.new_trace_id() if is_first else parent.trace_id
        self._parent_id = None if is_first else parent.span_id
        above = parent.outer
        # What `innermost_open` finds when nothing around has ended.
        is_sound = not parent.has_ended and (above is None or not above.has_ended)
        self.outer = parent if is_sound else parent.innermost_open()
        self.verdict = parent.verdict
        if self.verdict is None and emitter.sampler is not None:
            self.verdict = emitter.sampler.decide(self.target, self.trace_id)
        if not self._is_live:
            # Records inside belong to the span around it.
            self.span_id = parent.span_id
            self._started_ns = 1
            self._token = active_scope.set(self)
            return self
        seen = _seen(emitter)
        self.span_id = emitter.new_span_id()
        try:
            record, body = emitter.open_body(INFO, self.target, self.name, self.fields, self, self._parent_id)
        except (RecursionError, MemoryError):
            # Raised by the call itself, before the encoder could catch anything.
            record, body = None, b""
        self._started_ns = started_ns = time.monotonic_ns()
        self._token = active_scope.set(self)
        try:
            self._slot = emitter.open_spans.open(body, started_ns)
            emitter.write_span(INFO, self.target, record, seen, self)
        except BaseException:
            # A signal handler raised: there will be no `__exit__`.
            emitter.open_spans.close(self._slot)
            self.leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        emitter = self._emitter
        if emitter is None:
            return
        if not self._is_live:
            self.leave()
            self._end()
            return
        emitter.open_spans.close(self._slot)
        self._slot = -1
        self.leave()
        exception = None
        try:
            if exc is not None:
                described = describe_exception(exc)
                # The traceback belongs to whoever reports the exception; a span says only what ended it.
                exception = ExceptionText(described.type, described.message, "")
            payload = encode_span_close(
                INFO,
                self.target,
                self.name,
                self.recorded,
                get_ident(),
                self.span_id,
                self.trace_id,
                self._parent_id,
                time.monotonic_ns() - self._started_ns,
                exception,
                emitter.record_bytes,
                emitter.redactor,
            )
        except (RecursionError, MemoryError):
            # As in `__enter__`.
            payload = None
        emitter.write_span(INFO, self.target, payload, _seen(emitter), self)
        self._end()

    def _end(self) -> None:
        """Let go of all that only an open span needs: contexts that were copied inside may keep it for long."""
        self.has_ended = True
        # In this order: `record` looks at the fields first.
        self._emitter = self._parent = None
        self.fields = self.recorded = _NO_FIELDS

    def record(self, /, **fields: Any) -> None:
        """Add fields, which a death shows with the open span, and its end otherwise."""
        recorded, emitter = self.recorded, self._emitter
        if emitter is None:
            return
        recorded.update(fields)
        if self._slot >= 0:
            merged = {**self.fields, **recorded}
            try:
                _, body = emitter.open_body(INFO, self.target, self.name, merged, self, self._parent_id)
            except (RecursionError, MemoryError):
                # As in `__enter__`; the table keeps what it has.
                return
            emitter.open_spans.rewrite(self._slot, body, self._started_ns)

    def leave(self) -> None:
        """Make the outer span the active one again."""
        token, self._token, parent = self._token, None, self._parent
        if token is not None:
            try:
                active_scope.reset(token)
            except ValueError:
                # Entered in another context, as by a generator that is closed by the garbage collector. That context
                # is none of the span's business, unless it was copied inside of it.
                if active_scope.get() is self:
                    active_scope.set(None if self._emitter is None or parent is self._emitter.root else parent)

    def suspend(self) -> None:
        """A generator yields: say so, and make the outer span the active one."""
        if self._emitter is not None:
            self.leave()
            self._mark(encode_span_exit)

    def resume(self) -> None:
        """The generator goes on."""
        if self._emitter is not None:
            self._token = active_scope.set(self)
            self._mark(_encode_reentry)

    def _mark(self, encode: Callable[..., bytes | None]) -> None:
        emitter = self._emitter
        assert emitter is not None
        if not self._is_live:
            return
        payload = encode(
            INFO,
            self.target,
            self.name,
            get_ident(),
            self.span_id,
            self.trace_id,
            self._parent_id,
            emitter.record_bytes,
        )
        emitter.write_span(INFO, self.target, payload, _seen(emitter), self)


def _encode_reentry(level: int, target: str, name: str, *rest: Any) -> bytes | None:
    return encode_span_enter(level, target, name, {}, *rest)


def _seen(emitter: Emitter) -> int:
    seen = emitter.words[_GENERATION]
    return seen if seen == emitter.generation else emitter.refresh()


def open_span(emitter: Emitter | None, target: str, name: str, fields: dict[str, Any]) -> Span:
    """A span that is live if there is an emitter and its filter lets INFO of `target` through."""
    if emitter is not None:
        if emitter.words[_GENERATION] != emitter.generation:
            emitter.refresh()
        threshold = emitter.thresholds.get(target)
        if (emitter.filter.threshold(target) if threshold is None else threshold) > INFO:
            return Span(emitter, target, name, fields, is_live=False)
    return Span(emitter, target, name, fields)


def instrument(function: Callable[P, R]) -> Callable[P, R]:
    """Run each call of a function in a span of its name.

    Works for functions, coroutine functions, generators and asynchronous generators; a generator's span is left at
    each `yield` and entered again when it goes on. Raises `TypeError` for a class, which would no longer be one, and
    for anything that is not callable.
    """
    if isinstance(function, type) or not callable(function):
        raise TypeError(f"instrument decorates a function, not {type(function).__name__}")
    name = plain_text(getattr(function, "__qualname__", function))
    target = plain_text(getattr(function, "__module__", None) or "?")

    def span() -> Span:
        return open_span(emitters.current_emitter(), target, name, {})

    if inspect.isasyncgenfunction(function):
        wrapper: Callable[..., Any] = _around_async_generator(function, span)
    elif inspect.isgeneratorfunction(function):
        wrapper = _around_generator(function, span)
    elif inspect.iscoroutinefunction(function):

        async def in_coroutine(*args: Any, **kwargs: Any) -> Any:
            with span():
                return await cast("Any", function)(*args, **kwargs)

        wrapper = in_coroutine
    else:

        def in_function(*args: Any, **kwargs: Any) -> Any:
            with span():
                return function(*args, **kwargs)

        wrapper = in_function
    return cast("Callable[P, R]", functools.wraps(function)(wrapper))


def _around_generator(
    function: Callable[..., Any], span: Callable[[], Span]
) -> Callable[..., Generator[Any, Any, Any]]:
    def in_generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with span() as entered:
            inner = function(*args, **kwargs)
            step: Callable[[], Any] = functools.partial(next, inner)
            while True:
                try:
                    value = step()
                except StopIteration as stop:
                    return stop.value
                entered.suspend()
                try:
                    sent = yield value
                except BaseException as exc:
                    # GeneratorExit too: what `close` makes of the outcome is the same as without the wrapper.
                    entered.resume()
                    step = functools.partial(inner.throw, exc)
                else:
                    entered.resume()
                    step = functools.partial(inner.send, sent)

    return in_generator


def _first_step(inner: AsyncGenerator[Any, Any]) -> Any:
    """Begin without telling the event loop, which knows the wrapper: it would close both at once at its end."""
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return inner.__anext__()
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _around_async_generator(
    function: Callable[..., Any], span: Callable[[], Span]
) -> Callable[..., AsyncGenerator[Any, Any]]:
    async def in_generator(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        with span() as entered:
            inner = function(*args, **kwargs)
            step: Callable[[], Any] = functools.partial(_first_step, inner)
            while True:
                try:
                    value = await step()
                except StopAsyncIteration:
                    return
                entered.suspend()
                try:
                    sent = yield value
                except BaseException as exc:
                    entered.resume()
                    step = functools.partial(inner.athrow, exc)
                else:
                    entered.resume()
                    step = functools.partial(inner.asend, sent)

    return in_generator
