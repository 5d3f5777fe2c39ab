"""Hosts that are stopped or killed, and processes that roam did not start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import roam
from roam.exit import ExitKind
from tests.programs import METHODS, Program, is_alive, write_program
from tests.support import REPOSITORY, run_script, wait_until

WAIT_S = 30.0
COUNT = 100_000

STOPPED = """
    import json, socket, sys, time
    import roam

    def emit_on_request(path, count):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            for _ in connection.makefile("r"):
                started = time.perf_counter()
                for number in range(count):
                    roam.info("record", number=number, size=0.5, name="x")
                connection.sendall(f"{time.perf_counter() - started}\\n".encode())

    if __name__ == "__main__":
        path, method, count = sys.argv[1:]
        with roam.TracingHost(forward=False) as host, host.subscribe("info") as records:
            cell = roam.spawn_cell(emit_on_request, path, int(count), host=host, start_method=method)
            cell.result()
            lanes = cell.statistics().lanes.values()
            print(json.dumps([sum(lane.emitted for lane in lanes), sum(lane.delivered + lane.lost for lane in lanes)]))
"""


@pytest.mark.parametrize("method", METHODS)
def test_emits_do_not_wait_for_a_stopped_host(method, tmp_path):
    """100,000 emits take about as long while the host is stopped as while it runs, and none goes uncounted."""
    program = write_program(tmp_path, STOPPED)
    running, stopped = [], []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        listener.settimeout(WAIT_S)
        with Program(program, str(tmp_path / "s"), method, str(COUNT)) as host:
            connection, _ = listener.accept()
            with connection, connection.makefile("r") as answers:
                connection.settimeout(WAIT_S)
                for took in (running, stopped) * 2:
                    if took is stopped:
                        host.send(signal.SIGSTOP)
                    connection.sendall(b"go\n")
                    took.append(float(answers.readline()))
                    host.send(signal.SIGCONT)
                connection.shutdown(socket.SHUT_WR)
            emitted, accounted = json.loads(host.line())
            assert host.wait() == 0

    assert emitted == accounted == 4 * COUNT
    assert min(stopped) < 3 * min(running), (running, stopped)


KILLED = """
    import json, os, sys, threading, time
    import roam

    def work(number):
        with roam.span("job", number=number):
            roam.warning("working", number=number)
            time.sleep(600)

    def bystander():
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
            os._exit(0)
        return pid

    def main(method, has_bystanders):
        with roam.TracingHost(forward=False) as host:
            bystanders = [bystander()] if has_bystanders else []
            cells = []
            def start():
                cells.append(roam.spawn_cell(work, len(cells), host=host, name=f"cell {len(cells)}", start_method=method))
            start()
            ended = threading.Thread(target=start)
            ended.start()
            ended.join()
            threading.Thread(target=lambda: (start(), time.sleep(600)), daemon=True).start()
            while len(cells) < 3 or not all("working" in [r.message for r in cell.records()] for cell in cells):
                time.sleep(0.01)
            if has_bystanders:
                bystanders.append(bystander())
            print(json.dumps([[cell.pid for cell in cells], bystanders, str(host.run_dir)]), flush=True)
            time.sleep(600)

    if __name__ == "__main__":
        main(sys.argv[1], sys.argv[2] == "True")
"""


@pytest.mark.parametrize("has_bystanders", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore")
def test_cells_die_with_their_host(method, has_bystanders, tmp_path):
    """Within a second of the host's SIGKILL its cells are gone, whichever thread started them, while forked children of
    the host live on; `roam show` reads what they left."""
    bystanders, run_dir = [], None
    try:
        with Program("-W", "ignore", write_program(tmp_path, KILLED), method, str(has_bystanders)) as host:
            pids, bystanders, place = json.loads(host.line())
            run_dir = Path(place)
            assert all(map(is_alive, [*pids, *bystanders]))
            host.send(signal.SIGKILL)
            wait_until(lambda: not any(map(is_alive, pids)), timeout_s=1.0, message="the cells are gone")
        assert all(map(is_alive, bystanders))

        shown = run_script("-m", "roam", "show", run_dir)
    finally:
        for pid in bystanders:
            os.kill(pid, signal.SIGKILL)
        if run_dir is not None:
            shutil.rmtree(run_dir)
    assert len(bystanders) == 2 * has_bystanders
    for number in range(3):
        assert f"cell {number}" in shown.stdout
    assert shown.stdout.count("working") == 3
    assert shown.stdout.count("in span job") == 3
    assert "Traceback" not in shown.stdout + shown.stderr


REGISTERED = """
    import logging, os, signal, sys
    import roam

    def main():
        assert roam.init_cell_tracing()
        roam.init_cell_tracing()
        with roam.span("job", path="a.py"), roam.span("step"):
            for number in range(1000):
                roam.info("record", number=number)
            logging.getLogger("app").warning("by logging")
            if sys.argv[1] == "wait":
                print("ready", flush=True)
                sys.stdin.readline()
            os.kill(os.getpid(), signal.SIGKILL)

    main()
