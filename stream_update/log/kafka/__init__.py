"""The log on Apache Kafka, through kafka-python.

``KafkaLog("kafka://host:port")`` is the only name that the rest of the package
needs. The modules are one concern each:

=============  ==============================================================
``connect``    options, clients, and the first connection
``refusals``   the vendor's errors become ours
``log``        :class:`KafkaLog`: topics, and the makers of the four below
``reader``     committed records from chosen positions
``member``     one process of a consumer group
``assignor``   all partitions to one member, the others stand by
``publisher``  atomic checkpoints
``appender``   records without a checkpoint around them
``batch``      columns over the client's own records
=============  ==============================================================

What this adapter works around was measured against a 4.3 broker; the comment
stands where the work-around is.
"""

from stream_update.log.kafka.log import KafkaLog

__all__ = ["KafkaLog"]
