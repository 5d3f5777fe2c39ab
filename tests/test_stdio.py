"""What cells print: by every mode and start method, from Python, C and grandchildren, up to the last word."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import roam
from roam.spawn import feed
from roam.tracing.records import PRINTED
from tests.hosting import holds
from tests.support import REPOSITORY, run_script, wait_until

METHODS = ("forkserver", "spawn", "fork")
WAIT_S = 30.0


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture
def host(tmp_path):
    with roam.TracingHost(dump_dir=tmp_path / "dumps") as host:
        yield host


def lines_of(cell, stream=None):
    """The messages of a cell's lines, of one stream or of both."""
    return [record.message for record in cell.records() if record.lane == "stdio" and stream in (None, record.target)]


def files_of(host):
    """The files in which cells print."""
    return [path.name for suffix in ("stdout", "stderr") for path in host.run_dir.glob(f"*.{suffix}")]


def speak():
    """One line for each way to print."""
    libc = ctypes.CDLL(None)
    print("from Python")
    libc.printf(b"from C\n")
    libc.fflush(None)
    os.write(2, b"raw \xff words\n")
    subprocess.run(["/bin/sh", "-c", "echo from a grandchild"], check=True)
    print("to stderr", file=sys.stderr)
    print("the last", end="", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


STDOUT_LINES = ["from Python", "from C", "from a grandchild", "the last"]
STDERR_LINES = ["raw \\xff words", "to stderr"]
STDOUT_TEXT = "\n".join(STDOUT_LINES)
STDERR_BYTES = b"raw \xff words\nto stderr\n"


# r[verify spawn.stdio]
@pytest.mark.parametrize("mode", ["tee", "capture"])
def test_everything_printed_is_a_record(method, mode, host, capfdbinary):
    """From Python, C, a grandchild, of both streams, in their order, the partial last line of a killed cell included; with
    `tee` this process's own streams have it as well, byte by byte."""
    with host.subscribe() as records:
        cell = roam.spawn_cell(speak, start_method=method, stdio=mode, host=host)
        cell.join(WAIT_S)
        arrived = [tagged for tagged in iter(lambda: records.get(0.0), None) if tagged.record.lane == "stdio"]

    for found in (cell.records(), cell.post_mortem.records, [tagged.record for tagged in arrived]):
        lines = [record for record in found if record.lane == "stdio"]
        assert [line.message for line in lines if line.target == "stdout"] == STDOUT_LINES
        assert [line.message for line in lines if line.target == "stderr"] == STDERR_LINES
        assert [line.message for line in lines if "partial" in line.fields] == ["the last"]
        assert all(line.fields["stream"] == line.target for line in lines)
        assert [line.seq for line in lines] == list(range(6))
    assert {tagged.peer for tagged in arrived} == {cell.peer}
    assert (cell.post_mortem.stdout_tail, cell.post_mortem.stderr_tail) == (
        STDOUT_TEXT,
        STDERR_BYTES.decode("utf-8", "backslashreplace"),
    )
    printed = capfdbinary.readouterr()
    expected = (STDOUT_TEXT.encode(), STDERR_BYTES) if mode == "tee" else (b"", b"")
    assert (printed.out, printed.err) == expected
    assert files_of(host) == []


# r[verify spawn.stdio]
def test_inherited_streams_are_untouched(method, host, capfdbinary):
    """With `inherit` the text goes where this process's own goes; the host has no part in it, and no file."""
    cell = roam.spawn_cell(speak, start_method=method, stdio="inherit", host=host)
    cell.join(WAIT_S)

    printed = capfdbinary.readouterr()
    assert (printed.out, printed.err) == (STDOUT_TEXT.encode(), STDERR_BYTES)
    assert lines_of(cell) == []
    assert "stdio" not in cell.statistics().lanes
    assert (cell.post_mortem.stdout_tail, cell.post_mortem.stderr_tail) == ("", "")


# r[verify spawn.stdio]
def test_null_has_no_streams(method, host, capfdbinary):
    """With `null` descriptors 0, 1 and 2 are `/dev/null`, and there is no file."""
    cell = roam.spawn_cell(_say_and_look, host.run_dir, start_method=method, stdio="null", host=host)

    assert cell.result(WAIT_S) == (["/dev/null"] * 3, [])
    assert lines_of(cell) == []
    printed = capfdbinary.readouterr()
    assert (printed.out, printed.err) == (b"", b"")


def _say_and_look(run_dir):
    print("into the void", flush=True)
    os.write(2, b"likewise\n")
    files = [path.name for suffix in ("stdout", "stderr") for path in Path(run_dir).glob(f"*.{suffix}")]
    return [os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)], files


