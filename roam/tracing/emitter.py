"""The emit path: from a call in the traced program to a committed record.

Ownership: one `Emitter` per segment, installed as the process's own by `install`. Threads: any. Failure: nothing here
raises into the traced program, apart from KeyboardInterrupt and SystemExit, which are its own; what cannot be written
is counted by cause.
"""

from __future__ import annotations

import os
import random
import sys
import time
import weakref
from _thread import RLock, get_ident
from collections.abc import Callable
from typing import Any

from ..errors import RoamError
from ..shm.header import NO_CAUSE
from ..shm.layout import BULK, LIFE, VITAL, HostWord
from ..shm.mailbox import read_config
from ..shm.mapping import MappedSegment
from ..shm.outcome import Outcome
from ..shm.spans import PAYLOAD_LIMIT, SpanTable
from ..shm.writer import SegmentWriter
from ..stage import ExceptionText
from .codec import describe_exception, encode_dropped, encode_event, encode_span_enter
from .config import TracingConfig, slots_of
from .records import INFO, PRINTED, WARNING
from .redaction import Redactor, redactor_of
from .sampling import Sampler, Tally, succeed
from .scope import Scope, active_scope

__all__ = [
    "Emitter",
    "ExceptionArgument",
    "current_emitter",
    "exception_text",
    "install",
    "on_install",
    "withdraw",
]

_GENERATION = int(HostWord.GENERATION)
_ATTEMPTS = 64
"""How often a record is judged anew, when each time another configuration comes first."""
_REFRESH_S = 0.1
"""How long to wait for another thread to take a configuration: it may be a daemon thread, frozen at the end."""

ExceptionArgument = bool | BaseException | tuple[Any, Any, Any] | None
"""As `exc_info` in `logging`: True for the exception being handled, an exception, or what `sys.exc_info()` returns."""


