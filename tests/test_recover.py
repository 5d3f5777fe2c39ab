"""What is left after host and cells all died is put together again, and nothing of it is changed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections import namedtuple
from pathlib import Path

import pytest
from click.testing import CliRunner

from roam.cli.main import commands
from roam.clock import ClockAnchor
from roam.postmortem import load, write
from roam.postmortem import recover as recover_module
from roam.shm.rundir import LOCK_NAME, RunDirectory, is_held, noted_dump_dir
from roam.stage import Stage
from roam.tracing.records import Peer
from tests.orphans import ORPHAN, make_orphan, make_root, make_segment
from tests.programs import Program, is_alive, write_program
from tests.remains import event, make_exit, make_remains
from tests.support import run_script, wait_until

WAIT_S = 30.0
DAY_NS = 86_400 * 10**9

HOST = """
    import os, signal, time
    import roam

    def work(number):
        with roam.span("job", number=number):
            for step in range(3):
                roam.info("a step", number=number, step=step)
            time.sleep(600)

    def crash():
        roam.error("about to crash")
        os.kill(os.getpid(), signal.SIGSEGV)

    if __name__ == "__main__":
        host = roam.TracingHost(forward=False)
        roam.spawn_cell(crash, name="crashed", host=host).join()
        cells = [roam.spawn_cell(work, number, name=f"worker-{number}", host=host) for number in (1, 2)]
        while sum(len(cell.records()) for cell in cells) < 8:
            time.sleep(0.01)
        roam.info("all are at work")
        print(host.run_dir, os.getpid(), *(cell.pid for cell in cells), flush=True)
        print(input(), flush=True)
"""


@pytest.fixture
def root(monkeypatch, tmp_path):
    return make_root(monkeypatch, tmp_path)


@pytest.fixture
def orphan(root):
    return make_orphan(root)


def recover(*arguments, code=0):
    result = CliRunner().invoke(commands, ["recover", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result


def state_of(directory):
    """Everything that can be seen of the files in a directory."""
    found = {}
    for path in sorted(Path(directory).rglob("*")):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        found[path] = (status.st_ino, status.st_mode, status.st_mtime_ns, status.st_ctime_ns, data)
    return found


def kill_all(pids):
    """Nobody has a moment to tidy up: all are stopped first."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            os.kill(int(pid), number)


# r[verify dump.recover.untouched]
# r[verify dump.recover.timeline]
def test_a_run_is_rebuilt_after_all_have_died(root, tmp_path):
    """Host and cells killed at once: each has a post-mortem again, also the one that had crashed before, and one
    timeline has all of their records, in the order of their times. Nothing in the directory is changed."""
    program = write_program(tmp_path, HOST)
    with Program(program, ROAM_DIR=str(root.parent)) as host:
        run, *pids = host.line().split()
        kill_all(pids)
        wait_until(lambda: not any(is_alive(int(pid)) for pid in pids))
    before = state_of(root.parent)
    shown = recover(root.parent, "--into", tmp_path / "into").stdout

    assert state_of(root.parent) == before
    assert f"run {run}, its host is gone" in shown
    lines = shown.splitlines()
    events = [re.search(r"(host|crashed|worker-\d)#\d +(INFO|ERROR) .*__main__  (.*)", line) for line in lines]
    told = [(found[1], re.split("  ", found[3])[0]) for found in events if found and not found[3].startswith(">")]
    assert told[0] == ("crashed", "about to crash")
    assert told[-1] == ("host", "all are at work")
    for name in ("worker-1", "worker-2"):
        assert [message for who, message in told if who == name] == ["a step"] * 3
    assert re.search(r'cell "crashed" killed with SIGSEGV', shown)
    assert shown.count("verdict: its host was gone (likely)") == 2
    assert shown.count("verdict: ended without closing (likely)") == 1
    assert lines[-1].startswith("verdict: ")
    left = {pm.peer.name: pm for pm in map(load, (tmp_path / "into").iterdir())}
    assert set(left) == {"host", "worker-1", "worker-2"}
    assert left["host"].stage is Stage.RUN
    assert [span.fields for span in left["worker-2"].open_spans] == [{"number": 2}]


