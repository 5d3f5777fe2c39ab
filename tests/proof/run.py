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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.session import RUN_ROOT
from tests.support import Inventory

from .goal import Broken, Case, Goal, Tally

__all__ = ["Failure", "Verdict", "replay", "run_goal"]

PATIENCE_S = 900.0
"""How long a goal, or one shard of it, may take before its stacks are printed and the process ends."""
LEAK_PATIENCE_S = 10.0
REPLAY_ATTEMPTS = 300
REPLAY_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Failure:
    """A case that did not hold, what went wrong, and where."""

    problem: str
    case: Case
    details: str = ""


@dataclass
class Verdict:
    """What became of a goal."""

    goal: Goal
    seed: int
    tally: Tally = field(default_factory=Tally)
    failure: Failure | None = None
    skipped: str | None = None
    seconds: float = 0.0
    replay_file: Path | None = None

    @property
    def result(self) -> str:
        """One word for the table."""
        if self.skipped is not None:
            return "skipped"
        return "FAILED" if self.failure is not None else "green"


def run_goal(goal: Goal, *, small: bool, seed: int, evidence: Path) -> Verdict:
    """Run every case of a goal up to the first that fails; a failure leaves a replay file in `evidence`.

    What is left behind afterwards, be it a process, a thread, a descriptor or a file, is a failure, too.
    """
    verdict = Verdict(goal, seed, skipped=goal.why_not())
    if verdict.skipped is not None:
        return verdict
    started = time.monotonic()
    before = Inventory.take(RUN_ROOT)
    shards = 1 if small else goal.shards
    if shards == 1:
        parts = [_run_shard(goal, small, seed, 0, 1)]
    else:
        # Not forked: the parent's threads, and what its modules hold, are none of the shard's business.
        with ProcessPoolExecutor(shards, multiprocessing.get_context("spawn")) as pool:
            parts = list(
                pool.map(_run_shard, *zip(*[(goal, small, seed, k, shards) for k in range(shards)], strict=True))
            )
    for tally, failure in parts:
        verdict.tally.add(tally)
        verdict.failure = verdict.failure or failure
    if verdict.failure is None:
        verdict.failure = _failure_of_the_whole(goal, verdict.tally, before, small)
    verdict.seconds = time.monotonic() - started
    if verdict.failure is not None:
        verdict.replay_file = _write_replay(goal, seed, verdict.failure, evidence)
    return verdict


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
    except Exception as error:
        evidence = error.evidence if isinstance(error, Broken) else {}
        problem = str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}"
        return Failure(problem, case | evidence, traceback.format_exc())
    return None


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


def _write_replay(goal: Goal, seed: int, failure: Failure, evidence: Path) -> Path:
    evidence.mkdir(parents=True, exist_ok=True)
    path = evidence / f"{goal.name}-{seed}.json"
    content = {
        "goal": goal.name,
        "seed": seed,
        "problem": failure.problem,
        "python": platform.python_version(),
        "details": failure.details,
        "case": failure.case,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def replay(goals: dict[str, Goal], path: Path) -> str | None:
    """Try the case of a replay file again. Returns the problem, or None if it does not show any more.

    A case that the scheduler has a say in is tried until it fails, up to a limit.
    """
    content: dict[str, Any] = json.loads(path.read_text())
    goal = goals[content["goal"]]
    case = content["case"]
    if not case:
        verdict = run_goal(goal, small=False, seed=content["seed"], evidence=path.parent)
        return verdict.failure.problem if verdict.failure is not None else None
    deadline = time.monotonic() + REPLAY_PATIENCE_S
    for _ in range(1 if goal.is_exact else REPLAY_ATTEMPTS):
        failure = _try(goal, case, Tally())
        if failure is not None:
            return failure.problem
        if time.monotonic() > deadline:
            break
    return None
