"""The composition root: the only module that puts concrete classes together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import msgspec

from stream_update import plugins
from stream_update.cadence import Cadence
from stream_update.codecs import JsonCodec
from stream_update.components import (
    Components,
    allowed,
    components,
    fresh_lane,
    serving_of,
    steps_of,
    with_steps,
)
from stream_update.config import Config
from stream_update.control import Control, Stretch
from stream_update.errors import ConfigError
from stream_update.events import TopicInfo
from stream_update.follower import Model, ModelSubscriber
from stream_update.monitors.drift import DriftMonitor, alarm_record
from stream_update.monitors.figures import figure
from stream_update.monitors.prequential import Prequential, pooled
from stream_update.monitors.stopping import StopCondition
from stream_update.monitors.tally import Mean
from stream_update.plans import Plan
from stream_update.protocols import Log
from stream_update.scorer import Scorer
from stream_update.signing import SigningKey, TrustedKeys
from stream_update.slots import Slot
from stream_update.snapshot import Identity
from stream_update.topics import (
    SPOKEN,
    backfill_topics,
    end_offsets,
    snapshot_topics,
    source_topic,
)
from stream_update.worker import Worker

__all__ = [
    "ScorerProcess",
    "Trainer",
    "backfill_config",
    "identity",
    "live",
    "open_control",
    "open_log",
    "report_of_all",
    "signing_key",
    "trusted_keys",
]

logger = logging.getLogger(__name__)


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


def identity(
    config: Config, parts: Components, info: TopicInfo, lineage: str | None = None
) -> Identity:
    """Everything that must agree before a snapshot is restored into this configuration.

    ``lineage``: instead of the configured one.
    """
    source = msgspec.to_builtins(config.source)
    for key in ("partitions", "replication_factor", "auto_offset_reset"):
        del source[key]
    if source["format"] == "json":
        # As it was before there was a choice.
        del source["format"], source["raw"]
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
            "learner": with_steps(config.learner, {}),
            **({"wrap": config.wrap} if config.wrap else {}),
            "monitor": config.monitor,
            "metrics": msgspec.to_builtins(config.metrics),
            "metric": config.metric,
        },
        versions=parts.versions,
        seed=config.seed,
        sources=plugins.sources(config.learner, config.wrap, config.monitor, config.metric),
        steps=steps_of(config.learner),
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


def _grow(log: Log, names: Sequence[str], partitions: int) -> None:
    for name in names:
        log.add_partitions(name, partitions)


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)


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
        return _plan(self.config, self._log, parts, info, lineage, self._stretch)

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
        slots = [self.worker.slots[number] for number in sorted(self.worker.slots)]
        return _report(
            self.config,
            self.worker.lineage,
            slots,
            self.worker.events,
            time.monotonic() - self._started,
        )


def _plan(
    config: Config,
    log: Log,
    parts: Components,
    info: TopicInfo,
    lineage: str,
    stretch: Stretch | None = None,
) -> Plan:
    topics = {kind: config.topic(kind) for kind in ("snapshots", "journal", *SPOKEN)}
    serving = serving_of(config)
    if serving is not None:
        topics["serving"] = serving.topic
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
        grow=lambda partitions: _grow(log, snapshot_topics(config), partitions),
        auto_offset_reset=config.source.auto_offset_reset,
        journal=config.lanes == "single",
        fenced=config.delivery == "exactly-once",
        compression_level=config.snapshot.compression_level,
        copies=config.snapshot.fork,
        signing=signing_key(config),
        trusted=trusted_keys(config),
        limits=config.snapshot.limits,
        expires_ms=_milliseconds(config.snapshot.expires_s),
        bad_ratio=config.dead_letters.max_ratio,
        bad_window=config.dead_letters.window,
        start=stretch.start if stretch else None,
        serving=serving,
    )


def report_of_all(config: Config, log: Log, *, run_events: int, elapsed_s: float) -> dict[str, Any]:
    """As :meth:`Trainer.report`, over the newest snapshots of all lanes.

    ``run_events`` and ``elapsed_s`` are those of the processes that made them.
    """
    parts, info = components(config), source_topic(config, log)
    with open_control(config, log) as control:
        lineage = control.current(config.lineage_name)
    plan = _plan(config, log, parts, info, lineage)
    lanes: Iterable[Iterable[int]] = ([p] for p in range(info.partitions))
    if config.lanes == "single":
        lanes = [range(info.partitions)]
    slots = []
    with log.reader() as reader:
        for number, partitions in enumerate(lanes):
            slot = Slot(number, partitions, plan, reader)
            slot.restore({})
            slots.append(slot)
    return _report(config, lineage, slots, run_events, elapsed_s)


def _report(
    config: Config, lineage: str, slots: Sequence[Slot], run_events: int, elapsed_s: float
) -> dict[str, Any]:
    figures = _figures(slots) if slots else {}
    lanes = [_lane_report(slot) for slot in slots]
    return {
        "app": config.app,
        "lineage": lineage,
        "events": sum(lane["events"] for lane in lanes),
        "learned": sum(lane["learned"] for lane in lanes),
        "unlabelled": sum(lane["unlabelled"] for lane in lanes),
        "duplicates": sum(lane["duplicates"] for lane in lanes),
        "dead_letters": sum(lane["dead_letters"] for lane in lanes),
        "metrics": figures.get("metrics", {}),
        "rolling": figures.get("rolling", {}),
        "fading": figures.get("fading", {}),
        "baselines": figures.get("baselines", {}),
        **({"classes": figures["classes"]} if "classes" in figures else {}),
        "drifts": [alarm for lane in lanes for alarm in lane["drifts"]],
        "snapshots": sum(lane["snapshot"] for lane in lanes),
        "lanes": lanes,
        "run_events": run_events,
        "elapsed_s": round(elapsed_s, 3),
        "events_per_s": round(run_events / elapsed_s, 1) if elapsed_s > 0 else 0.0,
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
        allow = allowed(config, serving=True)
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
            follow=config.score.follow,
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
