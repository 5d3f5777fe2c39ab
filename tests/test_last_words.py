"""What a cell notes of its end before it comes, and what the host makes of it."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import ctypes
import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import roam
from roam.exit import ExitKind
from roam.shm.layout import LANES, LIFE
from roam.spawn.cell import Cell
from roam.spawn.last_words import LastWord, read
from roam.tracing.last_words import MAX_EXECS
from tests.remains import chunks_of, event, make_remains
from tests.support import run_script

METHODS = ("forkserver", "spawn", "fork")
WAIT_S = 30.0
EXIT_5 = [sys.executable, "-c", "raise SystemExit(5)", "a secret argument"]


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture
def host(tmp_path):
    with roam.TracingHost(dump_dir=tmp_path / "dumps") as host:
        yield host


@pytest.fixture
def end_of(host, monkeypatch):
    """Run a target to its end; return its exit and its remains."""
    kept = {}
    conclude = Cell.conclude
    monkeypatch.setattr(Cell, "conclude", lambda cell, remains: (kept.update({cell: remains}), conclude(cell, remains)))

    def run(target, *args, method="forkserver"):
        cell = roam.spawn_cell(target, *args, start_method=method, host=host)
        return cell.join(WAIT_S), kept[cell]

    return run


def place(function, offset=1):
    """`file:line in function`, so many lines below its `def`."""
    code = function.__code__
    return f"{code.co_filename}:{code.co_firstlineno + offset} in {code.co_name}"


def messages(remains):
    return [record.message for record in remains.records() if record.target == "roam.cell"]


# Targets.


def leave(code):
    os._exit(code)


def leave_in_thread():
    thread = threading.Thread(target=leave, args=(4,))
    thread.start()
    thread.join()


def leave_in_handler(code):
    signal.signal(signal.SIGUSR1, lambda _number, _frame: leave(code))
    while True:
        os.kill(os.getpid(), signal.SIGUSR1)
        roam.info("busy")


def leave_at_exit():
    atexit.register(leave, 6)
    sys.exit(3)


def leave_wrongly():
    for wrong in ((), (1, 2), ("1",), (1.0,), (None,), (2**40,), (Unsound(),)):
        try:
            os._exit(*wrong)
        except (TypeError, OverflowError, ZeroDivisionError) as error:
            roam.info(type(error).__name__)
    return "still here"


class Unsound:
    @property
    def __class__(self):
        return 1 / 0

    def __index__(self):
        raise ZeroDivisionError


def run_v():
    os.execv(sys.executable, EXIT_5)


def run_ve():
    os.execve(sys.executable, EXIT_5, {**os.environ, "TOKEN": "a secret argument"})


def run_lp():
    os.environ["PATH"] = f"/nowhere:{os.path.dirname(sys.executable)}"
    os.execlp(os.path.basename(sys.executable), *EXIT_5)


def run_descriptor():
    os.execve(os.open(sys.executable, os.O_RDONLY), EXIT_5, os.environ)


def fail_to_run(directory):
    for _ in range(MAX_EXECS + 3):
        with contextlib.suppress(PermissionError):
            os.execv(directory, EXIT_5)
    os.kill(os.getpid(), signal.SIGKILL)


def run_nothing(path):
    for wrong in (path, b"/nowhere", "\0", None):
        try:
            os.execv(wrong, EXIT_5)
        except (OSError, ValueError, TypeError) as error:
            roam.info(type(error).__name__)
    return "still here"


def let_children_end():
    pid = os.fork()
    if pid == 0:
        os._exit(3)
    os.waitpid(pid, 0)
    pid = ctypes.CDLL(None).fork()  # no hook of the interpreter's runs
    if pid == 0:
        os._exit(3)
    os.waitpid(pid, 0)
    assert os.spawnv(os.P_WAIT, sys.executable, EXIT_5) == 5
    assert subprocess.run(EXIT_5, check=False).returncode == 5
    os.kill(os.getpid(), signal.SIGKILL)


def stop_with(code):
    sys.exit(code)


def stop_in_library():
    argparse.ArgumentParser("cell").parse_args(["--unknown"])


def stop_in_thread():
    thread = threading.Thread(target=stop_with, args=(3,))
    thread.start()
    thread.join()


def pickled_names():
    return pickle.dumps([os._exit, os.execv, os.execve]), os.execve in os.supports_fd


def leave_nested(method):
    cell = roam.spawn_cell(leave, 8, start_method=method)
    cell.join(WAIT_S)
    return cell.dump_path


# os._exit.


# r[verify spawn.last-words]
@pytest.mark.parametrize("code", [0, 7, 300, -1])
def test_an_exit_without_a_word_leaves_one(code, method, end_of):
    """The record says where `os._exit` was called, and the code as the host will see it."""
    ended, remains = end_of(leave, code, method=method)

    assert (ended.kind, ended.code) == (ExitKind.EXITED, code & 0xFF)
    assert read(remains) == LastWord("os._exit", place(leave), code & 0xFF, "")
    assert messages(remains) == ["os._exit"]


def test_it_is_noted_in_threads_and_at_the_end(end_of):
    """Another thread's `os._exit` is noted; one in an exit handler comes after the `sys.exit` that led there."""
    assert read(end_of(leave_in_thread)[1]) == LastWord("os._exit", place(leave), 4, "")
    ended, remains = end_of(leave_at_exit)
    assert (ended.code, read(remains)) == (6, LastWord("os._exit", place(leave), 6, ""))
    assert messages(remains) == ["sys.exit", "os._exit"]