# r[verify dump.recover.untouched]
def test_a_living_run_is_read_and_marked(root, tmp_path):
    """Its host keeps its lock, its cells and its files; no post-mortem is written of what lives."""
    program = write_program(tmp_path, HOST)
    with Program(program, ROAM_DIR=str(root.parent)) as host:
        run, *pids = host.line().split()
        names = sorted(Path(run).iterdir())
        for _ in range(3):
            shown = recover(run, "--into", tmp_path / "into").stdout
        assert f"run {run}, its host lives" in shown
        assert shown.count(", lives, ") == 3
        assert shown.count('cell "worker-1" still running') == 1
        assert list((tmp_path / "into").iterdir()) == []
        assert sorted(Path(run).iterdir()) == names
        assert is_held(Path(run))
        assert all(is_alive(int(pid)) for pid in pids)
        assert json.loads(recover(run, "--json").stdout)["runs"][0]["is_live"] is True
        host.say("go on")
        assert host.line() == "go on"
        kill_all(pids)


# r[verify dump.recover.untouched]
def test_the_lock_of_this_process_is_not_lost(root):
    """To close a file is to lose the locks on it: a host that reads its own directory keeps it."""
    run = RunDirectory.create()
    make_segment(run.path)
    assert (is_held(run.path), noted_dump_dir(run.path)) == (True, None)
    recover(run.path)
    assert run_script("-m", "roam", "gc").stdout == f"kept     run {run.path}: its host lives\n1 kept\n"
    for path in run.path.glob("1-*"):
        path.unlink()
    assert run.remove()


# r[verify dump.recover.timeline]
def test_a_reboot_changes_no_order(root):
    """Runs from before and after it stand in one timeline by wall time, each by its own anchor."""
    now = ClockAnchor.now()
    older = ClockAnchor(now.wall_ns - DAY_NS, now.monotonic_ns)
    runs = [root / f"{number:016x}" for number in (2, 1)]
    for run, name, anchor, boot in ((runs[0], "old", older, bytes(range(16))), (runs[1], "new", now, None)):
        make_orphan(root).rename(run)
        rest = {"boot_id": boot, "host_start_ticks": 1} if boot is not None else {}
        make_segment(run, name=name, anchor=anchor, pid=os.getpid(), **rest)
        make_segment(run, name="host", peer_id=0, anchor=anchor, pid=os.getpid(), **rest)
    found = json.loads(recover(root, "--json").stdout)
    shown = recover(root).stdout

    assert [record["name"] for record in found["timeline"]] == ["old"] * 3 + ["host"] * 3 + ["new"] * 3 + ["host"] * 3
    times = [record["time_ns"] for record in found["timeline"]]
    assert times == sorted(times)
    assert DAY_NS * 0.9 < times[-1] - times[0] < DAY_NS * 1.1
    assert [run["path"] for run in found["runs"]] == [str(run) for run in runs]
    assert shown.count("evidence: the machine was started anew since") == 2
    assert len(re.findall(r"^  \d{4}-\d\d-\d\d \(UTC\)$", shown, re.MULTILINE)) >= 2
    assert shown.index("run 1 old#1") < shown.index("run 2 new#1")


def test_a_directory_can_be_named_on_each_level(root):
    """A ROAM_DIR, a root of runs and one run give the same; also a copy whose lock nobody can judge."""
    run = make_orphan(root)
    make_segment(run)
    shown = {recover(place).stdout for place in (root.parent, root, run)}
    assert len(shown) == 1
    copy = root.parent / "copy"
    shutil.copytree(run, copy)
    (copy / LOCK_NAME).unlink()
    assert "nobody can say whether its host lives" in recover(copy).stdout
    assert recover(copy).stdout.endswith("verdict: unknown\n")


def test_nothing_to_recover_is_said_in_one_line(root, tmp_path):
    """No run, no directory, or a file: exit code 2, and nothing on stdout."""
    (tmp_path / "file").touch()
    for place in (root, tmp_path / "none", tmp_path / "file"):
        result = recover(place, code=2)
        assert (result.stdout, result.stderr.count("\n")) == ("", 1)


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(orphan, tmp_path):
    """A corrupt segment, a link and a damaged dump cost nobody else anything; the exit code is 2."""
    make_segment(orphan)
    (orphan / "2-000000000000000a.segment").write_bytes(b"junk" * 3000)
    (orphan / "3-000000000000000a.segment").symlink_to("/etc/passwd")
    (orphan.parent.parent / "dumps" / "9999-later.roam").write_bytes(b"junk")
    result = recover(orphan, "--into", tmp_path / "into", code=2)

    assert "record 2" in result.stdout
    assert re.fullmatch(r"roam: .* \(and 2 more\)\n", result.stderr)
    assert len(list((tmp_path / "into").iterdir())) == 1


