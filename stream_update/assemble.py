"""The composition root: the only module that puts concrete classes together."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from typing import Any, NamedTuple

import msgspec

from stream_update import plugins
from stream_update.cadence import Cadence
from stream_update.codecs import JsonCodec
from stream_update.codecs.layout import Layout
from stream_update.config import Config
from stream_update.control import Control, Stretch
from stream_update.errors import ConfigError
from stream_update.events import TopicInfo, TopicPartition, TopicSpec
from stream_update.follower import Model, ModelSubscriber
from stream_update.lane import Lane, Stateful
from stream_update.learners.river import RiverLearner
from stream_update.monitors.drift import DriftMonitor, alarm_record
from stream_update.monitors.figures import figure
from stream_update.monitors.prequential import Prequential, UserMetric, pooled
from stream_update.monitors.stopping import StopCondition
from stream_update.monitors.tally import Mean
from stream_update.plans import Kit, Plan
from stream_update.plugins import LEARNERS, WRAPS
from stream_update.protocols import Described, Learner, Log, Monitor
from stream_update.scorer import Scorer
from stream_update.signing import SigningKey, TrustedKeys
from stream_update.slots import Slot
from stream_update.snapshot import Identity
from stream_update.worker import Worker

__all__ = [
    "ScorerProcess",
    "Trainer",
    "backfill_config",
    "backfill_topics",
    "components",
    "create_topics",
    "end_offsets",
    "fresh_lane",
    "grow_topics",
    "identity",
    "live",
    "open_control",
    "open_log",
    "signing_key",
    "source_topic",
    "topic_specs",
    "trusted_keys",
]

logger = logging.getLogger(__name__)

MONITORS = "stream_update.monitors"
PARTS = ("members", "teacher", "student")
"""The options of a learner that hold tables of learners."""

SPOKEN = ("metrics", "drift", "dead-letters")
OUTPUTS = (*SPOKEN, "predictions")
COMPACTED = {
    "cleanup.policy": "compact",
    "segment.bytes": "67108864",
    "min.cleanable.dirty.ratio": "0.1",
}


def open_log(config: Config) -> Log:
    """Connect to the configured log."""
    return plugins.open_log(config.log, config.kafka)


def open_control(config: Config, log: Log) -> Control:
    """What has been decided about the application's lineages."""
    return Control(log, config.topic("control"), config.app, trusted_keys(config))


def _not_live_elsewhere(config: Config, control: Control) -> None:
    for pointer in control.pointers.values():
        if pointer.lineage == config.lineage_name != pointer.name:
            raise ConfigError(
                f"lineage {pointer.lineage} has been promoted: the live trainers, configured as "
                f"{pointer.name}, write it now",
                hint=f'use lineage = "{pointer.name}" to be one of them, or a new name',
            )


def live(config: Config, log: Log) -> Config:
    """The configuration with the lineage that stands for its own since the last promotion."""
    with open_control(config, log) as control:
        lineage = control.current(config.lineage_name)
    if lineage == config.lineage_name:
        return config
    return msgspec.structs.replace(config, lineage=lineage, group_id=config.trainer_group)


def backfill_config(config: Config, name: str) -> Config:
    """The configuration of the backfill ``name`` of an application.

    Raises :class:`ConfigError` for the name of the live lineage itself.
    """
    if name == config.lineage_name:
        raise ConfigError(
            f"--as {name}: that is the lineage of the live trainers",
            hint=f"a backfill has a name of its own, such as {name}-v2",
        )
    group = f"{config.group_id}.{name}" if config.group_id else ""
    try:
        return msgspec.convert(
            {**msgspec.to_builtins(config), "lineage": name, "group_id": group}, Config
        )
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"--as {name}: this cannot be the name of a lineage",
            hint="letters, digits, dot, underscore and hyphen, at most 200",
        ) from error


# -- topics