def test_an_unknown_mode_is_refused(host):
    """The error names the modes."""
    with pytest.raises(ValueError, match=r"stdio='pipe'.*tee, capture, inherit, null"):
        roam.spawn_cell(speak, stdio="pipe", host=host)


def test_python_prints_by_lines(method, host):
    """A line is a record before the cell ends, and although its standard output is a file."""
    cell = roam.spawn_cell(_print_and_wait, start_method=method, stdio="capture", host=host)
    wait_until(lambda: lines_of(cell) == ["now"])

    cell.kill()
    cell.join(WAIT_S)


def _print_and_wait():
    print("now")
    time.sleep(600)


# r[verify trace.lines.judged]
def test_filters_decide_what_becomes_a_record(method, tmp_path):
    """The capture filter in force judges each line by its stream, live; the text is shown and kept all the same."""
    with roam.TracingHost(roam.TracingConfig("info,stdout=off"), dump_dir=tmp_path) as host:
        cell = roam.spawn_cell(_print_on_request, tmp_path, start_method=method, stdio="capture", host=host)
        wait_until(lambda: lines_of(cell) == ["err 0"])
        cell.set_config(roam.TracingConfig("warn,stdout=info"), timeout=0)
        (tmp_path / "go-1").touch()
        wait_until(lambda: lines_of(cell) == ["err 0", "out 1"])
        host.set_config(roam.TracingConfig("off"), timeout=0)
        (tmp_path / "go-2").touch()
        cell.join(WAIT_S)

        assert lines_of(cell) == ["err 0", "out 1"]
        assert cell.post_mortem.stdout_tail == "out 0\nout 1\nout 2\n"
        assert holds(cell.statistics())


def _print_on_request(directory):
    for number in range(3):
        if number:
            wait_until(Path(directory, f"go-{number}").exists)
        print("out", number)
        print("err", number, file=sys.stderr)
    os._exit(1)


# r[verify trace.lines.once]
@pytest.mark.parametrize("mode", ["tee", "capture"])
def test_a_line_stands_once_on_the_terminal(mode):
    """With `tee` the text itself, with `capture` what the host's logging makes of the record; never both."""
    done = run_script("-c", ONCE, mode)

    printed = done.stdout + done.stderr
    assert printed.count("only once") == 1
    expected = "only once\n" if mode == "tee" else "<stdout INFO printer> only once\n"
    assert expected in printed


ONCE = """
import logging, sys
import roam

if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG, format="<%(name)s %(levelname)s %(processName)s> %(message)s")
    roam.spawn_cell(print, "only once", name="printer", stdio=sys.argv[1]).join(30)
"""


# r[verify spawn.stdio.last]
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("python", "Fatal Python error: "),
        ("terminate", "terminate called after throwing an instance of 'int'"),
        ("glibc", "free(): double free detected in tcache 2"),
        ("abort", "the end of C"),
    ],
)
def test_fatal_words_end_up_in_the_post_mortem(how, words, host):
    """What the interpreter, the C++ runtime and glibc say before they abort is among the records and at the end of stderr."""
    cell = roam.spawn_cell(_die_with_words, how, stdio="capture", host=host)
    assert cell.join(WAIT_S).signal == signal.SIGABRT

    assert any(words in line for line in lines_of(cell, "stderr"))
    assert words in cell.post_mortem.stderr_tail
    assert words in cell.post_mortem.render()