class Emitter:
    """Judges, encodes and writes the records of one process.

    `filter` and `generation` change when the host posts a configuration; `seen` in the methods below is the
    generation word as it was read before the caller judged its record.
    """

    def __init__(self, segment: MappedSegment, *, ring: Callable[[], None]) -> None:
        self.words = segment.words
        self._memory = segment.memory
        self.writer = SegmentWriter(segment.memory, segment.geometry, encode_dropped=encode_dropped, ring=ring)
        self.open_spans = SpanTable(
            segment.memory,
            segment.words,
            offset=segment.geometry.spans_offset,
            slots=segment.config.span_slots,
        )
        self._record_bytes = segment.config.record_bytes
        self._random = random.Random(os.urandom(16))
        # r[impl trace.cause]
        cause = segment.identity.cause
        self.is_caused = cause != NO_CAUSE
        """Whether this process is a part of something that began elsewhere."""
        self.root = Scope(cause[16:], cause[:16]) if self.is_caused else Scope(self.new_span_id(), os.urandom(16))
        """What stands around all spans: a span of another process, or nothing but ids."""
        self.generation = -1
        self.config = TracingConfig("info")
        self.filter = self.config.capture
        self.thresholds = self.filter.thresholds
        self.lowest = self.filter.lowest
        """No record below this level is written, whatever its target."""
        self.redactor = redactor_of(self.config.redact)
        self.sampler: Sampler | None = None
        """What keeps records out although the filter admits them; None where nothing does."""
        self._kept_out = Tally()
        self._refreshing = RLock()
        self._patience_s = _REFRESH_S
        _emitters.add(self)
        self.refresh()

    def new_span_id(self) -> bytes:
        """8 random bytes."""
        return self._random.getrandbits(64).to_bytes(8, "little")

    def new_trace_id(self) -> bytes:
        """16 random bytes."""
        return self._random.getrandbits(128).to_bytes(16, "little")

    def refresh(self) -> int:
        """Take the configuration in force, if it can be read, and acknowledge it. Returns the generation word judged by."""
        # One thread at a time, so that what is in force only ever becomes newer.
        try:
            # Inside the block: a signal handler that raises directly after it must not leave the lock taken.
            if not self._refreshing.acquire(timeout=self._patience_s):
                self._patience_s = 0.0
                return self.generation
            self._patience_s = _REFRESH_S
            seen = self.words[_GENERATION]
            found = read_config(self._memory, self.words)
            if found is None:
                # r[impl shm.config.keep] Keep what there is; -1 makes the next emit look again.
                self.generation = -1 if seen else 0
                return seen
            generation, (config, slots) = found[0], _parse(found[1])
            if config is None:
                # r[impl trace.config.refused] The same bytes mean no more the next time.
                self.generation = max(self.generation, generation)
                self.writer.refuse(generation)
                return generation
            capture, lowest = config.capture, config.capture.lowest
            overflow, redactor = self.writer.plan_overflow(config.overflow), redactor_of(config.redact)
            sampler = succeed(self.sampler, config.rules, slots, self.writer.suppress, self._kept_out)
            # No call from here on: a signal handler that emits may have taken a newer one meanwhile.
            if generation > self.generation:
                self.config = config
                self.filter = capture
                self.thresholds = capture.thresholds
                self.lowest = lowest
                self.writer.overflow = overflow
                self.redactor = redactor
                self.sampler = sampler
                self.generation = generation
        finally:
            try:  # noqa: SIM105 – `suppress` is Python code, and could be interrupted before the release
                self._refreshing.release()
            except RuntimeError:
                pass  # not taken: waiting for it was given up, or interrupted
        self.writer.acknowledge(generation)
        return generation

    def disown(self) -> None:
        """In a forked child: never write into the parent's segment, whoever still holds this emitter."""
        # r[impl trace.fork.disowned]
        self.writer.disown()
        self._refreshing = RLock()

    def admits(self, level: int, target: str) -> bool:
        """Whether a record would be written just now."""
        if self.words[_GENERATION] != self.generation:
            self.refresh()
        return self.filter.admits(level, target, active_scope.get() or self.root)

    def event(
        self,
        level: int,
        target: str,
        message: object,
        fields: dict[str, Any],
        exc_info: ExceptionArgument,
        seen: int,
        flags: int = 0,
    ) -> None:
        """Write an event that has reached its target's threshold while the generation word was `seen`."""
        scope = active_scope.get() or self.root
        judge = self.filter
        if judge.is_contextual and not judge.admits(level, target, scope):
            return
        exception = None
        # r[impl trace.lanes]
        lane = BULK if level < WARNING else VITAL
        if self.sampler is not None and not self._is_sampled(self.sampler, level, target, scope, lane):
            return
        if exc_info is not None and exc_info is not False:
            exception = exception_text(exc_info, self.shown_locals)
            if exception is not None:
                lane = LIFE
        if target == "__mp_main__":
            target = "__main__"
        redactor = self.redactor
        if redactor.hook is not None:
            message = redactor.redact("message", message)
        limit, trace_id = self._record_bytes, scope.trace_id
        try:
            payload = encode_event(
                level, target, message, fields, get_ident(), scope.span_id, trace_id, exception, limit, flags, redactor
            )
        except (RecursionError, MemoryError):
            # Raised by the call itself, before the encoder could catch anything.
            self.writer.drop(lane, "unencodable")
            return
        if payload is None:
            self.writer.drop(lane, "oversize")
        elif outcome := self.writer.write(lane, payload, seen):
            self._insist(outcome, lane, payload, seen, lambda: self.filter.admits(level, target, scope))

    def _is_sampled(self, sampler: Sampler, level: int, target: str, scope: Scope, lane: int) -> bool:
        """Whether an event is one of those that are written. Now and then tells the stream of the others."""
        is_written = sampler.admits(level, target, scope.verdict, lane)
        self.report_suppressed()
        return is_written

    def report_suppressed(self, *, at_once: bool = False) -> None:
        """Write a record of what sampling has kept out since the last one, if it is time to. Never raises."""
        counts = self._kept_out.due(at_once=at_once)
        if counts:
            payload = encode_event(
                INFO,
                "roam.sampling",
                "kept out",
                counts,
                get_ident(),
                self.root.span_id,
                self.root.trace_id,
                limit_bytes=self._record_bytes,
            )
            if payload is None:
                self.writer.drop(BULK, "oversize")
            else:
                self._write_unjudged(BULK, payload)

    def write_span(self, level: int, target: str, payload: bytes | None, seen: int, scope: Scope) -> None:
        """Write a record of the span that is `scope`, if the configuration in force wants it; the span may be older."""
        judge = self.filter
        threshold = judge.thresholds.get(target)
        if not self.config.span_events or level < (judge.threshold(target) if threshold is None else threshold):
            return
        if judge.is_contextual and not judge.admits(level, target, scope):
            return
        sampler, verdict = self.sampler, scope.verdict
        if sampler is not None and verdict is not None and not sampler.admits_span(level, verdict, BULK):
            return
        if payload is None:
            self.writer.drop(BULK, "oversize")
        elif outcome := self.writer.write(BULK, payload, seen):
            self._insist(
                outcome,
                BULK,
                payload,
                seen,
                lambda: self.config.span_events and self.filter.admits(level, target, scope),
            )

    def open_body(
        self, level: int, target: str, name: str, fields: dict[str, Any], scope: Scope, parent_id: bytes | None
    ) -> tuple[bytes | None, bytes]:
        """The record that says a span was entered, and the same in the size of a slot of the open-span table."""
        thread = get_ident()
        span_id, trace_id, limit = scope.span_id, scope.trace_id, self._record_bytes
        redactor = self.redactor
        payload = encode_span_enter(level, target, name, fields, thread, span_id, trace_id, parent_id, limit, redactor)
        if payload is not None and len(payload) <= PAYLOAD_LIMIT:
            return payload, payload
        body = encode_span_enter(
            level, target, name, fields, thread, span_id, trace_id, parent_id, PAYLOAD_LIMIT, redactor
        )
        return payload, body or b""

    @property
    def shown_locals(self) -> Redactor | None:
        """What keeps secrets out of the local variables of exceptions; None where these are not shown at all."""
        return self.redactor if self.config.exception_locals else None

    @property
    def record_bytes(self) -> int:
        """Largest record body of this segment."""
        return self._record_bytes

    def report(self, level: int, message: str, exc: BaseException | None, fields: dict[str, Any]) -> None:
        """Write what ends something, with its exception if it has one, into the life lane, whatever the filter says.

        Never raises.
        """
        try:
            exception = describe_exception(exc, shown_locals=self.shown_locals) if exc is not None else None
            # Whoever reports it goes on to print the traceback, as the interpreter does.
            payload = encode_event(
                level,
                "roam.cell",
                message,
                fields,
                get_ident(),
                self.root.span_id,
                self.root.trace_id,
                exception,
                self._record_bytes,
                PRINTED,
            )
            if payload is None:
                self.writer.drop(LIFE, "oversize")
            else:
                self._write_unjudged(LIFE, payload)
        except Exception:
            self.writer.drop(LIFE, "unencodable")

    def _write_unjudged(self, lane: int, payload: bytes) -> None:
        seen = self.words[_GENERATION]
        if outcome := self.writer.write(lane, payload, seen):
            self._insist(outcome, lane, payload, seen, lambda: True)

    def _insist(self, outcome: int, lane: int, payload: bytes, seen: int, is_wanted: Callable[[], bool]) -> None:
        """Do what is left to do for a record that was not written at once.

        A configuration that came between judging and writing judges it anew, by `is_wanted`. A full lane is waited
        for as long as its policy says, all waits of the record together."""
        deadline = None
        attempts = 0
        while outcome not in (Outcome.WRITTEN, Outcome.DROPPED):
            if outcome == Outcome.STALE:
                attempts += 1
                if attempts > _ATTEMPTS:
                    self.writer.drop(lane, "timed_out")
                    return
                seen = self.refresh()
                if not is_wanted():
                    return
            else:
                if deadline is None:
                    deadline = time.monotonic() + self.writer.overflow.policies[lane].wait_s
                if not self.writer.await_room(lane, deadline):
                    return
            outcome = self.writer.write(lane, payload, seen)


