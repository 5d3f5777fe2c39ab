"""Whole programs that spawn cells: what only shows with a `__main__`, an exit and a death of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from tests.support import REPOSITORY, run_script, wait_until

METHODS = ("forkserver", "spawn", "fork")


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


def script(tmp_path, text, name="program.py"):
    path = tmp_path / name
    path.write_text(textwrap.dedent(text))
    return path


def start(tmp_path, *arguments):
    """A program that runs beside the test and will be killed: stdout as a pipe, run directory in `tmp_path`."""
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "ROAM_DIR": str(tmp_path / "roam")}
    return subprocess.Popen([sys.executable, *arguments], env=environ, stdout=subprocess.PIPE, text=True)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


IDENTITY = """
    import enum, sys
    import roam

    class Mode(enum.Enum):
        FAST = 1

        @property
        def fastest(self):
            return Mode.FAST

    class MyError(Exception):
        pass

    def work(mode, kind):
        assert mode is Mode.FAST and kind is MyError and isinstance(mode, Mode) and mode.fastest is mode
        return mode, helper

    def helper():
        return 1

    def fail():
        raise MyError("mine")

    if __name__ == "__main__":
        method = sys.argv[1]
        mode, function = roam.spawn_cell(work, Mode.FAST, MyError, start_method=method).result(30)
        assert mode is Mode.FAST, mode
        assert function is helper or {by_value}, function
        try:
            roam.spawn_cell(fail, start_method=method).result(30)
        except MyError as error:
            print("caught", error)
        print(roam.spawn_cell(lambda: Mode.FAST is Mode["FAST"], start_method=method).result(30))
"""


# r[verify spawn.identity]
@pytest.mark.parametrize("form", ["file", "module", "-c", "stdin"])
def test_classes_of_main_keep_their_identity(form, method, tmp_path):
    """Enums, exceptions and functions of the user's script are the same objects after a round trip, however it was started."""
    path = script(tmp_path, IDENTITY.format(by_value="False"))
    arguments = {
        "file": [path, method],
        "module": ["-m", "program", method],
        "-c": ["-c", path.read_text(), method],
        "stdin": ["-", method],
    }[form]
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path,
        input=path.read_text() if form == "stdin" else "",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "caught mine\nTrue\n"


def test_a_logged_line_is_printed_once(method, tmp_path):
    """The five lines of `python -c`: one warning, through the host's logging; the same from a file."""
    text = textwrap.dedent(
        f"""
        import logging, roam
        def work(): logging.warning("hi")
        if __name__ == "__main__":
            roam.spawn_cell(work, start_method={method!r}).join()
        """
    )

    for done in (run_script("-c", text), run_script(script(tmp_path, text))):
        assert (done.stdout + done.stderr).count("hi") == 1


# r[verify spawn.guard]
def test_a_missing_main_guard_is_a_clear_error(method, tmp_path):
    """One cell per call, which fails with the standard explanation; no fork bomb."""
    program = script(
        tmp_path,
        f"""
        import roam
        def work(): print("ran")
        cell = roam.spawn_cell(work, start_method={method!r})
        print(cell.result(30))
        """,
    )

    done = run_script(program, check=False)

    if method == "fork":
        # There is no second import of `__main__` to guard against.
        assert done.stdout == "ran\nNone\n"
    else:
        assert done.returncode == 1
        assert "current process has finished its bootstrapping phase" in done.stderr
        assert "roam.errors.SpawnFailed" in done.stderr
        assert "stage import_main" in done.stderr


# r[verify spawn.stage]
@pytest.mark.parametrize(
    ("line", "text", "code"),
    [
        ("raise ValueError('bad main')", "ValueError: bad main", 1),
        ("sys.exit(3)", "SystemExit: 3", 1),
        ("os._exit(9)", "exited with code 9", 9),
        ("ctypes.string_at(0)", "SIGSEGV", -11),
    ],
)
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_main_that_fails_in_the_cell_is_told_by_its_stage(line, text, code, method, tmp_path):
    """Whatever happens while `__main__` is imported, the host knows that it happened there."""
    program = script(
        tmp_path,
        f"""
        import ctypes, os, sys
        import roam
        if __name__ != "__main__":
            {line}
        def work(): pass
        if __name__ == "__main__":
            cell = roam.spawn_cell(work, start_method={method!r})
            try:
                cell.result(30)
            except roam.SpawnFailed as error:
                print(error.stage, cell.exit.kind, cell.exitcode, error)
        """,
    )

    done = run_script(program)

    assert done.stdout.startswith(f"import_main start_failed {code} ")
    assert text in done.stdout


