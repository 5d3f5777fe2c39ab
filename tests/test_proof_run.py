"""The machinery of `python -m tests.proof`: it can fail, says how, and what failed can be tried again."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from tests.proof.goal import Broken, Goal, Tally, expect, quantile
from tests.proof.goals import GOALS
from tests.proof.run import BRIEF, NoReplay, replay, run_goal
from tests.support import REPOSITORY, run_script


class Numbers(Goal):
    """Ten batches of numbers, of which `bad` ones are broken."""

    name = "numbers"
    unit = "numbers"
    promise = "no number is bad"
    covers = ("even",)

    def __init__(self, bad=(), *, wide=True, limit=None):
        self.bad, self.wide, self.limit = bad, wide, limit

    def cases(self, *, small, seed):
        for first in range(0, 100, 10):
            yield {"first": first, "count": 10, "seed": seed}

    def check(self, case, tally):
        for number in range(case["first"], case["first"] + case["count"]):
            if number in self.bad:
                raise Broken(f"{number} is bad", first=number, count=1)
            tally.counts["numbers"] += 1
            tally.counts["even"] += number % 2 == 0 and self.wide

    def conclude(self, tally, *, small):
        expect(self.limit is None or tally.counts["numbers"] <= self.limit, "too many numbers")


COMMAND = """\
if __name__ == "__main__":
    import runpy
    from tests.session import SESSION_DIRECTORY
    print(SESSION_DIRECTORY, flush=True)
    runpy.run_module("tests.proof", run_name="__main__")
