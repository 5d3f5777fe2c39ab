"""Starting cells: what reaches them, what comes back, and what each way to fail looks like. Real processes throughout."""

from __future__ import annotations

import contextlib
import ctypes
import enum
import logging
import multiprocessing
import os
import resource
import select
import signal
import sqlite3
import sys
import threading
import time
import types

import multiprocess
import pytest

import roam
from roam.errors import CannotSend, CellCrashed, CellFailed, HostClosed, SpawnFailed
from roam.exit import ExitKind
from roam.stage import Stage
from tests.support import wait_until

METHODS = ("forkserver", "spawn", "fork")
WAIT_S = 30.0


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture(params=("forkserver", "spawn"))
def sending(request):
    """The start methods that send the call; a fork cell has it in memory."""
    return request.param


@pytest.fixture
def host(tmp_path):
    with roam.TracingHost(dump_dir=tmp_path / "dumps") as host:
        yield host


class Mode(enum.Enum):
    FAST = 1


class OwnError(Exception):
    pass


class Unbuildable(Exception):
    def __init__(self, one, two):
        super().__init__(one)
        self.two = two


class Holder:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


def add(a, b=0):
    return a + b


def fail(kind, *arguments):
    raise kind(*arguments)


def die(how):
    how()


def segfault():
    ctypes.string_at(0)


def wait_for_stop():
    while not roam.current_cell().stopping:
        time.sleep(0.002)
    return "stopped"


def ignore_everything(ready):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready.send(True)
    time.sleep(600)


def sleep_for_ever():
    time.sleep(600)


# What comes back.


def test_the_return_value_comes_back(method, host):
    """`result` gives what the target returned, and the exit says so."""
    cell = roam.spawn_cell(add, 1, kwargs={"b": 2}, start_method=method, host=host)

    assert cell.result(WAIT_S) == 3
    assert cell.result(WAIT_S) == 3
    assert (cell.exit.kind, cell.exit.code, cell.exitcode) == (ExitKind.RETURNED, 0, 0)
    assert cell.post_mortem is None
    assert not cell.is_alive()


def test_the_targets_own_exception_is_raised(method, host):
    """`result` raises the exception of the target; its cause carries the remote traceback and the post-mortem."""
    cell = roam.spawn_cell(fail, OwnError, "no such luck", start_method=method, host=host)

    with pytest.raises(OwnError, match="no such luck") as caught:
        cell.result(WAIT_S)

    cause = caught.value.__cause__
    assert isinstance(cause, CellFailed)
    assert "in fail" in cause.remote_traceback
    assert "bootstrap.py" not in cause.remote_traceback
    assert (cell.exit.kind, cell.exit.stage) == (ExitKind.RAISED, Stage.RUN)
    assert cell.exit.exception.message == "no such luck"
    assert cause.post_mortem is cell.post_mortem
    assert "no such luck" in cell.post_mortem.stderr_tail


@pytest.mark.parametrize("kind", [Unbuildable, KeyboardInterrupt])
def test_an_exception_that_cannot_be_raised_here_becomes_cell_failed(kind, method, host):
    """What cannot be rebuilt, or would end the host, is told by its text."""
    arguments = ("a", "b") if kind is Unbuildable else ()
    cell = roam.spawn_cell(fail, kind, *arguments, start_method=method, host=host)

    with pytest.raises(CellFailed, match=kind.__name__):
        cell.result(WAIT_S)
    assert not cell.exit.describe().endswith(": ")


# r[verify spawn.result.caller]
def test_a_result_is_rebuilt_by_whoever_asks_for_it(method, host):
    """What unpickling runs, it runs in the thread that calls `result`, and not before."""
    cell = roam.spawn_cell(WhereItIsRebuilt, start_method=method, host=host)
    cell.join(WAIT_S)
    found = []
    thread = threading.Thread(target=lambda: found.append((cell.result(), threading.get_ident())))
    thread.start()
    thread.join()

    [(rebuilt_in, asked_in)] = found
    assert rebuilt_in == asked_in


