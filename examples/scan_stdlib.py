"""Four cells parse the standard library of this interpreter, and two of them die in the middle of a file.

You will see progress, then totals over every file, each parsed exactly once, then for each of the two deaths (one
SIGSEGV, one SIGKILL) what roam knows about it: the file, the open spans, the last records and, where the signal left
one, the stack. `--limit N` takes N files from all over the library instead of all.
"""

import argparse
import ast
import contextlib
import ctypes
import os
import signal
import sys
import sysconfig
import time
import tokenize
import warnings
from collections import Counter, deque
from pathlib import Path

from multiprocess.connection import Pipe, wait

import roam

CELLS = 4
LONG_FUNCTION_LINES = 300


def segfault():
    ctypes.string_at(0)


def kill_myself():
    os.kill(os.getpid(), signal.SIGKILL)


# What a cell does.


def work(pipe):
    """Scan the files that come through the pipe, until None comes."""
    for path, death in iter(pipe.recv, None):
        with roam.span("file", path=path):
            counts = scan(path, death)
        pipe.send(counts)


def scan(path, death):
    """Count what is in a file, and write a warning for whatever is odd about it."""
    try:
        with tokenize.open(path) as file:
            text = file.read()
    except (SyntaxError, UnicodeDecodeError) as error:
        roam.warning("cannot be decoded", path=path, error=str(error))
        return Counter(files=1)
    counts = Counter(files=1, lines=text.count("\n"))
    try:
        with roam.span("parse", characters=len(text)), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tree = ast.parse(text, path)
    except (SyntaxError, ValueError) as error:
        roam.warning("cannot be parsed", path=path, line=getattr(error, "lineno", None), error=str(error))
        return counts
    for warning in caught:
        roam.warning("the compiler warns", path=path, line=warning.lineno, text=str(warning.message))
    with roam.span("count", statements=len(tree.body)):
        return counts + count(path, tree, death)


def count(path, tree, death):
    counts = Counter()
    for index, statement in enumerate(tree.body):
        if death is not None and index == len(tree.body) // 2:
            roam.info("half of the statements counted", line=statement.lineno, **counts)
            death()
        for node in ast.walk(statement):
            if isinstance(node, ast.ClassDef):
                counts["classes"] += 1
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                counts["functions"] += 1
                length = node.end_lineno - node.lineno + 1
                if length > LONG_FUNCTION_LINES:
                    roam.warning("very long function", path=path, name=node.name, lines=length)
    return counts


# What the host does.


class Job:
    """Hands out files, collects counts, and replaces cells that die.

    Each cell has a pipe of its own: a queue would stay locked for everybody when one that writes to it is killed.
    """

    def __init__(self, host, files, deaths):
        self.host = host
        self.tasks = deque((path, deaths.get(path)) for path in files)
        self.file_count = len(files)
        self.counts = {}  # of the files that are done
        self.crew = {}  # the host's end of a pipe: its cell, and the file that the cell has
        self.dead = {}  # the file it died in: a cell
        self.hired = 0

    def run(self):
        for _ in range(CELLS):
            self.hire()
        while self.crew:
            for pipe in wait(list(self.crew)):
                self.listen(pipe)

    def hire(self):
        self.hired += 1
        pipe, cells_end = Pipe()
        cell = roam.spawn_cell(work, cells_end, name=f"scanner-{self.hired}", host=self.host)
        cells_end.close()  # or the pipe would not end when the cell does
        self.assign(pipe, cell)

    def assign(self, pipe, cell):
        if self.tasks:
            task = self.tasks.popleft()
            self.crew[pipe] = cell, task[0]
            with contextlib.suppress(BrokenPipeError):  # the cell is dead, which `listen` will find out
                pipe.send(task)
        else:
            del self.crew[pipe]
            pipe.send(None)
            cell.result(timeout=30)

    def listen(self, pipe):
        cell, path = self.crew[pipe]
        try:
            counts = pipe.recv()
        except (EOFError, ConnectionResetError):  # it is dead
            del self.crew[pipe]
            cell.join(timeout=30)
            if path in self.dead:
                cell.result()  # the second cell that this file kills: raises what happened
            self.dead[path] = cell
            self.tasks.appendleft((path, None))
            self.hire()
        else:
            assert path not in self.counts
            self.counts[path] = counts
            show_progress(len(self.counts), self.file_count)
            self.assign(pipe, cell)


def show_progress(done, total):
    """One line that is written over on a terminal; a few plain lines elsewhere."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{done:,} of {total:,} files", end="\n" if done == total else "", flush=True)
    elif done * 4 // total > (done - 1) * 4 // total:
        print(f"{done:,} of {total:,} files", flush=True)


def show_totals(job, host, oddities, elapsed_s):
    totals = ", ".join(f"{number:,} {what}" for what, number in sum(job.counts.values(), Counter()).items())
    lanes = [lane for peer in host.statistics().peers.values() for lane in peer.lanes.values()]
    print(f"\n{totals}: each file once, by {job.hired} cells, in {elapsed_s:.1f} s")
    print(f"{sum(lane.emitted for lane in lanes):,} records, {sum(lane.lost for lane in lanes):,} lost")
    for message, number in Counter(tagged.record.message for tagged in oddities).most_common():
        print(f"  {number} x {message}")


def show_death(path, cell):
    left = cell.post_mortem
    print(f"\n{left.summary}\n  file       {path}")
    for span in left.open_spans:
        print(f"  open span  {span.name} {span.fields}, for {span.age_ns / 1e6:.1f} ms")
    for record in left.records[-4:]:
        print(f"  record     {record.kind}: {record.message} {dict(record.fields)}")
    frames = [line.strip() for line in left.stacks.splitlines() if line.startswith("  File")]
    for frame in frames[:5] or ["none: nobody sees SIGKILL coming, but the open spans say where it was"]:
        print(f"  stack      {frame}")
    print(f"  all of it  roam show {left.path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=sys.maxsize, metavar="N", help="parse only N files, at least 4")
    library = Path(sysconfig.get_path("stdlib"))
    files = sorted(str(path) for path in library.rglob("*.py") if "site-packages" not in path.parts)
    limit = min(len(files), max(CELLS, parser.parse_args().limit))
    files = [files[index * len(files) // limit] for index in range(limit)]
    one, other = sorted(files, key=os.path.getsize)[-2:]  # large files have a middle to die in
    started_s = time.monotonic()
    # The warnings are counted here; without forward=False they would go to this program's logging as well.
    with roam.TracingHost(forward=False) as host, host.subscribe("warn") as oddities:
        job = Job(host, files, {one: segfault, other: kill_myself})
        job.run()
        oddities.close()
        show_totals(job, host, oddities, time.monotonic() - started_s)
    for path, cell in job.dead.items():
        show_death(path, cell)


if __name__ == "__main__":
    main()
