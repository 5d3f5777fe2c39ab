"""What runs in the measured child processes: the same event, written by roam, by `logging` and by hand.

The event is INFO, "request handled", with an int, a str and a float. Loops are written out, and an empty loop is
subtracted, so that a figure is that of one call.
"""

from __future__ import annotations

import gc
import logging
import logging.handlers
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

import roam

__all__ = [
    "CHUNK",
    "LAST",
    "WireEvent",
    "debug_by_logging",
    "debug_by_roam",
    "debug_by_tracer",
    "die_after_burst_by_logging",
    "die_after_burst_by_roam",
    "die_in_spans",
    "emit_by_logging",
    "emit_by_roam",
    "emit_for_delivery_by_pipe",
    "emit_for_delivery_by_roam",
    "emit_under_pressure",
    "idle",
    "pace_by_pipe",
    "pace_by_roam",
    "span_by_roam",
    "stopped",
]

WARM_UP_COUNT = 2_000
CHUNK = 100
"""So many emits are timed together, where a figure is not for a whole loop."""
LAST = "the last one"
PATH = "/api/v1/items"


class WireEvent(msgspec.Struct, array_like=True):
    """What the hand-rolled pipe carries: as much as an event of roam says, without ids."""

    time_ns: int
    level: int
    target: str
    message: str
    fields: dict[str, Any]


def per_call_ns(loop: Callable[[int], None], count: int) -> float:
    """Nanoseconds for one pass of `loop`, after a warm-up, without what the loop itself costs."""
    loop(WARM_UP_COUNT)
    gc.collect()
    start = time.perf_counter_ns()
    loop(count)
    middle = time.perf_counter_ns()
    for _ in range(count):
        pass
    end = time.perf_counter_ns()
    return ((middle - start) - (end - middle)) / count


def queue_logger(queue: Any) -> logging.Logger:
    """A logger as the cookbook of the standard library sets it up for several processes."""
    log = logging.getLogger("benchmarks.worker")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers = [logging.handlers.QueueHandler(queue)]
    return log


def emit_by_logging(queue: Any, answer: Any, count: int) -> None:
    """Answer with the cost of `log.info` into a `multiprocessing.Queue`."""
    log = queue_logger(queue)

    def loop(count: int) -> None:
        for i in range(count):
            log.info("request handled", extra={"user_id": i, "path": PATH, "elapsed": 0.25})

    answer.send(per_call_ns(loop, count))
    log.info(LAST)


def emit_by_roam(count: int) -> float:
    """The cost of `roam.info`."""

    def loop(count: int) -> None:
        for i in range(count):
            roam.info("request handled", user_id=i, path=PATH, elapsed=0.25)

    return per_call_ns(loop, count)


def span_by_roam(count: int) -> float:
    """The cost of a span with two fields, opened and closed."""

    def loop(count: int) -> None:
        for i in range(count):
            with roam.span("handle", user_id=i, path=PATH):
                pass

    return per_call_ns(loop, count)


def debug_by_logging(answer: Any, count: int) -> None:
    """Answer with the cost of `log.debug` that is switched off."""
    log = logging.getLogger("benchmarks.worker")
    log.setLevel(logging.INFO)

    def loop(count: int) -> None:
        for i in range(count):
            log.debug("request handled", extra={"user_id": i, "path": PATH, "elapsed": 0.25})

    answer.send(per_call_ns(loop, count))


def debug_by_tracer(count: int) -> float:
    """The cost of a call that the filter refuses, by a tracer that is bound to its target as a logger is."""
    tracer = roam.get_tracer("benchmarks.worker")

    def loop(count: int) -> None:
        for i in range(count):
            tracer.debug("request handled", user_id=i, path=PATH, elapsed=0.25)

    return per_call_ns(loop, count)


def debug_by_roam(count: int) -> float:
    """The cost of `roam.debug` that the filter refuses, and that looks its caller's module up each time."""

    def loop(count: int) -> None:
        for i in range(count):
            roam.debug("request handled", user_id=i, path=PATH, elapsed=0.25)

    return per_call_ns(loop, count)