class WhereItIsRebuilt:
    def __reduce__(self):
        return threading.get_ident, ()


def test_a_return_value_that_cannot_be_sent_is_named(method, host):
    """The error of the cell names the attribute of the return value."""
    cell = roam.spawn_cell(_connection_holder, start_method=method, host=host)

    with pytest.raises(CannotSend, match=r"the return value\.conf\['db'\]"):
        cell.result(WAIT_S)


def _connection_holder():
    return Holder(conf={"db": sqlite3.connect(":memory:")})


# r[verify spawn.parcel]
def test_large_arguments_and_results_neither_hang_nor_block(method, host):
    """100 MB go to the cell and back while the start returns before the cell has read them."""
    data = bytes(1 << 20) * 100
    cell = roam.spawn_cell(add, data, kwargs={"b": b"!"}, start_method=method, host=host)

    result = cell.result(WAIT_S)

    assert len(result) == len(data) + 1
    assert result.endswith(b"!")


# r[verify spawn.parcel]
def test_a_large_argument_does_not_block_on_a_cell_that_dies_unread(host, monkeypatch):
    """The start does not wait for a process that never reads."""
    from multiprocess import spawn

    monkeypatch.setattr(spawn, "_python_exe", b"/bin/false")
    cell = roam.spawn_cell(add, bytes(100 << 20), start_method="spawn", host=host)

    with pytest.raises(SpawnFailed) as caught:
        cell.result(WAIT_S)
    assert (caught.value.stage, cell.exit.stage, cell.exit.code) == ("exec", Stage.EXEC, 1)


# How it ends.


ENDS = {
    "sys.exit(0)": (lambda: sys.exit(0), ExitKind.EXITED, 0),
    "sys.exit(7)": (lambda: sys.exit(7), ExitKind.EXITED, 7),
    "sys.exit('text')": (lambda: sys.exit("text"), ExitKind.EXITED, 1),
    "os._exit(9)": (lambda: os._exit(9), ExitKind.EXITED, 9),
    "SIGSEGV": (segfault, ExitKind.SIGNALED, -signal.SIGSEGV),
    "SIGABRT": (os.abort, ExitKind.SIGNALED, -signal.SIGABRT),
    "SIGKILL": (lambda: os.kill(os.getpid(), signal.SIGKILL), ExitKind.SIGNALED, -signal.SIGKILL),
    "signal 40": (lambda: os.kill(os.getpid(), 40), ExitKind.SIGNALED, -40),
}


# r[verify spawn.status]
# r[verify spawn.concluded]
@pytest.mark.parametrize("end", ENDS)
def test_every_way_to_end_is_told_apart(end, method, host):
    """Kind and code are right; abnormal ends have a post-mortem and make `result` raise `CellCrashed`."""
    how, kind, exitcode = ENDS[end]
    cell = roam.spawn_cell(die, how, start_method=method, host=host)

    ended = cell.join(WAIT_S)

    assert (ended.kind, ended.exitcode, cell.exitcode) == (kind, exitcode, exitcode)
    if ended.is_normal:
        assert cell.result() is None
    else:
        assert cell.post_mortem.exit == ended
        with pytest.raises(CellCrashed) as caught:
            cell.result()
        assert caught.value.exit is ended


def test_resource_use_is_known_or_none(method, host):
    """After a normal end it is there; after a death it is never 0."""
    returned = roam.spawn_cell(add, 1, start_method=method, host=host)
    killed = roam.spawn_cell(die, ENDS["SIGKILL"][0], start_method=method, host=host)

    assert returned.join(WAIT_S).cpu_s > 0
    assert returned.exit.max_rss_bytes > 1 << 20
    assert killed.join(WAIT_S).cpu_s is None or killed.exit.cpu_s > 0
    assert killed.exit.max_rss_bytes is None or killed.exit.max_rss_bytes > 1 << 20


def test_result_and_join_give_up_after_their_timeout(host):
    """A running cell makes `join` answer None and `result` raise TimeoutError."""
    cell = roam.spawn_cell(sleep_for_ever, host=host)

    assert cell.join(0.01) is None
    with pytest.raises(TimeoutError, match="still runs"):
        cell.result(0.01)
    assert cell.is_alive()
    assert cell.exit is None


