"""A host from its birth to its end, with two cells, and whether what it says is true: the scenario of `nth_failure`."""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from roam.errors import RoamError
from roam.exit import ExitKind
from roam.shm.layout import SegmentConfig
from roam.spawn import forkserver
from roam.spawn.cell import Cell
from roam.spawn.supervise import spawn_cell
from roam.tracing.config import TracingConfig
from roam.tracing.host import TracingHost

from . import cells
from .goal import expect

__all__ = ["RECORDS", "Account", "live", "live_briefly", "stop_fork_server"]

T = TypeVar("T")

STEP_S = 15.0
"""How long one call may take."""
RECORDS = 20
"""What the cell that dies emits, not counting the span that it opens."""
SEGMENT = SegmentConfig(page_bytes=4096, life_pages=2, vital_pages=2, bulk_pages=4, record_bytes=1024, span_slots=8)
_SIGKILL = 9


@dataclass
class Account:
    """What a life was like for the program that led it."""

    errors: list[str] = field(default_factory=list)
    """Typed errors that it was told by its own calls."""
    signs: list[str] = field(default_factory=list)
    """Other ways in which it could see that something was not as it should be."""

    def attempt(self, what: str, step: Callable[[], T]) -> T | None:
        """Make a call of the public interface. None where that raised a typed error, which is noted."""
        try:
            return step()
        except RoamError as error:
            expect(str(error).strip().endswith((".", ")", '"')) or "\n" in str(error), f"{what}: no sentence: {error}")
            self.errors.append(f"{what}: {type(error).__name__}: {error}")
        except Exception as error:
            raise AssertionError(f"{what} raised {type(error).__name__}: {error}") from error
        return None

    def note(self, is_well: object, sign: str) -> None:
        """Note a sign unless all is well."""
        if not is_well:
            self.signs.append(sign)


def live(method: str, directory: Path) -> Account:
    """Host, a cell that is killed in a span, its post-mortem, a cell with a result, the end."""
    account = Account()
    with _watched(account):
        host = account.attempt("TracingHost()", lambda: _new_host(directory))
        if host is not None:
            subscription = account.attempt("subscribe()", host.subscribe)
            _see_one_die(host, method, account)
            _get_a_result(host, method, account)
            account.attempt("set_config()", lambda: host.set_config(TracingConfig("debug"), timeout=1.0))
            account.attempt("statistics()", lambda: _check_books(host, account))
            account.attempt("close()", host.close)
            if subscription is not None:
                _check_stream(subscription, account)
    return account


def live_briefly(method: str, directory: Path) -> Account:
    """A host and a cell with a result."""
    account = Account()
    with _watched(account), _new_host(directory) as host:
        _get_a_result(host, method, account)
    return account


def stop_fork_server() -> None:
    """The next cell of the fork server starts a new one."""
    server = forkserver.server()
    pid = server.pid
    server._let_go()
    if pid is not None:
        os.waitpid(pid, 0)


def _new_host(directory: Path) -> TracingHost:
    return TracingHost(segment=SEGMENT, dump_dir=directory, retain_bytes=SEGMENT.page_bytes * 16, forward=False)


@contextmanager
def _watched(account: Account) -> Iterator[None]:
    """What is reported without being raised is a sign; an exception that ends a thread, or is ignored, is a defect."""
    lost: list[str] = []
    logger, handler = logging.getLogger("roam"), logging.Handler()
    handler.emit = lambda entry: account.signs.append(f"logged: {entry.getMessage()}")  # type: ignore[method-assign]
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    sys.excepthook = lambda _kind, exc, _at: account.signs.append(f"reported: {_text(exc)}")
    threading.excepthook = lambda seen: lost.append(f"ended {seen.thread}: {_text(seen.exc_value)}")
    sys.unraisablehook = lambda seen: lost.append(f"ignored in {seen.object}: {_text(seen.exc_value)}")
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.propagate = propagate
        logger.removeHandler(handler)
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    expect(not lost, "; ".join(lost))


def _text(exc: BaseException | None) -> str:
    return "".join(traceback.format_exception(exc)[-2:]).strip() if exc is not None else ""


