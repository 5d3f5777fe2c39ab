"""What the documents show is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import REPOSITORY, run_script

README = (REPOSITORY / "README.md").read_text()
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^python3 -m venv \.venv && .*$", re.MULTILINE)


@pytest.mark.parametrize(
    "block", list(BLOCK.finditer(README)), ids=lambda block: f"line-{README.count(chr(10), 0, block.start()) + 1}"
)
def test_python_in_the_readme_runs(block, tmp_path):
    """Each Python block of the README runs as a script of its own, and prints what the text block after it says."""
    script = tmp_path / "readme.py"
    script.write_text(block["code"])
    done = run_script(script, cwd=tmp_path)

    assert done.stderr == ""
    if block["output"] is not None:
        assert block["output"] == done.stdout


@pytest.mark.parametrize("what", ["examples/scan_stdlib.py", "pytest"])
def test_the_readme_has_one_command_for_each_need(what):
    """One line sets everything up and runs the example, another the tests."""
    assert 1 == len([line for line in COMMAND.findall(README) if what in line])


@pytest.mark.parametrize("document", sorted(REPOSITORY.glob("*.md")), ids=lambda path: path.name)
def test_links_lead_to_files(document):
    """Relative links in the documents name files of the repository."""
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text())

    assert [] == [target for target in targets if not Path(REPOSITORY, target).exists()]
