"""A cell, what it returns, and what it said while it worked.

You will see two log lines of the cell, printed by the logging of this program; the cell's return value; then all its
records, with the spans they were made in.
"""

import logging

import roam

log = logging.getLogger("greeter")


def greet(name):
    with roam.span("greet", name=name) as span:
        roam.info("looking up the language", name=name)
        log.warning("no language known for %s", name)
        greeting = f"Hello, {name}!"
        span.record(length=len(greeting))
    return greeting


def main():
    logging.basicConfig(level=logging.INFO, format="%(name)s  %(levelname)s  %(message)s")
    with roam.TracingHost() as host:
        cell = roam.spawn_cell(greet, "world", name="greeter", host=host)
        print(f"{cell.name} returned {cell.result(timeout=30)!r}")
        for record in cell.records():
            print(f"  {record.kind:<10}  {record.target}: {record.message} {dict(record.fields)}")


if __name__ == "__main__":
    main()
