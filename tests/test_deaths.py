"""Every planted death, once under each start method. `python -m tests.deaths` shows them as a table, `python -m
tests.proof deaths` dies 500 of them."""

from __future__ import annotations

import dataclasses
from types import ModuleType

import pytest

import roam
from tests.deaths.check import METHODS, end, examine, run
from tests.deaths.planted import DEATHS, Planted
from tests.support import REPOSITORY, expect_none, run_script


# r[verify spawn.verdict]
# r[verify spawn.verdict.memory]
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", DEATHS)
def test_a_death_is_called_by_its_name_and_loses_nothing(name, method):
    """Kind, code, signal, stage and verdict are right; all 1,000 records are left in order, the interrupted spans are
    named, and so is the line."""
    death = DEATHS[name].death
    if method not in death.methods:
        pytest.skip(f"not a death of {method}")
    if lack := death.lack():
        pytest.skip(f"needs {lack}")

    expect_none(run(method, name).problems)


def test_every_file_of_the_corpus_says_what_it_plants():
    """One line each, no two alike, and at least 40 of them."""
    lines = [planted.what for planted in DEATHS.values()]

    assert len(set(lines)) == len(DEATHS) >= 40
    expect_none(name for name, planted in DEATHS.items() if not planted.what.endswith("."))


def test_a_wrong_claim_is_found():
    """What the corpus claims is held against what the host says: a false claim is a problem, and a sure one an error."""
    with roam.TracingHost(forward=False) as host:
        ended = end(host, "forkserver", "reads_null")
    claims = dataclasses.replace(
        ended.planted.death, code=1, verdict="out of memory", innermost="elsewhere", stderr="?"
    )
    module = ModuleType("tests.deaths.corpus.reads_null")
    module.__file__, module.plant, module.DEATH = ended.planted.path, ended.planted.module.plant, claims
    outcome = examine(dataclasses.replace(ended, planted=Planted(module)))

    assert not outcome.is_exit_right
    assert not outcome.is_verdict_right
    assert not outcome.is_stack_named
    assert [problem.split()[0] for problem in outcome.problems] == ["exit", "verdict", "standard", "crash"]


def test_the_table_has_a_line_for_a_death():
    """Planted, said, evidence, dump, time, and what `multiprocess` says; then the sums."""
    said = run_script("-m", "tests.deaths", "--only", "reads_null", "--method", "forkserver", cwd=REPOSITORY).stdout
    line = next(line for line in said.splitlines() if line.startswith("reads_null"))

    assert "signaled in run: Segmentation fault" in line
    assert line.endswith("-11")
    assert "confident errors 0" in said
