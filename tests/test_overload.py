"""Ten times as many records as there is room for: all are accounted for, and nobody waits longer than asked."""

from __future__ import annotations

import json
import signal

import pytest

from benchmarks import overload
from tests.pressed import AT_ONCE, LANES_OF_A_CELL, WAIT_S, Wait
from tests.programs import Program, is_alive
from tests.support import REPOSITORY, wait_until

CAUSE = {"drop_oldest": None, "drop_newest": "newest", "block": "timed_out", "sampling": "sampled"}


# r[verify shm.overflow.spared]
# r[verify shm.dropped.announced]
# r[verify trace.sampled]
@pytest.mark.parametrize("policy", overload.POLICIES)
def test_every_record_is_accounted_for(policy, monkeypatch):
    """Against a host that stands still, by each policy and by sampling: what the cell attempted is delivered, lost or
    dropped for the one reason there is, to the last record."""
    monkeypatch.chdir(REPOSITORY)
    answer = overload.account(policy, 1)

    bulk, cause = answer["bulk"], CAUSE[policy]
    missing = bulk["lost"] + sum(bulk["dropped"].values())
    assert bulk["emitted"] == bulk["delivered"] + bulk["lost"]
    assert bulk["resident"] == 0
    assert answer["attempted"] + answer["notices"] == bulk["emitted"] + sum(bulk["dropped"].values())
    assert set(bulk["dropped"]) == ({cause} if cause else set())
    assert bool(bulk["lost"]) == (policy == "drop_oldest")
    assert missing > 0.85 * 2 * overload.OVERLOAD_COUNT, "a tenth is what there is room for"


def check(waits: list[Wait]) -> str:
    """No wait is shorter than asked for, nor at p99 longer than a sleep and 5 ms; what follows on it waits no more."""
    last = (len(waits) * 99 - 1) // 100
    beyond, slept = sorted(wait.beyond for wait in waits)[last], sorted(wait.slept_beyond for wait in waits)[last]
    at_once = sum(wait.at_once for wait in waits) / len(waits)
    figures = (
        f"{len(waits)} waits of {WAIT_S * 1e3:g} ms: at p99 {beyond * 1e3:.2f} ms beyond, a bare sleep "
        f"{slept * 1e3:.2f} ms; the {AT_ONCE} emits after each took {at_once * 1e3:.2f} ms"
    )
    assert min(wait.beyond for wait in waits) >= 0
    assert beyond <= slept + 0.005, figures
    assert at_once < WAIT_S, figures
    return figures


@pytest.mark.slow
def test_a_stopped_host_is_waited_for_as_long_as_asked():
    """Each time anew, once it has moved."""
    with Program("-m", "tests.pressed", "stopped", "200", cwd=REPOSITORY) as host:
        waits = [Wait(*wait) for wait in json.loads(host.line(100))]
        assert host.wait() == 0

    assert len(waits) == 200
    print("\n" + check(waits))


@pytest.mark.slow
def test_a_dead_host_is_waited_for_once(tmp_path):
    """By each lane of each cell that outlives it."""
    count = 70
    with Program(
        "-m", "tests.pressed", "killed", tmp_path, str(count), cwd=REPOSITORY, ROAM_DIR=str(tmp_path / "roam")
    ) as host:
        pids = json.loads(host.line(100))
        host.send(signal.SIGKILL)
        host.wait()
        assert all(map(is_alive, pids))
        (tmp_path / "go").touch()
        wait_until(lambda: len([*tmp_path.glob("*.json")]) == count, 100, message="all cells answer")
        wait_until(lambda: not any(map(is_alive, pids)), message="the cells end")

    waits = [Wait(*wait) for answer in tmp_path.glob("*.json") for wait in json.loads(answer.read_text())]
    assert len(waits) == count * LANES_OF_A_CELL
    print("\n" + check(waits))
