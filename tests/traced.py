"""What real cells run in the tests of tracing. It imports little: a cell imports it anew."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import roam

WAIT_S = 30.0

tracer = roam.get_tracer("app")


def wait_for(path: str, ready: str | None = None) -> None:
    """Until the test makes a file; `ready` is made at the beginning."""
    if ready is not None:
        Path(ready).touch()
    deadline = time.monotonic() + WAIT_S
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.001)


def chatter(stop: str) -> int:
    """Alternate DEBUG and INFO until the test makes a file; returns the number of rounds."""
    number = 0
    deadline = time.monotonic() + WAIT_S
    while not (number % 50 == 0 and Path(stop).exists()) and time.monotonic() < deadline:
        tracer.debug("detail", n=number)
        tracer.info("round", n=number)
        with tracer.span("piece", n=number):
            pass
        number += 1
    return number


def emit(count: int, level: int = logging.INFO, target: str = "app") -> None:
    """Numbered records."""
    tracer = roam.get_tracer(target)
    for number in range(count):
        tracer.event(level, "numbered", n=number)


def follow(script: str, done: str) -> None:
    """Run lines as they are written into a file by the test, answering each by a file of its number."""
    ran = 0
    deadline = time.monotonic() + WAIT_S
    while not Path(done).exists() and time.monotonic() < deadline:
        lines = Path(script).read_text().splitlines()
        for line in lines[ran:]:
            exec(line, {"__name__": "tests.traced", "roam": roam, "logging": logging})
            ran += 1
            Path(f"{script}.{ran}").touch()
        time.sleep(0.001)


def send_numbers(tx: object, count: int, timeout: float) -> int:
    """Send numbers, then end the stream; returns how many were taken."""
    taken = sum(tx.send(number, timeout) for number in range(count))  # type: ignore[attr-defined]
    tx.close()  # type: ignore[attr-defined]
    return taken


def send_and_die(tx: object, count: int) -> None:
    """Send numbers, then be gone without a word."""
    for number in range(count):
        assert tx.send(number, 5.0)  # type: ignore[attr-defined]
    os._exit(0)


def receive_all(rx: object) -> list[int]:
    """Everything up to the end of a stream."""
    return list(rx)  # type: ignore[call-overload]


def fork_and_print(write: Callable[[], None] | None = None) -> int:
    """A forked child of the cell logs to its own stderr, and traces nothing."""
    with roam.span("outer"):
        pid = os.fork()
        if pid == 0:
            roam.info("never seen")
            logging.getLogger("child").warning("from the fork")
            if write is not None:
                write()
            # Leaves the span, as a child does that unwinds.
            return -1
        os.waitpid(pid, 0)
        roam.info("after the fork")
    return pid


def encode_number(number: int) -> bytes:
    """For streams."""
    return str(number).encode()


def decode_number(data: bytes) -> int:
    """For streams."""
    return int(data)


def log_in_requests(users: list[int]) -> None:
    """One line of plain `logging` at DEBUG inside of a span for each user, and one outside."""
    log = logging.getLogger("lib")
    for user in users:
        with roam.span("request", user=user):
            log.debug("of %s", user)
    log.debug("of nobody")


def work_in_cells(method: str, depth: int) -> list[tuple[str, str]]:
    """One span, in it one event and, below `depth`, a cell of the same kind: parent and trace of that cell's span."""
    with tracer.span("work"):
        tracer.info("working")
        if not depth:
            return []
        with roam.TracingHost(forward=False) as host:
            cell = roam.spawn_cell(work_in_cells, method, depth - 1, host=host, start_method=method)
            cell.result(WAIT_S)
            return [(r.parent_id.hex(), r.trace_id.hex()) for r in cell.records() if r.kind == "span_enter"]


def serve(header: str, number: int, fails: bool, wait: str) -> None:
    """A part of one request: details inside of a span, and one outside; some fail. Then wait to be let go."""
    with roam.propagate.continued(header):
        try:
            with tracer.span("part", number=number):
                for step in range(3):
                    tracer.debug("detail", number=number, step=step)
                if fails:
                    raise ValueError(number)
        except ValueError:
            pass
    tracer.debug("elsewhere", number=number)
    if wait:
        wait_for(wait)


def serve_all(headers: list[str], failing: int) -> None:
    """A part of each of many requests, of which one fails in this cell, if any."""
    for number, header in enumerate(headers):
        serve(header, number, number == failing, "")


def tick(count: int, end: str) -> int:
    """Numbered records of a target that is sampled, each tenth a warning, and the way to end after them."""
    ticking = roam.get_tracer("app.tick")
    for number in range(count):
        (ticking.info if number % 10 else ticking.warning)("tick", number=number)
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return count


def chatter_in_threads(stop: str, threads: int, is_stuck: bool) -> int:
    """Threads that say DEBUG without a pause, and INFO now and then; the main thread takes part, or sits in a C call."""
    rounds = [0] * (threads + 1)

    def chat(index: int) -> None:
        while not Path(stop).exists():
            for _ in range(100):
                tracer.debug("detail", index=index)
                roam.debug("detail", index=index)
            tracer.info("alive", index=index)
            rounds[index] += 1

    workers = [threading.Thread(target=chat, args=(index,)) for index in range(1, threads + 1)]
    for worker in workers:
        worker.start()
    if is_stuck:
        # In C, without running a bytecode, until the others are done.
        for worker in workers:
            worker.join()
    else:
        chat(0)
        for worker in workers:
            worker.join()
    return sum(rounds)