def pipe_writer(fd: int) -> Callable[[int, str], None]:
    """A function that writes one event into a pipe: msgspec behind a length, one system call each."""
    encode = msgspec.msgpack.Encoder().encode

    def emit(i: int, message: str) -> None:
        body = encode(
            WireEvent(time.time_ns(), 20, "benchmarks.worker", message, {"user_id": i, "path": PATH, "elapsed": 0.25})
        )
        frame = len(body).to_bytes(4, "little") + body
        written = os.write(fd, frame)
        while written < len(frame):
            written += os.write(fd, frame[written:])

    return emit


def emit_for_delivery_by_pipe(pipe: Any, answer: Any, count: int) -> None:
    """Write `count` events and the last one into a pipe; answer with the time of the first."""
    emit = pipe_writer(pipe.fileno())
    answer.send(time.monotonic_ns())
    for i in range(count):
        emit(i, "request handled")
    emit(count, LAST)


def emit_for_delivery_by_roam(count: int) -> int:
    """Emit `count` events and the last one; return the time of the first."""
    start = time.monotonic_ns()
    for i in range(count):
        roam.info("request handled", user_id=i, path=PATH, elapsed=0.25)
    roam.info(LAST)
    return start


def pace(emit: Callable[[int], None], count: int, per_second: int) -> list[int]:
    """Call `emit` at an even pace, and return how long each call took, in nanoseconds."""
    took = []
    period_ns = 1_000_000_000 // per_second
    due = time.monotonic_ns()
    for i in range(count):
        due += period_ns
        while (wait_ns := due - time.monotonic_ns()) > 0:
            time.sleep(wait_ns / 1e9)
        start = time.perf_counter_ns()
        emit(i)
        took.append(time.perf_counter_ns() - start)
    return took


def pace_by_pipe(pipe: Any, answer: Any, count: int, per_second: int) -> None:
    """Answer with the latencies of paced writes into a pipe."""
    emit = pipe_writer(pipe.fileno())
    answer.send(pace(lambda i: emit(i, "request handled"), count, per_second))
    emit(count, LAST)


def pace_by_roam(count: int, per_second: int) -> list[int]:
    """The latencies of paced calls of `roam.info`."""
    took = pace(lambda i: roam.info("request handled", user_id=i, path=PATH, elapsed=0.25), count, per_second)
    roam.info(LAST)
    return took


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process stands still meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.001)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def emit_in_chunks(count: int) -> list[int]:
    """Emit `count` events; returns how many nanoseconds each `CHUNK` of them took."""
    took = []
    for _ in range(count // CHUNK):
        start = time.perf_counter_ns()
        for i in range(CHUNK):
            roam.info("request handled", user_id=i, path=PATH, elapsed=0.25)
        took.append(time.perf_counter_ns() - start)
    return took


def emit_under_pressure(requests: Any, host_pid: int) -> int:
    """Answer each request, which is for so many events, with what they took while the host stands still. Returns how
    many there were."""
    attempted = 0
    gc.collect()
    while count := requests.recv():
        with stopped(host_pid):
            took = emit_in_chunks(count)
        attempted += count
        requests.send(took)
    return attempted


def die_after_burst_by_logging(queue: Any, count: int) -> None:
    """A burst into the queue, then SIGKILL."""
    log = queue_logger(queue)
    for i in range(count):
        log.info("request handled", extra={"user_id": i, "path": PATH, "elapsed": 0.25})
    os.kill(os.getpid(), signal.SIGKILL)


def die_after_burst_by_roam(count: int) -> None:
    """A burst, then SIGKILL."""
    for i in range(count):
        roam.info("request handled", user_id=i, path=PATH, elapsed=0.25)
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_spans(depth: int) -> None:
    """SIGKILL inside `depth` spans."""
    if not depth:
        os.kill(os.getpid(), signal.SIGKILL)
    with roam.span(f"level {depth}", depth=depth):
        die_in_spans(depth - 1)


def idle() -> None:
    """Do nothing until somebody ends it."""
    signal.pause()
