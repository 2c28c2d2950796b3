"""The log on Apache Kafka, through kafka-python.

``KafkaLog("kafka://host:port")`` is the only name that the rest of the package
needs. The modules are one concern each:

=============  ==============================================================
``log``        :class:`KafkaLog`: topics, and the makers of the next four
``reader``     committed records from chosen positions
``member``     one process of a consumer group
``publisher``  atomic checkpoints
``appender``   records without a checkpoint around them
-------------  --------------------------------------------------------------
``connect``    options, clients, and the first connection
``assignor``   all partitions to one member, the others stand by
``polling``    what reader and member share: fetching, and what stops it
``sending``    what publisher and appender share: where a record goes
``janitor``    transactions that a broker's crash left hanging
``batch``      columns over the client's own records
``refusals``   the vendor's errors become ours
=============  ==============================================================

What this adapter works around was measured against a 4.3 broker; the comment
stands where the work-around is.
"""

from stream_update.log.kafka.log import KafkaLog

__all__ = ["KafkaLog"]
