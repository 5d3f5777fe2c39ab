"""The hooks into `logging`: what the program logs is captured, and what it prints is what it prints without roam."""

from __future__ import annotations

import json
import textwrap

import pytest

import roam
from tests import traced
from tests.hosting import messages
from tests.scripts import run, same

LOG_EVERYWHERE = """
def log_everywhere():
    for name in (None, "app", "app.db", "quiet", "disabled.before"):
        logger = logging.getLogger(name)
        for level in (5, 10, 20, 30, 40, 50):
            logger.log(level, "%s at %d", name, level, extra={"size": level})
        logger.debug("lazy %r", [1])
        try:
            raise ValueError("boom")
        except ValueError:
            logger.exception("caught")
        logger.info("with a stack" if False else "plain")
        logger.warning("100%")
    adapter = logging.LoggerAdapter(logging.getLogger("app"), {"request": 7})
    adapter.debug("adapted")
    adapter.warning("adapted")
    logging.getLogger("app").handle(logging.makeLogRecord({"name": "app", "levelno": 10, "levelname": "DEBUG", "msg": "made"}))
    sys.stderr.flush()
"""

CONFIGURATIONS = {
    "basicConfig": "logging.basicConfig(level=logging.DEBUG)",
    "basicConfig with format": """logging.basicConfig(level=20, format="%(levelname)s %(name)s %(funcName)s:%(lineno)d %(threadName)s %(message)s")""",
    "basicConfig forced": "logging.basicConfig(level=10); logging.basicConfig(level=30, force=True, format='%(message)s')",
    "dictConfig": """
        import logging.config
        logging.getLogger("disabled.before")
        logging.config.dictConfig({
            "version": 1,
            "disable_existing_loggers": True,
            "formatters": {"f": {"format": "%(levelname)s|%(name)s|%(message)s"}},
            "handlers": {"err": {"class": "logging.StreamHandler", "formatter": "f"},
                         "out": {"class": "logging.StreamHandler", "formatter": "f", "stream": "ext://sys.stdout", "level": "ERROR"}},
            "loggers": {"app": {"level": "INFO", "handlers": ["out"], "propagate": False}, "quiet": {"level": "CRITICAL"}},
            "root": {"level": "WARNING", "handlers": ["err"]},
        })
    """,
    "propagate": """
        logging.basicConfig(level=10)
        logging.getLogger("app").propagate = False
        logging.getLogger("app").addHandler(logging.StreamHandler())
        logging.getLogger("app.db").addHandler(logging.StreamHandler(sys.stdout))
    """,
    "late handler": """
        logging.getLogger().addHandler(logging.NullHandler())
        logging.getLogger("app").setLevel(logging.ERROR)
        logging.getLogger("app").addHandler(logging.StreamHandler())
        logging.getLogger("app").addFilter(lambda record: record.levelno != 50)
    """,
    "disable": "logging.basicConfig(level=10); logging.disable(logging.WARNING)",
    "disabled logger": "logging.basicConfig(level=10); logging.getLogger('app').disabled = True",
    "logger class": """
        class Mine(logging.getLoggerClass()):
            def handle(self, record):
                record.msg = f"<{record.msg}>" if not record.args else record.msg
                super().handle(record)
            def isEnabledFor(self, level):
                return super().isEnabledFor(level)
            def _log(self, *args, **kwargs):
                super()._log(*args, **{"stacklevel": 2, **kwargs})
        logging.setLoggerClass(Mine)
        logging.basicConfig(level=30, format="%(funcName)s %(message)s")
    """,
    "record factory": """
        before = logging.getLogRecordFactory()
        def factory(*args, **kwargs):
            record = before(*args, **kwargs)
            record.build = 42
            return record
        logging.setLogRecordFactory(factory)
        logging.basicConfig(level=20, format="%(build)d %(message)s")
    """,
}


