"""Measure everything and print one table: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import functools
import os
import platform
import sys
import tempfile
import time

__all__ = ["main"]


def rows() -> tuple:
    """Every row of the table, in its order."""
    from . import cost, death, delivery, idle, loops, overload, stall, start
    from .table import Row

    return (
        Row("emit", "event with 3 fields, against QueueHandler", "≤ 1/5 (aim 1/8)", cost.emit),
        Row("span", "span with 2 fields, against a QueueHandler event", "≤ 1/2", cost.span),
        Row(
            "filtered",
            "tracer.debug below the level, against log.debug",
            "≤ 1.2",
            functools.partial(cost.filtered, loop=loops.debug_by_tracer),
        ),
        Row(
            "filtered-module",
            "roam.debug below the level, against log.debug",
            "≤ 1.2",
            functools.partial(cost.filtered, loop=loops.debug_by_roam),
        ),
        Row("delivery", "decoded at a subscriber, against os.write + msgspec", "≥ 0.5", delivery.delivery),
        Row("stall", "emit at 5,000/s, host stopped 1 s, against a pipe", "p99.9 < 2 ms, 0 lost", stall.stall),
        *(
            Row(
                f"overload-{policy}",
                f"emit under ten times overload, {policy}, against idle",
                "≤ 2",
                functools.partial(overload.overload, policy=policy),
            )
            for policy in overload.POLICIES
        ),
        Row("lost", "lost after SIGKILL, against QueueHandler", "0", death.lost),
        Row("spans", "open spans known after SIGKILL", "all", death.open_spans),
        Row("fork", "fork to first record", "reported", functools.partial(start.start, method="fork", limit=None)),
        Row(
            "forkserver",
            "forkserver to first record",
            "≤ 1.0",
            functools.partial(start.start, method="forkserver", limit=1.0),
        ),
        Row(
            "spawn",
            "spawn to first record",
            "≤ 1.1 (aim 0.5)",
            functools.partial(start.start, method="spawn", limit=1.1),
        ),
        Row("idle", "host with 100 idle cells", "< 1 % of a core", idle.idle),
    )


def main() -> int:
    """Measure what was asked for. Exit code 1 where a row could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What roam costs, as ratios, in one run.")
    parser.add_argument("keys", nargs="*", metavar="row", help="only these rows: emit span filtered delivery stall …")
    parser.add_argument("--rounds", type=int, default=5, help="how often each pair is measured (default: 5)")
    parser.add_argument("--quick", action="store_true", help="one round with a tenth of the counts")
    options = parser.parse_args()
    rounds, scale = (1, 0.1) if options.quick else (options.rounds, 1.0)

    with tempfile.TemporaryDirectory(prefix="roam-benchmarks-", dir="/dev/shm") as directory:
        os.environ["ROAM_DIR"] = directory
        from .table import Measured, markdown

        known = rows()
        wrong = set(options.keys) - {row.key for row in known}
        if wrong:
            parser.error(f"no such row: {' '.join(sorted(wrong))}; there are {' '.join(row.key for row in known)}")
        lines, failed = [], False
        for row in known:
            if options.keys and row.key not in options.keys:
                continue
            begin = time.monotonic()
            try:
                measured = row.measure(rounds, scale)
            except Exception as error:
                measured = Measured(anchor="", roam=f"{type(error).__name__}: {error}"[:80], ratio=None, reached=False)
                failed = True
            print(f"{row.key}: {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)
            lines.append((row, measured))
        print(f"CPython {platform.python_version()}, {os.cpu_count()} cores, {rounds} rounds, medians\n")
        print(markdown(lines))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
