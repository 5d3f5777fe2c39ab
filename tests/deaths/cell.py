"""The target of every cell of the corpus: it writes its records inside open spans, then dies as it is told to."""

from __future__ import annotations

import importlib
import resource
import signal
import time

import roam

__all__ = ["CORPUS", "LAST_WORDS", "RECORD_COUNT", "die"]

CORPUS = "tests.deaths.corpus"
RECORD_COUNT = 1_000
LAST_WORDS = "last words"
"""The message of the record that is written last before the end."""


def die(death: str, *arguments: object) -> object:
    """Write `RECORD_COUNT` numbered records, every tenth of them a warning and so in another lane, and die."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # writing one takes longer than all the rest
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and their cells, ignore it
    plant = importlib.import_module(f"{CORPUS}.{death}").plant
    with roam.span("job", death=death), roam.span("step", number=7):
        for number in range(RECORD_COUNT):
            (roam.info if number % 10 else roam.warning)("record", number=number)
        roam.info(LAST_WORDS, monotonic_ns=time.monotonic_ns())
        return plant(*arguments)