def _die_with_words(how):
    libc = ctypes.CDLL(None)
    if how == "python":
        ctypes.pythonapi.Py_FatalError.restype = None
        ctypes.pythonapi.Py_FatalError(b"by intention")
    elif how == "terminate":
        os.write(2, b"terminate called after throwing an instance of 'int'\n")
    elif how == "glibc":
        libc.malloc.restype = ctypes.c_void_p
        block = ctypes.c_void_p(libc.malloc(24))
        libc.free(block)
        libc.free(block)
    os.write(2, b"the end of C")
    libc.abort()


# r[verify spawn.stdio.last]
@pytest.mark.parametrize("mode", ["tee", "capture"])
def test_no_line_comes_after_the_exit(method, mode, host, capfd):
    """Of 20,000 lines printed right before the end all are there when `join` returns, and the numbers add up."""
    cells = [roam.spawn_cell(_print_many, 20_000, start_method=method, stdio=mode, host=host) for _ in range(2)]

    for cell in cells:
        cell.join(WAIT_S)
        statistics = cell.statistics()
        assert statistics.lanes["stdio"].delivered == 20_000
        assert holds(statistics)
        assert lines_of(cell)[-1] == "line 19999"
    assert capfd.readouterr().out.count("line ") == (40_000 if mode == "tee" else 0)


def _print_many(count):
    for number in range(count):
        print("line", number)


def test_shown_lines_stay_whole(host, capfd):
    """Two cells write their lines in pieces at the same time; on the terminal none gets into another."""
    cells = [roam.spawn_cell(_print_in_pieces, name, 2_000, host=host) for name in ("one", "two")]
    for cell in cells:
        cell.join(WAIT_S)

    shown = capfd.readouterr().out.splitlines()
    for name in ("one", "two"):
        assert [line for line in shown if line.startswith(name)] == [f"{name}, {number}." for number in range(2_000)]
    assert len(shown) == 4_000


def _print_in_pieces(name, count):
    for number in range(count):
        for piece in (name, ", ", str(number), ".", "\n"):
            os.write(1, piece.encode())


def test_a_line_without_an_end_is_shown(host, capfd):
    """A prompt appears while the cell waits; it is no record yet."""
    cell = roam.spawn_cell(_prompt_and_wait, host=host)
    shown = ""
    deadline = time.monotonic() + WAIT_S
    while "name? " not in shown and time.monotonic() < deadline:
        shown += capfd.readouterr().out

    assert shown == "name? "
    assert lines_of(cell) == []
    cell.kill()
    cell.join(WAIT_S)
    assert lines_of(cell) == ["name? "]


def _prompt_and_wait():
    print("name? ", end="", flush=True)
    time.sleep(600)


def test_a_flood_of_lines_costs_no_other_lane(tmp_path):
    """The lines have a share of their own of what the host keeps: the records before the flood are still there."""
    with roam.TracingHost(dump_dir=tmp_path, retain_bytes=256 << 10) as host:
        cell = roam.spawn_cell(_emit_and_flood, stdio="capture", host=host)
        cell.join(WAIT_S)

        assert [record.message for record in cell.records() if record.lane != "stdio"] == ["before", "after"]
        statistics = cell.statistics()
        assert statistics.evicted > 0
        assert statistics.retained_bytes <= 256 << 10
        assert statistics.lanes["stdio"].emitted == 30_000


def _emit_and_flood():
    roam.info("before")
    _print_many(30_000)
    roam.warning("after")


# r[verify spawn.stdio.bounded]
def test_a_cell_that_floods_keeps_no_other_waiting(host):
    """While one cell prints without end, the line of another becomes a record."""
    flooding = roam.spawn_cell(_print_many, 10**9, stdio="capture", host=host)
    wait_until(lambda: lines_of(flooding))
    cell = roam.spawn_cell(print, "a word of another cell", stdio="capture", host=host)

    cell.join(WAIT_S)
    assert lines_of(cell) == ["a word of another cell"]
    assert flooding.is_alive()
    flooding.kill()
    flooding.join(WAIT_S)
    assert holds(flooding.statistics())