def test_kill_and_terminate_are_the_hosts_doing(method, host):
    """A signal that the host sent is not mistaken for anybody else's."""
    for send, number in ((roam.Cell.kill, signal.SIGKILL), (roam.Cell.terminate, signal.SIGTERM)):
        cell = roam.spawn_cell(sleep_for_ever, start_method=method, host=host)
        send(cell)
        ended = cell.join(WAIT_S)
        assert (ended.kind, ended.signal) == (ExitKind.KILLED_BY_HOST, number)
        send(cell)


# r[verify spawn.stop]
def test_stop_asks_first(method, host):
    """A cell that looks at `stopping` ends by itself, which is a normal end."""
    cell = roam.spawn_cell(wait_for_stop, start_method=method, host=host)

    assert cell.stop(timeout=WAIT_S).kind is ExitKind.STOPPED
    assert cell.result() == "stopped"
    assert cell.post_mortem is None


# r[verify spawn.stop]
def test_stop_insists(host):
    """A cell that ignores the request and SIGTERM is killed, and the steps are on record."""
    here, there = multiprocess.Pipe(duplex=False)
    cell = roam.spawn_cell(ignore_everything, there, host=host)
    assert here.poll(WAIT_S)
    there.close()
    here.close()

    ended = cell.stop(timeout=0.05, grace=0.05)

    assert (ended.kind, ended.signal) == (ExitKind.KILLED_BY_HOST, signal.SIGKILL)
    assert [step.rpartition(" after ")[0] for step in ended.steps] == [
        "asked to stop",
        "stacks taken",
        "SIGTERM sent",
        "stacks taken",
        "SIGKILL sent",
    ]
    assert "in ignore_everything" in cell.post_mortem.stacks


def test_the_sentinel_becomes_readable(method, tmp_path):
    """`sentinel` works with poll, before and after the end."""
    with roam.TracingHost(dump_dir=tmp_path) as host:
        early, late = (roam.spawn_cell(add, 1, start_method=method, host=host) for _ in range(2))
        assert is_readable(early.sentinel, WAIT_S)
        assert early.join(WAIT_S).kind is ExitKind.RETURNED
        late.join(WAIT_S)
        assert is_readable(late.sentinel, 0)


def is_readable(fd, timeout_s):
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


# r[verify spawn.status]
def test_a_status_that_somebody_else_reaped_is_still_right(host):
    """`os.wait()` in the program takes the status away; the kernel still tells it by the pidfd."""
    cell = roam.spawn_cell(die, ENDS["SIGSEGV"][0], start_method="fork", host=host)
    with contextlib.suppress(ChildProcessError):  # roam may be faster
        os.waitpid(cell.pid, 0)

    ended = cell.join(WAIT_S)

    assert ended.exitcode in (-signal.SIGSEGV, None)
    assert ended.kind in (ExitKind.SIGNALED, ExitKind.LOST)