def topic_specs(config: Config, partitions: int) -> list[TopicSpec]:
    """Every topic of the application; ``partitions`` is the source topic's number."""
    replicas = config.source.replication_factor
    return [
        TopicSpec(config.source.topic, partitions, replicas),
        TopicSpec(config.topic("snapshots"), partitions, replicas, COMPACTED),
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
    """Give the source as many partitions as configured, and the snapshots as many as the
    source; return the names of those that got some.
    """
    before = log.topics()
    log.add_partitions(config.source.topic, config.source.partitions)
    total = log.topics()[config.source.topic].partitions
    log.add_partitions(config.topic("snapshots"), total)
    names = (config.source.topic, config.topic("snapshots"))
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
        log.add_partitions(config.topic("snapshots"), info.partitions)
    return info


def end_offsets(log: Log, info: TopicInfo) -> dict[int, int]:
    """The end of each partition now."""
    places = [TopicPartition(info.name, p) for p in range(info.partitions)]
    with log.reader() as reader:
        return {place.partition: end for place, end in reader.end_offsets(places).items()}


# -- learners and monitors


class Components(NamedTuple):
    """What a configuration builds, checked once before anything is consumed."""

    config: Config

    make_learner: Callable[[], Learner]
    make_monitors: Callable[[], list[Monitor]]
    kind: str
    fingerprint: str
    versions: dict[str, str]
    description: str


def components(config: Config) -> Components:
    """Build everything once and see that it fits; raises :class:`ConfigError`."""
    allow = _allowed(config)
    kind, make_one = _maker_of_any(config, config.learner, "learner", allow, config.seed)
    sample = make_one()
    wraps = list(config.wrap)
    swaps = any(monitor.get("reaction") == "swap" for monitor in config.monitor)
    if swaps and all(table["use"] != "twin" for table in wraps):
        wraps.append({"use": "twin"})
    make_learner: Callable[[], Learner] = make_one
    for index, table in enumerate(wraps):
        make_learner = _maker_of_wrapped(config, table, f"wrap[{index}]", make_learner)
        kind = f"{table['use']}({kind})"
    make_learner()

    def make_monitors() -> list[Monitor]:
        made: list[Monitor] = [_prequential(config, allow)]
        for index, monitor in enumerate(config.monitor):
            made.append(_monitor(config, index, monitor, allow, {m.name for m in made}))
        return made

    _check_needs(config, sample)
    make_monitors()
    return Components(
        config,
        make_learner,
        make_monitors,
        kind,
        _fingerprint(sample.fingerprint(), config.wrap),
        {"river": version("river"), **sample.versions},
        ", in ".join([sample.describe(), *map(_short, config.wrap)]),
    )


def _fingerprint(learner: str, wraps: Sequence[Mapping[str, Any]]) -> str:
    """Of a learner in its configured wraps."""
    if not wraps:
        return learner
    return hashlib.sha256(msgspec.json.encode([learner, wraps], order="sorted")).hexdigest()


def _maker_of_any(
    config: Config, table: Mapping[str, Any], where: str, allow: Sequence[Any], seed: int
) -> tuple[str, Callable[[], Described]]:
    """What snapshots call the learner of a table, and what builds fresh ones."""
    name = table.get("use", table.get("factory"))
    if isinstance(name, str) and name in plugins.names(LEARNERS) and name != "river":
        make = _maker_of_learner(config, table, where, allow, seed)
        return getattr(make(), "kind", name), make
    return "river", _maker_of_river(config, table, where, allow, seed)


def _maker_of_wrapped(
    config: Config, table: Mapping[str, Any], where: str, make: Callable[[], Learner]
) -> Callable[[], Learner]:
    if table["use"] not in plugins.names(WRAPS):
        raise ConfigError(
            f"{where}.use: there is no wrap {table['use']!r}",
            hint=f"installed: {', '.join(plugins.names(WRAPS))}; a follower finds it by this name",
        )
    given = {"make": make, "task": config.task}
    return lambda: plugins.build(table, where, group=WRAPS, seed=config.seed, given=given)


def _maker_of_river(
    config: Config, table: Mapping[str, Any], where: str, allow: Sequence[Any], seed: int
) -> Callable[[], Described]:
    estimator = plugins.build(table, where, seed=seed)
    if not any(c.__module__.split(".")[0] == "river" for c in type(estimator).__mro__):
        raise ConfigError(
            f"{where}: {table.get('use', table.get('factory'))} gives a "
            f"{type(estimator).__name__}, which is no river estimator",
            hint="a classifier, a regressor, or a river.compose:Pipeline that ends in one",
        )
    return lambda: RiverLearner(
        lambda: plugins.build(table, where, seed=seed), config.task, allow=allow
    )


def _maker_of_learner(
    config: Config, table: Mapping[str, Any], where: str, allow: Sequence[Any], seed: int
) -> Callable[[], Described]:
    """For learners that are registered by a name; they are given what is known ahead.

    One that is made of others asks ``make_member`` for what builds them.
    """
    source = config.source
    given = {
        "task": config.task,
        "classes": source.classes or [],
        "features": source.features if isinstance(source.features, list) else [],
        "make_member": lambda member, option, number: _maker_of_any(
            config, member, f"{where}.{option}", allow, seed + number
        ),
    }
    return lambda: plugins.build(
        table,
        where,
        group=LEARNERS,
        seed=seed,
        given=given,
        raw={"fields", "module", "optimizer", "pretrain", "schedule", "start", "step", *PARTS},
    )


def _allowed(config: Config, *, serving: bool = False) -> list[Any]:
    """Classes and functions of the user's own that a snapshot may name; for ``serving`` not
    those of a teacher, which a follower never sees.
    """
    names: list[tuple[str, str]] = []
    for where, table in _tables(config.learner, "learner"):
        if serving and ".teacher" in where:
            continue
        names += [(f"{where}.allow[{i}]", name) for i, name in enumerate(table.get("allow", []))]
        module = table.get("module")
        if isinstance(module, Mapping):
            module = module.get("use")
        if isinstance(module, str) and ":" in module:
            names.append((f"{where}.module", module))
    return [plugins.resolve(name, where) for where, name in names]


def _tables(table: Mapping[str, Any], where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The table of a learner, and those of the learners that it is made of."""
    yield where, table
    for option in PARTS:
        found = table.get(option, [])
        for index, part in enumerate(found if isinstance(found, list) else [found]):
            if isinstance(part, Mapping):
                number = f"[{index}]" if isinstance(found, list) else ""
                yield from _tables(part, f"{where}.{option}{number}")


def _prequential(config: Config, allow: Sequence[type]) -> Prequential:
    extra: dict[str, Any] = {}
    classes = list(allow)
    for index, table in enumerate(config.metric):
        where = f"metric[{index}]"
        options = {key: value for key, value in table.items() if key not in {"name", "uses"}}
        metric = plugins.build(options, where, seed=config.seed)
        name = str(table.get("name", str(table["use"]).rpartition(":")[2].lower()))
        classes.append(type(metric))
        extra[name] = UserMetric(metric, table["uses"]) if "uses" in table else metric
    return Prequential(
        config.task,
        config.metrics.names,
        window=config.metrics.window,
        fading=config.metrics.fading,
        extra=extra,
        allow=classes,
    )


def _monitor(
    config: Config, index: int, table: Mapping[str, Any], allow: Sequence[type], taken: set[str]
) -> Monitor:
    where = f"monitor[{index}]"
    options = {
        key: value for key, value in table.items() if key not in {"name", "detector", "warning"}
    }
    given: dict[str, Any] = {"task": config.task, "allow": allow}
    if options["use"] == "drift":
        detector = table.get("detector", {"use": "river.drift:ADWIN"})
        given |= {
            "make_detector": _maker(detector, f"{where}.detector", config.seed),
            "detector_name": _short(detector),
        }
        if "warning" in table:
            given["make_warning"] = _maker(table["warning"], f"{where}.warning", config.seed)
    monitor: Monitor = plugins.build(options, where, group=MONITORS, seed=config.seed, given=given)
    name = str(table.get("name", monitor.name))
    if name in taken and "name" not in table:
        name = f"{name}-{index + 1}"
    if name in taken:
        raise ConfigError(f"{where}.name: there is a monitor {name!r} already")
    monitor.name = name
    return monitor


def _maker(table: Any, where: str, seed: int) -> Callable[[], Any]:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: expected a table such as {{ use = 'river.drift:ADWIN' }}")
    return lambda: plugins.build(table, where, seed=seed)


def _short(table: Mapping[str, Any]) -> str:
    options = ", ".join(f"{key}={value}" for key, value in table.items() if key != "use")
    name = str(table.get("use", "")).rpartition(":")[2]
    return f"{name}({options})" if options else name


def _check_needs(config: Config, learner: Described) -> None:
    """Raise :class:`ConfigError` if a learner needs a feature that no event will have."""
    layout = Layout(config.source)
    for name in getattr(learner, "needs", ()):
        if not layout.nested and (name in layout.fields or not layout.wanted(name)):
            raise ConfigError(
                f"learner: it needs the feature {name!r}, and [source] does not count the field "
                f"{name!r} among the features",
                hint="a field that is label, id, time, key or origin is none: give it twice, under "
                'two names, or let the records have their features in an object "features"',
            )


def identity(
    config: Config, parts: Components, info: TopicInfo, lineage: str | None = None
) -> Identity:
    """Everything that must agree before a snapshot is restored into this configuration.

    ``lineage``: instead of the configured one.
    """
    source = msgspec.to_builtins(config.source)
    for key in ("partitions", "replication_factor", "auto_offset_reset"):
        del source[key]
    return Identity(
        app=config.app,
        lineage=lineage or config.lineage_name,
        task=config.task,
        topic=info.name,
        topic_id=info.topic_id,
        learner=parts.kind,
        fingerprint=parts.fingerprint,
        config={
            "task": config.task,
            "lanes": config.lanes,
            "seed": config.seed,
            "source": source,
            "learner": config.learner,
            **({"wrap": config.wrap} if config.wrap else {}),
            "monitor": config.monitor,
            "metrics": msgspec.to_builtins(config.metrics),
            "metric": config.metric,
        },
        versions=parts.versions,
        seed=config.seed,
        sources=plugins.sources(config.learner, config.wrap, config.monitor, config.metric),
    )


def signing_key(config: Config) -> SigningKey | None:
    """The key that this application signs with, if it signs.

    Raises :class:`ConfigError` if there are trusted keys and it is none of them: the process
    could not go on with what it has written itself.
    """
    trusted = trusted_keys(config)
    if not config.snapshot.signing_key:
        if trusted is None:
            return None
        raise ConfigError(
            "[snapshot] has trusted_keys and no signing_key: nobody who trusts these keys would "
            "take what this process writes, itself included",
            hint='name the key to sign with: signing_key = "file:PATH" or "env:NAME"',
        )
    key = SigningKey.load(config.snapshot.signing_key)
    if trusted is not None and not trusted.knows(key.key_id.encode()):
        raise ConfigError(
            f"[snapshot] signing_key has the id {key.key_id}, which is none of trusted_keys: this "
            "process would not take what it has written itself",
            hint="add its public key to trusted_keys, here and wherever the snapshots are read",
        )
    return key


def trusted_keys(config: Config) -> TrustedKeys | None:
    """The keys whose snapshots are taken; None if every snapshot is."""
    keys = config.snapshot.trusted_keys
    return TrustedKeys.load(keys) if keys else None


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)


def fresh_lane(config: Config, parts: Components, start: Mapping[int, int]) -> Kit:
    """A lane that has learned nothing, with its decoder; ``start`` as for :class:`Lane`."""
    codec = JsonCodec(config.source, config.task)
    monitors = parts.make_monitors()
    extras: dict[str, Stateful] = {"labels": codec.schema, "names": codec.names}
    if codec.duplicates is not None:
        extras["duplicates"] = codec.duplicates
    if codec.shares is not None:
        extras["shares"] = codec.shares
    lane = Lane(parts.make_learner(), monitors, start, extras=extras)
    prequential = monitors[0]
    assert isinstance(prequential, Prequential)
    return Kit(lane, codec.decode, prequential.recent_loss)


# -- the trainer


class Trainer:
    """A worker with everything around it, as one process runs it.

    ``until_end`` stops at the log's end as it was at the start, ``max_events`` after so
    many events, ``stop_when`` on a condition such as ``"accuracy < 0.7 over 5000"``.
    ``accept_gap`` lets a lane go on whose next events the log no longer holds.
    ``stretch`` makes it a backfill of these events, which speaks to topics of its own.
    A lineage that is promoted is gone on with if ``config`` fits it, or else what ``reload``
    gives then: the configuration as it is by now.
    """

    def __init__(
        self,
        config: Config,
        log: Log,
        *,
        until_end: bool = False,
        max_events: int | None = None,
        stop_when: str | None = None,
        accept_gap: bool = False,
        stretch: Stretch | None = None,
        reload: Callable[[], Config] | None = None,
        on_slot: Callable[[Slot], None] | None = None,
        on_progress: Callable[[Worker], None] | None = None,
        on_checkpoint: Callable[[Worker], None] | None = None,
    ) -> None:
        self.config = config
        self._log = log
        self._reload = reload
        self._stretch = stretch
        parts = components(config)
        condition = StopCondition.parse(stop_when, config.task) if stop_when else None
        info = source_topic(config, log)
        single = config.lanes == "single"
        ends: Mapping[int, int] | None = None
        if stretch is not None:
            ends = stretch.ends
        elif until_end:
            ends = end_offsets(log, info)

        def prepare(slot: Slot) -> None:
            if condition is not None:
                slot.lane.taps.append(condition.update)
            if on_slot is not None:
                on_slot(slot)

        with ExitStack() as opened:
            self._control = opened.enter_context(open_control(config, log))
            _not_live_elsewhere(config, self._control)
            plan = self._plan(parts, info, self._control.current(config.lineage_name))
            self._parts, self._info = parts, info
            self._started = time.monotonic()
            self._reader = opened.enter_context(log.reader())
            self._publisher = opened.enter_context(
                log.publisher(
                    config.trainer_group,
                    [topic for kind, topic in plan.topics.items() if single or kind != "journal"],
                    delivery=config.delivery,
                )
            )
            self._member = opened.enter_context(
                log.member(config.trainer_group, info.name, single=single)
            )
            self._opened = opened.pop_all()
        self.worker = Worker(
            plan,
            self._member,
            self._publisher,
            self._reader,
            Cadence(
                config.checkpoint.events,
                config.checkpoint.seconds,
                every=config.snapshot.every,
                max_overhead=config.snapshot.max_overhead,
                heartbeat=config.snapshot.heartbeat_s or None,
                now=time.monotonic(),
            ),
            report=lambda slot: _figures([slot]),
            single=single,
            max_poll_records=config.max_poll_records,
            ends=ends,
            max_events=max_events,
            stop_when=condition.met if condition is not None else None,
            accept_gap=accept_gap,
            successors=self._successors if stretch is None else None,
            on_slot=prepare,
            on_progress=on_progress,
            on_checkpoint=on_checkpoint,
        )

    def _plan(self, parts: Components, info: TopicInfo, lineage: str) -> Plan:
        config, log, stretch = self.config, self._log, self._stretch
        topics = {kind: config.topic(kind) for kind in ("snapshots", "journal", *SPOKEN)}
        if stretch is not None:
            topics |= backfill_topics(config)
        return Plan(
            identity=identity(parts.config, parts, info, lineage),
            source_topic=info.name,
            topics=topics,
            build=lambda start: fresh_lane(parts.config, parts, start),
            alarm_value=alarm_record,
            open_reader=log.reader,
            partitions=lambda: range(log.topics()[info.name].partitions),
            grow=lambda partitions: log.add_partitions(topics["snapshots"], partitions),
            auto_offset_reset=config.source.auto_offset_reset,
            journal=config.lanes == "single",
            fenced=config.delivery == "exactly-once",
            compression_level=config.snapshot.compression_level,
            signing=signing_key(config),
            trusted=trusted_keys(config),
            limits=config.snapshot.limits,
            expires_ms=_milliseconds(config.snapshot.expires_s),
            bad_ratio=config.dead_letters.max_ratio,
            bad_window=config.dead_letters.window,
            start=stretch.start if stretch else None,
        )

    def _successors(self) -> Iterator[Plan]:
        """The plans for a lineage that was promoted meanwhile, if one was."""
        self._control.refresh()
        lineage = self._control.current(self.config.lineage_name)
        if lineage == self.worker.lineage:
            return
        yield self._plan(self._parts, self._info, lineage)
        if self._reload is not None:
            try:
                yield self._plan(components(self._reload()), self._info, lineage)
            except ConfigError as error:
                logger.error("the configuration cannot be read again: %s", error)

    def run(self) -> dict[str, Any]:
        """Run to the end and return the report; always leaves the group."""
        try:
            self.worker.run()
            return self.report()
        finally:
            self._opened.close()

    def report(self) -> dict[str, Any]:
        """What the lanes of this process have learned, over the whole of their lineage."""
        elapsed = time.monotonic() - self._started
        slots = [self.worker.slots[number] for number in sorted(self.worker.slots)]
        figures = _figures(slots) if slots else {}
        lanes = [_lane_report(slot) for slot in slots]
        return {
            "app": self.config.app,
            "lineage": self.worker.lineage,
            "events": sum(lane["events"] for lane in lanes),
            "learned": sum(lane["learned"] for lane in lanes),
            "unlabelled": sum(lane["unlabelled"] for lane in lanes),
            "duplicates": sum(lane["duplicates"] for lane in lanes),
            "dead_letters": sum(lane["dead_letters"] for lane in lanes),
            "metrics": figures.get("metrics", {}),
            "rolling": figures.get("rolling", {}),
            "fading": figures.get("fading", {}),
            "baselines": figures.get("baselines", {}),
            "drifts": [alarm for lane in lanes for alarm in lane["drifts"]],
            "snapshots": sum(lane["snapshot"] for lane in lanes),
            "lanes": lanes,
            "run_events": self.worker.events,
            "elapsed_s": round(elapsed, 3),
            "events_per_s": round(self.worker.events / elapsed, 1) if elapsed > 0 else 0.0,
        }


def _metrics(slot: Slot) -> Prequential:
    monitor = slot.lane.monitor("metrics")
    assert isinstance(monitor, Prequential)
    return monitor


def _figures(slots: Sequence[Slot]) -> dict[str, Any]:
    """One report over lanes, with what their learners count that no monitor can see."""
    report = pooled([_metrics(slot) for slot in slots])
    means: dict[str, dict[str, list[Mean]]] = {"metrics": {}, "rolling": {}}
    for slot in slots:
        told: dict[str, Any] = getattr(slot.lane.learner, "figures", dict)()
        for block, named in means.items():
            for name, share in told.get(block, {}).items():
                named.setdefault(name, []).append(Mean(*share))
    for block, named in means.items():
        report[block] |= {name: figure(Mean.pooled(parts).value) for name, parts in named.items()}
    return report


def _lane_report(slot: Slot) -> dict[str, Any]:
    figures = _figures([slot])
    drifts = [
        alarm
        for monitor in slot.lane.monitors
        if isinstance(monitor, DriftMonitor)
        for alarm in monitor.alarms()
    ]
    return {**slot.facts(), **{k: v for k, v in figures.items() if k != "events"}, "drifts": drifts}


# -- the scorer


class ScorerProcess:
    """A scorer with everything around it, as one process runs it."""

    def __init__(
        self,
        config: Config,
        log: Log,
        *,
        until_end: bool = False,
        max_events: int | None = None,
        on_model: Callable[[Model], None] | None = None,
        on_progress: Callable[[Scorer], None] | None = None,
    ) -> None:
        self.config = config
        allow = _allowed(config, serving=True)
        topic = config.score_topic
        info = source_topic(config, log, topic)
        codec = JsonCodec(config.source, config.task)
        self._started = time.monotonic()
        self.subscriber = ModelSubscriber(
            config.app,
            log=log,
            lineage=config.lineage_name,
            allow=allow,
            on_model=on_model,
            trusted_keys=config.snapshot.trusted_keys,
            max_age=config.score.max_age,
            when_stale=config.score.when_stale,
            limits=config.snapshot.limits,
        )
        self._reader = log.reader()
        self._publisher = log.publisher(
            config.scorer_group,
            [config.topic("predictions"), config.topic("dead-letters")],
            delivery=config.delivery,
        )
        self._member = log.member(config.scorer_group, info.name)
        self.scorer = Scorer(
            self.subscriber,
            self._member,
            self._publisher,
            self._reader,
            codec.decode_features,
            source_topic=info.name,
            predictions_topic=config.topic("predictions"),
            dead_letters_topic=config.topic("dead-letters"),
            batch=config.score.batch,
            patience_s=config.score.wait_s,
            ends=end_offsets(log, info) if until_end else None,
            max_events=max_events,
            on_progress=on_progress,
        )

    def run(self) -> dict[str, Any]:
        """Wait for a model, score, and return what was done."""
        try:
            self.subscriber.wait(self.config.score.wait_s)
            self.scorer.run()
            return self.report()
        finally:
            self._member.close()
            self._publisher.close()
            self._reader.close()
            self.subscriber.close()

    def report(self) -> dict[str, Any]:
        elapsed = time.monotonic() - self._started
        scorer = self.scorer
        return {
            "app": self.config.app,
            "lineage": self.subscriber.lineage,
            "events": scorer.events,
            "predictions": scorer.predictions,
            "dead_letters": scorer.dead_letters,
            "versions": scorer.versions,
            "stale": scorer.stale,
            "age_s": round(self.subscriber.age, 3),
            "refused": dict(self.subscriber.refused),
            "learned_up_to": {str(p): o for p, o in self.subscriber.learned_up_to.items()},
            "elapsed_s": round(elapsed, 3),
            "events_per_s": round(scorer.events / elapsed, 1) if elapsed > 0 else 0.0,
        }
