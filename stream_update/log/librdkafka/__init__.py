"""The log on Apache Kafka, through librdkafka (confluent-kafka, extra ``fast``).

``LibrdkafkaLog("kafka://host:port")`` takes the same address and the same options, in the
same spelling, as :class:`stream_update.log.kafka.KafkaLog`, and is chosen by ``client =
"librdkafka"`` under ``[kafka]``. The modules are one concern each:

=============  ==============================================================
``log``        :class:`LibrdkafkaLog`: topics, and the makers of the next four
``reader``     committed records from chosen positions
``member``     one process of a consumer group
``publisher``  atomic checkpoints
``unfenced``   checkpoints without transactions
``appender``   records without a checkpoint around them
-------------  --------------------------------------------------------------
``connect``    options, clients, and the first connection
``options``    kafka-python's names of options as librdkafka's
``asking``     topics and offsets: questions to the brokers
``fetching``   what reader and member share: positions, fetching, what stops it
``rounds``     what a rebalance did, for shared and for single ownership
``sending``    what publisher and appender share: where a record goes
``batch``      columns over the client's own messages
``refusals``   the vendor's errors become ours
=============  ==============================================================

What librdkafka has no request for is still asked through kafka-python: the janitor's
questions about transactions, and its markers.
"""

from stream_update.errors import ConfigError

try:
    import confluent_kafka as _confluent_kafka
except ImportError as error:
    raise ConfigError(
        f'[kafka] client = "librdkafka" needs confluent-kafka: {error}',
        hint="install it with `pip install 'stream-update[fast]'`, or leave `client` out",
    ) from error

from stream_update.log.librdkafka.log import LibrdkafkaLog

__all__ = ["LibrdkafkaLog"]

del _confluent_kafka