"""


@pytest.fixture
def host(tmp_path):
    with roam.TracingHost(dump_dir=tmp_path / "dumps", forward=False) as host:
        yield host


def start_registered(program, peer, *arguments):
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, program, *arguments],
        env=os.environ | {"PYTHONPATH": path} | peer.ticket.environ,
        pass_fds=peer.ticket.fds,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


@pytest.mark.parametrize("how", ["wait", "at once"])
def test_a_process_with_a_ticket_is_traced_like_a_cell(how, host, tmp_path):
    """A script that `subprocess` started and SIGKILL ended leaves its records, its open spans and a post-mortem."""
    peer = host.register_peer("legacy")
    with start_registered(write_program(tmp_path, REGISTERED), peer, how) as process:
        if how == "wait":
            assert process.stdout.readline() == b"ready\n"
            wait_until(lambda: any(record.message == "by logging" for record in peer.records()))
            assert [span.name for span in peer.open_spans()] == ["job", "step"]
            assert peer.peer.pid == process.pid
            process.stdin.write(b"\n")
            process.stdin.close()
        assert process.wait(WAIT_S) == -signal.SIGKILL

    ended = peer.join(WAIT_S)

    assert ended is not None
    assert (ended.kind, ended.signal) in {(ExitKind.SIGNALED, signal.SIGKILL), (ExitKind.LOST, None)}
    [dump] = host.dump_dir.glob("*.roam")
    left = roam.postmortem.load(dump)
    assert (left.peer.name, left.peer.pid) == ("legacy", process.pid)
    assert [record.fields["number"] for record in left.records if record.message == "record"] == list(range(1000))
    assert [record.target for record in left.records if record.message == "by logging"] == ["app"]
    assert [(span.name, span.fields) for span in left.open_spans] == [("job", {"path": "a.py"}), ("step", {})]
    assert left.exit == ended
    assert not left.damage
    shown = run_script("-m", "roam", "show", dump)
    assert "by logging" in shown.stdout
    assert "job" in shown.stdout


def test_a_process_that_came_and_went_unseen_leaves_a_post_mortem(host, tmp_path):
    """It attached, died and was waited for while the host had no time to look: its end is unknown, its records are there."""
    peer, hold = host.register_peer("legacy"), threading.Event()
    host._collector.call(hold.wait)
    try:
        with start_registered(write_program(tmp_path, REGISTERED), peer, "at once") as process:
            process.wait(WAIT_S)
    finally:
        hold.set()

    assert peer.join(WAIT_S).kind is ExitKind.LOST
    left = roam.postmortem.load(next(host.dump_dir.glob("*.roam")))
    assert [record.fields["number"] for record in left.records if record.message == "record"] == list(range(1000))
    assert [span.name for span in left.open_spans] == ["job", "step"]


def test_without_a_ticket_nothing_is_traced(tmp_path):
    """The same script without a host and a ticket: attaching says so, and every tracing call does nothing."""
    program = write_program(
        tmp_path,
        """
        import roam
        assert roam.init_cell_tracing() is False
        with roam.span("job"):
            roam.info("nobody hears")
        assert roam.current_cell() is None
        """,
    )

    assert run_script(program).stderr == ""


WAITING = """
    import logging, sys, time
    import roam

    def work(path, method):
        time.sleep(0.3)
        with open(path, "a") as file:
            file.write(method)
        logging.getLogger("app").warning("done %s", method)

    if __name__ == "__main__":
        for method in ("forkserver", "spawn", "fork"):
            roam.spawn_cell(work, sys.argv[1], method + " ", start_method=method)
        logging.warning("the end")
"""


def interrupt_whoever_stops_me(pid):
    me = roam.current_cell()
    while not me.stopping:
        threading.Event().wait(0.01)
    os.kill(pid, signal.SIGUSR1)
    threading.Event().wait()


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("count", [1, 2])
# r[verify spawn.interrupt]
def test_an_interrupted_close_ends_everything_at_once(tmp_path, monkeypatch, count):
    """As by a second Ctrl-C: a cell that takes its time is killed; and after one more interrupt the next close goes on.
    No thread, process or file is left."""

    def interrupt(*_):
        raise Interrupted

    threads, before = threading.active_count(), signal.signal(signal.SIGUSR1, interrupt)
    host = roam.TracingHost(dump_dir=tmp_path / "dumps", forward=False)
    try:
        cell = roam.spawn_cell(interrupt_whoever_stops_me, os.getpid(), host=host)
        if count == 2:
            monkeypatch.setattr(host, "abort", interrupt)
        with pytest.raises(Interrupted):
            host.close()
        assert host.run_dir.exists() == (count == 2)
    finally:
        monkeypatch.undo()
        signal.signal(signal.SIGUSR1, before)
        host.abort()
    assert (cell.exit.kind, cell.exit.signal) == (ExitKind.KILLED_BY_HOST, signal.SIGKILL)
    assert not host.run_dir.exists()
    wait_until(lambda: threading.active_count() == threads, message="the threads end")


def test_the_interpreter_waits_for_the_cells_of_the_default_host(tmp_path):
    """A program that ends without `join` lets its cells finish, prints their warnings, and leaves nothing."""
    done = run_script(write_program(tmp_path, WAITING), tmp_path / "out")

    assert sorted((tmp_path / "out").read_text().split()) == sorted(METHODS)
    assert sorted(done.stderr.split("\n")) == sorted(
        ["", "WARNING:root:the end", *(f"WARNING:app:done {m} " for m in METHODS)]
    )
