"""Whether a SIGKILL came from the kernel for want of memory: each source of evidence, and each way it could mislead."""

from __future__ import annotations

import os

import pytest

from roam.exit import Confidence
from roam.spawn import memory
from roam.spawn.memory import Tally, find_kill, kills_by_now

OWN, OTHER, MACHINE = "/sys/fs/cgroup/own/memory.events", "/sys/fs/cgroup/other/memory.events", "/proc/vmstat"


@pytest.fixture
def kernel(monkeypatch):
    """What the kernel would say: counts by file, and the lines of its log."""
    counts: dict[str, int] = {MACHINE: 5}
    log: list[bytes] = []
    monkeypatch.setattr(memory, "_count", counts.get)
    monkeypatch.setattr(memory, "_own_groups", lambda: tuple(path for path in counts if path != MACHINE))
    monkeypatch.setattr(memory, "_is_logged", lambda pid, _: any(b"Killed process %d " % pid in line for line in log))
    monkeypatch.setattr(memory, "_claimed", memory.Counter())
    return counts, log


# r[verify spawn.verdict.memory]
def test_the_log_names_the_process(kernel):
    """The kernel's own word for this pid is certain; for another it is none."""
    counts, log = kernel
    before = kills_by_now()
    counts[MACHINE] += 1
    log.append(b"Memory cgroup out of memory: Killed process 77 (python3) total-vm:1kB")

    assert find_kill(77, {}, before, 0.0).confidence is Confidence.CERTAIN
    assert find_kill(7, {}, before, 0.0) is None  # the one that was counted was 77


# r[verify spawn.verdict.memory]
def test_its_control_group_counts(kernel):
    """Growth in the group of the dead process is likely to be it; each kill explains one death only."""
    counts, _ = kernel
    counts[OWN] = 3
    before = kills_by_now()
    counts[OWN] += 1

    found = find_kill(7, {"": "/own"}, before, 0.0)
    assert found.confidence is Confidence.LIKELY
    assert "1 more killed for memory in its control group, /sys/fs/cgroup/own" in found.evidence
    assert find_kill(8, {"": "/own"}, before, 0.0) is None
    assert find_kill(9, {"": "/own"}, kills_by_now(), 0.0) is None


# r[verify spawn.verdict.memory]
def test_kills_elsewhere_do_not_count(kernel):
    """A machine that kills other processes for memory says nothing of one whose own group counted none."""
    counts, _ = kernel
    counts |= {OWN: 0, OTHER: 0}
    before = kills_by_now()
    counts[MACHINE] += 2
    counts[OTHER] += 2

    assert find_kill(7, {"": "/own"}, before, 0.0) is None


# r[verify spawn.verdict.memory]
def test_the_machines_count_alone_is_no_cause(kernel):
    """Where no group can be asked it is evidence, and the verdict stays unknown."""
    counts, _ = kernel
    before = kills_by_now()
    counts[MACHINE] += 1

    found = find_kill(7, {"": "/gone"}, before, 0.0)
    assert found.confidence is Confidence.UNKNOWN
    assert "on this machine while it lived" in found.evidence


def test_the_real_sources_can_be_read():
    """On this machine, whatever it has; nothing is claimed of this process, which lives."""
    before = kills_by_now()

    assert all(isinstance(count, int) for count in before.counts.values())
    found = find_kill(os.getpid(), {}, before, 0.0)
    assert found is None or found.confidence is not Confidence.CERTAIN
    assert isinstance(before, Tally)
