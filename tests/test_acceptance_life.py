"""A whole program around its cells: what they share with it, what they bring back, and how it ends them."""

from __future__ import annotations

import json

import pytest

from tests.programs import METHODS, write_program
from tests.support import run_script

IDENTITY = '''
"""A program like any: its classes are in `__main__`."""
import dataclasses, enum, functools, sys
import roam

class Mode(enum.Enum):
    FAST = 1

class Flag(enum.Flag):
    A = 1
    B = 2

@dataclasses.dataclass
class Job:
    mode: Mode
    inner: "Job | None" = None

class Mishap(Exception):
    def __init__(self, job, code=3):
        super().__init__(f"no luck with {job}")
        self.job, self.code = job, code
    def __reduce__(self):
        return Mishap, (self.job, self.code)

def helper(x):
    return x + 1

def work(job, kind, function):
    assert type(job) is Job and job.mode is Mode.FAST and job.inner.mode is Mode.FAST
    assert kind is Mishap and function is helper and Flag.A | Flag.B is Flag(3)
    assert Mode.__module__ == __name__ in ("__main__", "__mp_main__")
    return job, kind, function, Flag.A | Flag.B

def fail(job):
    try:
        raise KeyError("the reason")
    except KeyError as error:
        raise Mishap(job, code=7) from error

def nest(method, depth):
    if depth == 0:
        roam.warning("at the bottom", mode=Mode.FAST.name)
        return Mode.FAST
    return roam.spawn_cell(nest, method, depth - 1, start_method=method).result(60)

def make_adder(n):
    total = [n]
    def add(x):
        total[0] += x
        return total[0], Mode.FAST
    return add

class Counter:
    def __init__(self):
        self.count = 0
    def step(self, by):
        self.count += by
        return self
    @classmethod
    def make(cls):
        return cls()

def main(method):
    spawn = functools.partial(roam.spawn_cell, start_method=method)
    job = Job(Mode.FAST, Job(Mode.FAST))
    back, kind, function, flags = spawn(work, job, Mishap, helper).result(60)
    assert back == job and type(back) is Job and back.inner.mode is Mode.FAST
    assert kind is Mishap and function is helper and flags is Flag(3)

    try:
        spawn(fail, job).result(60)
    except Mishap as mishap:
        assert mishap.code == 7 and mishap.job == job and mishap.job.mode is Mode.FAST
        assert isinstance(mishap.__cause__, roam.CellFailed)
        assert "the reason" in mishap.__cause__.remote_traceback
        assert mishap.__cause__.post_mortem.exit.exception.message.startswith("no luck")
    else:
        raise AssertionError("nothing was raised")

    assert spawn(make_adder(40), 2).result(60) == (42, Mode.FAST)
    assert spawn(lambda mode=Mode.FAST: (mode, helper(1))).result(60) == (Mode.FAST, 2)
    assert spawn(functools.partial(helper, 5)).result(60) == 6
    counter = Counter()
    assert spawn(counter.step, 3).result(60).count == 3 and counter.count == 0
    assert type(spawn(Counter.make).result(60)) is Counter
    assert spawn(nest, method, 2).result(120) is Mode.FAST
    print("all the same")

if __name__ == "__main__":
    main(sys.argv[1])
'''


@pytest.mark.parametrize(
    ("method", "place"), [*((method, place) for method in METHODS for place in ("file", "-c")), ("spawn", "-m")]
)
def test_what_a_program_defines_keeps_its_identity(method, place, tmp_path):
    """Classes, enums, exceptions, functions, closures and nested cells of a script, a `-c` text and a `-m` module."""
    program = write_program(tmp_path, IDENTITY)
    arguments = {"file": [program], "-c": ["-c", IDENTITY], "-m": ["-m", "program"]}[place]
    done = run_script(*arguments, method, cwd=tmp_path, timeout_s=110)

    assert done.stdout == "all the same\n"
    assert done.stderr.split("\n").count("at the bottom") == 1