@pytest.mark.parametrize("how", CONFIGURATIONS)
def test_a_configured_program_prints_what_it_prints_without_roam(how, tmp_path):
    """Byte for byte, whatever roam's filter is; and roam's filter alone decides what is captured."""
    text = LOG_EVERYWHERE + textwrap.dedent(CONFIGURATIONS[how]) + "\nlog_everywhere()\n"
    off, info, everything = same(tmp_path, text)

    names = [None, "app", "app.db", "quiet", "disabled.before"]
    expected = [f"{name} at {level}" for name in names for level in (5, 10, 20, 30, 40, 50)]
    assert [m for m in everything.messages if " at " in m] == expected
    assert [m for m in info.messages if " at " in m] == [m for m in expected if int(m.rpartition(" ")[2]) >= 20]
    assert off.messages == []
    assert len([m for m in everything.messages if "adapted" in m]) == 2
    assert len([m for m in everything.messages if "made" in m]) == 1
    targets = {record.target for record in everything.records}
    assert {"root", "app", "app.db", "quiet", "disabled.before"} <= targets


def test_what_is_captured_is_what_was_logged(tmp_path):
    """Level, name, formatted message, extra fields, exception, stack, thread; not the attributes every record has."""
    outcome = run(
        tmp_path,
        """
        log = logging.getLogger("app.db")
        log.warning("took %d %s", 3, "ms", extra={"size": 7, "peer": "x"})
        try:
            {}["missing"]
        except KeyError:
            log.exception("failed")
        log.error("stack", stack_info=True)
        log.error("no exception", exc_info=True)
        log.log(33, {"not": "text"})
        """,
        filter="info",
    )
    by_message = {record.message: record for record in outcome.records}
    took = by_message["took 3 ms"]
    assert (took.level, took.target, took.fields, took.lane) == (30, "app.db", {"size": 7, "peer": "x"}, "vital")
    failed = by_message["failed"]
    assert (failed.exception.type, failed.lane, failed.fields) == ("KeyError", "life", {})
    assert "missing" in failed.exception.traceback
    assert "script.py" in by_message["stack"].fields["stack_info"]
    assert by_message["no exception"].exception is None
    assert by_message["{'not': 'text'}"].level == 33


def test_an_unconfigured_program_prints_nothing_itself(tmp_path):
    """The last resort is silent: the host prints, once. A configuration that comes later is the program's own."""
    outcome = run(
        tmp_path,
        """
        logging.warning("by the root")
        logging.getLogger("app").error("by a logger")
        logging.basicConfig(format="%(message)s")
        logging.warning("by a handler")
        """,
        filter="info",
    )
    assert (outcome.stdout, outcome.stderr) == (b"", b"by a handler\n")
    assert outcome.messages == ["by the root", "by a logger", "by a handler"]


def test_what_is_not_captured_is_printed_as_without_roam(tmp_path):
    """The last resort is silent only about what the host will print."""
    text = """
    logging.getLogger("app").propagate = False
    logging.getLogger("app").error("by the last resort")
    logging.error("by basicConfig")
    logging.getLogger("other").warning("by the root's handler")
    """
    same(tmp_path, text, filters=("off",))
    traced = run(tmp_path, text, filter="off,app=info")
    assert traced.messages == ["by the last resort"]
    assert traced.stderr == b"ERROR:root:by basicConfig\nWARNING:other:by the root's handler\n"


