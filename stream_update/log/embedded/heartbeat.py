"""Signs of life while the process is busy with something else than polling."""

from __future__ import annotations

import logging
import threading

from stream_update.errors import StreamUpdateError
from stream_update.log.embedded.group import Group, monotonic_ms
from stream_update.log.embedded.store import Store

__all__ = ["Heartbeat"]

logger = logging.getLogger(__name__)


class Heartbeat(threading.Thread):
    """Renews a member's lease while its polls do not, from a daemon thread.

    ``store`` is a connection for this thread alone, which it closes. Whoever polls
    writes down who it is, that it polled, that it renewed the lease by itself, and
    whether it is busy with a step that may take longer than the time between two polls.
    """

    def __init__(
        self, store: Store, group: Group, every_ms: int, max_poll_interval_ms: int
    ) -> None:
        super().__init__(name="stream-update-heartbeat", daemon=True)
        self.member_id: str | None = None
        self.busy = False
        self.polled_ms = self.renewed_ms = monotonic_ms()
        self._store = store
        self._group = group
        self._every_ms = every_ms
        self._max_poll_interval_ms = max_poll_interval_ms
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        with self._store:
            while not self._stopped.wait(self._every_ms / 2000):
                self._beat()

    def _beat(self) -> None:
        now, member_id = monotonic_ms(), self.member_id
        # A little later than a member that polls would do it by itself.
        if member_id is None or now - self.renewed_ms < 1.5 * self._every_ms:
            return
        if not self.busy and now - self.polled_ms > self._max_poll_interval_ms:
            return
        try:
            self._group.renew(member_id, self._every_ms / 1000)
        except StreamUpdateError as error:
            # If it stays, the lease ends, and the member's next poll says so.
            logger.warning("no sign of life could be given: %s", error)
        else:
            self.renewed_ms = now