def _parse(body: bytes) -> tuple[TracingConfig | None, dict[str, int]]:
    try:
        return TracingConfig.from_bytes(body), slots_of(body)
    except (RoamError, ValueError):
        return None, {}


def exception_text(exc_info: ExceptionArgument, shown_locals: Redactor | None = None) -> ExceptionText | None:
    """The text of what `exc_info` stands for, None where there is no exception."""
    exc: object = exc_info
    if isinstance(exc, int):
        # True, and the 1 of older programs.
        exc = sys.exc_info()[1] if exc else None
    elif isinstance(exc, tuple):
        exc = exc[1] if len(exc) > 1 else None
    return describe_exception(exc, shown_locals=shown_locals) if isinstance(exc, BaseException) else None


_current: Emitter | None = None
_installed: list[Emitter] = []
_emitters: weakref.WeakSet[Emitter] = weakref.WeakSet()


def current_emitter() -> Emitter | None:
    """The process's own emitter; None in a process that is neither a host nor a cell."""
    return _current


_listeners: list[Callable[[Emitter | None], None]] = []


def install(emitter: Emitter, *, beneath: bool = False) -> None:
    """Make `emitter` the process's own until it is withdrawn; `beneath`, only where there is, or will be, no other."""
    _installed.insert(0 if beneath else len(_installed), emitter)
    _choose()


def withdraw(emitter: Emitter) -> None:
    """It is the process's own no longer; the one before it is again, if that was not withdrawn meanwhile."""
    if emitter in _installed:
        _installed.remove(emitter)
        _choose()


def _choose() -> None:
    global _current
    _current = _installed[-1] if _installed else None
    for listener in _listeners:
        listener(_current)


def on_install(listener: Callable[[Emitter | None], None]) -> None:
    """Call `listener` now and whenever the process's emitter changes; for modules that keep it in a global of theirs."""
    _listeners.append(listener)
    listener(_current)


def _forget_in_child() -> None:
    """A forked child is neither the cell nor the host that its parent is. Open spans still hold their emitters."""
    for emitter in list(_emitters):
        emitter.disown()
    _installed.clear()
    _choose()


os.register_at_fork(after_in_child=_forget_in_child)
