"""What a lineage has learned, shown by learning it again from the log's own events.

:func:`verify` says whether snapshots are what their events make of the ones before them,
:func:`why` what became of one event.
"""

from stream_update.proof.held import held_snapshots
from stream_update.proof.verifying import Verdict, verify
from stream_update.proof.why import Answer, why

__all__ = ["Answer", "Verdict", "held_snapshots", "verify", "why"]