# r[verify spawn.attach.first]
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_what_main_does_while_the_cell_imports_it_is_traced(method, tmp_path):
    """Records of the script's first lines in the cell arrive, its log records among them."""
    program = script(
        tmp_path,
        f"""
        import logging
        import roam
        if __name__ != "__main__":
            roam.info("told")
            logging.getLogger("early").info("logged")
        def work(): pass
        if __name__ == "__main__":
            cell = roam.spawn_cell(work, start_method={method!r})
            cell.join()
            print([record.message for record in cell.records()])
        """,
    )

    assert run_script(program).stdout == "['told', 'logged']\n"


def test_the_interpreter_waits_for_cells_at_its_end(method, tmp_path):
    """A program that does not join its cells gets their work done, and everything handled."""
    program = script(
        tmp_path,
        f"""
        import time, roam
        def work():
            time.sleep(0.3)
            print("done", flush=True)
        if __name__ == "__main__":
            roam.spawn_cell(work, start_method={method!r})
        """,
    )

    assert run_script(program).stdout == "done\n"


def test_standard_input_stays_usable(method, tmp_path):
    """The cell reads what the host's descriptor 0 has."""
    program = script(
        tmp_path,
        f"""
        import sys, roam
        def work():
            return sys.stdin.readline()
        if __name__ == "__main__":
            print(roam.spawn_cell(work, start_method={method!r}).result(30))
        """,
    )
    done = subprocess.run(
        [sys.executable, program],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        input="from the terminal\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout.strip() == "from the terminal"


DOOMED = """
    import os, signal, sys, threading, time
    import roam

    def work(block):
        if block:
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))
        os.write(1, f"{os.getpid()}\\n".encode())  # in one piece: several processes write here
        time.sleep(600)

    def start():
        cells.append(roam.spawn_cell(work, False, start_method=sys.argv[1], die_with_host=sys.argv[2] == "1"))
        cells.append(roam.spawn_cell(work, True, start_method=sys.argv[1], die_with_host=sys.argv[2] == "1"))

    if __name__ == "__main__":
        cells = []
        thread = threading.Thread(target=start, name="roam-like")
        thread.start()
        thread.join()
        bystander = os.fork()
        if not bystander:
            time.sleep(600)
        os.write(1, f"host {bystander}\\n".encode())
        time.sleep(600)
"""


def read_until_host(host):
    pids, bystander = [], None
    while bystander is None or len(pids) < 2:
        line = host.stdout.readline().split()
        assert line, "the program ended early"
        if line[0] == "host":
            bystander = int(line[1])
        else:
            pids.append(int(line[0]))
    return pids, bystander


# r[verify spawn.lifeline]
def test_cells_die_with_their_host(method, tmp_path):
    """SIGKILL to the host ends its cells: started by a thread that has ended, all signals blocked, another child alive."""
    host = start(tmp_path, script(tmp_path, DOOMED), method, "1")
    bystander = None
    try:
        pids, bystander = read_until_host(host)
        host.kill()
        host.wait()
        wait_until(lambda: not any(map(is_alive, pids)), 5.0)
        assert is_alive(bystander)
    finally:
        host.kill()
        host.wait()
        host.stdout.close()
        if bystander is not None:
            os.kill(bystander, signal.SIGKILL)


def test_a_cell_may_outlive_its_host(method, tmp_path):
    """With `die_with_host=False` it goes on."""
    host = start(tmp_path, script(tmp_path, DOOMED), method, "0")
    pids, bystander = read_until_host(host)
    try:
        host.kill()
        host.wait()
        assert all(map(is_alive, pids))
    finally:
        host.stdout.close()
        for pid in (*pids, bystander):
            os.kill(pid, signal.SIGKILL)


def test_a_forked_child_of_the_host_can_be_a_host(tmp_path):
    """It starts its own host and its own fork server; its parent's go on working."""
    program = script(
        tmp_path,
        """
        import os, roam
        def work(x): return x
        if __name__ == "__main__":
            assert roam.spawn_cell(work, 1).result(30) == 1
            pid = os.fork()
            if not pid:
                assert roam.spawn_cell(work, 2).result(30) == 2
                raise SystemExit
            assert os.waitpid(pid, 0)[1] == 0
            print(roam.spawn_cell(work, 3).result(30))
        """,
    )

    assert run_script(program).stdout == "3\n"
