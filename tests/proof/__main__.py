"""The table of evidence: `python -m tests.proof`, or the goals by name."""

from __future__ import annotations

import argparse
import os
import platform
import secrets
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from tests.session import end_session  # before anything imports roam

from .goals import GOALS
from .run import NoReplay, Verdict, replay, run_goal

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
        below = [goal.promise, verdict.figures]
    else:
        below = verdict.failure.brief.splitlines()
        if verdict.replay_file is not None:
            below.append(f"again: python -m tests.proof --replay {verdict.replay_file}")
    for text in below:
        print(textwrap.fill(text, 118, initial_indent="    ", subsequent_indent="      "), flush=True)


def run(options: argparse.Namespace) -> int:
    """Run the goals one after the other. Returns 1 if one failed, 130 after an interrupt."""
    kernel = platform.release().partition("-")[0]
    print(f"CPython {platform.python_version()}, {platform.system()} {kernel} on {platform.machine()}, ", end="")
    print(f"{len(os.sched_getaffinity(0))} cores: python -m tests.proof {' '.join(sys.argv[1:])}".rstrip())
    print(line("goal", "count", "result", "seconds", "seed"), flush=True)
    started = time.monotonic()
    verdicts: list[Verdict] = []
    names = options.goal or list(GOALS)
    try:
        for name in names:
            verdict = run_goal(GOALS[name], small=options.small, seed=options.seed, evidence=options.evidence)
            verdicts.append(verdict)
            print_verdict(verdict)
    except KeyboardInterrupt:
        print(f"interrupted in {names[min(len(verdicts), len(names) - 1)]}")
        return 130
    finally:
        print_summary(verdicts, time.monotonic() - started)
    return 1 if any(verdict.result == "FAILED" for verdict in verdicts) else 0


def print_summary(verdicts: list[Verdict], seconds: float) -> None:
    """The last line, and one for what it leaves out."""
    by_result = {word: sum(verdict.result == word for verdict in verdicts) for word in ("green", "FAILED", "skipped")}
    print(", ".join(f"{count} {word}" for word, count in by_result.items()), f"in {seconds:.0f} s")
    skipped = [verdict.goal.name for verdict in verdicts if verdict.result == "skipped"]
    if skipped:
        print(f"not proved on this Python: what {', '.join(skipped)} would promise", flush=True)


def known_goal(text: str) -> str:
    """The name of a goal."""
    if text not in GOALS:
        raise argparse.ArgumentTypeError(f"there is no goal {text!r}; there are {', '.join(GOALS)}")
    return text


def whole_number(text: str) -> int:
    """A seed, of the command line or the environment."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a seed, from here or $ROAM_SEED, is a whole number, not {text!r}")
    return int(text)


def usable_directory(text: str) -> Path:
    """A directory that replay files can be written to, now rather than after an hour; it is made with the first."""
    path = Path(text)
    try:
        existing = next(place for place in (path, *path.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=existing):
            return path
    except OSError as error:
        raise argparse.ArgumentTypeError(f"replay files cannot be written there: {error}") from error


def new_parser() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    parser.add_argument("goal", nargs="*", type=known_goal, help=f"only these, of {', '.join(GOALS)}")
    parser.add_argument("--small", action="store_true", help="the form that the default test run has")
    parser.add_argument(
        "--seed",
        type=whole_number,
        default=os.environ.get("ROAM_SEED") or str(secrets.randbelow(10**6)),
        help="another run of the same cases; else $ROAM_SEED, else random",
    )
    parser.add_argument("--evidence", type=usable_directory, default=".proof", help="where replay files go (.proof)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="try one failed case again")
    return parser


def main() -> int:
    """Print the table, or try again what a replay file holds. Returns 1 if anything failed."""
    try:
        parser = new_parser()
        options = parser.parse_args()
        if options.replay is None:
            return run(options)
        try:
            problem = replay(GOALS, options.replay)
        except NoReplay as error:
            parser.error(f"{options.replay} cannot be tried again: {error}")
        print(problem or "it holds now")
        return 1 if problem else 0
    finally:
        end_session()


if __name__ == "__main__":
    sys.exit(main())
