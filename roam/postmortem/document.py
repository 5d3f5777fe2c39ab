"""A post-mortem as a JSON document: everything that is in it, for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from ..stage import ExceptionText
from ..tracing.records import Record, SpanClose
from .escape import escape_json
from .plain import plain

if TYPE_CHECKING:
    from .model import PostMortem

__all__ = ["document", "json_text", "record_document"]


def json_text(value: object) -> str:
    """`value` as one JSON document, indented, with no character that a terminal acts on."""
    return escape_json(msgspec.json.format(msgspec.json.encode(_json(plain(value))), indent=2).decode())


def document(pm: PostMortem, *, last: int | None = None) -> dict[str, Any]:
    """A post-mortem as built-in values. Ids and bytes are hexadecimal text; `last` limits the records; None gives all."""
    records = pm.records if last is None else pm.records[max(0, len(pm.records) - last) :]
    site = pm.crash_site
    exception = pm.exit.exception
    found: dict[str, Any] = plain(
        {
            "path": None if pm.path is None else str(pm.path),
            "segment_path": pm.segment_path,
            "is_live": pm.is_live,
            "summary": pm.summary,
            "peer": pm.peer,
            "exit": pm.exit,
            "stage": pm.stage.label,
            "died_ns": pm.died_ns,
            "crash_site": None if site is None else site._asdict(),
            "statistics": pm.statistics,
            "config": pm.config,
            "facts": pm.facts,
            "header": pm.header,
            "damage": pm.damage,
            "record_count": len(pm.records),
            "records": [record_document(record) for record in records],
            "open_spans": [
                {name: getattr(span, name) for name in span.__struct_fields__ if not name.startswith("_")}
                for span in pm.open_spans
            ],
            "stacks": pm.stacks,
            "stdout_tail": pm.stdout_tail,
            "stderr_tail": pm.stderr_tail,
        }
    )
    found["exit"] |= {
        "stage": pm.exit.stage.label,
        "description": plain(pm.exit.describe()),
        "exception": None if exception is None else plain(_parts(exception)),
    }
    return found


def _parts(exception: ExceptionText) -> dict[str, Any]:
    """An exception with all that hangs on it, by name. Its depth is bounded wherever one is read."""
    cause, context = exception.cause, exception.context
    return exception._asdict() | {
        "frames": [frame._asdict() for frame in exception.frames],
        "cause": None if cause is None else _parts(cause),
        "context": None if context is None else _parts(context),
        "members": [_parts(member) for member in exception.members],
    }


def record_document(record: Record) -> dict[str, Any]:
    """A record as built-in values."""
    exception = record.exception
    return {
        "kind": record.kind,
        "time_ns": record.time_ns,
        "lane": record.lane,
        "seq": record.seq,
        "level": record.level,
        "target": record.target,
        "message": record.message,
        "fields": record.fields,
        "thread": record.thread,
        "span_id": record.span_id,
        "parent_id": record.parent_id,
        "trace_id": record.trace_id,
        "duration_ns": record.duration_ns if isinstance(record, SpanClose) else None,
        "exception": None if exception is None else dict(zip(exception._fields[:3], exception, strict=False)),
        "flags": record.flags,
        "cuts": record.cuts,
    }


def _json(value: Any) -> Any:
    """What JSON has no form for, as text: bytes, and the numbers that are not finite."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json(item) for item in value]
    return value
