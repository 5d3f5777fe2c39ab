"""The guard that watches every other test has to see what it is there for."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support import Inventory, run_script, wait_until


def news(before: Inventory, run_root: Path) -> list[str]:
    return Inventory.take(run_root).news_since(before)


def test_nothing_is_new_when_nothing_happened(tmp_path):
    """Two looks at the same state differ in nothing."""
    assert [] == news(Inventory.take(tmp_path), tmp_path)


def test_a_thread_is_seen(tmp_path):
    """A thread that still runs is named."""
    before, release = Inventory.take(tmp_path), threading.Event()
    thread = threading.Thread(target=release.wait, name="left-behind")
    thread.start()
    try:
        assert ["thread left-behind"] == news(before, tmp_path)
    finally:
        release.set()
        thread.join()


def test_a_descriptor_is_seen_even_under_a_reused_number(tmp_path):
    """A descriptor counts as new when its number is new, and when its number leads elsewhere now."""
    first = os.open("/dev/null", os.O_RDONLY)
    before = Inventory.take(tmp_path)
    os.close(first)
    second = os.open("/dev/zero", os.O_RDONLY)
    try:
        assert first == second
        assert [f"descriptor {second}: /dev/zero"] == news(before, tmp_path)
    finally:
        os.close(second)


def test_a_file_is_seen(tmp_path):
    """A file anywhere below the run root is named."""
    before = Inventory.take(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "x.segment").touch()

    assert [f"file {tmp_path / 'run'}", f"file {tmp_path / 'run' / 'x.segment'}"] == news(before, tmp_path)


def test_a_child_is_seen_and_ended(tmp_path):
    """A child process is named with its command, and the guard can end it."""
    before = Inventory.take(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with child:
        wait_until(lambda: any("input()" in line for line in news(before, tmp_path)))
        Inventory.take(tmp_path).kill_news_since(before)

        assert child.wait() < 0


def test_a_process_without_its_parent_is_seen(tmp_path):
    """A grandchild whose parent has ended is found by the session's variable."""
    before = Inventory.take(tmp_path)
    start = "import sys, subprocess as s; print(s.Popen(sys.argv[1:], stdout=s.DEVNULL, stderr=s.DEVNULL).pid)"
    orphan = int(run_script("-c", start, sys.executable, "-c", "import time; time.sleep(600)").stdout)
    now = Inventory.take(tmp_path)
    now.kill_news_since(before)

    assert [f"process {orphan}"] == [line.partition(":")[0] for line in now.news_since(before)]


def test_helpers_of_multiprocessing_do_not_count(tmp_path):
    """The fork server and the resource tracker, and the pipes that keep them alive, are the baseline."""
    script = """
import multiprocess, sys
from pathlib import Path
from tests.support import Inventory, wait_until

if __name__ == "__main__":
    before = Inventory.take(Path(sys.argv[1]))
    process = multiprocess.get_context("forkserver").Process(target=print)
    process.start()
    process.join()
    process.close()
    print(Inventory.take(Path(sys.argv[1])).news_since(before))
"""
    path = tmp_path / "script.py"
    path.write_text(script)

    assert "[]" == run_script(path, tmp_path / "none").stdout.strip()


def test_wait_until_says_what_it_waited_for():
    """A condition that never comes true fails with its name and its last answer."""
    with pytest.raises(AssertionError, match=r"not within 0.01 s: the moon; the last answer was 0"):
        wait_until(lambda: 0, timeout_s=0.01, message="the moon")