# r[verify dump.recover.untouched]
def test_nothing_is_written_unless_told_where(orphan, tmp_path, monkeypatch):
    """Without `--into` no file appears anywhere; with it, and without room for all, none is begun."""
    make_segment(orphan)
    before = state_of(tmp_path)
    recover(orphan)
    assert state_of(tmp_path) == before
    room = namedtuple("room", "f_bavail f_frsize")  # noqa: PYI024
    monkeypatch.setattr(recover_module.os, "statvfs", lambda _path: room(1, 512))
    result = recover(orphan, "--into", tmp_path / "into", code=2)
    assert re.search(r"may take .* and 512 bytes are free", result.stderr)
    assert list((tmp_path / "into").iterdir()) == []


@pytest.mark.parametrize("suffix", [".fault", ".stdout", ".stderr"])
def test_room_is_needed_for_every_text(orphan, tmp_path, monkeypatch, suffix):
    """Stacks and the ends of both streams count, so that none of them is what does not fit any more."""
    make_segment(orphan).with_suffix(suffix).write_bytes(b"x" * (60 << 10))
    room = namedtuple("room", "f_bavail f_frsize")  # noqa: PYI024
    monkeypatch.setattr(recover_module.os, "statvfs", lambda _path: room(100, 1 << 10))

    assert "may take 124 KiB" in recover(orphan, "--into", tmp_path / "into", code=2).stderr


@pytest.mark.parametrize("is_noted", [True, False])
def test_the_dumps_of_a_run_belong_to_it(root, tmp_path, is_noted):
    """Those of cells that died before their host, wherever it put them; of other runs none, and no peer twice."""
    run = RunDirectory.create(tmp_path / "noted" if is_noted else None)
    make_segment(run.path)
    run.forget()
    place = tmp_path / "noted" if is_noted else root.parent / "dumps"
    place.mkdir(exist_ok=True)
    for number, name in enumerate(("twice", "friend"), 1):
        for where in (run.path.name, ORPHAN):
            remains = make_remains(
                [event(20, f"{name} of {where}")],
                peer=Peer(number, 1, name, 1),
                segment_path=f"/dev/shm/{where}/{number}-abc.segment",
                died_ns=time.time_ns() + DAY_NS,
            )
            write(remains, make_exit(), {}, place)
    found = json.loads(recover(run.path, "--into", place, "--json").stdout)

    assert [record["name"] for record in found["timeline"]] == ["friend"] + ["cell"] * 3
    assert [peer["path"] is not None for peer in found["runs"][0]["peers"]] == [True, True]
    assert json.loads(recover(run.path, "--json").stdout)["timeline"] == found["timeline"]


def test_what_was_printed_last_is_shown(orphan):
    """No host made records of it; it stands before the end of the cell that printed it, however few records are wanted."""
    make_segment(orphan)
    for arguments in ((), ("--last", 0)):
        shown = recover(orphan, *arguments).stdout
        tails = 'end of stdout\n  | a line\n\nend of stderr\n  | the last line\n\ncell "cell" '
        assert shown.count(tails) == 1


def test_the_last_records_can_be_asked_for(orphan):
    """`--last N` is the end of the timeline, of all peers together; the document says how many there were."""
    make_segment(orphan, peer_id=1, name="a")
    make_segment(orphan, peer_id=2, name="b")
    shown = recover(orphan, "--last", 4).stdout
    found = json.loads(recover(orphan, "--last", 4, "--json").stdout)

    assert "timeline, last 4 of 6 records" in shown
    assert shown.count("  record ") == 4
    assert [(record["name"], record["message"]) for record in found["timeline"]] == [
        ("a", "record 2"),
        *(("b", f"record {number}") for number in range(3)),
    ]
    assert found["record_count"] == 6
    assert messages_of(found["runs"][0]["peers"]) == [[], []]


def messages_of(documents):
    return [[record["message"] for record in document["records"]] for document in documents]


def test_what_cells_wrote_does_not_reach_the_terminal(orphan):
    """Names, messages and paths are escaped, in the text and in the document."""
    make_segment(orphan, name="\x1b[31mred\n\u202e")
    for arguments in ((), ("--json",)):
        shown = recover(orphan, *arguments).stdout
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown)
        assert "red" in shown
    assert ORPHAN in shown
