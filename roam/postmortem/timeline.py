"""What was recovered of runs, as text and as a JSON document: who there was, one timeline, and how each of them ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .document import document, record_document
from .escape import escape
from .recover import Recovered, Run, timeline
from .render import Report
from .units import calendar

__all__ = ["timeline_document", "timeline_lines"]

_HOST_STATES = {True: "its host lives", False: "its host is gone", None: "nobody can say whether its host lives"}


def timeline_lines(runs: Sequence[Run], *, last: int | None = None) -> Iterator[str]:
    """The text, line by line, safe for a terminal. `last` limits the records; None shows all."""
    tags = _tags(runs)
    width = max(map(len, tags.values()), default=0)
    for run in runs:
        yield f"run {escape(str(run.path))}, {_HOST_STATES[run.is_held]}"
        for found in run.peers:
            yield f"  {tags[id(found)]:<{width}}  {_state(found)}"
    yield ""
    yield from _timeline(runs, tags, width, last)
    for run in runs:
        for found in run.peers:
            report = Report(found.pm, last=None)
            for title, body in (*report.tails(), ("exception", report.exception())):
                yield from report.section(title, body)
            yield from report.conclusion()


def _timeline(runs: Sequence[Run], tags: dict[int, str], width: int, last: int | None) -> Iterator[str]:
    found = timeline(found for run in runs for found in run.peers)
    shown = found if last is None else found[max(0, len(found) - last) :]
    yield f"timeline, {'all' if len(shown) == len(found) else f'last {len(shown):,} of'} {len(found):,} records"
    reports = {id(peer): Report(peer.pm, last=None) for run in runs for peer in run.peers}
    day = ""
    for peer, record in shown:
        date = calendar(record.time_ns).partition(" ")[0]
        if date != day:
            day = date
            yield f"  {date} (UTC)"
        report = reports[id(peer)]
        yield f"  {report.record_lines.line(record, f'{tags[id(peer)]:<{width}}')}"
        if record.exception is not None:
            yield from (f"      {line}" for line in report.exception_lines(record.exception))


def _tags(runs: Sequence[Run]) -> dict[int, str]:
    """What each peer is called in the timeline: names need not be unique, and ids are so only within a run."""
    tags = {}
    for number, run in enumerate(runs, 1):
        for found in run.peers:
            name = f"{escape(found.pm.peer.name)[:40]}#{found.pm.peer.peer_id}"
            tags[id(found)] = name if len(runs) == 1 else f"run {number} {name}"
    return tags


def _state(found: Recovered) -> str:
    pm = found.pm
    pid = "no process" if pm.peer.pid is None else f"pid {pm.peer.pid}"
    seen = "lives" if pm.is_live else f"last seen {calendar(pm.died_ns)}"
    dump = "" if pm.path is None else f", dump {escape(str(pm.path))}"
    return f"{pid}, {seen}, {len(pm.records):,} records{dump}"


def timeline_document(runs: Sequence[Run], *, last: int | None = None) -> dict[str, Any]:
    """The same as built-in values. The records are in the timeline only."""
    places = {id(found): (number, found.pm) for number, run in enumerate(runs) for found in run.peers}
    records = timeline(found for run in runs for found in run.peers)
    shown = records if last is None else records[max(0, len(records) - last) :]
    return {
        "runs": [
            {
                "path": str(run.path),
                "is_live": run.is_held,
                "peers": [document(found.pm, last=0) for found in run.peers],
            }
            for run in runs
        ],
        "record_count": len(records),
        "timeline": [
            {
                "run": places[id(peer)][0],
                "peer_id": peer.pm.peer.peer_id,
                "name": peer.pm.peer.name,
                **record_document(record),
            }
            for peer, record in shown
        ],
    }
