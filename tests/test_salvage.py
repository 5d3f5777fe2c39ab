"""What killed hosts leave becomes post-mortems and is removed; nothing is removed before it is safe."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

import roam
from roam.errors import DumpError
from roam.postmortem import salvage as salvage_module
from roam.postmortem.file import load
from roam.postmortem.salvage import Fate, salvage
from roam.shm.layout import HostWord
from roam.shm.rundir import LOCK_NAME, RunDirectory, run_directories, run_root
from roam.spawn import orphans
from roam.stage import Stage
from tests.hosting import messages
from tests.orphans import ORPHAN, command, fates, make_orphan, make_root, make_segment
from tests.support import run_script


@pytest.fixture
def root(monkeypatch, tmp_path):
    return make_root(monkeypatch, tmp_path)


@pytest.fixture
def dumps(root):
    return root.parent / "dumps"


@pytest.fixture
def orphan(root):
    return make_orphan(root)


# What becomes of the files of a run.


# r[verify dump.salvage.evidence]
def test_a_segment_becomes_a_post_mortem_and_goes(orphan, dumps):
    """The dump has the records, the end of what was printed and a verdict with its evidence; nothing is left of the run."""
    make_segment(orphan)
    [finding] = salvage(orphan, dumps)

    assert (finding.fate, finding.what.partition(" (")[0]) == (Fate.SAVED, 'cell "cell"')
    left = load(finding.why)
    assert messages(left.records) == ["record 0", "record 1", "record 2"]
    assert (left.stdout_tail, left.stderr_tail) == ("a line\n", "the last line\n")
    assert "\nend of stdout\n  | a line\n\nend of stderr\n  | the last line\n" in left.render()
    assert (left.exit.kind, left.exit.verdict) == ("lost", "its host was gone")
    assert left.exit.evidence == ("nobody held the lock on the run directory of its host",)
    assert not orphan.exists()
    assert not orphan.parent.exists()


def test_fatal_stacks_are_a_better_cause_than_the_host(orphan, dumps):
    """A cell that crashed before its host was killed is said to have crashed."""
    path = make_segment(orphan)
    path.with_suffix(".fault").write_text("Fatal Python error: Segmentation fault\n")
    [finding] = salvage(orphan, dumps)

    assert load(finding.why).exit.verdict == "Segmentation fault"


def test_the_host_has_a_post_mortem_of_its_own(orphan, dumps):
    """The host's records are saved as the cells' are."""
    make_segment(orphan, peer_id=0, name="host", pid=2**22 + 1)
    [finding] = salvage(orphan, dumps)

    left = load(finding.why)
    assert (left.peer.name, left.exit.verdict, left.stage) == ("host", "ended without closing", Stage.RUN)
    assert len(left.records) == 3


@pytest.mark.parametrize("taken", [3, 2])
def test_a_cell_that_was_done_is_told_of_if_its_host_had_not_read_all(taken, orphan, dumps):
    """Nothing is to explain of a good end; but what nobody has read is not removed."""
    path = make_segment(orphan, stage=Stage.EXIT, state=2)
    with open(path, "r+b", buffering=0) as file:
        file.seek((HostWord.TAKEN + 2) * 8)
        file.write(taken.to_bytes(8, "little"))
    [finding] = salvage(orphan, dumps)

    assert finding.fate is (Fate.REMOVED if taken == 3 else Fate.SAVED)
    assert len(list(dumps.iterdir())) == (taken == 2)
    assert not orphan.exists()


def test_a_cell_that_never_came_has_nothing_to_tell(orphan, dumps):
    """A reserved segment without process, record and output goes; with output it becomes a post-mortem."""
    path = make_segment(orphan, records=0, pid=0)
    assert fates(salvage(orphan, dumps)) == [Fate.SAVED]
    make_orphan(orphan.parent)
    path = make_segment(orphan, records=0, pid=0)
    path.with_suffix(".stderr").write_text("")
    assert fates(salvage(orphan, dumps)) == [Fate.SAVED]
    make_orphan(orphan.parent)
    path = make_segment(orphan, records=0, pid=0)
    path.with_suffix(".stdout").write_text("")
    path.with_suffix(".stderr").write_text("")
    assert fates(salvage(orphan, dumps)) == [Fate.REMOVED]


@pytest.mark.parametrize("content", [b"", bytes(100), bytes(70_000), bytes(8) + b"\1" * 300 + bytes(9000)])
def test_a_segment_in_the_making_goes(content, orphan, dumps):
    """Its host was killed before it had written the magic: no process can have had it."""
    (orphan / "1-000000000000000a.segment").write_bytes(content)

    assert fates(salvage(orphan, dumps)) == [Fate.REMOVED]
    assert not orphan.exists()


@pytest.mark.parametrize("what", ["junk", "no magic", "directory", "fifo", "link", "version", "foreign"])
def test_what_cannot_be_read_stays_and_is_said(what, orphan, dumps):
    """Corrupt, special and foreign files are neither removed nor the end of the salvage; the others are saved."""
    good = make_segment(orphan, peer_id=1)
    bad = orphan / "2-000000000000000b.segment"
    if what == "directory":
        bad.mkdir()
    elif what == "fifo":
        os.mkfifo(bad)
    elif what == "link":
        bad.symlink_to(good)
    elif what == "foreign":
        bad = orphan / "notes.txt"
        bad.write_text("x")
    else:
        data = bytearray(good.read_bytes())
        at = {"junk": 300, "no magic": 0, "version": 8}[what]
        data[at : at + 8] = bytes(8) if what == "no magic" else b"\xee" * 8
        bad.write_bytes(data)
    found = list(salvage(orphan, dumps))

    assert sorted(fates(found)) == [Fate.SAVED, Fate.STUCK]
    assert bad.is_symlink() or bad.exists()
    assert not good.exists()
    assert (orphan / LOCK_NAME).exists()
    result = command()
    assert result.exit_code == 2
    assert result.stderr.startswith("roam: not salvaged: ")
    assert (result.stderr.count("\n"), result.stdout.count("\n")) == (1, 2)


def test_leftovers_of_a_cleaned_up_peer_go(orphan, dumps):
    """Fault and stderr files without their segment: a host was killed while it removed them."""
    (orphan / "3-000000000000000a.fault").touch()
    (orphan / "3-000000000000000a.stderr").write_text("x")

    assert list(salvage(orphan, dumps)) == []
    assert not orphan.exists()


# r[verify dump.salvage.evidence]
@pytest.mark.parametrize("when", ["write", "fsync", "rename"])
def test_what_cannot_be_written_stays(when, orphan, dumps, monkeypatch):
    """On a full disk segment and companions are kept, byte for byte, and saved when there is room."""
    path = make_segment(orphan)
    before = {file.name: file.read_bytes() for file in orphan.iterdir()}

    def fail(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(roam.postmortem.file.os, when, fail)
        [finding] = salvage(orphan, dumps)
    assert finding.fate is Fate.STUCK
    assert "No space left" in finding.why
    assert before == {file.name: file.read_bytes() for file in orphan.iterdir()}
    assert not list(dumps.iterdir())
    assert fates(salvage(orphan, dumps)) == [Fate.SAVED]
    assert not path.exists()


def test_dumps_go_where_the_host_had_its_own(root, dumps, tmp_path):
    """The directory that the dead host was given, while it is there; else that of whoever salvages."""
    for place in (tmp_path / "mine", tmp_path / "gone"):
        run = RunDirectory.create(place)
        make_segment(run.path)
        run.forget()
    (tmp_path / "mine").mkdir()
    found = [finding for path in run_directories(root) for finding in salvage(path, dumps)]

    assert sorted(Path(finding.why).parent.name for finding in found) == ["dumps", "mine"]
    assert not root.exists()


def test_a_dump_directory_that_takes_nothing_is_replaced(root, dumps, tmp_path, monkeypatch):
    """Where the dead host's own place is full, the salvager's does."""
    (tmp_path / "full").mkdir()
    run = RunDirectory.create(tmp_path / "full")
    make_segment(run.path)
    run.forget()
    real = salvage_module.write

    def write(remains, end, facts, place):
        if place.name == "full":
            raise DumpError(path=str(place), why="it is full")
        return real(remains, end, facts, place)

    monkeypatch.setattr(salvage_module, "write", write)
    [finding] = salvage(run.path, dumps)
    assert Path(finding.why).parent == dumps


def test_a_rehearsal_changes_nothing(orphan, dumps):
    """It says what would be done; every file is the same afterwards, and the real run does what it said."""
    make_segment(orphan, peer_id=1)
    make_segment(orphan, peer_id=2, stage=Stage.EXIT, state=2, records=0)
    (orphan / "3-000000000000000a.segment").write_bytes(b"")
    (orphan / "4-000000000000000a.stderr").touch()
    (orphan.parent / ("0" * 16)).mkdir()
    before = {path: path.stat().st_mtime_ns for path in orphan.parent.rglob("*")}
    first = command("--dry-run")

    assert first.stdout.endswith("1 saved, 2 removed; nothing was changed\n")
    assert before == {path: path.stat().st_mtime_ns for path in orphan.parent.rglob("*")}
    assert not list(dumps.iterdir())
    assert command().stdout.endswith("1 saved, 2 removed\n")
    assert not orphan.parent.exists()


# r[verify dump.salvage.evidence]
@pytest.mark.parametrize("call", ["fsync", "rename", "unlink"])
def test_a_salvager_that_is_killed_costs_nothing(call, orphan, dumps):
    """Killed before any step that matters: the segment, or its dump, or both are there, and the next one finishes."""
    make_segment(orphan)
    script = """if True:
        import os, signal, sys
        from pathlib import Path
        from roam.postmortem.salvage import salvage
        import roam.postmortem.file, roam.postmortem.salvage
        def die(*_arguments, **_options):
            os.kill(os.getpid(), signal.SIGKILL)
        if sys.argv[3] == "unlink":
            Path.unlink = die
        else:
            setattr(os, sys.argv[3], die)
        list(salvage(Path(sys.argv[1]), Path(sys.argv[2])))
    """
    done = run_script("-c", script, orphan, dumps, call, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (orphan / "1-0000000000000abc.segment").exists()

    assert fates(salvage(orphan, dumps)) == [Fate.SAVED]
    for dump in dumps.glob("*.roam"):
        assert messages(load(dump).records) == ["record 0", "record 1", "record 2"]
    assert not orphan.exists()


# At the start of a host.


# r[verify dump.salvage.start]
def test_a_host_salvages_when_it_starts(orphan, dumps, caplog):
    """The next host of the user, whatever program it is in; the log says where the post-mortems are."""
    make_segment(orphan)
    with caplog.at_level("INFO", "roam"), roam.TracingHost(forward=False) as host:
        assert not orphan.exists()
        [dump] = dumps.iterdir()
        assert str(dump) in caplog.text
        assert run_directories(run_root()) == []
        assert host.run_dir.exists()


# r[verify dump.salvage.start]
def test_a_start_takes_what_it_can_in_its_time(root, dumps, monkeypatch):
    """When its time is up it begins nothing new, and it leaves large segments alone; the lock of the run is given up."""
    for number in range(3):
        (root / f"{number:016x}").mkdir()
        (root / f"{number:016x}" / LOCK_NAME).touch()
        for peer_id in (1, 2):
            make_segment(root / f"{number:016x}", peer_id=peer_id)
    monkeypatch.setattr(orphans, "_LARGE_BYTES", 1000)
    orphans.salvage_orphans(dumps)
    assert len(list(root.rglob("*.segment"))) == 6
    monkeypatch.undo()
    monkeypatch.setattr(orphans, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(orphans, "run_root", lambda: root)
    monkeypatch.setattr(orphans.time, "monotonic", iter([0.0, 0.0, 1.0, 1.0, 1.0]).__next__)
    orphans.salvage_orphans(dumps)
    monkeypatch.undo()
    assert len(list(root.rglob("*.segment"))) == 5
    found = [finding for run in run_directories(root) for finding in salvage(run, dumps)]
    assert fates(found) == [Fate.SAVED] * 5


# r[verify dump.salvage.start]
def test_a_host_starts_whatever_others_left(root, dumps, monkeypatch):
    """Foreign files, locks that cannot be opened, or would be waited for, and corrupt segments: a host starts without a
    word."""
    (root / "file").touch()
    (root / "link").symlink_to("/")
    (root / ("c" * 16) / LOCK_NAME).mkdir(parents=True)
    (root / ("d" * 16)).mkdir()
    os.mkfifo(root / ("d" * 16) / LOCK_NAME)
    (root / ("a" * 16)).mkdir()
    (root / ("a" * 16) / LOCK_NAME).touch()
    (root / ("a" * 16) / "1-000000000000000a.segment").write_bytes(b"junk")
    (root / ("b" * 16)).mkdir()
    before = sorted(path for path in root.rglob("*") if "d" * 16 not in path.parts and path.name != "b" * 16)
    done = run_script("-c", "import roam; roam.TracingHost().close()")

    assert done.stdout == done.stderr == ""
    assert sorted(root.rglob("*")) == before
    monkeypatch.setattr(orphans, "run_directories", None)
    orphans.salvage_orphans(dumps)


def test_without_orphans_a_start_loads_nothing_more(root):
    """The code for it is imported by the first host that finds an orphan; a living neighbour is none."""
    script = "import sys, roam; h = roam.TracingHost(); print('roam.postmortem.salvage' in sys.modules); h.close()"
    run = RunDirectory.create()
    assert run_script("-c", script).stdout == "False\n"
    assert run.remove()
    (root / ORPHAN).mkdir(parents=True)
    (root / ORPHAN / LOCK_NAME).touch()
    assert run_script("-c", script).stdout == "True\n"


# The command.


def test_the_command_has_nothing_to_do(root, tmp_path):
    """No root, or nothing in it, is no error; a directory that is not there is one, in one line."""
    assert (command().exit_code, command().stdout) == (0, "nothing to do\n")
    root.rmdir()
    assert command().stdout == "nothing to do\n"
    for wrong in (tmp_path / "none", root.parent / "dumps" / "x"):
        result = command(wrong)
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)


def test_names_that_cells_chose_do_not_reach_the_terminal(orphan, dumps):
    """Control characters in a cell's name are escaped."""
    make_segment(orphan, name="\x1b[31mred")
    assert "\x1b" not in command("--dry-run").stdout
    assert "\x1b" not in command().stdout


def test_what_is_not_roams_is_left_alone(root, dumps):
    """Directories that hosts do not make, empty ones too, and files in a run that belong to no peer."""
    for place in (root, root.parent / "project"):
        (place / "empty").mkdir(parents=True)
        (place / "other").mkdir()
        (place / "other" / LOCK_NAME).touch()
        (place / "other" / "build.stderr").write_text("mine")
    (root / ORPHAN).mkdir()
    (root / ORPHAN / LOCK_NAME).touch()
    (root / ORPHAN / "build.stderr").write_text("mine")
    (root / ORPHAN / "build.segment").touch()
    before = sorted(root.parent.rglob("*"))

    assert command(root.parent / "project").stdout == "nothing to do\n"
    assert "2 stuck" in command().stdout
    run_script("-c", "import roam; roam.TracingHost().close()")
    assert sorted(root.parent.rglob("*")) == before