def test_a_signal_handler_may_leave(end_of):
    """From within a signal handler the process ends as it would."""
    ended, remains = end_of(leave_in_handler, 9)

    assert (ended.kind, ended.code) == (ExitKind.EXITED, 9)
    assert read(remains) in (LastWord("os._exit", place(leave), 9, ""), None)


def test_what_does_not_end_the_process_is_not_noted(end_of):
    """Arguments that the real function refuses raise what it raises, and nothing is said."""
    ended, remains = end_of(leave_wrongly)

    assert ended.kind is ExitKind.RETURNED
    said = [record.message for record in remains.records() if record.kind == "event"]
    assert said == ["TypeError"] * 5 + ["OverflowError", "ZeroDivisionError"]
    assert read(remains) is None


def test_a_cell_ends_without_a_word_of_its_own(method, end_of):
    """The end that roam gives a cell is none of the program's."""
    for target, *args in ((abs, 1), (stop_with, 0), (int, "no number")):
        assert read(end_of(target, *args, method=method)[1]) is None


# os.exec*.


@pytest.mark.parametrize("run", [run_v, run_ve, run_lp, run_descriptor])
def test_an_exec_is_noted_with_its_program(run, method, end_of):
    """The program and the caller are in the record, also through the functions that search; arguments are not."""
    offset = 2 if run is run_lp else 1

    ended, remains = end_of(run, method=method)

    word = read(remains)
    assert (ended.kind, ended.code) == (ExitKind.EXITED, 5)
    assert word[:3] == ("exec", place(run, offset), None)
    assert word.program.startswith("descriptor ") if run is run_descriptor else word.program == sys.executable
    assert b"a secret argument" not in b"".join(chunk.data for chunk in remains.chunks)


def test_an_exec_that_fails_is_not_the_end(end_of, tmp_path):
    """The record of the failure refutes it; a program that never starts is noted a few times only."""
    remains = end_of(fail_to_run, str(tmp_path))[1]

    assert messages(remains) == ["exec", "exec failed"] * MAX_EXECS
    assert read(remains) is None


def test_programs_that_are_not_there_are_not_noted(end_of, tmp_path):
    """What cannot be run raises as before and costs no record."""
    ended, remains = end_of(run_nothing, str(tmp_path / "missing"))

    assert ended.kind is ExitKind.RETURNED
    said = [record.message for record in remains.records() if record.kind == "event"]
    assert said == ["FileNotFoundError", "FileNotFoundError", "ValueError", "TypeError"]


def test_the_ends_of_children_are_not_the_cells(method, end_of):
    """Children of a cell leave and run programs, however they were forked: nothing of it is noted."""
    remains = end_of(let_children_end, method=method)[1]

    assert messages(remains) == []
    assert read(remains) is None


# sys.exit.


@pytest.mark.parametrize(("status", "code"), [(7, 7), (True, 1), (256, 1), ("gone", 1), (["gone"], 1)])
def test_an_exit_with_a_code_is_noted(status, code, method, end_of):
    """The record has the exception's text and the innermost frame, for a text as well; kind and code are as before."""
    ended, remains = end_of(stop_with, status, method=method)

    assert (ended.kind, ended.code, ended.exception) == (ExitKind.EXITED, code, None)
    assert read(remains) == LastWord("sys.exit", place(stop_with), code, "")
    (record,) = (record for record in remains.records() if record.message == "sys.exit")
    assert record.exception.type == "SystemExit"
    assert record.exception.message == str(status)
    assert "bootstrap.py" not in record.exception.traceback


