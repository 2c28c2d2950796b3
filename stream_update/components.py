"""What a configuration builds: a learner in its wraps, monitors, and the lane around them."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import msgspec

from stream_update import plugins
from stream_update.codecs import JsonCodec
from stream_update.codecs.layout import Layout
from stream_update.codecs.reading import reader_of
from stream_update.config import Config
from stream_update.errors import ConfigError
from stream_update.lane import Lane, Stateful
from stream_update.learners.multioutput import check_size
from stream_update.learners.river import RiverLearner
from stream_update.monitors.prequential import Prequential, UserMetric
from stream_update.plans import Kit
from stream_update.plugins import LEARNERS, WRAPS
from stream_update.protocols import Described, Learner, Monitor, TakesTables
from stream_update.serving import Serving

__all__ = [
    "Components",
    "allowed",
    "components",
    "fresh_lane",
    "serving_of",
    "steps_of",
    "with_steps",
]

MONITORS = "stream_update.monitors"
PARTS = ("members", "teacher", "student")
"""The options of a learner that hold tables of learners."""
STEPS = "grow"
"""The option of a learner that holds a list of steps, to which further ones may be added."""


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
    allow = allowed(config)
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
    if wraps:
        make_learner()

    def make_monitors() -> list[Monitor]:
        made: list[Monitor] = [_prequential(config, allow)]
        for index, monitor in enumerate(config.monitor):
            made.append(_monitor(config, index, monitor, allow, {m.name for m in made}))
        return made

    _check_needs(config, sample)
    serving = serving_of(config)
    if serving is not None:
        serving.check(kind, make_learner().dump())
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


def serving_of(config: Config) -> Serving | None:
    """Where and how the trainers publish for those who only predict, if they do."""
    precision = config.snapshot.serving
    return None if precision is None else Serving(config.topic("serving"), precision)


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
    if isinstance(name, str) and ":" not in name:
        known = [one for one in plugins.names(LEARNERS) if one != "river"]
        close = difflib.get_close_matches(name, known, n=1)
        raise ConfigError(
            f"{where}.use: there is no learner {name!r}"
            + (f"; did you mean {close[0]}?" if close else ""),
            hint='write "module:attribute" for an estimator of river, such as '
            f'"river.linear_model:LogisticRegression", or one of: {", ".join(known)}',
        )
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
    check_size(estimator, len(config.source.classes or ()) or config.source.max_classes)
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
        raw={
            "fields",
            "grow",
            "module",
            "optimizer",
            "pretrain",
            "schedule",
            "start",
            "step",
            *PARTS,
        },
    )


def allowed(config: Config, *, serving: bool = False) -> list[Any]:
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


def steps_of(learner: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The steps that a learner and those that it is made of are to take, by their keys."""
    return {
        where: table[STEPS]
        for where, table in _tables(learner, "learner")
        if table.get(STEPS) and _has_steps(table)
    }


def _has_steps(table: Mapping[str, Any]) -> bool:
    """Whether it is that option, and not one of the user's own learner that is called so."""
    steps = table.get(STEPS)
    return isinstance(steps, list) and all(isinstance(step, Mapping) for step in steps)


def with_steps(
    learner: Mapping[str, Any], steps: Mapping[str, list[dict[str, Any]]], where: str = "learner"
) -> dict[str, Any]:
    """The table of a learner with these steps and no others."""
    table = dict(learner)
    if _has_steps(table):
        del table[STEPS]
    if where in steps:
        table[STEPS] = steps[where]
    for option in PARTS:
        found = table.get(option)
        if isinstance(found, Mapping):
            table[option] = with_steps(found, steps, f"{where}.{option}")
        elif isinstance(found, list):
            table[option] = [
                with_steps(part, steps, f"{where}.{option}[{index}]")
                if isinstance(part, Mapping)
                else part
                for index, part in enumerate(found)
            ]
    return table


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
    reader_of(config.source, layout)
    for name in getattr(learner, "needs", ()):
        if not layout.nested and (name in layout.fields or not layout.wanted(name)):
            raise ConfigError(
                f"learner: it needs the feature {name!r}, and [source] does not count the field "
                f"{name!r} among the features",
                hint="a field that is label, id, time, key or origin is none: give it twice, under "
                'two names, or let the records have their features in an object "features"',
            )


def fresh_lane(config: Config, parts: Components, start: Mapping[int, int]) -> Kit:
    """A lane that has learned nothing, with its decoder; ``start`` as for :class:`Lane`."""
    learner = parts.make_learner()
    tables = isinstance(learner, TakesTables) and learner.takes_tables
    codec = JsonCodec(config.source, config.task, tables=tables)
    monitors = parts.make_monitors()
    extras: dict[str, Stateful] = {"labels": codec.schema, "names": codec.names}
    if codec.duplicates is not None:
        extras["duplicates"] = codec.duplicates
    if codec.shares is not None:
        extras["shares"] = codec.shares
    lane = Lane(learner, monitors, start, extras=extras)
    prequential = monitors[0]
    assert isinstance(prequential, Prequential)
    return Kit(lane, codec.decode, prequential.recent_loss)
