"""Running goals: in this process or shared among several, under a watchdog, with a replay file for what fails."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import multiprocessing
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.session import RUN_ROOT
from tests.support import Inventory

from .goal import Broken, Case, Goal, Tally, UnknownCase

__all__ = ["Failure", "NoReplay", "Verdict", "replay", "run_goal"]

PATIENCE_S = 900.0
"""How long a goal, or one shard of it, may take before its stacks are printed and the process ends."""
LEAK_PATIENCE_S = 10.0
REPLAY_ATTEMPTS = 300
REPLAY_PATIENCE_S = 120.0
BRIEF = 2_000
"""So many characters of a problem are shown; the replay file has all."""


class NoReplay(Exception):
    """A file holds nothing that can be tried again."""


@dataclass(frozen=True)
class Failure:
    """A case that did not hold, what went wrong, and where. The case is empty where only the whole run says more."""

    problem: str
    case: Case
    details: str = ""

    @property
    def brief(self) -> str:
        """As much of the problem as a reader wants to scroll through."""
        if len(self.problem) <= BRIEF:
            return self.problem
        return f"{self.problem[:BRIEF]}… ({len(self.problem):,} characters in all)"


@dataclass
class Verdict:
    """What became of a goal."""

    goal: Goal
    seed: int
    tally: Tally = field(default_factory=Tally)
    failure: Failure | None = None
    figures: str = ""
    skipped: str | None = None
    seconds: float = 0.0
    replay_file: Path | None = None

    @property
    def result(self) -> str:
        """One word for the table."""
        if self.skipped is not None:
            return "skipped"
        return "FAILED" if self.failure is not None else "green"


def run_goal(goal: Goal, *, small: bool, seed: int, evidence: Path | None) -> Verdict:
    """Run every case of a goal up to the first that fails; a failure leaves a replay file in `evidence`, if given.

    What is left behind afterwards, be it a process, a thread, a descriptor or a file, is a failure, too, and so is a
    defect of the goal itself.
    """
    verdict = Verdict(goal, seed, skipped=goal.why_not())
    if verdict.skipped is not None:
        return verdict
    started = time.monotonic()
    before = Inventory.take(RUN_ROOT)
    try:
        for tally, failure in _run_shards(goal, small, seed):
            verdict.tally.add(tally)
            verdict.failure = verdict.failure or failure
        if verdict.failure is None:
            verdict.failure = _failure_of_the_whole(goal, verdict.tally, before, small)
            verdict.figures = goal.figures(verdict.tally) if verdict.failure is None else ""
    except Exception as error:
        # Whatever it is, the other goals have their turn.
        verdict.failure = _failure_of(error, {})
    verdict.seconds = time.monotonic() - started
    if verdict.failure is not None and evidence is not None:
        try:
            verdict.replay_file = _write_replay(verdict, small, evidence)
        except OSError as error:
            problem = f"{verdict.failure.problem}\nno replay file: {error}"
            verdict.failure = replace(verdict.failure, problem=problem)
    return verdict


def _run_shards(goal: Goal, small: bool, seed: int) -> list[tuple[Tally, Failure | None]]:
    shards = 1 if small else goal.shards
    if shards == 1:
        return [_run_shard(goal, small, seed, 0, 1)]
    # Not forked: the parent's threads, and what its modules hold, are none of the shard's business.
    with ProcessPoolExecutor(shards, multiprocessing.get_context("spawn")) as pool:
        parts = [pool.submit(_run_shard, goal, small, seed, index, shards) for index in range(shards)]
        try:
            return [part.result() for part in parts]
        except BaseException:
            # An interrupt, or one of them was killed: the others need not go on to their ends.
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _run_shard(goal: Goal, small: bool, seed: int, index: int, shards: int) -> tuple[Tally, Failure | None]:
    tally = Tally()
    with _watchdog():
        for number, case in enumerate(goal.cases(small=small, seed=seed)):
            if number % shards == index and (failure := _try(goal, case, tally)) is not None:
                return tally, failure
    return tally, None


def _try(goal: Goal, case: Case, tally: Tally) -> Failure | None:
    try:
        goal.check(case, tally)
    except UnknownCase:
        raise
    except Exception as error:
        return _failure_of(error, case | (error.evidence if isinstance(error, Broken) else {}))
    return None


def _failure_of(error: Exception, case: Case) -> Failure:
    problem = str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}"
    return Failure(problem, case, "".join(traceback.format_exception(error)))


def _failure_of_the_whole(goal: Goal, tally: Tally, before: Inventory, small: bool) -> Failure | None:
    idle = [name for name in (goal.unit, *goal.covers) if tally.counts[name] <= 0]
    if idle:
        return Failure(f"never happened in the whole run: {', '.join(idle)}", {})
    try:
        goal.conclude(tally, small=small)
    except AssertionError as error:
        return Failure(str(error), {}, traceback.format_exc())
    after, news = before.wait_for_no_news(RUN_ROOT, LEAK_PATIENCE_S)
    after.kill_news_since(before)
    return Failure("left behind: " + "; ".join(news), {}) if news else None


@contextlib.contextmanager
def _watchdog() -> Iterator[None]:
    """End the process, with the stacks of all threads, when its time is up. Under pytest that is pytest's business."""
    if "PYTEST_CURRENT_TEST" in os.environ:
        yield
        return
    faulthandler.dump_traceback_later(PATIENCE_S, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _write_replay(verdict: Verdict, small: bool, evidence: Path) -> Path:
    assert verdict.failure is not None
    evidence.mkdir(parents=True, exist_ok=True)
    path = evidence / f"{verdict.goal.name}-{verdict.seed}.json"
    content = {
        "goal": verdict.goal.name,
        "seed": verdict.seed,
        "small": small,
        "python": platform.python_version(),
        "case": verdict.failure.case,
        "problem": verdict.failure.problem,
        "details": verdict.failure.details,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def replay(goals: dict[str, Goal], path: Path) -> str | None:
    """Try the case of a replay file again, or the whole run in the form that failed; nothing is written. Returns the
    problem, or None if it does not show any more. Raises `NoReplay`.

    A case that the scheduler has a say in is tried until it fails, up to a limit.
    """
    content = _read_replay(path)
    if content["goal"] not in goals:
        raise NoReplay(f"there is no goal {content['goal']!r}")
    goal, case = goals[content["goal"]], content["case"]
    if (why_not := goal.why_not()) is not None:
        raise NoReplay(why_not)
    if not case:
        verdict = run_goal(goal, small=content.get("small", False), seed=content["seed"], evidence=None)
        return verdict.failure.brief if verdict.failure is not None else None
    deadline = time.monotonic() + REPLAY_PATIENCE_S
    for _ in range(1 if goal.is_exact else REPLAY_ATTEMPTS):
        try:
            failure = _try(goal, case, Tally())
        except UnknownCase as error:
            raise NoReplay(str(error)) from error
        if failure is not None:
            return failure.brief
        if time.monotonic() > deadline:
            break
    return None


def _read_replay(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise NoReplay(f"{type(error).__name__}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("case"), dict):
        raise NoReplay("it holds no case")
    if not isinstance(content.get("goal"), str) or not isinstance(content.get("seed"), int):
        raise NoReplay("it says neither goal nor seed")
    return content