# r[verify spawn.stdio.bounded]
def test_much_text_is_bounded(host, capfd):
    """Of a long text the file keeps only the end; this process's standard error gets all of it."""
    cell = roam.spawn_cell(_write_much, host=host)
    [path] = wait_until(lambda: list(host.run_dir.glob("*.stderr")))

    def is_cut():
        status = path.stat()
        return status.st_size > 8_000_000 and status.st_blocks * 512 < 2 << 20

    wait_until(is_cut)
    cell.kill()
    cell.join(WAIT_S)

    assert capfd.readouterr().err.count("x" * 99) == 80_000
    assert cell.post_mortem.stderr_tail.endswith("the end\n")
    assert lines_of(cell)[-1] == "the end"


def _write_much():
    for _ in range(80_000):
        os.write(2, b"x" * 99 + b"\n")
    os.write(2, b"the end\n")
    time.sleep(600)


# r[verify spawn.stdio.bounded]
@pytest.mark.parametrize("backlog_bytes", [feed.BACKLOG_BYTES, 256 << 10])
def test_a_stopped_host_holds_nobody_up(method, backlog_bytes, tmp_path):
    """Its cell prints a megabyte to each stream and goes on; when the host goes on, everything arrives, or what it had no
    room for is cut, oldest first, and counted to the line."""
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY), "ROAM_DIR": str(tmp_path)}
    arguments = [sys.executable, "-c", STOPPED, method, str(backlog_bytes), str(tmp_path)]
    program = subprocess.Popen(arguments, env=environ, stdout=subprocess.PIPE)
    try:
        assert os.WIFSTOPPED(os.waitpid(program.pid, os.WUNTRACED)[1])
        wait_until((tmp_path / "printed").exists, WAIT_S)
        os.kill(program.pid, signal.SIGCONT)
        found = json.loads(program.communicate(timeout=WAIT_S)[0])
    finally:
        program.kill()
        program.communicate()

    lane, losses, last = found["lane"], found["losses"], found["last"]
    assert lane["emitted"] == lane["delivered"] + lane["lost"] == 2 * 8192 + 2
    assert sum(losses) == lane["lost"]
    assert (lane["lost"] > 0) == (backlog_bytes < 1 << 20)
    assert sorted(last) == ["the end of 1", "the end of 2"]


STOPPED = """
import dataclasses, json, os, signal, sys
import msgspec
import roam
from roam.spawn import feed
from tests.test_stdio import print_while_stopped

if __name__ == "__main__":
    method, feed.BACKLOG_BYTES, directory = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    with roam.TracingHost() as host:
        cell = roam.spawn_cell(print_while_stopped, os.getpid(), directory, start_method=method, stdio="capture", host=host)
        os.kill(os.getpid(), signal.SIGSTOP)
        cell.join(30)
        records = cell.records()
        print(json.dumps({
            "lane": msgspec.to_builtins(cell.statistics().lanes["stdio"]),
            "losses": [record.count for record in records if record.kind == "lost" and record.cause == "stdio_cut"],
            "last": [record.message for record in records if record.message.startswith("the end")],
        }))
"""


def print_while_stopped(host_pid, directory):
    """A megabyte to each stream, once the host is stopped."""
    wait_until(lambda: Path(f"/proc/{host_pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    for fd in (1, 2):
        for _ in range(8192):
            os.write(fd, b"x" * 127 + b"\n")
        os.write(fd, b"the end of %d\n" % fd)
    Path(directory, "printed").touch()


# r[verify spawn.stdio.bounded]
@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_a_stuck_terminal_keeps_no_line_from_becoming_a_record(kind, tmp_path):
    """Nobody reads the host's standard output: all lines are records, those for its standard error are shown, and the rest
    appears as soon as somebody reads."""
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY), "ROAM_DIR": str(tmp_path)}
    outer_fd, inner_fd = os.pipe() if kind == "pipe" else pty.openpty()
    with (tmp_path / "stderr").open("wb") as stderr:
        program = subprocess.Popen(
            [sys.executable, "-c", STUCK, str(tmp_path)], env=environ, stdout=inner_fd, stderr=stderr
        )
    os.close(inner_fd)
    shown: list[bytes] = []
    try:
        wait_until((tmp_path / "records").exists, WAIT_S)
        assert (tmp_path / "records").read_text() == "10001 1"
        if kind == "pipe":
            # A terminal may hold the thread that writes to it; a pipe that is full does not.
            wait_until(lambda: (tmp_path / "stderr").read_text() == "a word\n")
        wait_until(lambda: _shown(outer_fd, shown) and program.poll() is not None, WAIT_S)
    finally:
        program.kill()
        program.wait()
        os.close(outer_fd)

    assert b"".join(shown).count(b"line ") == 10_000
    assert (tmp_path / "stderr").read_text() == "a word\n"