def _see_one_die(host: TracingHost, method: str, account: Account) -> None:
    cell = account.attempt(
        "spawn_cell(die_in_span)",
        lambda: spawn_cell(
            cells.die_in_span, RECORDS, host=host, start_method=method, start_timeout=STEP_S, name="dying"
        ),
    )
    if cell is None:
        return
    ended = account.attempt("join()", lambda: cell.join(STEP_S))
    expect(ended is not None, f"join() gave up after {STEP_S} s")
    expect(cell.exit is not None and not cell.is_alive(), "join() came back, and the cell has no exit")
    assert ended is not None
    if ended.kind is ExitKind.SIGNALED:
        expect(ended.signal == _SIGKILL, f"it died of SIGKILL, not {ended}")
    else:
        expect(ended.kind in (ExitKind.LOST, ExitKind.START_FAILED), f"it died of SIGKILL, and its exit is {ended}")
        account.signs.append(f"exit: {ended.describe()}")
    left = account.attempt("post_mortem", lambda: cell.post_mortem)
    if left is not None:
        account.note(cell.dump_path is not None, "no dump")
        account.note(len(left.records) >= RECORDS, f"{len(left.records)} records in the post-mortem")
        account.note([span.name for span in left.open_spans] == ["job"], f"open spans: {left.open_spans}")
        account.note(not left.damage, f"damage: {left.damage}")
    else:
        expect(account.errors, "a cell died of SIGKILL, and there is no post-mortem, and no word why")
    account.attempt("open_spans()", cell.open_spans)
    _check_records(cell, account)


def _check_records(cell: Cell, account: Account) -> None:
    """What is kept of the cell that died is what it emitted, or was counted as missing."""
    events = [record for record in cell.records() if record.kind == "event" and record.message == "detail"]
    numbers = [record.fields["number"] for record in events]
    expect(
        numbers == sorted(set(numbers)) and set(numbers) <= set(range(RECORDS)), f"it emitted 0 to 19, not {numbers}"
    )
    lanes = cell.statistics().lanes
    missing = sum(lane.lost + lane.resident for lane in lanes.values())
    account.note(not missing, f"{missing} records lost or never taken")
    account.note(len(numbers) == RECORDS, f"{len(numbers)} records")
    expect(
        len(numbers) == RECORDS or missing or account.errors or len(account.signs) > 1,
        f"{len(numbers)} records of {RECORDS}, and nothing says so: {lanes}; {account.signs}",
    )


def _get_a_result(host: TracingHost, method: str, account: Account) -> None:
    cell = account.attempt(
        "spawn_cell(add)",
        lambda: spawn_cell(cells.add, 20, 22, host=host, start_method=method, start_timeout=STEP_S, name="adding"),
    )
    if cell is None:
        return
    told = len(account.errors)
    value: Any = account.attempt("result()", lambda: cell.result(STEP_S))
    expect(value == 42 or len(account.errors) > told, f"20 and 22 are {value}")
    ended = cell.exit
    expect(ended is not None, "a result, and no exit")
    assert ended is not None
    account.note(ended.kind is ExitKind.RETURNED, f"exit: {ended.describe()}")
    expect(ended.signal is None or ended.kind is ExitKind.START_FAILED, f"nobody killed it: {ended}")


def _check_books(host: TracingHost, account: Account) -> None:
    for peer_id, peer in host.statistics().peers.items():
        for name, lane in peer.lanes.items():
            is_sum = lane.emitted == lane.delivered + lane.lost + lane.resident
            expect(is_sum, f"lane {name} of peer {peer_id} does not add up: {lane}")
            account.note(not lane.lost, f"lane {name} of peer {peer_id}: {lane}")


def _check_stream(subscription: Any, account: Account) -> None:
    """What a subscriber got comes in order, without a repetition, and ends with the host."""
    seen: dict[tuple[int, str], int] = {}
    while (tagged := subscription.get(STEP_S)) is not None:
        record, where = tagged.record, (tagged.peer.peer_id, tagged.record.lane)
        if record.kind == "lost":
            account.signs.append(record.message)
        else:
            expect(record.seq > seen.get(where, -1), f"{record} of {tagged.peer} after {seen.get(where)}")
            seen[where] = record.seq
    found = subscription.statistics()
    expect(found.offered == found.received + found.dropped_by_queue + found.queued, f"it does not add up: {found}")
    expect(not found.queued, f"the host is closed, and its subscription waits on: {found}")
