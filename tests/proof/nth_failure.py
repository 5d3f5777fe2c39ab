"""Every system call of the host fails in turn: what the program then sees is a typed error, or less, and said so.

SQLite's method: lead the same life again and again, and each time let another call fail, until no call is left. With
threads there is no such thing as the nth call of a life, so calls are counted by site. The first call of a site takes
each errno in turn; its later calls, one by one, and all of them together, take one each.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import secrets
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

from roam.shm.rundir import run_root
from tests.session import SESSION_DIRECTORY
from tests.support import SESSION_VARIABLE, Inventory

from .faults import ERRORS, EVERY, REMOVERS, Fault, Faults, can_fail
from .goal import Broken, Case, Goal, Tally, expect
from .lives import Account, live, live_briefly, stop_fork_server

__all__ = ["NthFailure"]

VARIANTS = ("forkserver", "cold", "spawn", "fork")
"""Start methods; `cold` is the fork server, which the first cell has to start. A site is tried in the first of them
that reaches it."""
PARTS = 12
"""Into so many cases the sites of a variant are split."""
CERTAIN = (
    Fault("shm.segment.reserve_file os.posix_fallocate", 1, "ENOSPC"),
    Fault("postmortem.file.write os.open", 1, "EMFILE"),
)
"""In every sample: a typed error, and a death whose dump cannot be written."""
LIFE_S = 60.0
LEAK_PATIENCE_S = 15.0
"""How long a thread may take to end. The kernel takes seconds to close an inotify descriptor when it is busy."""
LATER_CALLS = 4
"""How many calls of a site fail after its first. Further ones are those of a thread that looks again and again."""


# r[verify shm.segment.reserved]
class NthFailure(Goal):
    """Hosts that live on a machine which refuses them something."""

    name = "nth-failure"
    unit = "faults"
    promise = (
        "each time a typed error, or less than everything and a sign of it; no hang, no other exception, no false "
        "answer; afterwards nothing is left over, and the next attempt succeeds"
    )
    covers = ("sites", "typed errors", "signs")
    shards = 2
    is_exact = False

    def cases(self, *, small: bool, seed: int) -> Iterator[Case]:
        """Every site, or a sample."""
        if small:
            yield {"variant": "forkserver", "seed": seed, "sample": 6}
            return
        for variant in VARIANTS:
            for part in range(PARTS):
                yield {"variant": variant, "part": part}

    def check(self, case: Case, tally: Tally) -> None:
        """Let the faults of a case happen one after the other, or the one that the case names."""
        with _apart(), _quiet():
            self._check(case, tally)

    def _check(self, case: Case, tally: Tally) -> None:
        if "site" in case:
            _suffer_surely(case["variant"], Fault(case["site"], case["number"], case["error"]), tally)
            return
        counts = _sites_of(case["variant"])
        if "sample" in case:
            source = random.Random(case["seed"])
            sites = source.sample(sorted(counts), case["sample"])
            faults = [Fault(site, source.choice((EVERY, 1, 2)), source.choice(ERRORS)) for site in sites]
            for fault in (*CERTAIN, *faults):
                _suffer_surely(case["variant"], fault, tally)
                tally.counts["sites"] += 1
            return
        for site in sorted(counts):
            if crc32(site.encode()) % PARTS == case["part"]:
                self._exhaust(case["variant"], site, tally)
                tally.counts["sites"] += 1

    @staticmethod
    def _exhaust(variant: str, site: str, tally: Tally) -> None:
        """Every errno in the first call, and one in each later call and in all calls."""
        for error in ERRORS:
            if not _suffer(variant, Fault(site, 1, error), tally):
                return
        turn = crc32(site.encode())
        for number in (EVERY, *range(2, 2 + LATER_CALLS)):
            if not _suffer(variant, Fault(site, number, ERRORS[(turn + number) % len(ERRORS)]), tally):
                return

    def figures(self, tally: Tally) -> str:
        """What the table says."""
        counts = tally.counts
        return (
            f"{counts['sites']} sites x {', '.join(ERRORS)}: {counts['typed errors']:,} typed errors, "
            f"{counts['signs']:,} times less than everything and a sign of it, {counts['unnoticed']:,} times no effect"
        )


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """While it lasts, hosts of this process have a run directory of their own, and its processes are known by a mark
    of their own: what another shard does is not taken for something that was left behind."""
    before = {name: os.environ[name] for name in ("ROAM_DIR", SESSION_VARIABLE)}
    with tempfile.TemporaryDirectory(dir=SESSION_DIRECTORY) as directory:
        os.environ |= {"ROAM_DIR": directory, SESSION_VARIABLE: secrets.token_hex(8)}
        try:
            yield
        finally:
            os.environ |= before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """While it lasts, standard error goes nowhere: cells and fork servers say there what they think of such a host."""
    stop_fork_server()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        stop_fork_server()
        os.dup2(kept, 2)
        os.close(kept)


_found: dict[str, Counter[str]] = {}


def _sites_of(variant: str) -> Counter[str]:
    """How often each site is reached in a life without a fault, less those that an earlier variant reaches."""
    for each in VARIANTS[: VARIANTS.index(variant) + 1]:
        if each not in _found:
            with Faults() as faults:
                _lead(each)
            _found[each] = faults.counts
    earlier = {site for each in VARIANTS[: VARIANTS.index(variant)] for site in _found[each]}
    return Counter({site: n for site, n in _found[variant].items() if site not in earlier and can_fail(site)})


def _suffer(variant: str, fault: Fault, tally: Tally) -> bool:
    """Lead a life with a fault in it, and another one without. Returns whether the fault was reached."""
    before = Inventory.take(run_root())
    faults = Faults(fault)
    try:
        with faults:
            account = _lead(variant)
        if fault.call == "os.posix_fallocate" and fault.error == "ENOSPC" and faults.hits:
            told = "bytes are needed and " in account.errors[0]
            expect(told, f"not told how much is needed, and how much there is: {account.errors}")
        _check_nothing_left(before, fault.call in REMOVERS or any("kept in memory" in sign for sign in account.signs))
        if not faults.hits:
            return False
        with tempfile.TemporaryDirectory() as directory:
            again = live_briefly("forkserver" if variant == "cold" else variant, Path(directory))
        expect(not again.errors and not again.signs, f"the next attempt, without a fault: {again}")
    except AssertionError as broken:
        evidence = {"site": fault.site, "number": fault.number, "error": fault.error}
        raise Broken(f"{fault}, {faults.hits} times: {broken}", **evidence) from broken
    tally.counts["faults"] += 1
    tally.counts["typed errors" if account.errors else "signs" if account.signs else "unnoticed"] += 1
    return True


def _suffer_surely(variant: str, fault: Fault, tally: Tally) -> None:
    """As `_suffer`; a fault that is in every sample is reached every time."""
    is_reached = _suffer(variant, fault, tally)
    evidence = {"site": fault.site, "number": fault.number, "error": fault.error}
    expect(is_reached or fault not in CERTAIN, f"{fault}: never called", **evidence)


def _lead(variant: str) -> Account:
    """Lead a life in a thread of its own, which must come back."""
    accounts: list[Account] = []
    failures: list[BaseException] = []
    if variant == "cold":
        stop_fork_server()

    def run() -> None:
        try:
            with tempfile.TemporaryDirectory() as directory:
                accounts.append(live("forkserver" if variant == "cold" else variant, Path(directory)))
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run, name="life", daemon=True)
    thread.start()
    thread.join(LIFE_S)
    if thread.is_alive():
        raise AssertionError(f"not over after {LIFE_S} s:\n{_stacks()}")
    if failures:
        raise failures.pop()
    return accounts.pop()


def _stacks() -> str:
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        return file.read().decode()


def _check_nothing_left(before: Inventory, are_files_forgiven: bool) -> None:
    """No process, thread or descriptor. Files of the run directory may stay where they could not be removed, or are
    the evidence for want of a dump; then they are removed here."""
    after, news = before.wait_for_no_news(run_root(), 0.0 if are_files_forgiven else LEAK_PATIENCE_S)
    if are_files_forgiven:
        deadline = time.monotonic() + LEAK_PATIENCE_S
        while (news := [line for line in news if not line.startswith("file ")]) and time.monotonic() < deadline:
            after, news = before.wait_for_no_news(run_root(), 0.0)
    after.kill_news_since(before)
    for path in sorted(after.files - before.files, reverse=True):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    stacks = _stacks() if any(line.startswith("thread") for line in news) else ""
    expect(not news, f"left behind: {'; '.join(news)}\n{stacks}".rstrip())
