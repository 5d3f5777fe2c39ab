"""The examples run, end well, and show what their docstrings promise."""

from __future__ import annotations

import os
import pty
import re
import runpy
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from tests.documents import expect_lines
from tests.support import REPOSITORY, run_script

EXAMPLES = REPOSITORY / "examples"
LIMIT = 60
TIMEOUT_S = 60.0

PROMISES = {
    "hello": [
        r"greeter returned 'Hello, world!'",
        r"event +__main__: looking up the language",
        r"event +greeter: no language known for world",
        r"span_close +__main__: greet \{'length': 13\}",
    ],
    "asyncio_consumer": [
        *(rf"{dish} \(pid \d+\): done {{'dish': '{dish}', 'step': 4}}" for dish in ("soup", "pasta", "cake")),
        r"the loop is free",
        r"36 offered = 36 received \+ 0 dropped",
    ],
    "crash_and_inspect": [
        r'cell "player" killed with SIGSEGV .* in string_at, in span decode',
        r"  play \{'path': 'holiday.avi', 'frame_count': 2\}\n  decode \{'frame': 2\}",
        r"  event: this frame has no data \{'frame': 2\}",
        r"crash_and_inspect\.py\", line \d+ in decode\n.*crash_and_inspect\.py\", line \d+ in play",
        r"roam show \S+\.roam",
    ],
    "hypothesis_pipe": [r"^[1-9]\d* cells killed, [1-9]\d* commands acknowledged, none missing$"],
}
LOGGED = {"hello": "__main__  INFO  looking up the language\ngreeter  WARNING  no language known for world\n"}


def chosen_files(limit: int) -> list[str]:
    """The files that `scan_stdlib.py --limit` takes."""
    library = Path(sysconfig.get_path("stdlib"))
    files = sorted(str(path) for path in library.rglob("*.py") if "site-packages" not in path.parts)
    return [files[index * len(files) // limit] for index in range(limit)]


def test_every_example_is_run():
    """No example is without a test."""
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"scan_stdlib", *PROMISES}


@pytest.mark.parametrize("name", PROMISES)
def test_a_small_example_shows_what_it_promises(name, tmp_path):
    """Each ends with exit code 0 and prints what it is about; nothing unexpected is on stderr."""
    done = run_script(EXAMPLES / f"{name}.py", cwd=tmp_path, timeout_s=TIMEOUT_S)

    for promise in PROMISES[name]:
        assert re.search(promise, done.stdout, re.MULTILINE), f"{promise}\n{done.stdout}"
    assert done.stderr == LOGGED.get(name, "")
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 60


def test_the_scan_counts_every_file_once_and_explains_both_deaths(tmp_path):
    """The totals are those of a scan in one process, and each dead cell is shown with file, spans, records and stack."""
    files = chosen_files(LIMIT)
    victims = sorted(files, key=os.path.getsize)[-2:]
    scan = runpy.run_path(str(EXAMPLES / "scan_stdlib.py"))["scan"]
    expected = sum((scan(path, None) for path in files), Counter())

    done = run_script(EXAMPLES / "scan_stdlib.py", "--limit", str(LIMIT), cwd=tmp_path, timeout_s=TIMEOUT_S)

    job, *deaths = done.stdout.split('\ncell "')
    for what, number in expected.items():
        assert f"{number:,} {what}" in job
    assert ": each file once, by 6 cells, in " in job
    assert re.search(r"^[\d,]+ records, 0 lost$", job, re.MULTILINE)
    assert ("\r" not in job, job.count(f"of {LIMIT} files")) == (True, 4)
    assert len(deaths) == 2
    for path, name in zip(victims, ("SIGSEGV", "SIGKILL"), strict=True):
        check_death(next(death for death in deaths if f"killed with {name}" in death), path, name)
    assert done.stderr == ""


def check_death(death: str, path: str, signal_name: str) -> None:
    assert f"  file       {path}\n" in death
    assert f"  open span  file {{'path': '{path}'}}, for " in death
    assert "  open span  count {'statements': " in death
    assert "  record     event: half of the statements counted {'line': " in death
    functions = re.findall(r"^  stack      File .* in (\w+)$", death, re.MULTILINE)
    assert functions == (["string_at", "segfault", "count", "scan", "work"] if signal_name == "SIGSEGV" else [])
    dump = re.search(r"roam show (\S+)\n", death)
    assert dump is not None
    shown = run_script("-m", "roam", "show", dump[1], timeout_s=TIMEOUT_S).stdout
    assert f"file  path={path}" in shown
    assert re.search(rf'^cell "scanner-\d" killed with {signal_name} ', shown, re.MULTILINE)


def test_the_scan_shows_its_progress_on_a_terminal(tmp_path):
    """On a terminal the progress is one line that is written over."""
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        scan = subprocess.Popen(
            [sys.executable, EXAMPLES / "scan_stdlib.py", "--limit", "8"],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.STDOUT,
        )
        os.close(theirs)
        shown = b"".join(iter(lambda: read(terminal), b""))
    assert scan.wait(TIMEOUT_S) == 0
    assert b"".join(b"\r\x1b[K%d of 8 files" % count for count in range(1, 9)) + b"\r\n" in shown


def read(terminal) -> bytes:
    """What is there; nothing when nobody has the other end of the terminal any more."""
    try:
        return terminal.read(65536)
    except OSError:
        return b""


def test_the_crash_in_the_readme_is_what_roam_shows(tmp_path):
    """Each line of the README's crash stands in the post-mortem of the example, in this order; numbers may differ."""
    readme = (REPOSITORY / "README.md").read_text()
    block = re.search(
        r"<!-- crash: begin.*?-->\n+```text\n(.*?)^```\n+<!-- crash: end", readme, re.MULTILINE | re.DOTALL
    )
    assert block is not None
    lines = [line for line in block[1].splitlines() if line.strip("… ")]
    run_script(EXAMPLES / "crash_and_inspect.py", cwd=tmp_path, timeout_s=TIMEOUT_S)

    shown = run_script("-m", "roam", "show", "last", timeout_s=TIMEOUT_S).stdout.splitlines()

    expect_lines(lines, shown)
