"""The `roam` command: what it prints, how it ends, and that it never changes what it reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from roam.cli.main import commands
from roam.postmortem import write
from tests.remains import FAULT_TEXT, SECOND, WALL_NS, event, make_exit, make_remains, make_span
from tests.support import REPOSITORY, run_script


def roam(*arguments: str | os.PathLike[str], **environ: str) -> Result:
    result = CliRunner().invoke(commands, [os.fspath(argument) for argument in arguments], env=environ)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.stderr
    return result


@pytest.fixture
def dump(tmp_path) -> Path:
    """A dump in the default directory of its own `ROAM_DIR`."""
    return make_dump(tmp_path, "parser")


def make_dump(root: Path, name: str, later_s: int = 0, records: int = 80) -> Path:
    (root / "dumps").mkdir(exist_ok=True)
    remains = make_remains(
        [event(20, f"message {number} é \x1b") for number in range(records)],
        name=name,
        fault_text=FAULT_TEXT,
        open_spans=[make_span(1, "job")],
        died_ns=WALL_NS + later_s * SECOND,
    )
    return write(remains, make_exit(), {}, root / "dumps")


def test_a_dump_is_shown(dump):
    """`roam show PATH` prints the post-mortem with the cause at the end, and ends with 0."""
    result = roam("show", dump)

    assert result.exit_code == 0
    assert result.stdout.startswith('Post-mortem of cell "parser"')
    assert result.stdout.endswith("verdict: crashed in native code\n")
    assert "records, last 50 of 80" in result.stdout
    assert result.stderr == ""


def test_last_is_the_newest_dump(tmp_path):
    """`roam show last` finds the dump of the latest death below `ROAM_DIR`, not the latest file."""
    make_dump(tmp_path, "newer", later_s=100)
    make_dump(tmp_path, "older")
    (tmp_path / "dumps" / "99-not-a-dump.txt").write_text("")
    (tmp_path / "dumps" / "99-link.roam").symlink_to("/dev/null")
    result = roam("show", "last", ROAM_DIR=str(tmp_path))

    assert result.exit_code == 0
    assert 'cell "newer"' in result.stdout


def test_no_dump_at_all_is_an_error_with_a_remedy(tmp_path):
    """`roam show last` without a dump is one line on stderr and exit code 2."""
    result = roam("show", "last", ROAM_DIR=str(tmp_path))

    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert "ROAM_DIR" in result.stderr


def test_the_number_of_records_can_be_chosen(dump):
    """`--last N` shows N records."""
    result = roam("show", dump, "--last", "3")

    assert "records, last 3 of 80" in result.stdout
    assert result.stdout.count("message ") == 3


def test_json_is_one_document(dump):
    """`--json` is a document with all records, in which no control character is raw."""
    result = roam("show", dump, "--json")
    found = msgspec.json.decode(result.stdout)

    assert result.exit_code == 0
    assert len(found["records"]) == 80
    assert found["records"][0]["message"] == "message 0 é \x1b"
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("option", "environ", "is_colored"),
    [
        ("auto", {}, False),
        ("always", {}, True),
        ("always", {"NO_COLOR": "1"}, True),
        ("never", {}, False),
    ],
)
def test_color_is_as_asked_for(dump, option, environ, is_colored):
    """Colours are there when asked for, and never in what is no terminal unless they are."""
    result = CliRunner().invoke(commands, ["show", str(dump), "--color", option], env=environ, color=True)

    assert ("\x1b[" in result.stdout) == is_colored


def test_no_color_is_respected_on_a_terminal(dump):
    """On a terminal the text is coloured, unless `NO_COLOR` is set."""
    import pty

    seen = []
    for environ in ({"NO_COLOR": ""}, {"NO_COLOR": "1"}):
        primary, secondary = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "roam", "show", str(dump), "--last", "1"],
            stdout=secondary,
            cwd=REPOSITORY,
            env={**os.environ, **environ},
        )
        os.close(secondary)
        output = b""
        try:
            while piece := os.read(primary, 65536):
                output += piece
        except OSError:
            pass  # what Linux says when the other end of a terminal is closed
        os.close(primary)
        assert process.wait(30) == 0
        seen.append(b"\x1b[" in output)
        # The terminal turns each line feed into CR LF; nothing else may stand below a space.
        assert {byte for byte in output if byte < 0x20} <= {10, 13, 27}

    assert seen == [True, False]


def test_a_damaged_dump_is_shown_as_far_as_it_is_sound(dump):
    """What is left is on stdout, one line about the damage on stderr, exit code 2."""
    dump.write_bytes(dump.read_bytes()[:-300])
    result = roam("show", dump)

    assert result.exit_code == 2
    assert "message 79" in result.stdout
    assert "\ndamage\n" in result.stdout
    assert result.stderr.count("\n") == 1
    assert "is damaged" in result.stderr


@pytest.mark.parametrize("content", [b"", b"roampm\r\n", b"hello", b"\0" * 5000])
def test_what_is_no_dump_is_refused_in_one_line(tmp_path, content):
    """A file that cannot be used is one line on stderr and exit code 2, whatever its name."""
    for name in ("x.roam", "x.segment", "x"):
        path = tmp_path / f"\x1b{name}"
        path.write_bytes(content)
        result = roam("show", path)

        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
        assert "\x1b" not in result.stderr


def test_missing_and_special_files_are_refused_in_one_line(tmp_path):
    """A path that is not there, a FIFO, an empty directory and a device end at once with exit code 2."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "none", tmp_path / "fifo", tmp_path / "empty", Path("/dev/null")):
        result = roam("show", path)

        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)


def test_wrong_usage_is_said(tmp_path):
    """An unknown command or option ends with exit code 2 and a hint."""
    assert roam("sohw").exit_code == 2
    assert roam("show").exit_code == 2
    assert roam("show", "x", "--last", "-1").exit_code == 2