"""
"""`python -m tests.proof`, which says first where it has its files."""


class Deadly(Numbers):
    """One of its two shards is killed."""

    shards = 2

    def check(self, case, tally):
        if case["first"] == 50:
            os.kill(os.getpid(), signal.SIGKILL)


def run(goal, tmp_path):
    return run_goal(goal, small=True, seed=7, evidence=tmp_path / "evidence")


def test_a_goal_that_holds_is_green(tmp_path):
    """With its counts, and without a replay file."""
    verdict = run(Numbers(), tmp_path)

    assert (verdict.result, verdict.tally.counts["numbers"], verdict.replay_file) == ("green", 100, None)
    assert not (tmp_path / "evidence").exists()
    assert verdict.figures == "50 even"


def test_a_failure_is_written_down_as_small_as_it_is_known_and_fails_again(tmp_path):
    """The replay file has the goal, the seed, the problem and the narrowed case; the same check fails on it, until what
    was wrong is right."""
    goal = Numbers(bad=[42])
    verdict = run(goal, tmp_path)
    written = json.loads(verdict.replay_file.read_text())

    assert verdict.result == "FAILED"
    assert written["case"] == {"first": 42, "count": 1, "seed": 7}
    assert (written["goal"], written["seed"], written["problem"]) == ("numbers", 7, "42 is bad")
    assert "test_proof_run.py" in written["details"]
    assert replay({"numbers": goal}, verdict.replay_file) == "42 is bad"
    assert replay({"numbers": Numbers()}, verdict.replay_file) is None


def test_a_check_that_nothing_happened_to_fails(tmp_path):
    """What is to be covered and was not is a failure, which a replay runs as a whole."""
    goal = Numbers(wide=False)
    verdict = run(goal, tmp_path)

    assert "never happened in the whole run: even" in verdict.failure.problem
    assert "even" in replay({"numbers": goal}, verdict.replay_file)


def test_what_only_the_whole_shows_can_fail(tmp_path):
    """After all cases were fine; the replay is a run of the same form, which leaves the file as it is."""
    forms = []

    class Watched(Numbers):
        def cases(self, *, small, seed):
            forms.append(small)
            return super().cases(small=small, seed=seed)

    verdict = run(Watched(limit=99), tmp_path)
    written = verdict.replay_file.read_bytes()

    assert verdict.failure.problem == "too many numbers"
    assert replay({"numbers": Watched(limit=99)}, verdict.replay_file) == "too many numbers"
    assert forms == [True, True]
    assert verdict.replay_file.read_bytes() == written


@pytest.mark.parametrize("method", ["cases", "conclude", "figures"])
def test_a_defect_of_a_goal_is_a_failure_of_that_goal(method, tmp_path):
    """Whatever raises in it, the next goal has its turn."""

    def fail(*_, **__):
        raise ZeroDivisionError("of the goal")

    verdict = run(type("Defective", (Numbers,), {method: fail})(), tmp_path)
    assert (verdict.result, verdict.failure.problem) == ("FAILED", "ZeroDivisionError: of the goal")
    assert verdict.failure.case == {}


def test_a_shard_that_is_killed_is_a_failure(tmp_path):
    """The others are ended, too."""
    verdict = run_goal(Deadly(), small=False, seed=7, evidence=tmp_path)
    assert "BrokenProcessPool" in verdict.failure.problem


def test_a_problem_is_shown_in_part(tmp_path):
    """And is whole in the replay file, behind the case."""

    class Verbose(Numbers):
        def check(self, case, tally):
            raise Broken("x" * 100_000)

    verdict = run(Verbose(), tmp_path)
    assert len(verdict.failure.brief) < BRIEF + 50
    written = verdict.replay_file.read_text()
    assert written.index('"case"') < written.index('"problem"')
    assert "x" * 100_000 in written


def test_evidence_that_cannot_be_written_is_told_of(tmp_path):
    """The problem itself is not lost for that."""
    (tmp_path / "file").touch()
    verdict = run_goal(Numbers(bad=[1]), small=True, seed=7, evidence=tmp_path / "file")
    assert verdict.failure.problem.startswith("1 is bad\nno replay file: ")
    assert verdict.replay_file is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "no case"),
        ("{", "JSONDecodeError"),
        ('{"goal": "numbers", "seed": 1}', "no case"),
        ('{"goal": "numbers", "case": {}}', "neither goal nor seed"),
        ('{"goal": "gone", "seed": 1, "case": {}}', "no goal 'gone'"),
        ('{"goal": "mutants", "seed": 1, "case": {"mutant": "gone", "seed": 1}}', "no mutant 'gone'"),
    ],
)
def test_what_is_no_replay_file_is_refused(content, said, tmp_path):
    """With the reason."""
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(NoReplay, match=said):
        replay(GOALS | {"numbers": Numbers()}, path)


def test_what_is_left_behind_is_a_failure(tmp_path, monkeypatch):
    """A thread that goes on after the goal."""
    monkeypatch.setattr("tests.proof.run.LEAK_PATIENCE_S", 0.1)
    release = threading.Event()

    class Leaving(Numbers):
        def conclude(self, tally, *, small):
            threading.Thread(target=release.wait, name="forgotten").start()

    try:
        assert "thread forgotten" in run(Leaving(), tmp_path).failure.problem
    finally:
        release.set()


def test_any_exception_of_a_check_is_a_failure(tmp_path):
    """With its type, and its traceback in the replay file."""

    class Raising(Numbers):
        def check(self, case, tally):
            raise ZeroDivisionError("no")

    verdict = run(Raising(), tmp_path)
    assert verdict.failure.problem == "ZeroDivisionError: no"
    assert "Traceback" in json.loads(verdict.replay_file.read_text())["details"]


def test_a_goal_that_cannot_be_tried_says_why(tmp_path):
    """It is neither green nor a failure."""

    class Absent(Numbers):
        def why_not(self):
            return "not on this machine"

    verdict = run(Absent(), tmp_path)
    assert (verdict.result, verdict.skipped, verdict.failure) == ("skipped", "not on this machine", None)


def test_cases_are_the_same_each_time():
    """A seed stands for one list of cases, which JSON can hold; another seed for another, where there is chance."""
    for goal in GOALS.values():
        for small in (True, False) if goal.why_not() is None else ():
            cases = [list(goal.cases(small=small, seed=5)) for _ in range(2)]
            assert cases[0] == cases[1] == json.loads(json.dumps(cases[0])), goal.name
            assert cases[0], goal.name


def test_tallies_of_several_processes_add_up():
    """Counts are summed, samples put together."""
    one, other = Tally(), Tally()
    one.counts["a"], other.counts["a"] = 1, 2
    one.samples["s"].append(1.0)
    other.samples["s"].append(3.0)
    one.add(other)
    assert (one.counts["a"], one.samples["s"]) == (3, [1.0, 3.0])
    assert [quantile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 1.0)] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--replay", "missing.json"], 2, "missing.json"),
        (["no-such-goal"], 2, "there is no goal 'no-such-goal'; there are random-kills"),
        (["--seed", "abc"], 2, "is a whole number, not 'abc'"),
        (["--evidence", "/dev/null/x"], 2, "cannot be written there"),
        (["--help"], 0, "--replay FILE"),
        (["mutants", "--small", "--seed", "3"], 0, "1 green"),
    ],
)
def test_the_command(arguments, code, said, tmp_path):
    """Exit code and last words; nothing stays in shared memory."""
    environ = {key: "" for key in ("ROAM_DIR", "ROAM_TEST_SESSION") if key in os.environ}
    done = run_script("-c", COMMAND, *arguments, cwd=REPOSITORY, environ=environ, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not Path(done.stdout.partition("\n")[0]).exists()


def test_the_document_shows_every_goal():
    """docs/proof.md holds the tables of two whole runs, of an older Python and of a newer one."""
    text = (REPOSITORY / "docs" / "proof.md").read_text()
    for name in GOALS:
        assert text.count(f"\n{name} ") >= 2, name