# r[verify spawn.held]
def test_exit_codes_are_right_when_many_threads_spawn(method, host):
    """8 threads with 10 cells each: 80 right exit codes."""
    wrong = []

    def spawn_ten(first):
        for code in range(first, first + 10):
            cell = roam.spawn_cell(os._exit, code, start_method=method, host=host)
            ended = cell.join(WAIT_S)
            if ended is None or ended.exitcode != code:
                wrong.append((code, ended))

    with pytest.warns(RuntimeWarning, match="other threads") if method == "fork" else contextlib.nullcontext():
        threads = [threading.Thread(target=spawn_ten, args=(1 + index * 10,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert not wrong


# r[verify spawn.status]
def test_the_fork_server_is_replaced_when_it_dies(host):
    """Killing it loses the exit code of nobody who asks the kernel, and the next cell starts."""
    from roam.spawn import forkserver

    cell = roam.spawn_cell(wait_for_stop, host=host)
    server = forkserver.server()
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server_is_alive(server.pid))

    assert cell.is_alive()
    assert roam.spawn_cell(add, 1, host=host).result(WAIT_S) == 1
    ended = cell.stop(timeout=WAIT_S)
    assert ended.kind in (ExitKind.STOPPED, ExitKind.LOST)
    assert ended.exitcode in (0, None)


def server_is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


# What is sent.


def test_classes_enums_and_functions_keep_their_identity(method, host):
    """What the cell gets is the same as what it imports, and what comes back is the host's own."""
    cell = roam.spawn_cell(_check_identity, Mode.FAST, OwnError, add, start_method=method, host=host)

    mode, kind, function = cell.result(WAIT_S)

    assert mode is Mode.FAST
    assert kind is OwnError
    assert function is add


def _check_identity(mode, kind, function):
    assert mode is Mode.FAST
    assert kind is OwnError
    assert function is add
    return mode, kind, function


def test_closures_and_lambdas_are_sent(method, host):
    """What plain pickle refuses goes by dill."""
    offset = 40

    def closure(x):
        return x + offset

    assert roam.spawn_cell(closure, 2, start_method=method, host=host).result(WAIT_S) == 42
    assert roam.spawn_cell(lambda: Mode.FAST, start_method=method, host=host).result(WAIT_S) is Mode.FAST


def test_queues_locks_and_connections_of_multiprocess_pass(sending, host):
    """They arrive usable."""
    context = multiprocess.get_context("spawn")
    queue, lock, (here, there) = context.Queue(), context.Lock(), context.Pipe()
    cell = roam.spawn_cell(_use_all, queue, lock, there, start_method=sending, host=host)

    assert here.poll(WAIT_S)
    assert here.recv() == "by pipe"
    assert queue.get(timeout=WAIT_S) == "by queue"
    assert cell.result(WAIT_S) is True
    queue.close()
    queue.join_thread()
    here.close()
    there.close()


def _use_all(queue, lock, connection):
    with lock:
        connection.send("by pipe")
        queue.put("by queue")
    return True


BAD_CALLS = {
    "attribute": (
        lambda db: [0, Holder(conf={"conns": [1, 2, Holder(db=db)]})],
        r"^args\[1\]\.conf\['conns'\]\[2\]\.db",
    ),
    "slot": (lambda db: [_slotted(db)], r"^args\[0\]\.db"),
    "plain": (lambda db: [db], r"^args\[0\] "),
}


class Slotted:
    __slots__ = ("db",)


def _slotted(db):
    slotted = Slotted()
    slotted.db = db
    return slotted


# r[verify spawn.unsendable]
@pytest.mark.parametrize("case", BAD_CALLS)
def test_what_cannot_be_sent_is_named(case, sending, host):
    """The error names the attribute before anything is started."""
    make, path = BAD_CALLS[case]
    database = sqlite3.connect(":memory:")

    with pytest.raises(CannotSend, match=path):
        roam.spawn_cell(print, *make(database), start_method=sending, host=host)
    with pytest.raises(CannotSend, match=r"^target\.__self__\.db"):
        roam.spawn_cell(Bound(database).run, start_method=sending, host=host)
    with pytest.raises(CannotSend, match=r"^kwargs\['z'\]\.db"):
        roam.spawn_cell(print, kwargs={"z": Holder(db=database)}, start_method=sending, host=host)
    with pytest.raises(TypeError):
        roam.spawn_cell(print, database, start_method=sending, host=host)
    database.close()


class Bound:
    def __init__(self, db):
        self.db = db

    def run(self):
        return 1


def test_objects_of_multiprocessing_are_refused_with_the_remedy(sending, host):
    """Queue, lock and connection of the standard library name `multiprocess`; a fork context names the right one."""
    here, there = multiprocessing.Pipe()
    for thing in (multiprocessing.get_context("spawn").Lock(), here):
        with pytest.raises(CannotSend, match="package `multiprocess`"):
            roam.spawn_cell(print, [thing], start_method=sending, host=host)
    here.close()
    there.close()
    with pytest.raises(CannotSend, match="fork context"):
        roam.spawn_cell(print, multiprocess.get_context("fork").Lock(), start_method=sending, host=host)


def test_wrong_arguments_raise_at_the_call(host):
    """Misuse is TypeError or ValueError; a closed host says so."""
    with pytest.raises(TypeError, match="cannot be called"):
        roam.spawn_cell(3, host=host)
    with pytest.raises(ValueError, match="choose one of"):
        roam.spawn_cell(add, start_method="thread", host=host)
    with pytest.raises(TypeError, match="a TracingHost is needed"):
        roam.spawn_cell(add, host="host")
    for kwargs in ([1], {1: 2}):
        with pytest.raises(TypeError, match="a mapping from names"):
            roam.spawn_cell(add, kwargs=kwargs, host=host)
    assert host.cells == ()
    host.close()
    with pytest.raises(HostClosed):
        roam.spawn_cell(add, host=host)


# Failing starts.


# r[verify spawn.stage]
def test_a_target_that_the_cell_cannot_import_fails_in_stage_unpickle(sending, host, monkeypatch):
    """A module that exists in the host only is named by the error."""
    module = types.ModuleType("only_here")
    exec("def work(): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    cell = roam.spawn_cell(module.work, start_method=sending, host=host)

    with pytest.raises(SpawnFailed, match="No module named 'only_here'") as caught:
        cell.result(WAIT_S)
    assert caught.value.stage == "unpickle"
    assert (cell.exit.kind, cell.exit.stage, cell.exit.code) == (ExitKind.START_FAILED, Stage.UNPICKLE, 1)


def test_an_argument_that_raises_when_it_is_rebuilt_fails_in_stage_unpickle(sending, host):
    """Its own exception is in the error."""
    cell = roam.spawn_cell(print, Booby(), start_method=sending, host=host)

    with pytest.raises(SpawnFailed, match="OwnError: caught") as caught:
        cell.result(WAIT_S)
    assert caught.value.stage == "unpickle"


class Booby:
    def __reduce__(self):
        return fail, (OwnError, "caught")


def test_an_executable_that_is_not_there_fails_at_the_call(host, monkeypatch):
    """No process, no handle: the call raises, and nothing is left behind."""
    from multiprocess import spawn

    monkeypatch.setattr(spawn, "_python_exe", b"/nonexistent/python")

    with pytest.raises(SpawnFailed, match="No such file") as caught:
        roam.spawn_cell(add, 1, start_method="spawn", host=host)
    assert caught.value.stage == "exec"
    assert not host.cells


# r[verify spawn.stage]
def test_a_start_failure_carries_the_last_lines_of_stderr(host, monkeypatch):
    """What the interpreter says before it can run Python arrives too."""
    from multiprocess import resource_tracker, spawn

    # One that starts in this environment dies of it as well, and the next test is told so.
    resource_tracker.ensure_running()
    monkeypatch.setenv("PYTHONHOME", "/nonexistent")
    monkeypatch.setattr(spawn, "_python_exe", os.fsencode(sys.executable))
    cell = roam.spawn_cell(add, 1, start_method="spawn", host=host)

    with pytest.raises(SpawnFailed, match="Fatal Python error") as caught:
        cell.result(WAIT_S)
    assert caught.value.stage == "exec"


# The cell's surroundings.


# r[verify spawn.surroundings]
def test_a_cell_has_the_hosts_surroundings(method, host, monkeypatch, tmp_path):
    """Environment, directory, paths, arguments, umask, limits, streams and time zone are those at the time of the start."""
    roam.spawn_cell(add, 1, start_method=method, host=host).result(WAIT_S)  # the fork server is older than what follows
    monkeypatch.setenv("ROAM_TEST_VALUE", "grün")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "extra"))
    monkeypatch.setattr(sys, "argv", ["prog", "--flag"])
    time.tzset()
    umask = os.umask(0o027)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    before_fd, input_fd = os.dup(0), os.open(tmp_path / "input", os.O_RDONLY | os.O_CREAT)
    os.dup2(input_fd, 0)
    try:
        cell = roam.spawn_cell(_surroundings, start_method=method, stdio="inherit", host=host)
        theirs, ours = cell.result(WAIT_S), _surroundings()
        assert set(theirs[0].items()) ^ set(ours[0].items()) == set()
        assert theirs == ours
    finally:
        os.umask(umask)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.dup2(before_fd, 0)
        os.close(before_fd)
        os.close(input_fd)
        monkeypatch.undo()
        time.tzset()


def _surroundings():
    umask = os.umask(0)
    os.umask(umask)
    return (
        {name: value for name, value in os.environ.items() if name != "LC_CTYPE"},
        os.getcwd(),
        sys.path,
        sys.argv,
        umask,
        resource.getrlimit(resource.RLIMIT_NOFILE),
        [os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1)],
        time.strftime("%Z"),
    )