def test_help_and_version(tmp_path):
    """The group lists its commands, each command explains itself, and the version is one line."""
    assert "show" in roam("--help").stdout
    assert "root cause last" in roam("show", "--help").stdout
    version = roam("--version")

    assert version.exit_code == 0
    assert version.stdout.startswith("roam ")


def test_nothing_that_is_read_is_changed(dump):
    """Showing a dump leaves its bytes, its times of change and its directory as they were."""
    before = (dump.read_bytes(), dump.stat().st_mtime_ns, dump.stat().st_ctime_ns, sorted(os.listdir(dump.parent)))
    roam("show", dump)
    roam("show", dump, "--json")

    assert before == (
        dump.read_bytes(),
        dump.stat().st_mtime_ns,
        dump.stat().st_ctime_ns,
        sorted(os.listdir(dump.parent)),
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(tmp_path, unbuffered):
    """`roam show … | head -1` prints one line and nothing on stderr."""
    dump = make_dump(tmp_path, "long", records=20_000)
    command = f'"{sys.executable}" -m roam show "{dump}" --last 20000 | head -1; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stderr == ""
    assert done.stdout.splitlines() == ['Post-mortem of cell "long" (peer 3, epoch 1), pid 1234', "141"]


def test_a_full_disk_is_said_in_one_line(dump):
    """Output that cannot be written ends with exit code 2, without a traceback."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "roam", "show", str(dump)],
            cwd=REPOSITORY,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


@pytest.mark.parametrize("environ", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_any_locale_will_do(dump, environ):
    """Where the terminal knows ASCII only, other characters are shown as escapes."""
    done = run_script("-m", "roam", "show", dump, environ=environ)

    assert "message 79 " in done.stdout
    assert done.stderr == ""


def test_click_is_loaded_by_the_command_line_only():
    """`import roam.postmortem.file` does not load click, and `roam --help` does not load what `show` needs."""
    script = "import sys, roam.postmortem.file, roam.postmortem.render; print('click' in sys.modules)"
    assert run_script("-c", script).stdout.strip() == "False"

    script = "import sys, roam.cli.main; print('roam.cli.show' in sys.modules, 'msgspec' in sys.modules)"
    assert run_script("-c", script).stdout.split() == ["False", "False"]


CELL = """
import os, signal, socket, sys
from pathlib import Path
from roam.clock import ClockAnchor
from roam.stage import Stage
from roam.shm.layout import SegmentConfig
from roam.shm.header import Identity
from roam.shm.segment import SegmentFile, boot_id, process_start_ticks
from roam.ticket import SpawnTicket
from roam.tracing.cell import attach
import roam

directory, number, how = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
path = directory / f"{number}-abc.segment"
pid = os.getpid()
identity = Identity(number, 1, f"cell-{number}", bytes(16), pid, process_start_ticks(pid), boot_id(), ClockAnchor.now(), "0", "3")
segment = SegmentFile.create(path, SegmentConfig(), identity)
ours, theirs = socket.socketpair()
fault = os.open(path.with_suffix(".fault"), os.O_RDWR | os.O_CREAT, 0o600)
path.with_suffix(".stderr").write_text("oh no\\n")
tracing = attach(SpawnTicket(os.dup(segment.fd), theirs.detach(), fault, bytes(16).hex()))
tracing.enter_stage(Stage.RUN)

def boom():
    os.kill(pid, signal.SIGSEGV)

with roam.span("resize", path="a.png"):
    roam.warning("about to %s" % how)
    print("ready", flush=True)
    if how == "wait":
        sys.stdin.read()
    boom()
"""


def test_a_run_that_nobody_has_buried_is_shown(tmp_path):
    """Of a run directory every segment is shown in the order of birth, with spans, stderr and crash site, unchanged."""
    for number in (10, 9):
        run_script("-c", CELL, tmp_path, str(number), "crash", check=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = roam("show", tmp_path)

    assert result.exit_code == 0, result.stderr
    assert result.stdout.index('"cell-9"') < result.stdout.index('"cell-10"')
    assert result.stdout.count("  about to crash  in resize") == 2
    assert result.stdout.count("resize  path=a.png  ") == 2
    assert result.stdout.count("  | oh no\n") == 2
    assert (
        "lost; nobody knows how it ended, last seen in stage run, at <string>:25 in boom, in span resize"
        in result.stdout
    )
    assert result.stdout.endswith("  evidence: the fatal stacks that it wrote\nverdict: Segmentation fault (certain)\n")
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    found = msgspec.json.decode(roam("show", tmp_path, "--json").stdout)
    assert [item["peer"]["name"] for item in found] == ["cell-9", "cell-10"]
    assert not any(item["is_live"] for item in found)

    (tmp_path / "11-abc.segment").write_bytes(b"junk")
    result = roam("show", tmp_path)
    assert result.exit_code == 2
    assert result.stdout.count("Post-mortem of cell") == 2
    assert "11-abc.segment" in result.stderr


def test_a_cell_that_still_runs_is_shown(tmp_path):
    """A living cell's segment can be looked at, and the text does not call the cell dead."""
    with subprocess.Popen(
        [sys.executable, "-c", CELL, str(tmp_path), "1", "wait"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            live = roam("show", tmp_path / "1-abc.segment")
        finally:
            process.kill()
    dead = roam("show", tmp_path / "1-abc.segment")

    assert live.stdout.startswith('Cell "cell-1"')
    assert 'cell "cell-1" still running, in span resize' in live.stdout.splitlines()[-1]
    assert "verdict" not in live.stdout
    assert dead.stdout.startswith('Post-mortem of cell "cell-1"')
    assert dead.stdout.endswith("verdict: unknown\n")
