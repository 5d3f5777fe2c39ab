"""Mistakes and bad luck: each gets a clear error, and leaves nothing behind but what was there before."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import click.testing
import pytest

import roam
from roam.cli.main import commands
from roam.errors import CannotSend, DumpError, NoSpace
from tests import cells
from tests.programs import METHODS, write_program
from tests.session import RUN_ROOT
from tests.support import REPOSITORY, run_script, wait_until

WAIT_S = 30.0


@pytest.fixture
def host(tmp_path):
    with roam.TracingHost(dump_dir=tmp_path / "dumps", forward=False) as host:
        yield host


def everything_in(*places):
    return sorted(str(path) for place in places for path in Path(place).rglob("*"))


# What cannot be sent or imported.


class Service:
    def __init__(self, db):
        self.settings = {"connections": [db]}

    def run(self):
        return "ran"


# r[verify spawn.unsendable]
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_target_that_cannot_be_sent_is_named(method, host):
    """The error names the attribute that cannot be sent; no peer, process or file is left, and the host goes on."""
    database = sqlite3.connect(":memory:")
    before, peers = everything_in(host.run_dir, host.dump_dir), host.peers

    with pytest.raises(CannotSend, match=re.escape("target.__self__.settings['connections'][0]")):
        roam.spawn_cell(Service(database).run, host=host, start_method=method)

    database.close()
    assert everything_in(host.run_dir, host.dump_dir) == before
    assert (host.peers, host.cells) == (peers, ())
    assert roam.spawn_cell(Service(None).run, host=host, start_method=method).result(WAIT_S) == "ran"


UNIMPORTABLE = """
    import os, sys
    import roam

    if __name__ == "__main__":
        os.unlink("helper.py") if os.path.exists("helper.py") else open("helper.py", "w").write("def work(): return 1")
        import helper
        os.unlink("helper.py")
        with roam.TracingHost(forward=False) as host:
            cell = roam.spawn_cell(helper.work, host=host, start_method=sys.argv[1])
            try:
                cell.result(30)
            except roam.SpawnFailed as error:
                print(error.stage, cell.exit.kind, *os.listdir(host.run_dir), len(host.cells), sep="|")
                print(error)
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_target_that_cannot_be_imported_in_the_cell_is_named(method, tmp_path):
    """The error says in which stage, and what the cell could not import; only the post-mortem stays."""
    program = write_program(tmp_path, UNIMPORTABLE)
    (tmp_path / "place").mkdir()
    environ = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{tmp_path / 'place'}"}
    done = run_script(program, method, cwd=tmp_path / "place", environ=environ)

    stage, kind, *files, cell_count = done.stdout.partition("\n")[0].split("|")
    assert (stage, kind, cell_count) == ("unpickle", "start_failed", "0")
    assert not [name for name in files if name.startswith("1-")]
    assert "No module named 'helper'" in done.stdout
    assert everything_in(RUN_ROOT) == []


UNGUARDED = """
    import os, sys
    import roam

    with open("runs", "a") as file:
        file.write("x")

    def work():
        return 7

    cell = roam.spawn_cell(work, start_method=sys.argv[1])
    print(cell.result(30))
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_main_guard_starts_one_process_and_says_what_is_missing(method, tmp_path):
    """The cell that imports the script again refuses to start another one; under `fork` no guard is needed."""
    done = run_script(write_program(tmp_path, UNGUARDED), method, cwd=tmp_path, check=False)

    if method == "fork":
        assert (done.returncode, done.stdout, done.stderr) == (0, "7\n", "")
        return
    assert (tmp_path / "runs").read_text() == "xx"
    assert (done.returncode, done.stdout) == (1, "")
    assert "SpawnFailed" in done.stderr
    assert "stage import_main" in done.stderr
    assert "if __name__ == '__main__':" in done.stderr
    assert everything_in(RUN_ROOT) == []


# No room.


def test_a_segment_that_does_not_fit_is_an_error_at_the_call(host):
    """Under a limit for files the call names what is needed, what is free and what to do; nothing is left."""
    before, peers = everything_in(host.run_dir), host.peers
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        for method in METHODS:
            with pytest.raises(NoSpace, match="SegmentConfig") as caught:
                roam.spawn_cell(cells.add, 1, 2, host=host, start_method=method)
            assert caught.value.needed_bytes > 1 << 20
            assert caught.value.free_bytes > 0
        assert everything_in(host.run_dir) == before
        assert host.peers == peers
        with pytest.raises(NoSpace):
            roam.TracingHost(dump_dir=host.dump_dir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert everything_in(RUN_ROOT) == sorted([str(host.run_dir), *before])
    assert roam.spawn_cell(cells.add, 1, 2, host=host).result(WAIT_S) == 3


TINY = """
    import os, sys
    import roam
    from roam.errors import NoSpace
    from tests import cells

    def show(error):
        place = os.environ["ROAM_DIR"]
        left = [name for _, _, names in os.walk(place) for name in names if not name.startswith(("0-", "host."))]
        print(error.needed_bytes, error.free_bytes, left, error, sep="|")

    if __name__ == "__main__":
        dumps, room = sys.argv[1:]
        try:
            with roam.TracingHost(dump_dir=dumps, forward=False) as host:
                with open(os.path.join(os.environ["ROAM_DIR"], "filler"), "wb") as filler:
                    space = os.statvfs(filler.fileno())
                    os.posix_fallocate(filler.fileno(), 0, space.f_bavail * space.f_frsize - int(room))
                try:
                    roam.spawn_cell(cells.add, 1, 2, host=host)
                except NoSpace as error:
                    os.unlink(filler.name)
                    show(error)
                print(roam.spawn_cell(cells.add, 1, 2, host=host).result(30))
        except NoSpace as error:
            show(error)
