"""What the documents show is what happens."""

from __future__ import annotations

import re

import pytest

from tests.documents import expect_lines
from tests.support import REPOSITORY, run_script

README = (REPOSITORY / "README.md").read_text()
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
POST_MORTEMS = (REPOSITORY / "docs" / "post-mortems.md").read_text()
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


@pytest.mark.parametrize("block", list(BLOCK.finditer(POST_MORTEMS)), ids=["crash", "memory", "hang"])
def test_the_post_mortems_are_real(block, tmp_path):
    """Each program of the page ends well, and `roam show last` prints the lines below it, in this order, and nothing
    behind the last; numbers may differ."""
    script = tmp_path / "program.py"
    script.write_text(block["code"])
    environ = {"ROAM_DIR": str(tmp_path / "roam")}
    run_script(script, cwd=tmp_path, environ=environ)
    shown = run_script("-m", "roam", "show", "last", environ=environ).stdout.splitlines()
    lines = block["output"].splitlines()

    expect_lines([line for line in lines if line.strip("… ")], shown)
    if lines[-1].strip("… "):
        expect_lines(lines[-1:], shown[-1:])


@pytest.mark.parametrize("what", ["examples/scan_stdlib.py", "pytest"])
def test_the_readme_has_one_command_for_each_need(what):
    """One line sets everything up and runs the example, another the tests."""
    assert 1 == len([line for line in COMMAND.findall(README) if what in line])


@pytest.mark.parametrize(
    "document", sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")]), ids=lambda path: path.name
)
def test_links_lead_to_files(document):
    """Relative links in the documents name files of the repository."""
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text())

    assert [] == [target for target in targets if not (document.parent / target).exists()]
