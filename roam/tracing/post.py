"""The host's side of a peer's configuration: what is in force, and what it posts into the mailbox."""

from __future__ import annotations

from ..shm.mailbox import MailboxWriter
from ..shm.segment import SegmentFile
from .config import ConfigResult, TracingConfig, enclosed
from .inspection import ENDED

__all__ = ["ConfigPost"]


class ConfigPost:
    """Configurations of one peer. Threads: one at a time, as the lock of its link sees to."""

    def __init__(self, segment: SegmentFile) -> None:
        self._segment = segment
        self._mailbox = MailboxWriter(segment.write)
        self.config = TracingConfig("info")
        """The one in force."""
        self.slots: dict[str, int] = {}
        """Where the cell counts what the keys of sampling keep out, of all configurations so far."""

    def post(self, config: TracingConfig) -> ConfigResult:
        """Put a configuration in force, unless it is refused here already. While `ROAM_DISABLE` is set that is one which
        lets nothing through: cells are supervised as before, and write no more than what ends them.

        Raises `ConfigTooLarge`, or `TypeError` for what is no configuration; the old one stays then."""
        if self._segment.fd < 0:
            return ConfigResult(0, False, ENDED)
        try:
            config, body, slots = enclosed(config, self.slots)
        except ValueError as error:
            enclosed(config, {})  # raises what is wrong for every peer
            return ConfigResult(0, False, str(error))
        generation = self._mailbox.post(body)
        self.config, self.slots = config, slots
        return ConfigResult(generation, False)