STUCK = """
import sys
from pathlib import Path
import roam
from tests.support import wait_until
from tests.test_stdio import print_and_whisper

if __name__ == "__main__":
    with roam.TracingHost() as host:
        cell = roam.spawn_cell(print_and_whisper, 10_000, host=host)
        wait_until(lambda: cell.statistics().lanes["stdio"].delivered == 10_001)
        other = roam.spawn_cell(print, "not shown yet", host=host)
        wait_until(lambda: other.statistics().lanes["stdio"].delivered == 1)
        part = Path(sys.argv[1], "part")
        part.write_text("10001 1")
        part.rename(Path(sys.argv[1], "records"))
"""


def print_and_whisper(count):
    """More than a pipe holds to one stream, a word to the other."""
    _print_many(count)
    print("a word", file=sys.stderr)


# r[verify spawn.stdio.bounded]
def test_a_terminal_that_takes_nothing_loses_the_oldest(tmp_path):
    """What is beyond the bound is left out with a notice, and the records are complete."""
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY), "ROAM_DIR": str(tmp_path)}
    program = subprocess.Popen(
        [sys.executable, "-c", LEFT_OUT], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert program.stderr.readline() == b"20000\n"
        out, _ = program.communicate(timeout=WAIT_S)
    finally:
        program.kill()
        program.communicate()

    [notice] = [line for line in out.splitlines() if line.startswith(b"[roam: ")]
    assert notice.endswith(b" bytes of stdout of cell 'loud' are not shown]")
    shown = [line for line in out.splitlines() if line.startswith(b"line ")]
    assert len(shown) < 20_000
    assert shown[0] == b"line 0"
    assert shown[-1] == b"line 19999"


LEFT_OUT = """
import os, sys
import roam
from roam.spawn import captured
from tests.support import wait_until
from tests.test_stdio import _print_many

if __name__ == "__main__":
    captured.BACKLOG_BYTES = 64 << 10
    with roam.TracingHost() as host:
        cell = roam.spawn_cell(_print_many, 20_000, name="loud", host=host)
        cell.join(30)
        print(cell.statistics().lanes["stdio"].delivered, file=sys.stderr, flush=True)
"""


# r[verify spawn.stdio.terminal]
@pytest.mark.parametrize(
    ("mode", "answer"),
    [
        ("inherit", "[True, True, True] Ada"),
        ("tee", "[False, False, False] EOF when reading a line"),
        ("capture", "[False, False, False] EOF when reading a line"),
        ("null", "[False, False, False] EOF when reading a line"),
    ],
)
def test_a_terminal_stays_a_terminal(method, mode, answer, tmp_path):
    """With `inherit` `isatty` is true and `input` works; otherwise a cell cannot read from the terminal, and is told so."""
    outer_fd, inner_fd = pty.openpty()
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY), "ROAM_DIR": str(tmp_path)}
    arguments = [sys.executable, "-c", TERMINAL, method, mode, str(tmp_path / "answer")]
    program = subprocess.Popen(
        arguments, env=environ, stdin=inner_fd, stdout=inner_fd, stderr=inner_fd, start_new_session=True
    )
    os.close(inner_fd)
    shown: list[bytes] = []
    try:
        os.write(outer_fd, b"Ada\n")
        wait_until(lambda: _shown(outer_fd, shown) and program.poll() is not None, WAIT_S)
    finally:
        program.kill()
        program.wait()
        os.close(outer_fd)

    assert program.returncode == 0, b"".join(shown)
    assert (tmp_path / "answer").read_text() == answer


