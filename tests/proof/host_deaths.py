"""SIGKILL of hosts with living cells: what anybody had committed is read from the segments, and salvage leaves no trace.

Several hosts at a time are killed, some of them or of their cells stopped before, so that nobody tidies up: real
scripts, in a run root of their own. Each of their processes notes which records it has begun and which calls returned.
Another host lives among them, with its cells; some cells outlive their hosts. Salvage may touch none of these.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from roam.errors import SegmentCorrupt
from roam.postmortem.file import load
from roam.shm.layout import BULK, LANES, VITAL, StatusWord
from roam.shm.reader import Gap
from roam.shm.rundir import PEER_SUFFIXES
from roam.shm.segment import SegmentFile
from roam.tracing.codec import decode
from roam.tracing.offline import remains_of_segment
from roam.tracing.peer import OpenSpan
from roam.tracing.records import Lost, Record
from tests.programs import METHODS, Program, is_alive, state_of
from tests.session import SESSION_DIRECTORY
from tests.support import run_script, wait_until

from . import doomed
from .dead_lane import PAGE_BYTES, check_stream
from .goal import Broken, Case, Goal, Tally, expect
from .marked import MARK, is_ending, is_helper, lives, processes_of
from .tape import pack, unpack

__all__ = ["HostDeaths"]

ORDERS = ("starting", "at once", "host stopped", "cells stopped", "all stopped")
"""What happens before the SIGKILL. The last is that of LTTng: no survivor has a moment to tidy up."""
PACES = ("flood", "paced", "few")
PAGES = (6, 24, 96)
HOSTS_OF_A_CASE = 5
OUTLIVING_SHARE = 0.2
LONGEST_START_S, LONGEST_LIFE_S = 0.5, 0.05
PATIENCE_S = 60.0
STARTS = 40
"""So many hosts may start until the last orphan is salvaged: each takes a bounded time for it."""


@dataclass
class _Dead:
    """What the reader found in the segment of a process that is gone."""

    records: list[Record]
    open_spans: list[OpenSpan]


@dataclass
class _Host:
    """One host, from its start to its last cell."""

    plan: Case
    mark: str
    program: Program
    words: dict[str, memoryview]
    """By the name of the cell; `host` for its own."""
    run_dir: Path | None = None

    def pid_of(self, name: str) -> int:
        return self.words[name][doomed.PID]

    def wait_until_gone(self, but: Callable[[], list[int]] = list) -> None:
        """Wait until there is no process of it, apart from those in `but`, with which the helper processes of
        `multiprocess` live on."""

        def is_gone() -> bool:
            spared, found = but(), processes_of(self.mark)
            return all(pid in spared or (spared and is_helper(pid, found)) for pid in found)

        # Twice, because a process that is just being replaced by another program shows no environment.
        wait_until(lambda: is_gone() and is_gone(), PATIENCE_S, message="the processes of a killed host end")

    def hurry(self, is_to: bool) -> None:
        """Let its cells write as fast as they can, or not."""
        for words in self.words.values():
            words[doomed.HURRY] = is_to

    def outliving(self) -> list[int]:
        """Those of its cells that have begun to write, and are not to end with it."""
        names = [cell["name"] for cell in self.plan["cells"] if cell["outlives"]]
        return [pid for pid in map(self.pid_of, names) if pid]


# r[verify dump.salvage.alive]
# r[verify dump.salvage.evidence]
# r[verify spawn.lifeline]
class HostDeaths(Goal):
    """Hosts that are killed while their cells write."""

    name = "host-deaths"
    unit = "killed hosts"
    promise = (
        "every record that a host or a cell had committed is read from the segments, and again from the dumps after "
        "salvage; nothing stale is left; what a living host or cell has is not touched"
    )
    covers = (
        *(f"killed {order}" for order in ORDERS),
        "records found",
        "records overwritten",
        "dumps",
        "cells that outlived their host",
        "living hosts left alone",
        "salvaged by gc",
        "salvaged by a host",
    )
    shards = 2
    is_exact = False

    def cases(self, *, small: bool, seed: int) -> Iterator[Case]:
        """200 hosts; six in the small form."""
        for number in range(1 if small else 40):
            yield plan_of(f"{seed}/{number}", HOSTS_OF_A_CASE + small)

    def check(self, case: Case, tally: Tally) -> None:
        """Kill all hosts but the last, look and salvage; then the last and what is left, and once more."""
        if "segment" in case:
            _judge_again(case)
            return
        place = Path(tempfile.mkdtemp(prefix="hosts-", dir=SESSION_DIRECTORY))
        try:
            _Wave(case, place, tally).run()
        finally:
            shutil.rmtree(place)

    def figures(self, tally: Tally) -> str:
        """What the table says."""
        counts = tally.counts
        return (
            f"{counts['records found']:,} records found, {counts['records overwritten']:,} overwritten and counted; "
            f"{counts['dumps']:,} dumps; killed "
            + ", ".join(f"{counts[f'killed {order}']:,} {order}" for order in ORDERS)
            + f"; {counts['cells that outlived their host']:,} cells outlived their host"
        )


def plan_of(seed: str, count: int) -> Case:
    """Hosts, their cells, and how each is killed. The first is killed while it starts, and the last when all others are
    dead; of the orders in between each is there."""
    source = random.Random(seed)
    others = source.sample(ORDERS[1:], 4) + source.choices(ORDERS[1:], k=count)
    hosts = []
    for index, order in enumerate([ORDERS[0], *others][:count]):
        cells = [
            {
                "name": f"{index}-{number}",
                "method": source.choice((*METHODS, "fork")),
                "pace": source.choice(PACES),
                "outlives": source.random() < OUTLIVING_SHARE,
            }
            for number in range(source.randint(1, 3))
        ]
        hosts.append({"cells": cells, "order": order, "pages": source.choice(PAGES), "after_s": source.random()})
    hosts[1]["cells"][0] |= {"outlives": True}
    hosts[2]["cells"][0] |= {"pace": "flood"}
    hosts[2]["pages"] = min(PAGES)
    return {"seed": seed, "hosts": hosts, "by": source.sample(("gc", "host"), 2)}


class _Wave:
    """Hosts that live and die side by side."""

    def __init__(self, case: Case, place: Path, tally: Tally) -> None:
        self.case = case
        self.place = place
        self.counts = tally.counts
        self.root = place / "run"
        self.hosts: list[_Host] = []
        self.dead: dict[tuple[str, int], _Dead] = {}
        """By name and process id: what was read last, and is not compared yet."""
        self.seen: set[tuple[str, int]] = set()

    def run(self) -> None:
        with contextlib.ExitStack() as programs:
            try:
                self._run(programs)
            finally:
                programs.close()
                for host in self.hosts:
                    for pid in processes_of(host.mark):
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    host.wait_until_gone()

    def _run(self, programs: contextlib.ExitStack) -> None:
        early_plan, *plans = self.case["hosts"]
        *first, last = [self._start(plan, programs) for plan in plans]
        for host in (*first, last):
            # All of them before anybody dies: a host that starts would salvage what is to be looked at.
            host.run_dir = Path(json.loads(host.program.line(PATIENCE_S)))
        early = self._start(early_plan, programs)
        self._kill([early])
        self._kill(first)
        self._look_and_salvage(self.case["by"][0], last.run_dir)
        last.program.say("are you well?")
        expect(json.loads(last.program.line(PATIENCE_S)) == [True, True], "the living host is no longer well")
        self.counts["living hosts left alone"] += 1
        survivors = [pid for host in (early, *first) for pid in host.outliving()]
        self._kill([last])
        for pid in (*survivors, *last.outliving()):
            expect(is_alive(pid), f"cell {pid} was to outlive its host")
            os.kill(pid, signal.SIGKILL)
            self.counts["cells that outlived their host"] += 1
        for host in self.hosts:
            host.wait_until_gone()
        self._look_and_salvage(self.case["by"][1], None)
        left = [str(path) for path in self.place.glob("run/**/*")]
        expect(not left, f"left behind: {left}")

    def _start(self, plan: Case, programs: contextlib.ExitStack) -> _Host:
        number = len(self.hosts)
        sides = self.place / f"sides-{number}"
        sides.mkdir()
        words = {}
        for name in ("host", *(cell["name"] for cell in plan["cells"])):
            (sides / name).write_bytes(bytes(4096))
            words[name] = doomed.words_in(sides / name)
        mark = f"{self.place.name}/{number}"
        arguments = json.dumps(plan | {"sides": str(sides)})
        program = Program(doomed.__file__, arguments, ROAM_DIR=str(self.place), **{MARK: mark})
        self.hosts.append(_Host(plan, mark, programs.enter_context(program), words))
        return self.hosts[-1]

    def _kill(self, hosts: list[_Host]) -> None:
        """Kill them, each in its order and at its moment, and wait until they and their cells are gone."""
        with ThreadPoolExecutor(len(hosts)) as pool:
            list(pool.map(self._kill_one, hosts))
        for host in hosts:
            self.counts[f"killed {host.plan['order']}"] += 1
            self.counts[HostDeaths.unit] += 1

    def _kill_one(self, host: _Host) -> None:
        order, pid = host.plan["order"], host.program.pid
        host.hurry(True)
        time.sleep(host.plan["after_s"] * (LONGEST_START_S if order == "starting" else LONGEST_LIFE_S))
        cells = [host.pid_of(cell["name"]) for cell in host.plan["cells"]]
        stopped = {"host stopped": [pid], "cells stopped": cells, "all stopped": [*cells, pid]}.get(order, [])
        for each in stopped:
            os.kill(each, signal.SIGSTOP)
        for each in stopped:
            wait_until(lambda each=each: state_of(each) == "T", PATIENCE_S, message="it stops")
        host.program.send(signal.SIGKILL)
        host.program.wait(PATIENCE_S)
        host.hurry(False)
        host.wait_until_gone(host.outliving)

    # What is left.

    def _look_and_salvage(self, by: str, neighbour: Path | None) -> None:
        wait_until(
            lambda: not any(is_ending(pid) for _, _, pid in self._segments(neighbour)), PATIENCE_S, message="they end"
        )
        self._look(neighbour)
        alive = {path for path, _, pid in self._segments(neighbour) if lives(pid)}
        before = listing(neighbour)
        if by == "gc":
            done = run_script("-m", "roam", "gc", environ={"ROAM_DIR": str(self.place)})
            expect(done.stderr == "", f"gc complains: {done.stderr}")
        else:
            for _ in range(STARTS):
                script = "import roam; roam.TracingHost(forward=False).close()"
                run_script("-c", script, environ={"ROAM_DIR": str(self.place)})
                if not self._wrong_files(alive, neighbour):
                    break
        wrong = self._wrong_files(alive, neighbour)
        expect(not wrong, f"after salvage by {by}: {'; '.join(wrong)}")
        self.counts[f"salvaged by {'gc' if by == 'gc' else 'a host'}"] += 1
        expect(
            listing(neighbour) == before, f"the files of the living host were {before}, and are {listing(neighbour)}"
        )
        self._compare_dumps()

    def _wrong_files(self, alive: set[Path], neighbour: Path | None) -> list[str]:
        """What is there beside the files of the living, their segments and those with them and the lock of each run; and
        what of those is missing."""
        found = {path for path in self.root.glob("**/*") if neighbour not in (path, path.parent)}
        wanted = {path.with_suffix(suffix) for path in alive for suffix in PEER_SUFFIXES}
        wanted |= {path.parent / "host.lock" for path in alive} | {path.parent for path in alive}
        stale = [f"{path} is stale" for path in sorted(found - wanted)]
        return stale + [f"{path} is gone" for path in sorted(wanted - found)]

    def _segments(self, neighbour: Path | None) -> list[tuple[Path, str, int]]:
        """All segments outside of the living host's directory: the peer's name, and the process that wrote it or 0."""
        found = []
        for path in self.root.glob("*/*.segment"):
            if path.parent != neighbour:
                try:
                    segment = SegmentFile.open(path)
                except SegmentCorrupt:
                    # Its host was killed while it made it.
                    found.append((path, "", 0))
                    continue
                found.append((path, segment.identity.name, segment.word(StatusWord.PID)))
                segment.close()
        return found

    def _look(self, neighbour: Path | None) -> None:
        """Hold every segment of a dead process against what that process has noted."""
        words = {(name, host.pid_of(name)): one for host in self.hosts for name, one in host.words.items()}
        for path, name, pid in self._segments(neighbour):
            if not pid or lives(pid):
                continue
            # One that was killed before it noted its number has written nothing.
            noted = list(words.get((name, pid), bytes(5)))[:5]
            try:
                self.dead[name, pid] = dead = judge(path, lanes_of(path), noted)
            except Broken as broken:
                raise Broken(str(broken), segment=pack(path.read_bytes()), words=noted) from broken
            self.seen.add((name, pid))
            self.counts["records found"] += sum(not isinstance(record, Lost) for record in dead.records)
            self.counts["records overwritten"] += sum(r.count for r in dead.records if isinstance(r, Lost))
        for (name, pid), one in words.items():
            is_due = one[doomed.BEGUN] and not lives(pid)
            expect(not is_due or (name, pid) in self.seen, f"{name}, process {pid}, wrote records, and has no segment")

    def _compare_dumps(self) -> None:
        """Every segment that was seen is a dump now, with the same records and spans, and sound."""
        dumps = {}
        for path in (self.place / "dumps").glob("*.roam"):
            left = load(path)
            expect(not left.damage, f"{path.name} is damaged: {left.damage}")
            key = left.peer.name, left.peer.pid or 0
            expect(key not in dumps, f"there are two dumps of {key}")
            dumps[key] = left
        for key, dead in self.dead.items():
            expect(key in dumps, f"{key} has no dump")
            expect(dumps[key].records == dead.records, f"the dump of {key} has other records than its segment had")
            expect(dumps[key].open_spans == dead.open_spans, f"the dump of {key} has other spans than its segment had")
        self.counts["dumps"] += len(dumps)
        for path in (self.place / "dumps").glob("*.roam"):
            path.unlink()
        self.dead.clear()


def judge(path: Path, lanes: dict[int, bytes], words: list[int]) -> _Dead:
    """Read a segment and hold what is found against the lanes, read without the reader, and the writer's words."""
    remains = remains_of_segment(path)
    for number, lane in enumerate((BULK, VITAL)):
        found = [chunk for chunk in remains.chunks if chunk.lane == lane]
        found += [
            Gap(lane, lost.first_seq, lost.count, lost.cause) for lost in remains.lost if lost.lane == LANES[lane]
        ]
        found.sort(key=lambda item: item.first_seq)
        acked, started = words[doomed.DONE + number], words[doomed.BEGUN + number]
        try:
            check_stream(found, lanes[lane], acked, started, is_written)
        except Broken as broken:
            raise Broken(f"{remains.peer.name}, lane {LANES[lane]}: {broken}") from broken
    is_in_span = remains.peer.peer_id > 0 and words[doomed.DONE] > 0
    names = [span.name for span in remains.open_spans]
    expect(names == ["job"] or not is_in_span, f"{remains.peer.name}: the open spans are {names}")
    return _Dead(remains.records(), remains.open_spans)


def is_written(seq: int, payload: bytes) -> bool:
    """Whether a record is what `tests.proof.doomed` wrote with this sequence."""
    record = decode(payload)
    if record.message == "job":
        return seq == 0
    return (record.message, record.fields) == ("proof", {"n": seq, "filling": doomed.filling(seq)})


def _judge_again(case: Case) -> None:
    with tempfile.TemporaryDirectory(dir=SESSION_DIRECTORY) as place:
        path = Path(place, "1-again.segment")
        path.write_bytes(unpack(case["segment"]))
        judge(path, lanes_of(path), case["words"])


def lanes_of(path: Path) -> dict[int, bytes]:
    """The bytes of the two lanes."""
    segment = SegmentFile.open(path)
    try:
        offsets, pages = segment.geometry.lane_offsets, segment.geometry.lane_pages
        return {lane: segment.read(offsets[lane], pages[lane] * PAGE_BYTES) for lane in (BULK, VITAL)}
    finally:
        segment.close()


def listing(directory: Path | None) -> list[tuple[str, int]]:
    """The names and inodes in a run directory."""
    return [] if directory is None else sorted((path.name, path.stat().st_ino) for path in directory.iterdir())
