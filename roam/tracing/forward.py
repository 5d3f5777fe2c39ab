"""Forwarding into the host's own `logging`: same logger, level, time, fields and exception text, plus the peer.

Threads: one, so that a slow or stuck handler of the program holds up nobody else; a bounded queue in between drops
its oldest records and counts them.
"""

from __future__ import annotations

import logging
import threading
import time

from .defects import report_defect
from .records import PRINTED, TRACE, Dropped, Event, Lost, TaggedRecord
from .statistics import SubscriptionStatistics
from .subscription import Subscription

__all__ = ["Forwarder", "lowest_level_in_use"]

CAPACITY = 100_000
_RESERVED = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


def lowest_level_in_use() -> int:
    """No logger of this process lets a record below this level through, as it is configured now."""
    root = logging.getLogger()
    loggers = list(root.manager.loggerDict.values())
    levels = [logger.level for logger in loggers if isinstance(logger, logging.Logger) and logger.level]
    return max(min([root.level, *levels]), root.manager.disable + 1)


class Forwarder:
    """Hands events to `logging.getLogger(target)`, if that logger wants their level."""

    def __init__(self) -> None:
        self._subscription = Subscription(None, CAPACITY, lambda _: None)
        self._handled = 0
        self._progress = threading.Condition(threading.Lock())
        self._thread = threading.Thread(target=self._run, name="roam-forwarder", daemon=True)
        self._thread.start()

    def offer(self, records: list[TaggedRecord]) -> None:
        """Queue records; never blocks."""
        self._subscription.offer(records)

    def statistics(self) -> SubscriptionStatistics:
        """Of the queue in between."""
        return self._subscription.statistics()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything queued so far was offered to `logging`; False if that took longer, and for a handler
        that asks: it would wait for itself."""
        if threading.current_thread() is self._thread:
            return False
        # What the queue drops meanwhile will not be handled either.
        goal = self._subscription.statistics().offered
        deadline = time.monotonic() + timeout_s
        with self._progress:
            while self._handled + self._subscription.statistics().dropped_by_queue < goal:
                left = deadline - time.monotonic()
                if left <= 0 or not self._thread.is_alive():
                    return False
                self._progress.wait(min(left, 0.5))
        return True

    def close(self, timeout_s: float) -> None:
        """Hand over what is queued, then end the thread; a handler that is stuck is left behind after `timeout_s`."""
        self._subscription.end()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        for tagged in self._subscription:
            try:
                _hand_over(tagged)
            except BaseException:
                # `logging` reports handler errors itself; a filter or a handler that raises all the same must not
                # end the thread, not even by SystemExit.
                report_defect()
            with self._progress:
                self._handled += 1
                self._progress.notify_all()


def _name_of_level(level: int) -> str:
    name = logging.getLevelName(level)
    return "TRACE" if level == TRACE and name == f"Level {TRACE}" else str(name)


def _hand_over(tagged: TaggedRecord) -> None:
    record, peer = tagged.record, tagged.peer
    if not isinstance(record, (Event, Lost, Dropped)):
        return
    logger = logging.getLogger(None if record.target == "root" else record.target)
    if not logger.isEnabledFor(record.level):
        return
    # r[impl trace.logging.once]
    if record.flags & PRINTED and not logger.hasHandlers():
        # The last resort of `logging` would print on standard error what the cell has printed there.
        return
    seconds = record.time_ns / 1e9
    entry = logging.makeLogRecord(
        {
            "name": record.target,
            "levelno": record.level,
            "levelname": _name_of_level(record.level),
            "msg": record.message,
            "args": None,
            "created": seconds,
            "msecs": record.time_ns // 1_000_000 % 1000,
            "process": peer.pid,
            "processName": peer.name,
            "thread": record.thread or 0,
            "threadName": f"Thread-{record.thread:#x}" if record.thread is not None else "",
            "exc_text": record.exception.traceback.rstrip("\n") if record.exception is not None else None,
            "roam_peer": peer,
        }
    )
    for key, value in record.fields.items():
        if key not in _RESERVED and key != "roam_peer":
            entry.__dict__[key] = value
    logger.handle(entry)