def test_a_cell_knows_itself_and_its_parent(method, host):
    """Name, peer, parent and the place in `multiprocess` are right under every start method."""
    cell = roam.spawn_cell(_who_am_i, name="who", start_method=method, host=host)

    name, peer_id, pid, process_name, parent_pid, start_method, can_spawn = cell.result(WAIT_S)

    assert (name, peer_id, pid) == ("who", cell.peer.peer_id, cell.pid)
    assert (process_name, parent_pid, start_method) == ("who", os.getpid(), method)
    assert can_spawn == 5
    assert roam.current_cell() is None


def _who_am_i():
    current = roam.current_cell()
    import multiprocess

    with multiprocess.Pool(1) as pool:
        answer = pool.apply(add, (2, 3))
    return (
        current.name,
        current.peer.peer_id,
        current.peer.pid,
        multiprocess.current_process().name,
        multiprocess.parent_process().pid,
        multiprocess.get_start_method(),
        answer,
    )


def test_cells_nest(method, host):
    """A cell can be a host; its cells answer it."""
    assert roam.spawn_cell(_nest, method, start_method=method, host=host).result(WAIT_S) == 7


def _nest(method):
    return roam.spawn_cell(add, 3, kwargs={"b": 4}, start_method=method).result(WAIT_S)


