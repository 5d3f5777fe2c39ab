"""How long it takes from the call to the first record at the host, against bare `multiprocess`.

Each side is a program of its own that imports what it needs and no more, because a spawned child imports its parent's
`__main__` again.
"""

from __future__ import annotations

import compileall
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import roam

from .table import Measured, Pairs, interleave, median_ratio, medians, time_ns

__all__ = ["start"]

REPETITIONS = 4
"""Starts in each run of a program; one more comes first, to warm the fork server."""

BY_MULTIPROCESS = """
import sys, time
import multiprocess

def hello(pipe):
    pipe.send_bytes(b"hello")

if __name__ == "__main__":
    context = multiprocess.get_context(sys.argv[1])
    for _ in range(int(sys.argv[2]) + 1):
        begin = time.perf_counter_ns()
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=hello, args=(there,))
        child.start()
        here.recv_bytes()
        print(time.perf_counter_ns() - begin)
        child.join()
"""

BY_ROAM = """
import sys, time
import roam

def hello():
    roam.info("hello")

if __name__ == "__main__":
    with roam.TracingHost() as host, host.subscribe("info") as records:
        for _ in range(int(sys.argv[2]) + 1):
            begin = time.perf_counter_ns()
            cell = roam.spawn_cell(hello, host=host, start_method=sys.argv[1])
            next(records)
            print(time.perf_counter_ns() - begin)
            cell.join()
"""


def run(program: str, method: str) -> float:
    """The median time of one run of a program, in nanoseconds."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(program)
        script.flush()
        path = os.pathsep.join([str(Path(roam.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, script.name, method, str(REPETITIONS)],
            env=os.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            check=True,
            timeout=120,
        )
    times = sorted(int(line) for line in done.stdout.split()[1:])
    return float(times[len(times) // 2])


def start(rounds: int, scale: float, *, method: str, limit: float | None) -> Measured:  # noqa: ARG001
    """One start method, against bare `multiprocess`."""
    # Both sides from compiled files, as an installed package has them.
    compileall.compile_dir(str(Path(roam.__file__).parent), quiet=1)
    anchor, ours = functools.partial(run, BY_MULTIPROCESS, method), functools.partial(run, BY_ROAM, method)
    pairs: Pairs = interleave(rounds, anchor, ours)
    ratio = median_ratio(pairs)
    texts = [time_ns(figure) for figure in medians(pairs)]
    return Measured(anchor=texts[0], roam=texts[1], ratio=ratio, reached=None if limit is None else ratio <= limit)