def _shown(fd, shown):
    """Take what the terminal shows, so that nobody waits for it. Always true."""
    # Without anybody on the other side it can only say that.
    with contextlib.suppress(OSError):
        while select.select([fd], [], [], 0.1)[0] and (data := os.read(fd, 4096)):
            shown.append(data)
    return True


TERMINAL = """
import fcntl, sys, termios
import roam
from tests.test_stdio import ask

if __name__ == "__main__":
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    with roam.TracingHost() as host:
        cell = roam.spawn_cell(ask, start_method=sys.argv[1], stdio=sys.argv[2], host=host)
        open(sys.argv[3], "w").write(cell.result(30))
"""


def ask():
    """What kind of streams these are, and what is typed."""
    kinds = [os.isatty(fd) for fd in (0, 1, 2)]
    try:
        return f"{kinds} {input('name? ')}"
    except EOFError as error:
        return f"{kinds} {error}"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_a_host_without_streams_has_cells_with_them(method, closed, tmp_path):
    """A host that runs with 0, 1 or 2 closed captures what its cells print."""
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY), "ROAM_DIR": str(tmp_path)}
    command = f'exec "$0" -c "$1" "$2" "$3" {closed}'
    arguments = ["/bin/sh", "-c", command, sys.executable, CLOSED, method, str(tmp_path / "lines")]
    subprocess.run(arguments, env=environ, timeout=WAIT_S, check=True, capture_output=True)

    assert json.loads((tmp_path / "lines").read_text()) == [*STDOUT_LINES, *STDERR_LINES]


CLOSED = """
import json, sys
import roam
from tests.test_stdio import lines_of, speak

if __name__ == "__main__":
    with roam.TracingHost() as host:
        cell = roam.spawn_cell(speak, start_method=sys.argv[1], host=host)
        cell.join(30)
        with open(sys.argv[2], "w") as file:
            json.dump(lines_of(cell, "stdout") + lines_of(cell, "stderr"), file)
"""


# r[verify spawn.stdio.bounded]
def test_a_file_that_the_cell_makes_huge_holds_nothing_up(host):
    """A terabyte of nothing is not read through: what was printed after it is a record."""
    cell = roam.spawn_cell(_print_behind_a_hole, stdio="capture", host=host)
    cell.result(WAIT_S)

    assert lines_of(cell)[-1].endswith("\0after")
    assert holds(cell.statistics())


def _print_behind_a_hole():
    os.ftruncate(1, 1 << 40)
    print("after")


def test_a_grandchild_that_lives_on_holds_nothing_up(host):
    """It keeps the file open and prints without end; the cell's end is concluded with what there was."""
    cell = roam.spawn_cell(_leave_a_printer, stdio="capture", host=host)
    printer_pid = cell.result(WAIT_S)
    try:
        assert lines_of(cell)[-1] == "y"
        assert holds(cell.statistics())
        assert files_of(host) == []
    finally:
        os.kill(printer_pid, signal.SIGKILL)


def _leave_a_printer():
    printer = subprocess.Popen(["/usr/bin/yes"])
    path = os.readlink("/proc/self/fd/1")
    wait_until(lambda: os.stat(path).st_size)
    return printer.pid


def test_the_terminal_flag_says_what_is_shown(host):
    """Lines that this process's terminal shows are marked, others are not."""
    shown, hidden = (roam.spawn_cell(print, "x", stdio=mode, host=host) for mode in ("tee", "capture"))
    for cell in (shown, hidden):
        cell.join(WAIT_S)

    assert [record.flags for record in shown.records()] == [PRINTED]
    assert [record.flags for record in hidden.records()] == [0]


def test_a_forked_child_has_none_of_the_files_open(host):
    """It is no reader of what the cells of its parent print, and the parent goes on reading."""
    cell = roam.spawn_cell(_print_and_wait, stdio="capture", host=host)
    wait_until(lambda: lines_of(cell) == ["now"])
    pid = os.fork()
    if pid == 0:
        links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists()]
        os._exit(sum(link.endswith((".stdout", ".stderr")) for link in links))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    cell.kill()
    cell.join(WAIT_S)
    assert cell.post_mortem.stdout_tail == "now\n"
