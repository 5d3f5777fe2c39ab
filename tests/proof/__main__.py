"""The table of evidence: `python -m tests.proof`, or the goals by name."""

from __future__ import annotations

import argparse
import os
import platform
import secrets
import sys
import textwrap
import time
from pathlib import Path

from tests.session import end_session  # before anything imports roam

from .goals import GOALS
from .run import Verdict, replay, run_goal

WIDTHS = (14, 26, 8, 8, 12)


def line(*cells: str) -> str:
    first, *others = (text.ljust(width) for text, width in zip(cells, WIDTHS, strict=True))
    return "  ".join((first, *others)).rstrip()


def print_verdict(verdict: Verdict) -> None:
    """A line for the goal, and under it what was seen."""
    goal, count = verdict.goal, verdict.tally.counts[verdict.goal.unit]
    how_many = f"{count:,} {goal.unit}" if verdict.skipped is None else "-"
    print(line(goal.name, how_many, verdict.result, f"{verdict.seconds:.1f}", str(verdict.seed)))
    if verdict.skipped is not None:
        below = [verdict.skipped]
    elif verdict.failure is None:
        below = [goal.promise, goal.figures(verdict.tally)]
    else:
        below = [*verdict.failure.problem.splitlines(), f"again: python -m tests.proof --replay {verdict.replay_file}"]
    for text in below:
        print(textwrap.fill(text, 118, initial_indent="    ", subsequent_indent="      "), flush=True)


def run(options: argparse.Namespace) -> int:
    """Run the goals one after the other. Returns 1 if one failed."""
    kernel = platform.release().partition("-")[0]
    print(f"CPython {platform.python_version()}, {platform.system()} {kernel} on {platform.machine()}, ", end="")
    print(f"{len(os.sched_getaffinity(0))} cores: python -m tests.proof {' '.join(sys.argv[1:])}".rstrip())
    print(line("goal", "count", "result", "seconds", "seed"), flush=True)
    started = time.monotonic()
    verdicts = []
    for name in options.goal or GOALS:
        verdict = run_goal(GOALS[name], small=options.small, seed=options.seed, evidence=options.evidence)
        print_verdict(verdict)
        verdicts.append(verdict)
    by_result = {word: sum(verdict.result == word for verdict in verdicts) for word in ("green", "FAILED", "skipped")}
    print(", ".join(f"{count} {word}" for word, count in by_result.items()), f"in {time.monotonic() - started:.0f} s")
    return 1 if by_result["FAILED"] else 0


def main() -> int:
    """Print the table, or try again what a replay file holds. Returns 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    parser.add_argument("goal", nargs="*", choices=[[], *GOALS], help=f"only these, of {', '.join(GOALS)}")
    parser.add_argument("--small", action="store_true", help="the form that the default test run has")
    seed = int(os.environ.get("ROAM_SEED") or secrets.randbelow(10**6))
    parser.add_argument(
        "--seed", type=int, default=seed, help="another run of the same cases; else $ROAM_SEED, else random"
    )
    parser.add_argument("--evidence", type=Path, default=Path(".proof"), help="where replay files go (.proof)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="try one failed case again")
    options = parser.parse_args()
    try:
        if options.replay is None:
            return run(options)
        try:
            problem = replay(GOALS, options.replay)
        except (OSError, ValueError, KeyError) as error:
            parser.error(f"{options.replay} is no replay file: {error!r}")
        print(problem or "it holds now")
        return 1 if problem else 0
    finally:
        end_session()


if __name__ == "__main__":
    sys.exit(main())
