"""The house rules that a machine can hold: layers, names, sizes, documentation, stores to shared words."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.support import REPOSITORY, expect_none, run_script, sources

Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Function = (ast.FunctionDef, ast.AsyncFunctionDef)

LAYERS = (
    {"roam", "roam.__main__"},
    {"roam.cli"},
    {"roam.testing", "roam.pytest_plugin"},
    {"roam.export"},
    {"roam.spawn"},
    {"roam.postmortem"},
    {"roam.tracing"},
    {"roam.shm"},
    {"roam.errors", "roam.clock", "roam.stage", "roam.exit", "roam.ticket"},
)
"""From the top down; a module imports from its own layer and those below. `roam` itself is the lazy facade."""

THIRD_PARTY = {
    "click": {"roam.cli"},
    "dill": {"roam.spawn"},
    "msgspec": {"roam.tracing", "roam.postmortem", "roam.spawn", "roam.export", "roam.testing", "roam.cli"},
    "multiprocess": {"roam.spawn"},
    "platformdirs": {"roam.tracing", "roam.postmortem", "roam.spawn", "roam.cli"},
    "psutil": {"roam.spawn"},
    "pytest": {"roam.pytest_plugin"},
}
"""Which parts may import what is not in the standard library."""

SENSITIVE = {
    "ctypes": {"roam.spawn"},
    "logging": {"roam.tracing", "roam.spawn", "roam.testing", "roam.pytest_plugin", "roam.cli", "roam.export"},
    "marshal": {"roam.spawn"},
    "multiprocessing": {"roam.spawn"},
    "pickle": {"roam.spawn"},
    "shelve": set[str](),
}
"""Parts of the standard library that cost too much, or trust too much, to be imported everywhere."""

FILE_LINES, FUNCTION_LINES = 400, 60


@dataclass(frozen=True)
class Module:
    """One source file of the package."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    def where(self, node: ast.AST | None = None) -> str:
        line = f":{node.lineno}" if node is not None else ""
        return f"{self.path.relative_to(REPOSITORY)}{line}"


@dataclass(frozen=True)
class Import:
    """One imported module, absolute; `name` is what `from` takes out of it where that is no module itself."""

    importer: Module
    imported: str
    name: str | None
    node: ast.Import | ast.ImportFrom
    is_for_types: bool


@functools.cache
def modules() -> dict[str, Module]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted((REPOSITORY / "roam").rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text()
        found[name] = Module(name, path, text, ast.parse(text, str(path)))
    return found


@functools.cache
def imports() -> list[Import]:
    """Every import statement of the package, wherever it stands."""
    return [found for module in modules().values() for found in imports_in(module, module.tree, is_for_types=False)]


def imports_in(module: Module, node: ast.AST, *, is_for_types: bool) -> Iterator[Import]:
    """The imports below `node`; those under `if TYPE_CHECKING:` are marked."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(module, alias.name, None, child, is_for_types)
        elif isinstance(child, ast.ImportFrom):
            base = absolute(module, child)
            for alias in child.names:
                whole = f"{base}.{alias.name}"
                is_module = whole in modules()
                yield Import(
                    module, whole if is_module else base, None if is_module else alias.name, child, is_for_types
                )
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for part in child.body:
                yield from imports_in(module, ast.Module([part], []), is_for_types=True)
            for part in child.orelse:
                yield from imports_in(module, ast.Module([part], []), is_for_types=is_for_types)
        else:
            yield from imports_in(module, child, is_for_types=is_for_types)


def absolute(module: Module, node: ast.ImportFrom) -> str:
    """The dotted name of the module that `from … import` names."""
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    parts = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def part_of(name: str) -> str:
    """The top-level part a module belongs to: `roam.shm` for `roam.shm.ring`."""
    return ".".join(name.split(".")[:2])


def layer_of(name: str) -> int:
    """The index of a module's layer, 0 at the top."""
    return next(index for index, layer in enumerate(LAYERS) if part_of(name) in layer)


def definitions(tree: ast.AST) -> Iterator[Definition]:
    return (node for node in ast.walk(tree) if isinstance(node, (*Function, ast.ClassDef)))


def declared(module: Module) -> list[str] | None:
    """The value of `__all__`, or None."""
    for node in module.tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id="__all__")], value=value)
                | ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value)
            ):
                return [str(name) for name in ast.literal_eval(value)]
    return None


def test_every_module_has_a_place_in_the_layers():
    """A new top-level module is put into the table before it is imported by others."""
    known = set().union(*LAYERS)

    expect_none([name for name in modules() if part_of(name) not in known])


