"""The log on one SQLite file, for as many processes of one machine as like.

``EmbeddedLog("sqlite:///path")`` is the only name that the rest of the package needs.
The modules are one concern each:

=============  ==============================================================
``address``    the URL and its options
``schema``     the tables
``store``      a connection, its transactions, and what SQLite says
``log``        :class:`EmbeddedLog`: topics, and the makers of the four below
``reader``     records from chosen positions
``member``     one process of a consumer group
``publisher``  atomic checkpoints
``appender``   records without a checkpoint around them
``topics``     looking topics and partitions up
``reading``    what a reader and a member share: positions and batches
``writing``    what a publisher and an appender share: partitions and offsets
``batch``      columns over rows
``group``      leases, owners and heirs
``sharing``    which member should have which partition
``heartbeat``  signs of life during a long step
``retention``  deletion and compaction, on request
=============  ==============================================================

A commit is durable against the end of a process at any instant, but the end of the
machine may take the last ones (whole ones, newest first): see ``store``. The file has
to be on a local disk: write-ahead logging shares memory between the processes.
"""

from stream_update.log.embedded.log import EmbeddedLog

__all__ = ["EmbeddedLog"]
