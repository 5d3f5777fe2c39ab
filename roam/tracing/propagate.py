"""Causality beyond a process: which span something is a part of, in the form of the W3C's Trace Context.

A `traceparent` is `00-<32 hex digits of trace id>-<16 of span id>-<flags>` (https://www.w3.org/TR/trace-context/). Cells
need none: the span that is active at `spawn_cell` is the parent of the outermost spans of the cell. This is for what
lies between: HTTP requests, queues, processes that roam does not start.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..shm.header import NO_CAUSE
from .emitter import current_emitter
from .scope import Scope, active_scope

__all__ = ["cause_here", "continued", "environ", "traceparent"]

VARIABLE = "TRACEPARENT"
_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-[0-9a-f]{2}(?P<more>-.*)?")


def _scope_here() -> Scope | None:
    emitter = current_emitter()
    if emitter is None:
        return None
    scope = active_scope.get()
    return scope if scope is not None else emitter.root if emitter.is_caused else None


def cause_here() -> bytes:
    """Trace id and span id of what a process that is started now is a part of; zeros where there is no span. Outside
    of tracing, and where no span is active, what `TRACEPARENT` in the environment says."""
    scope = _scope_here()
    if scope is not None:
        return scope.trace_id + scope.span_id
    return _parse(os.environ.get(VARIABLE)) or NO_CAUSE


def traceparent() -> str | None:
    """The header for what is sent from here: the active span's, else that of the span that this process is a part of;
    None where there is neither."""
    cause = cause_here()
    if cause == NO_CAUSE:
        return None
    return f"00-{cause[:16].hex()}-{cause[16:].hex()}-01"


def environ() -> dict[str, str]:
    """For `subprocess.Popen(env=os.environ | roam.propagate.environ())`."""
    found = traceparent()
    return {} if found is None else {VARIABLE: found}


@contextmanager
def continued(traceparent: str | Mapping[str, str] | None) -> Iterator[None]:
    """Records and spans made inside are a part of what the header names. It may also be given as the headers, or the
    environment, that hold it.

    What is no valid header is ignored, as the W3C has it: it came from elsewhere.
    """
    if isinstance(traceparent, Mapping):
        found = [value for name, value in traceparent.items() if str(name).lower() == VARIABLE.lower()]
        traceparent = found[0] if len(found) == 1 else None
    cause = _parse(traceparent)
    if cause is None or current_emitter() is None:
        yield
        return
    before, scope = active_scope.get(), Scope(cause[16:], cause[:16])
    token = active_scope.set(scope)
    try:
        yield
    finally:
        try:
            active_scope.reset(token)
        except ValueError:
            # It ends in another context, as in a generator that the garbage collector closes; see `Span.leave`.
            if active_scope.get() is scope:
                active_scope.set(before)


def _parse(header: object) -> bytes | None:
    """Trace id and span id of a header, None where it is none."""
    if not isinstance(header, str) or len(header) > 512:
        return None
    found = _FORM.fullmatch(header.strip())
    if found is None or (found["more"] and header.strip().startswith("00")):
        return None
    trace_id, span_id = bytes.fromhex(found["trace"]), bytes.fromhex(found["span"])
    return trace_id + span_id if any(trace_id) and any(span_id) else None
