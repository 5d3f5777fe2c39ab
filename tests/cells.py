"""What the cells of the acceptance tests run. It imports little: every cell of the fork server imports it anew."""

from __future__ import annotations

import logging
import os
import resource
import signal
import threading
import time

import roam

HUGE = 100 << 20
HUGE_MESSAGES = {
    "message": lambda: ("x" * HUGE, {}),
    "wide message": lambda: ("ü" * HUGE, {}),
    "text": lambda: ("large", {"data": "x" * HUGE}),
    "bytes": lambda: ("large", {"data": bytes(HUGE)}),
    "list": lambda: ("large", {"data": [0] * (HUGE // 8)}),
}


def flood_with_details(count):
    roam.error("the one error", number=1)
    for number in range(count):
        roam.debug("detail", number=number)
    os.kill(os.getpid(), signal.SIGKILL)


def flood_with_warnings(count):
    try:
        int("no number")
    except ValueError:
        roam.error("the handled exception", exc_info=True)
    thread = threading.Thread(target=int, args=("no number either",))
    thread.start()
    thread.join()
    for number in range(count):
        roam.warning("look out", number=number)
    os.kill(os.getpid(), signal.SIGKILL)


def emit_on_request(connection, count):
    roam.info("warm", number=-1, size=0.5, name="x")
    while connection.recv():
        for number in range(count):
            roam.info("record", number=number, size=0.5, name="x")
        connection.send(len(os.listdir("/proc/self/task")))


def log_once(number):
    logging.getLogger("app").info("it is %d", number)
    os._exit(0)


def emit_huge(what):
    roam.info("warm", data="x" * 100_000)
    message, fields = HUGE_MESSAGES[what]()
    before = peak_bytes()
    roam.info(message, **fields)
    return peak_bytes() - before


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def emit_many(count):
    for number in range(count):
        if number % 1_000:
            roam.info("record", number=number, size=0.5)
        else:
            roam.warning("record", number=number, size=0.5)


def add(a, b):
    return a + b


def die_in_span():
    with roam.span("job", path="a.py"):
        for number in range(2_000):
            roam.info("still here", number=number)
        os.kill(os.getpid(), signal.SIGKILL)


def wait_in_span():
    for number in range(2_000):
        roam.info("still here", number=number)
    with roam.span("job", path="a.py"):
        time.sleep(600)


def ruin_own_segment(how):
    with roam.span("job"):
        for number in range(2_000):
            roam.info("still here", number=number)
        with open("/proc/self/maps") as maps:
            path = next(line.split()[-1] for line in maps if line.rstrip().endswith(".segment"))
        if how == "truncate":
            os.truncate(path, 5_000)
        else:
            with open(path, "r+b", buffering=0) as file:
                file.seek(512 if how == "words" else 0)
                file.write(os.urandom(768 if how == "words" else os.path.getsize(path)))
        os.kill(os.getpid(), signal.SIGKILL)
