"""SPEC.md is held by the code and by the tests, rule by rule, and its tables are those of the ABI."""

from __future__ import annotations

import io
import itertools
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from roam.shm import layout
from tests.support import REPOSITORY, expect_none, sources


def comments(path: Path) -> Iterator[str]:
    """The comments of a Python file; what only looks like one inside a string is left out."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def tags(verb: str, *directories: str) -> dict[str, str]:
    """Rule id to the file that names it, for `# r[verb id]`."""
    found = {}
    for path in sources(*directories):
        for comment in comments(path):
            for rule in re.findall(rf"r\[{verb} ([^\]]+)\]", comment):
                found[rule] = str(path.relative_to(REPOSITORY))
    return found


def rules() -> list[str]:
    """The ids of SPEC.md, in its order."""
    return re.findall(r"^> r\[([^\]]+)\]$", (REPOSITORY / "SPEC.md").read_text(), re.MULTILINE)


def test_rules_have_names_of_one_form():
    """Rule ids are unique, and stand under one of the four prefixes."""
    assert len(rules()) == len(set(rules()))
    expect_none([rule for rule in rules() if not re.fullmatch(r"(shm|trace|spawn|dump)(\.[a-z][a-z0-9-]*)+", rule)])


@pytest.mark.parametrize(("verb", "directory"), [("impl", "roam"), ("verify", "tests")])
def test_every_rule_is_in_the_code_and_in_a_test(verb, directory):
    """Code and tests name each rule of SPEC.md at least once, and no other."""
    named = tags(verb, directory)

    expect_none([f"{rule} has no {verb}" for rule in rules() if rule not in named])
    expect_none([f"{path}: {rule} is not in SPEC.md" for rule, path in named.items() if rule not in rules()])


def test_the_proof_verifies_every_rule_of_shared_memory():
    """What two processes see is held by the goals of `python -m tests.proof`."""
    named = tags("verify", "tests/proof")

    expect_none([rule for rule in rules() if rule.startswith("shm.") and rule not in named])


def test_tags_stand_on_their_own_side():
    """The package does not verify itself, and tests implement nothing."""
    assert {} == {**tags("verify", "roam", "examples", "benchmarks"), **tags("impl", "tests", "examples", "benchmarks")}


def table(first_column: str) -> dict[str, list[str]]:
    """The rows of the table in SPEC.md that begins with this heading: first cell to the others."""
    lines = iter((REPOSITORY / "SPEC.md").read_text().splitlines())
    rows = itertools.takewhile(
        lambda line: line.startswith("|"),
        itertools.dropwhile(lambda line: not line.startswith(f"| {first_column} |"), lines),
    )
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows][2:]
    return {name: rest for name, *rest in cells}


def test_the_areas_are_those_of_the_layout():
    """Offsets and sizes of the areas of a segment are the same in SPEC.md and in the code."""
    slot_bytes = layout.SPAN_SLOT_BYTES
    expected = {
        "header": ["0", str(layout.HEADER_BYTES)],
        "host words": [str(layout.HOST_OFFSET), str(layout.CONFIG_OFFSET - layout.HOST_OFFSET)],
        "config word": [str(layout.CONFIG_OFFSET), str(layout.STATUS_OFFSET - layout.CONFIG_OFFSET)],
        "status words": [str(layout.STATUS_OFFSET), str(layout.STATUS_WORDS * 8)],
        "config mailbox, 2 slots": [str(layout.MAILBOX_OFFSET), str(2 * layout.MAILBOX_SLOT_BYTES)],
        "open-span table": [str(layout.Geometry(layout.SegmentConfig()).spans_offset), f"{slot_bytes} for each slot"],
        "lanes life, vital, bulk": ["the next multiple of 4096", "pages × page size"],
    }

    assert expected == {name: cells[:2] for name, cells in table("area").items()}


def test_the_structures_are_those_of_the_layout():
    """Sizes of heads and bodies are the same in SPEC.md and in the code."""
    expected = {
        "page head": layout.PAGE_HEAD.size,
        "record head": layout.RECORD_HEAD.size,
        "mailbox head": layout.MAILBOX_HEAD.size,
        "open-span body": layout.SPAN_BODY_BYTES,
    }

    assert expected == {name: int(size) for name, (size, _) in table("structure").items()}


def test_the_words_are_those_of_the_layout():
    """Every shared word stands in SPEC.md, at the offset that the code uses."""
    expected = {
        f"{kind.__name__}.{name}": 8 * index
        for kind in (layout.HostWord, layout.StatusWord)
        for name, index in vars(kind).items()
        if name.isupper()
    }

    assert expected == {name: int(offset) for name, (offset,) in table("word").items()}


def test_the_default_sizes_are_those_of_the_layout():
    """The default sizes of a segment are the same in SPEC.md and in the code."""
    assert layout.SegmentConfig()._asdict() == {name: int(size) for name, (size,) in table("size").items()}