"""


def in_tiny_file_system(tmp_path, megabytes, *arguments):
    """Run a program whose ROAM_DIR is a file system of this size, seen by nobody else and gone with it."""
    (tmp_path / "mount").mkdir()
    program = write_program(tmp_path, TINY)
    script = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift && ROAM_DIR="$1" && export ROAM_DIR && shift && exec "$@"'
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    command = [*unshare, "sh", "-c", script, "sh", f"{megabytes}m", str(tmp_path / "mount")]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no file system can be mounted here")
    runner = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
    return run_script("-c", runner, *command, sys.executable, program, str(tmp_path / "dumps"), *arguments)


def test_a_tiny_shared_memory_is_an_error_of_the_host(tmp_path):
    """Where not even the host's own segment fits: what is needed, what is free, the remedy, and nothing left."""
    done = in_tiny_file_system(tmp_path, 1, "0")

    needed, free, left, text = done.stdout.rstrip().split("|")
    assert int(needed) > 1 << 20 >= int(free) > 0
    assert left == "[]"
    assert needed in text
    assert free in text
    assert "--shm-size" in text
    assert "ROAM_DIR" in text
    assert done.stderr == ""


@pytest.mark.parametrize("room", ["0", "1000000"])
def test_a_full_shared_memory_is_an_error_of_the_call(room, tmp_path):
    """A file system that somebody fills: the call fails, nothing is left, and when there is room again cells start."""
    done = in_tiny_file_system(tmp_path, 16, room)

    error, answer = done.stdout.rstrip().rsplit("\n", 1)
    needed, free, left, text = error.split("|")
    assert answer == "3"
    assert abs(int(free) - int(room)) < 200_000
    assert int(needed) > 1 << 20
    assert left == "[]"
    assert "ROAM_DIR" in text
    assert done.stderr == ""


# No place for dumps, and dumps that are no more.


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/dumps", "/dev/null"])
def test_a_host_says_at_once_that_dumps_cannot_be_kept(place, tmp_path):
    """A dump directory that cannot be written is an error when the host starts, which names the remedy."""
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(DumpError, match=r"dumps cannot be kept here.*dump_dir=.*ROAM_DIR") as caught:
        roam.TracingHost(dump_dir=tmp_path / place)

    assert caught.value.path == str(tmp_path / place)
    assert (tmp_path / "file").read_text() == "in the way"
    assert everything_in(RUN_ROOT) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_is_refused(tmp_path):
    """As above, where the directory exists and belongs to somebody else."""
    (tmp_path / "dumps").mkdir(mode=0o500)

    with pytest.raises(DumpError, match="Permission denied"):
        roam.TracingHost(dump_dir=tmp_path / "dumps")


def test_a_dump_directory_that_vanishes_costs_no_evidence(host, caplog):
    """When the dump cannot be written in the end, the host's log says so and the post-mortem is still to be had."""
    shutil.rmtree(host.dump_dir)
    cell = roam.spawn_cell(cells.die_in_span, host=host)
    ended = cell.join(WAIT_S)

    assert ended.signal == signal.SIGKILL
    assert [span.name for span in cell.post_mortem.open_spans] == ["job"]
    assert "kept in memory only" in caplog.text
    segments = list(host.run_dir.glob(f"{cell.peer.peer_id}-*.segment"))
    assert len(segments) == 1
    assert "still here" in show(segments[0]).output
    for path in host.run_dir.glob(f"{cell.peer.peer_id}-*"):
        path.unlink()


