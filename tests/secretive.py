"""A host and a cell that knows a secret, which it puts wherever a program could: `python -m tests.secretive`."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from pathlib import Path

import roam
from tests.traced import wait_for

CANARY_PARTS = ("canary-3f9a", "71c0-sings")
"""Kept in two, so that source lines and arguments do not hold the whole."""
WITNESS = "what may be seen of the record with the secret"


def work(secret_file: str, place: str, end: str) -> None:
    """Write the secret into every kind of record under a secret name, and die."""
    secret = "".join(Path(secret_file).read_text().split())
    log = logging.getLogger("app")
    roam.warning(WITNESS, password=secret, user={"name": "x", "auth": {"api_key": secret, "more": [{"token": secret}]}})
    log.warning("by logging", extra={"authorization": f"Bearer {secret}", "headers": {"Set-Cookie": secret}})
    with roam.span("job", client_secret=secret, nested={"credentials": secret}) as span:
        span.record(session_id=secret)
        with roam.span("ended", token=secret) as ended:
            ended.record(token=secret * 2, long="x" * 20_000)
        try:
            fail(secret)
        except ValueError:
            log.exception("handled")
            roam.error("handled", exc_info=True, pwd=secret)
        (Path(place) / "written").touch()
        wait_for(str(Path(place) / "go"))
        if end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if end == "segv":
            ctypes.string_at(0)
        fail(secret)


def fail(secret: str) -> None:
    password = {"it": secret}
    raise ValueError(f"{len(password)} passwords")


def main() -> None:
    """The host: logs into a file, and shows what the dump says."""
    secret_file, place, method, end = sys.argv[1:]
    logging.basicConfig(filename=f"{place}/host.log", level=logging.DEBUG)
    config = roam.TracingConfig("trace", exception_locals=True)
    with roam.TracingHost(config) as host:
        cell = roam.spawn_cell(work, secret_file, place, end, host=host, start_method=method)
        assert cell.join(60) is not None
        print(cell.post_mortem.render(last=1000))


if __name__ == "__main__":
    main()
