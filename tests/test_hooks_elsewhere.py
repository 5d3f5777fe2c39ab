"""The hooks into warnings and uncaught exceptions, and what becomes of all hooks in a forked child of a cell."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import roam
from tests.scripts import run, same
from tests.support import REPOSITORY

WARNINGS = """
warnings.simplefilter("always")
def leak():
    open(os.devnull)
leak()
warnings.warn("look out", UserWarning)
warnings.warn_explicit("explicit", DeprecationWarning, "somewhere.py", 7)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    warnings.warn("taken by the program")
print(len(caught), file=sys.stderr)
sys.stderr.flush()
"""


@pytest.mark.parametrize("flags", [(), ("-X", "dev"), ("-X", "tracemalloc=5")], ids=["plain", "dev", "tracemalloc"])
def test_warnings_are_captured_and_printed_as_before(flags, tmp_path):
    """Also where they came from, with the source of a resource; what the program catches is its own."""
    off, info, _ = same(tmp_path, WARNINGS, flags=flags)
    assert off.messages == []
    found = {record.message.partition(" <")[0]: record for record in info.records}
    assert set(found) == {"unclosed file", "look out", "explicit"}
    assert {record.target for record in info.records} == {"py.warnings"}
    assert found["explicit"].fields == {"category": "DeprecationWarning", "file": "somewhere.py", "line": 7}
    assert found["look out"].level == 30


@pytest.mark.parametrize("when", ["before", "after"])
def test_warnings_that_the_program_logs_are_captured_once(when, tmp_path):
    """`logging.captureWarnings`, before or after the cell attached; and a hook of the program's own is called as before."""
    setup = "logging.basicConfig(format='%(name)s %(message)s'); logging.captureWarnings(True)"
    attach = "import roam; roam.init_cell_tracing()"
    order = [setup, attach] if when == "before" else [attach, setup]
    script = "\n".join(["import logging, warnings", *order, "warnings.warn('once')"])
    with roam.TracingHost(forward=False, dump_dir=tmp_path) as host:
        peer = host.register_peer("script")
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, **peer.ticket.environ, "PYTHONPATH": str(REPOSITORY)},
            pass_fds=peer.ticket.fds,
            capture_output=True,
            check=True,
        )
        assert peer.concluded.wait(20)
        found = [record.message for record in peer.records() if "once" in record.message]
    assert done.stderr.count(b"py.warnings") == 1
    assert len(found) == 1


def test_a_warning_hook_of_the_program_is_called_as_before(tmp_path):
    """Set before or after; roam captures beside it."""
    text = """
    warnings.showwarning = lambda *args: print("mine", args[0], args[1].__name__)
    warnings.warn("one")
    """
    _, info, _ = same(tmp_path, text)
    assert info.messages == ["one"]


UNCAUGHT = """
def chained(*args):
    print("mine", args[0].__name__ if isinstance(args[0], type) else type(args[0]).__name__, flush=True)
if {own}:
    sys.excepthook = threading.excepthook = sys.unraisablehook = chained
class Loud:
    def __del__(self):
        raise LookupError("in a finaliser")
def work():
    raise OSError("in a thread")
thread = threading.Thread(target=work, name="worker")
thread.start(); thread.join()
quiet = threading.Thread(target=sys.exit)
quiet.start(); quiet.join()
loud = Loud()
del loud
sys.stderr.flush()
try:
    int("no")
except ValueError as error:
    raise RuntimeError("at last") from error
"""


@pytest.mark.parametrize("own", [False, True], ids=["default", "of the program"])
def test_uncaught_exceptions_are_captured_and_printed_as_before(own, tmp_path):
    """Of the main thread, of threads, of finalisers; a thread that exits is none. Whatever the filter says."""
    text = UNCAUGHT.replace("{own}", str(own))
    outcomes = run(tmp_path, text), run(tmp_path, text, filter="off")
    # A finaliser's traceback has addresses.
    for outcome in outcomes:
        outcome.stderr = [line for line in outcome.stderr.splitlines() if b" at 0x" not in line]
    bare, traced = outcomes
    assert (traced.stdout, traced.stderr, traced.code) == (bare.stdout, bare.stderr, bare.code)
    if own:
        # Set afterwards and not chained, these are the program's choice.
        assert b"mine" in bare.stdout
        return
    found = {record.message: record for record in traced.records}
    assert set(found) == {"uncaught exception in thread worker", "exception ignored", "uncaught exception"}
    last = found["uncaught exception"]
    assert (last.level, last.lane, last.exception.type) == (50, "life", "RuntimeError")
    assert "ValueError" in last.exception.traceback
    assert found["exception ignored"].exception.type == "LookupError"
    assert found["uncaught exception in thread worker"].level == 40


def test_a_fork_child_of_a_cell_prints_as_usual(tmp_path):
    """It is no cell: its logging, warnings, last resort and uncaught exceptions are printed, and nothing is captured."""
    text = """
    print("parent", flush=True)
    pid = os.fork()
    if pid == 0:
        logging.getLogger("quiet").error("by the last resort")
        logging.info("not printed")
        logging.warning("by basicConfig")
        logging.getLogger("app").error("by the handler")
        warnings.warn("look out")
        raise ValueError("uncaught")
    os.waitpid(pid, 0)
    """
    _, _, everything = same(tmp_path, text)
    assert everything.messages == []


def test_a_fork_child_has_the_fault_handler_that_the_program_wanted(tmp_path):
    """On its stderr if it was enabled before, none otherwise; never in its parent's fault file."""
    text = """
    import faulthandler
    pid = os.fork()
    if pid == 0:
        print(faulthandler.is_enabled(), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    """
    for flags in ((), ("-X", "faulthandler")):
        same(tmp_path, text, filters=("info",), flags=flags)