def damage(data, seed):
    """A copy of bytes with one kind of damage, the same for the same seed."""
    chance, found = random.Random(seed), bytearray(data)
    kind = seed % 4
    if kind == 0:
        del found[chance.randrange(len(found)) :]
    elif kind == 1:
        for _ in range(50):
            found[chance.randrange(len(found))] = chance.randrange(256)
    elif kind == 2:
        start = chance.randrange(len(found))
        found[start : start + 4096] = bytes(min(4096, len(found) - start))
    else:
        start = chance.randrange(min(4096, len(found)))
        found[start : start + 64] = chance.randbytes(64)
    return bytes(found)


@pytest.fixture
def evidence(tmp_path):
    """A dump and a segment of cells that died by SIGKILL."""
    with roam.TracingHost(dump_dir=tmp_path / "dumps", forward=False) as host:
        cell = roam.spawn_cell(cells.die_in_span, host=host)
        assert cell.join(WAIT_S).signal == signal.SIGKILL
        [dump] = host.dump_dir.glob("*.roam")
        live = roam.spawn_cell(cells.wait_in_span, host=host)
        while not live.open_spans():
            assert live.is_alive()
        [segment] = host.run_dir.glob(f"{live.peer.peer_id}-*.segment")
        copy = tmp_path / "copy.segment"
        shutil.copy(segment, copy)
        live.kill()
        live.join(WAIT_S)
    return {"dump": dump, "segment": copy}


@pytest.mark.parametrize("kind", ["dump", "segment"])
def test_damaged_evidence_is_shown_as_far_as_it_goes(kind, evidence, tmp_path):
    """`roam show` on 100 damaged copies: a rendering or one sentence that says what is wrong, never a traceback."""
    data, outcomes = evidence[kind].read_bytes(), Counter()
    damaged = tmp_path / f"damaged{evidence[kind].suffix}"
    sound = show(evidence[kind]).stdout
    assert "still here" in sound
    for seed in range(100):
        damaged.write_bytes(damage(data, seed))
        result = show(damaged)
        assert isinstance(result.exception, SystemExit | None), f"seed {seed}: {result.exception!r}"
        assert "Traceback" not in result.output
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", result.output), f"seed {seed}"
        if not result.stdout:
            outcomes["refused"] += 1
            assert result.exit_code == 2
            assert str(damaged) in result.stderr
        elif kind == "dump" and damaged.read_bytes() != data:
            outcomes["shown"] += 1
            assert f"{damaged} is damaged" in result.stderr, f"seed {seed}"
        else:
            outcomes["shown"] += 1
    assert outcomes["shown"] > 50
    assert outcomes["refused"] > 0


def show(path):
    return click.testing.CliRunner().invoke(commands, ["show", str(path)])


@pytest.mark.parametrize("content", [b"", b"roam", b"\0" * 4096, b"not a dump at all " * 1000])
@pytest.mark.parametrize("suffix", [".roam", ".segment", ".txt"])
def test_what_is_no_evidence_is_refused_in_one_sentence(content, suffix, tmp_path):
    """Empty and foreign files: an exit code, the path and the reason on stderr."""
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    result = show(path)

    assert result.exit_code == 2
    assert str(path) in result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) <= 2


@pytest.mark.parametrize("how", ["truncate", "words", "everything"])
def test_a_cell_that_ruins_its_segment_harms_nobody_else(how, host):
    """What the host had read before is in the dump; the host and its other cells go on."""
    other = roam.spawn_cell(cells.wait_in_span, host=host)
    ruined = roam.spawn_cell(cells.ruin_own_segment, how, host=host)

    assert ruined.join(WAIT_S).signal == signal.SIGKILL
    left = roam.postmortem.load(next(host.dump_dir.glob("*.roam")))
    assert left.exit.signal == signal.SIGKILL
    assert "SIGKILL" in show(left.path).stdout
    wait_until(lambda: len([record for record in other.records() if record.message == "still here"]) == 2_000)
    other.kill()
    assert roam.spawn_cell(cells.add, 1, 2, host=host).result(WAIT_S) == 3