def test_imports_point_down():
    """Nothing imports from a layer above its own, neither inside functions nor for types."""
    wrong = [
        f"{found.importer.where(found.node)} imports {found.imported}"
        for found in imports()
        if found.imported.split(".")[0] == "roam" and layer_of(found.imported) < layer_of(found.importer.name)
    ]

    expect_none(wrong)


def test_there_are_no_import_cycles():
    """Modules can be put in an order in which each imports only earlier ones; imports for types do not count."""
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for found in imports():
        if found.imported in graph and not found.is_for_types:
            graph[found.importer.name].add(found.imported)

    graphlib.TopologicalSorter(graph).prepare()


def test_cell_side_and_host_side_do_not_know_each_other():
    """`tracing.cell` and `tracing.host` do not reach each other, through no chain of modules."""
    graph: dict[str, set[str]] = {}
    for found in imports():
        graph.setdefault(found.importer.name, set()).add(found.imported)

    for one, other in (("roam.tracing.cell", "roam.tracing.host"), ("roam.tracing.host", "roam.tracing.cell")):
        seen, todo = set(), [one]
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += graph.get(name, ())
        assert other not in seen, f"{one} reaches {other}"


@pytest.mark.parametrize("table", [THIRD_PARTY, SENSITIVE], ids=["third-party", "sensitive"])
def test_costly_and_foreign_packages_stay_where_they_belong(table):
    """What is not listed for a part is not imported there; what is in no list is the standard library or roam."""
    wrong = []
    for found in imports():
        top = found.imported.split(".")[0]
        is_known = top in table if table is SENSITIVE else top not in {"roam", *sys.stdlib_module_names}
        if is_known and not found.is_for_types and part_of(found.importer.name) not in table.get(top, set()):
            wrong.append(f"{found.importer.where(found.node)} imports {top}")

    expect_none(wrong)


SIDE_EFFECTS = """
import atexit, builtins, gc, json, logging, os, signal, sys, threading, warnings

def state():
    return {
        "threads": threading.active_count(),
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "signals": {str(n): repr(signal.getsignal(n)) for n in signal.valid_signals()},
        "hooks": [id(sys.excepthook), id(sys.unraisablehook), id(threading.excepthook), id(warnings.showwarning)],
        "logger": {name: id(value) for name, value in vars(logging.Logger).items()},
        "handlers": [repr(logging.lastResort), repr(logging.root.handlers)],
        "atexit": atexit._ncallbacks(),
        "environ": dict(os.environ),
        "gc": gc.get_threshold(),
        "path": list(sys.path),
        "import": [id(builtins.__import__), len(sys.meta_path), len(sys.path_hooks)],
    }

before, loaded = state(), set(sys.modules)
import roam
print(json.dumps([[key for key, value in state().items() if value != before[key]], sorted(set(sys.modules) - loaded)]))
"""


def test_importing_roam_does_nothing():
    """`import roam` starts, opens, hooks and registers nothing, and loads none of the costly packages."""
    changed, loaded = ast.literal_eval(run_script("-c", SIDE_EFFECTS).stdout)
    costly = {"click", "dill", "multiprocess", "multiprocessing", "psutil"}

    assert [] == changed
    assert set() == costly & {name.split(".")[0] for name in loaded}


def test_every_module_says_what_it_is_in_one_sentence():
    """The first line of a module's docstring is one sentence."""
    wrong = []
    for module in modules().values():
        first = (ast.get_docstring(module.tree) or "").partition("\n")[0]
        if not first.endswith(".") or re.search(r"[.!?] [A-Z]", first):
            wrong.append(f"{module.where()}: {first!r}")

    expect_none(wrong)


