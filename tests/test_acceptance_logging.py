"""Logging, from a cell to the terminal and to the host: what is printed, and how often."""

from __future__ import annotations

import pytest

from tests.programs import METHODS, write_program
from tests.support import run_script

FIVE_LINES = """\
import logging, roam
def greet(): logging.warning("hi")
if __name__ == "__main__":
    cell = roam.spawn_cell(greet{method})
    cell.join()
"""

WITH_HANDLER = FIVE_LINES.replace(
    "    cell =",
    '    logging.basicConfig(format="<%(name)s %(levelname)s %(processName)s> %(message)s")\n    cell =',
).replace("(greet", '(greet, name="greeter"')


def run_program(place, tmp_path, text):
    if place == "-c":
        return run_script("-c", text)
    return run_script(write_program(tmp_path, text))


# r[verify trace.logging.once]
@pytest.mark.parametrize("place", ["-c", "file"])
@pytest.mark.parametrize("method", ["", *METHODS])
def test_a_warning_is_printed_once(place, method, tmp_path):
    """Five lines with a `logging.warning` in a cell print one line, in the way of a program without handlers."""
    text = FIVE_LINES.format(method=method and f", start_method={method!r}")
    done = run_program(place, tmp_path, text)

    assert (done.stdout, done.stderr) == ("", "hi\n")


@pytest.mark.parametrize("place", ["-c", "file"])
@pytest.mark.parametrize("method", METHODS)
def test_a_warning_is_printed_by_the_hosts_handler(place, method, tmp_path):
    """The one line is in the format of the host's handler, and names the cell."""
    done = run_program(place, tmp_path, WITH_HANDLER.format(method=f", start_method={method!r}"))

    assert (done.stdout, done.stderr) == ("", "<root WARNING greeter> hi\n")


CONFIGURED = """
    import logging, logging.config, sys, warnings

    BASIC = {
        "level": dict(level=logging.DEBUG),
        "format": dict(level=logging.DEBUG, format="%(processName)s %(threadName)s %(funcName)s %(lineno)d %(message)s"),
        "stdout": dict(level=logging.INFO, stream=sys.stdout),
    }
    DICT = {
        "version": 1,
        "formatters": {"short": {"format": "%(levelname)s|%(name)s|%(processName)s|%(message)s"}},
        "handlers": {
            "all": {"class": "logging.StreamHandler", "formatter": "short"},
            "bad": {"class": "logging.StreamHandler", "formatter": "short", "level": "ERROR"},
        },
        "loggers": {"app": {"level": "INFO", "handlers": ["all"], "propagate": False}, "app.db": {"level": "ERROR"}},
        "root": {"level": "WARNING", "handlers": ["bad"]},
    }

    def work(how):
        logging.getLogger("early").info("made before the configuration")
        if how == "dict":
            logging.config.dictConfig(DICT)
        else:
            logging.basicConfig(**BASIC[how])
        for name in (None, "app", "app.db", "early", "other"):
            logger = logging.getLogger(name)
            logger.debug("a detail")
            logger.info("an %s", "information")
            logger.warning("a warning", extra={"size": 3})
            if logger.isEnabledFor(logging.ERROR):
                try:
                    int("no")
                except ValueError:
                    logger.exception("an exception")
        logging.captureWarnings(True)
        warnings.warn("look out")
        late = logging.StreamHandler()
        logging.getLogger("app.late").addHandler(late)
        logging.getLogger("app.late").error("by a late handler")
        logging.disable(logging.ERROR)
        logging.getLogger("app").error("not printed")

    def main(kind, method, how):
        if kind == "bare":
            import multiprocess
            # What a cell gets from the fork server is a new interpreter, as from `spawn`.
            method = {"forkserver": "spawn"}.get(method, method)
            child = multiprocess.get_context(method).Process(target=work, args=(how,), name="worker")
            child.start()
            child.join()
            return
        import roam
        with roam.TracingHost(forward=kind == "forwarded") as host:
            cell = roam.spawn_cell(work, how, name="worker", host=host, start_method=method)
            cell.result()
            found = [(record.target, record.message) for record in cell.records() if record.level == logging.INFO and record.lane != "stdio"]
        expected = [(name, "an information") for name in ("root", "app", "app.db", "early", "other")]
        assert found == [("early", "made before the configuration"), *expected], found

    if __name__ == "__main__":
        main(*sys.argv[1:])
"""


# r[verify trace.logging.levels]
@pytest.mark.parametrize("how", ["level", "format", "stdout", "dict"])
@pytest.mark.parametrize("method", METHODS)
def test_a_cell_that_configures_logging_prints_what_it_prints_without_roam(method, how, tmp_path):
    """Byte for byte what a bare child process prints, also where the host forwards into a logging without handlers; and
    its INFO records arrive, whatever the program's levels are."""
    program = write_program(tmp_path, CONFIGURED)
    bare = run_script(program, "bare", method, how)

    assert (bare.stdout + bare.stderr).count("a warning") >= 1
    for kind in ("traced", "forwarded"):
        traced = run_script(program, kind, method, how)
        assert (traced.stdout, traced.stderr) == (bare.stdout, bare.stderr), kind


UNCONFIGURED = """
    import logging, sys, threading, warnings
    import roam

    def work():
        logging.getLogger("app").warning("a warning")
        warnings.warn("look out")
        thread = threading.Thread(target=int, args=("no",))
        thread.start()
        thread.join()
        raise OSError("the end")

    if __name__ == "__main__":
        cell = roam.spawn_cell(work, start_method=sys.argv[1])
        cell.join()
"""


# r[verify trace.logging.once]
@pytest.mark.parametrize("method", METHODS)
def test_what_the_cell_has_printed_is_not_printed_again(method, tmp_path):
    """A log record, a warning and uncaught exceptions of a program without handlers: each is on the terminal once."""
    done = run_script(write_program(tmp_path, UNCONFIGURED), method)

    counts = {text: done.stderr.count(text) for text in ("a warning\n", "look out\n", "'no'\n", "OSError: the end\n")}
    assert set(counts.values()) == {1}, done.stderr
