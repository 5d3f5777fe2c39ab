"""A run directory of its own for each test session, and a guard around every test: nothing may be left behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import hypothesis
import pytest

from tests.session import RUN_ROOT, SESSION_DIRECTORY, end_session
from tests.support import Inventory

PATIENCE_S = 3.0
"""How long a test may take to let go of its processes, threads, descriptors and files."""


# Cells take their time on a busy machine; what hangs is ended by pytest-timeout.
hypothesis.settings.register_profile("roam", deadline=None, print_blob=True)
hypothesis.settings.load_profile("roam")


def pytest_unconfigure(config: pytest.Config) -> None:
    """The session's directory goes with the session."""
    end_session()


@pytest.fixture(autouse=True)
def leak_guard() -> Iterator[None]:
    """Fails a test that leaves a process, thread, descriptor or run file; dumps are removed without a word."""
    before = Inventory.take(RUN_ROOT)
    dumps_before = set(SESSION_DIRECTORY.rglob("*"))
    yield
    close_default_host()
    after, news = before.wait_for_no_news(RUN_ROOT, PATIENCE_S)
    after.kill_news_since(before)
    for path in set(SESSION_DIRECTORY.rglob("*")) - dumps_before:
        if path.is_file():
            path.unlink(missing_ok=True)  # tmpfs is memory, and may be small
    if news:
        pytest.fail("left behind:\n  " + "\n  ".join(news), pytrace=False)


def close_default_host() -> None:
    """A cell without `host=` made the process-wide host, which lives until the interpreter ends: here, until the test ends."""
    supervise = sys.modules.get("roam.spawn.supervise")
    if supervise is not None and supervise._default is not None:
        supervise._default.close()
        supervise._default = None  # a closed host keeps the mapping of its own segment until nobody refers to it