RECURSIVE = """
import sys
import roam

def make_factorial():
    def factorial(x):
        return 1 if x == 0 else x * factorial(x - 1)
    return factorial

if __name__ == "__main__":
    print(roam.spawn_cell(make_factorial(), 5, start_method=sys.argv[1]).result(60))
"""


@pytest.mark.parametrize("place", ["file", "-c"])
@pytest.mark.parametrize("method", METHODS)
def test_a_closure_may_call_itself(method, place, tmp_path):
    """A nested function that refers to itself is sent like any other."""
    arguments = [write_program(tmp_path, RECURSIVE)] if place == "file" else ["-c", RECURSIVE]

    assert run_script(*arguments, method).stdout == "120\n"


LARGE = """
    import sys
    import roam

    def turn(data, table):
        roam.info("got it", size=len(data))
        return data[::-1], len(table)

    if __name__ == "__main__":
        data = bytes(range(256)) * (100 << 12)
        with roam.TracingHost() as host:
            cell = roam.spawn_cell(turn, data, dict.fromkeys(range(300_000), "x"), host=host, start_method=sys.argv[1])
            back, length = cell.result(100)
            assert back == data[::-1] and length == 300_000
            assert [record.fields for record in cell.records()] == [{"size": 100 << 20}]
        print("unharmed")
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_hundred_megabytes_go_there_and_back(method, tmp_path):
    """A 100 MB argument arrives, and the result of the same size comes back."""
    assert run_script(write_program(tmp_path, LARGE), method, timeout_s=110).stdout == "unharmed\n"


ENDS = """
    import json, logging, os, signal, sys, time
    import roam

    def obey():
        roam.info("ready")
        while not roam.current_cell().stopping:
            time.sleep(0.005)
        return "obeyed"

    def dawdle():
        roam.info("ready")
        time.sleep(600)

    def resist():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        roam.info("ready")
        time.sleep(600)

    def ready(cell):
        while not cell.records():
            assert cell.is_alive()
            time.sleep(0.005)
        return cell

    def told(cell):
        ended = cell.join(60)
        return [ended.kind, ended.code, ended.signal, cell.exitcode, cell.post_mortem is not None, len(cell.records())]

    def main(method):
        found = {}
        with roam.TracingHost(forward=False) as host:
            def start(target):
                return ready(roam.spawn_cell(target, host=host, start_method=method))
            cell = start(obey)
            cell.stop(timeout=60)
            found["stop, obeyed"] = told(cell)
            cell = start(dawdle)
            cell.stop(timeout=0.1, grace=60)
            found["stop, not heard"] = told(cell)
            cell = start(resist)
            cell.stop(timeout=0.1, grace=0.1)
            found["stop, resisted"] = told(cell)
            cell = start(dawdle)
            cell.terminate()
            found["terminate"] = told(cell)
            cell = start(resist)
            cell.terminate()
            cell.kill()
            found["kill"] = told(cell)
            last = start(obey)
        found["leaving the host"] = told(last)
        print(json.dumps(found))

    if __name__ == "__main__":
        main(sys.argv[1])
"""


@pytest.mark.parametrize("method", METHODS)
def test_every_way_to_end_a_cell_is_told_as_it_was(method, tmp_path):
    """Kind, code, signal and exit code after `stop`, `terminate` and `kill`; a dump unless the cell obeyed."""
    found = json.loads(run_script(write_program(tmp_path, ENDS), method).stdout)

    assert found == {
        "stop, obeyed": ["stopped", 0, None, 0, False, 1],
        "stop, not heard": ["killed_by_host", None, 15, -15, True, 1],
        "stop, resisted": ["killed_by_host", None, 9, -9, True, 1],
        "terminate": ["killed_by_host", None, 15, -15, True, 1],
        "kill": ["killed_by_host", None, 9, -9, True, 1],
        "leaving the host": ["stopped", 0, None, 0, False, 1],
    }