def test_records_that_cannot_be_formatted_are_the_programs_own_affair(tmp_path):
    """What is wrong with a call is printed as without roam, and captured as far as it goes; nothing raises."""
    text = """
    logging.basicConfig(level=30, format="%(message)s")
    class Bad:
        def __repr__(self): raise RuntimeError("bad repr")
        __str__ = __repr__
    log = logging.getLogger("app")
    log.info("%d", "unseen")
    log.debug("%r", Bad())
    log.info(Bad())
    log.info("fine", extra={"bad": Bad()})
    log.handle(logging.makeLogRecord({"name": 5, "levelno": 40, "levelname": "ERROR", "msg": "odd name"}))
    try:
        log.handle(logging.makeLogRecord({}))
    except TypeError as error:
        print("TypeError", file=sys.stderr)
    try:
        log.log("LEVEL", "x")
    except TypeError as error:
        print(error)
    try:
        log.isEnabledFor("LEVEL")
    except TypeError as error:
        print(error)
    log.warning("%d %d", 1)
    """
    *_, everything = same(tmp_path, text)
    assert "'%d' % ('unseen',)" in everything.messages
    assert "'%r' % <repr failed: RuntimeError>" in everything.messages
    assert "odd name" in everything.messages
    fine = next(record for record in everything.records if record.message == "fine")
    assert fine.fields == {"bad": "<repr failed: RuntimeError>"}


def test_levels_are_asked_live(tmp_path):
    """`isEnabledFor` says yes to what roam captures, `getEffectiveLevel` what the program has set."""
    outcome = run(
        tmp_path,
        """
        log = logging.getLogger("app")
        print(log.isEnabledFor(10), log.isEnabledFor(20), log.getEffectiveLevel(), logging.root.level)
        """,
        filter="info",
    )
    assert outcome.stdout == b"False True 30 30\n"


def test_records_at_the_recursion_limit_do_not_break_the_program(tmp_path):
    """A program that logs while it recurses without end gets its RecursionError, and goes on."""
    text = """
    logging.basicConfig(level=30, format="%(message)s")
    log = logging.getLogger("app")
    def descend():
        log.info("deeper")
        descend()
    try:
        descend()
    except RecursionError:
        print("caught")
    log.warning("goes on")
    """
    *_, everything = same(tmp_path, text)
    assert everything.messages[-1] == "goes on"
    assert everything.messages.count("deeper") > 100


def test_a_handler_that_logs_is_no_loop(tmp_path):
    """What a handler of the program logs itself is captured, once each."""
    text = """
    class Echo(logging.Handler):
        def emit(self, record):
            if record.name != "echo":
                logging.getLogger("echo").error("echo of %s", record.getMessage())
    logging.basicConfig(format="%(name)s %(message)s")
    logging.getLogger("app").addHandler(Echo())
    logging.getLogger("app").error("one")
    logging.getLogger("app").debug("two")
    """
    *_, everything = same(tmp_path, text)
    assert everything.messages == ["one", "echo of one", "two"]


def test_threads_log_at_once(tmp_path):
    """Everything of every thread is captured, and printed by the program as often."""
    text = """
    logging.basicConfig(level=20, format="%(message)s")
    def work(name):
        for number in range(100):
            logging.getLogger(name).info("%s %d", name, number)
            logging.getLogger(name).debug("hidden")
    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    """
    outcome = run(tmp_path, text, filter="debug")
    assert sorted(outcome.stderr.decode().split("\n")[:-1]) == sorted(m for m in outcome.messages if m != "hidden")
    assert outcome.messages.count("hidden") == 400


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_real_cell_captures_from_its_first_line(method, tmp_path):
    """Whatever start method: logging in the target arrives; a fork child of the cell is no part of it."""
    with roam.TracingHost(forward=False, dump_dir=tmp_path) as host:
        cell = roam.spawn_cell(traced.fork_and_print, host=host, start_method=method, stdio="inherit")
        cell.result(30)
        assert messages(cell.records()) == ["after the fork"]


def test_hooks_are_installed_once(tmp_path):
    """A second installation wraps nothing twice."""
    text = """
    from roam.tracing import hooks
    hooks.install(); hooks.install()
    import json
    logging.getLogger("app").error("x")
    warnings.warn("y")
    print(json.dumps(logging.Logger.handle.__name__))
    """
    outcome = run(tmp_path, text, filter="info")
    assert json.loads(outcome.stdout) == "_hooked_handle"
    assert outcome.messages == ["x", "y"]