def test_a_fork_warns_of_other_threads(host):
    """Locks held by other threads stay locked in a forked cell; roam's own threads are safe and not counted."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait, name="bystander")
    thread.start()
    with pytest.warns(RuntimeWarning, match="bystander"):
        roam.spawn_cell(add, 1, start_method="fork", host=host).result(WAIT_S)
    over.set()
    thread.join()


def test_a_fork_cell_does_not_use_the_hosts_log_handlers(host, tmp_path):
    """A record of the cell is handled once, by the host."""
    handler = logging.FileHandler(tmp_path / "log")
    logger = logging.getLogger("tests.spawn.handlers")
    logger.addHandler(handler)
    try:
        roam.spawn_cell(logger.warning, "only once", start_method="fork", host=host).join(WAIT_S)
    finally:
        logger.removeHandler(handler)
        handler.close()

    assert (tmp_path / "log").read_text().count("only once") == 1


# r[verify spawn.concluded]
def test_join_returns_when_all_is_done(host):
    """The exit is known, the dump written, and the last record handled, however slow the host's handler is."""
    handled = []

    class Slow(logging.Handler):
        def emit(self, record):
            time.sleep(0.3)
            handled.append(record.getMessage())

    handler, logger = Slow(), logging.getLogger("tests.spawn.slow")
    logger.addHandler(handler)
    try:
        ended = roam.spawn_cell(_warn_and_die, logger.name, host=host).join(WAIT_S)
        assert handled == ["last words"]
        assert ended.code == 9
        assert len(list(host.dump_dir.glob("*.roam"))) == 1
    finally:
        logger.removeHandler(handler)


def _warn_and_die(name):
    logging.getLogger(name).warning("last words")
    os._exit(9)


def test_leaving_the_host_stops_its_cells(method, tmp_path):
    """After the `with` block the cells have ended."""
    with roam.TracingHost(dump_dir=tmp_path) as host:
        cell = roam.spawn_cell(wait_for_stop, start_method=method, host=host)

    assert cell.exit.kind is ExitKind.STOPPED