def test_an_exit_in_a_library_names_the_library(end_of):
    """It is the innermost frame that counts."""
    word = read(end_of(stop_in_library)[1])

    assert (word.kind, word.code) == ("sys.exit", 2)
    assert word.where.startswith(f"{argparse.__file__}:")
    assert word.where.endswith(" in exit")


def test_an_exit_that_ends_nothing_is_not_noted(end_of):
    """A thread that leaves by SystemExit leaves nothing else."""
    ended, remains = end_of(stop_in_thread)

    assert ended.kind is ExitKind.RETURNED
    assert messages(remains) == []


# The wrappers.


def test_the_wrappers_stand_for_what_they_wrap(host):
    """They are pickled by name, and `os.supports_fd` knows them."""
    packed, is_known = roam.spawn_cell(pickled_names, host=host).result(WAIT_S)

    assert pickle.loads(packed) == [os._exit, os.execv, os.execve]
    assert is_known


def test_a_cell_of_a_cell_speaks_for_itself(method, host):
    """A forked cell has its parent's wrappers and its own segment."""
    from roam.postmortem.format import decode

    path = roam.spawn_cell(leave_nested, method, start_method=method, host=host).result(WAIT_S)
    assert read(decode(path.read_bytes(), str(path)).remains) == LastWord("os._exit", place(leave), 8, "")


def test_a_host_wraps_nothing():
    """Only cells do."""
    script = "import os, posix, roam\nwith roam.TracingHost(): print(os._exit is posix._exit, os.execv is posix.execv)"
    assert run_script("-c", script).stdout.split() == ["True", "True"]


# Reading.


def said(message, thread=1, **fields):
    return event(20, message, fields, target="roam.cell", thread=thread, lane=LIFE)


def test_a_later_record_of_the_thread_refutes_it():
    """Records of other threads do not, and neither do earlier ones."""
    left = said("os._exit", code=3, where="here")
    word = LastWord("os._exit", "here", 3, "")
    assert read(make_remains([event(20, "before"), left, event(20, "after", thread=2)])) == word
    assert read(make_remains([left, event(20, "after")])) is None
    assert read(make_remains([said("sys.exit", code=3, where="here"), event(20, "after")])) == word._replace(
        kind="sys.exit"
    )
    assert read(make_remains([left, *[event(20, "after", thread=2)] * 999])) == word
    assert read(make_remains([left, *[event(20, "after", thread=2)] * 1000])) is None
    ran = said("exec", program="/bin/true", where="here")
    assert read(make_remains([left, ran])) == LastWord("exec", "here", None, "/bin/true")
    assert read(make_remains([said("sys.exit", code=3, where="here"), ran, said("exec failed")])).kind == "sys.exit"


def test_what_it_printed_refutes_nothing():
    """Lines are in a lane that the host fills, later than the cell printed them."""
    left, line = chunks_of([said("os._exit", code=3), event(20, "a line")])

    assert read(make_remains(chunks=[left, line])) is None
    assert read(make_remains(chunks=[left, replace(line, lane=len(LANES))])).code == 3


ANY = st.none() | st.text() | st.integers() | st.floats() | st.lists(st.integers())


@given(st.lists(st.tuples(st.sampled_from(["os._exit", "exec", "sys.exit", "exec failed"]), ANY, ANY, ANY)))
def test_no_record_is_believed_for_its_types(records):
    """Whatever the fields are, a word has its types and its bounds."""
    word = read(
        make_remains([said(message, n, code=a, where=b, program=c) for n, (message, a, b, c) in enumerate(records)])
    )

    assert word is None or (
        type(word.where) is type(word.program) is str
        and max(len(word.where), len(word.program)) <= 1024
        and (word.code is None or (type(word.code) is int and 0 <= word.code <= 255))
    )


def test_reading_takes_a_bounded_number_of_looks():
    """A cell that notes its end again and again is looked at a few times."""
    assert read(make_remains([said("os._exit", code=1), *[said("exec"), said("exec failed")] * 500])) is None
