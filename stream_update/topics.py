"""The topics of an application: which there are, and how they come to be."""

from __future__ import annotations

from stream_update.config import Config
from stream_update.errors import ConfigError
from stream_update.events import TopicInfo, TopicPartition, TopicSpec
from stream_update.protocols import Log

__all__ = [
    "SPOKEN",
    "backfill_topics",
    "create_topics",
    "end_offsets",
    "grow_topics",
    "snapshot_topics",
    "source_topic",
    "topic_specs",
]

SPOKEN = ("metrics", "drift", "dead-letters")
"""What a trainer speaks of beside snapshots."""

OUTPUTS = (*SPOKEN, "predictions")
COMPACTED = {
    "cleanup.policy": "compact",
    "segment.bytes": "67108864",
    "min.cleanable.dirty.ratio": "0.1",
}


def snapshot_topics(config: Config) -> list[str]:
    """Those with a partition for each lane: the snapshots, and what is made of them."""
    kinds = ["snapshots"] if config.snapshot.serving is None else ["snapshots", "serving"]
    return [config.topic(kind) for kind in kinds]


def topic_specs(config: Config, partitions: int) -> list[TopicSpec]:
    """Every topic of the application; ``partitions`` is the source topic's number."""
    replicas = config.source.replication_factor
    return [
        TopicSpec(config.source.topic, partitions, replicas),
        *(TopicSpec(name, partitions, replicas, COMPACTED) for name in snapshot_topics(config)),
        *(TopicSpec(config.topic(kind), partitions, replicas) for kind in OUTPUTS),
        TopicSpec(config.topic("journal"), 1, replicas, {"retention.ms": "-1"}),
        TopicSpec(config.topic("control"), 1, replicas, {"retention.ms": "-1"}),
    ]


def backfill_topics(config: Config) -> dict[str, str]:
    """Where a backfill speaks: nobody who reads the live topics is to hear of it."""
    return {kind: f"{config.app}.{config.lineage_name}.{kind}" for kind in SPOKEN}


def create_topics(config: Config, log: Log) -> list[str]:
    """Create the application's topics that do not exist; return their names."""
    existing = log.topics().get(config.source.topic)
    partitions = existing.partitions if existing else config.source.partitions
    return log.create_topics(topic_specs(config, partitions))


def grow_topics(config: Config, log: Log) -> list[str]:
    """Give the source as many partitions as configured, and the topics of snapshots as many as
    the source; return the names of those that got some.
    """
    before = log.topics()
    log.add_partitions(config.source.topic, config.source.partitions)
    total = log.topics()[config.source.topic].partitions
    for name in snapshot_topics(config):
        log.add_partitions(name, total)
    names = (config.source.topic, *snapshot_topics(config))
    return [name for name in names if before[name].partitions < total]


def source_topic(config: Config, log: Log, topic: str | None = None) -> TopicInfo:
    """The source topic as the log has it; the app's own topics are created if need be."""
    name = topic or config.source.topic
    info = log.topics().get(name)
    if info is None:
        raise ConfigError(
            f"[source] topic: {config.log} has no topic {name!r}",
            hint="create it with stream-update topics create, or fill it with stream-update "
            "produce FILE",
        )
    create_topics(config, log)
    if name == config.source.topic:
        for one in snapshot_topics(config):
            log.add_partitions(one, info.partitions)
    return info


def end_offsets(log: Log, info: TopicInfo) -> dict[int, int]:
    """The end of each partition now."""
    places = [TopicPartition(info.name, p) for p in range(info.partitions)]
    with log.reader() as reader:
        return {place.partition: end for place, end in reader.end_offsets(places).items()}