def sort_key(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest, each by the alphabet: the order that ruff keeps."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2, name)


def test_every_module_declares_what_is_public():
    """`__all__` is there, sorted, names every public class and function, and every name that another module imports."""
    wrong = []
    for module in modules().values():
        if module.path.name == "__main__.py":
            continue
        public = declared(module)
        if public is None:
            wrong.append(f"{module.where()}: no __all__")
            continue
        if public != sorted(set(public), key=sort_key):
            wrong.append(f"{module.where()}: __all__ is not sorted, or names something twice")
        own = {node.name for node in module.tree.body if isinstance(node, (*Function, ast.ClassDef))}
        taken = {found.name for found in imports() if found.name and found.imported == module.name}
        missing = {name for name in own | taken if not name.startswith("_")} - set(public)
        if module.is_package:
            missing |= {name for name in re_exports(module) if not name.startswith("_")} - set(public)
        wrong += [f"{module.where()}: {name} is missing in __all__" for name in sorted(missing)]

    expect_none(wrong)


def re_exports(module: Module) -> set[str]:
    """The names that a package takes from its own modules when it is imported."""
    own = [found for found in imports() if found.importer is module and not found.is_for_types]
    return {found.name for found in own if found.name and found.imported.startswith("roam")}


def test_every_declared_name_exists():
    """Each name in `__all__` can be had from its module, from the lazy ones too."""
    wrong = []
    for module in modules().values():
        if module.path.name != "__main__.py":
            loaded = importlib.import_module(module.name)
            wrong += [f"{module.name}.{name}" for name in declared(module) or () if not hasattr(loaded, name)]

    expect_none(wrong)


def test_no_module_hides_behind_an_underscore():
    """`__all__` says what is public, not the name of the file."""
    expect_none(
        [
            module.where()
            for module in modules().values()
            if module.path.name.startswith("_") and module.path.name not in {"__init__.py", "__main__.py"}
        ]
    )


def test_files_are_read_in_one_sitting():
    """No file is longer than 400 lines."""
    lengths = {path: len(path.read_text().splitlines()) for path in sources("roam", "benchmarks", "examples")}

    assert {} == {str(path.relative_to(REPOSITORY)): n for path, n in lengths.items() if n > FILE_LINES}


def test_functions_fit_on_a_screen():
    """No function is longer than 60 lines, its docstring included."""
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}"
        for path in sources("roam", "benchmarks", "examples")
        for node in definitions(ast.parse(path.read_text()))
        if isinstance(node, Function) and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES
    ]

    expect_none(wrong)


def test_what_is_public_is_documented():
    """Public classes, functions and methods have docstrings."""
    wrong = [
        f"{module.where(node)} {node.name}"
        for module in modules().values()
        for node in public_definitions(module.tree)
        if not ast.get_docstring(node)
    ]

    expect_none(wrong)


def public_definitions(parent: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    """Public classes and functions, and what is public in those classes, apart from overloads and setters."""
    for node in parent.body:
        if isinstance(node, (*Function, ast.ClassDef)) and not node.name.startswith("_"):
            marks = {ast.unparse(mark).rpartition(".")[2] for mark in node.decorator_list}
            if not marks & {"overload", "setter", "deleter"}:
                yield node
                if isinstance(node, ast.ClassDef):
                    yield from public_definitions(node)


def test_tests_say_what_holds():
    """The docstring of a test is the behaviour that it verifies."""
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}"
        for path in sources("tests")
        for node in definitions(ast.parse(path.read_text()))
        if isinstance(node, Function) and node.name.startswith("test_") and not ast.get_docstring(node)
    ]

    expect_none(wrong)


def test_nothing_is_left_for_later():
    """No comment puts work off."""
    later = re.compile(r"\b(?:TOD[O]|XX[X]|FIXM[E])\b")  # spelt so that this line is none
    paths = [*sources("roam", "tests", "benchmarks", "examples"), *REPOSITORY.glob("*.md"), *REPOSITORY.glob("*.toml")]

    expect_none([str(path) for path in paths if later.search(path.read_text())])


def shared_memory_modules() -> list[Module]:
    return [module for name, module in modules().items() if part_of(name) in {"roam.shm", "roam.tracing"}]


def test_shared_words_are_stored_whole():
    """Words that another process reads are stored through views of format `"Q"`, and by nothing else.

    `pack_into` clears its target first; `to_bytes` into a slice, and views of other formats, make no promise.
    """
    wrong = []
    for module in shared_memory_modules():
        for node in ast.walk(module.tree):
            match node:
                case ast.Attribute(attr="pack_into" | "write_byte") | ast.Name(id="pack_into"):
                    wrong.append(f"{module.where(node)}: {ast.unparse(node)}")
                case ast.Assign(
                    targets=[ast.Subscript(slice=ast.Slice())], value=ast.Call(func=ast.Attribute(attr="to_bytes"))
                ):
                    wrong.append(f"{module.where(node)}: {ast.unparse(node)}")
                case ast.Call(func=ast.Attribute(attr="cast"), args=[ast.Constant(value=form), *_]) if form not in "BQ":
                    wrong.append(f"{module.where(node)}: {ast.unparse(node)}")

    expect_none(wrong)
