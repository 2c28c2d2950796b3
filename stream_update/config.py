"""TOML, overrides and environment become one frozen, typed :class:`Config`.

Order of precedence: ``-s key=value``, then ``STREAM_UPDATE_...`` variables (two
underscores go one level down: ``STREAM_UPDATE_SOURCE__TOPIC``), then the file.
Every error names the key and what it accepts. Tables that configure a component
(``learner``, ``[[wrap]]``, ``[[monitor]]``, ``[[metric]]``, ``[kafka]``) are checked where the
component is built: its constructor is the schema.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from stream_update.bounds import Limits
from stream_update.errors import ConfigError
from stream_update.freshness import WhenStale
from stream_update.protocols import Precision

__all__ = ["Checkpoint", "Config", "Metrics", "Score", "Snapshots", "Source", "load", "parse"]

ENVIRONMENT_PREFIX = "STREAM_UPDATE_"
# Addresses of the brokers that tests use; they configure no application.
RESERVED_ENVIRONMENT = frozenset({"STREAM_UPDATE_KAFKA", "STREAM_UPDATE_KAFKA_HOME"})

Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9._-]{1,200}$")]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]


class Raw(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[source] raw``: the one feature of an event, and the shape of its bytes."""

    field: Annotated[str, Meta(min_length=1)]
    shape: Annotated[list[Positive], Meta(min_length=1)]


class Source(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[source]``: where labelled events come from and what counts as valid.

    Of the last ``share_window`` events that were learned at most ``max_share`` are of one
    ``origin`` (a field, ``header:NAME``, or ``record`` for the record's key).
    An event whose ``id`` was among the last ``duplicate_window`` ids is counted, and not
    learned again; 0 asks for no such check. ``max_features`` is for one event, and
    ``max_names`` for all that a lane has seen. A feature may be a list of numbers, of at most
    ``max_list``, if that is not 0: only a learner with fields for them takes such events.

    With ``format`` ``"raw"`` the value of a record is an array of bytes, which ``raw`` describes;
    label, id, time, key and origin are headers then (``header:NAME``), or of the record.
    """

    topic: Name
    partitions: Positive = 1
    replication_factor: Positive = 1
    auto_offset_reset: Literal["earliest", "latest"] = "earliest"
    format: Literal["json", "raw"] = "json"
    raw: Raw | None = None
    label: str = "label"
    features: str | list[str] | None = None
    id: str | None = None
    time: str | None = None
    key: str | None = None
    unlabelled: Literal["null", "absent", "reject"] = "null"
    duplicate_window: Annotated[int, Meta(ge=0)] = 0
    origin: str | None = None
    max_share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    share_window: Positive = 1000
    classes: list[str | int | bool] | None = None
    max_number: Annotated[float, Meta(gt=0)] = 1e12
    max_bytes: Positive = 65_536
    max_keys: Positive = 512
    max_features: Positive = 512
    max_names: Positive = 10_000
    max_key_length: Positive = 128
    max_string: Positive = 1024
    max_list: Annotated[int, Meta(ge=0)] = 0
    max_classes: Positive = 1000


class Metrics(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[metrics]``: which figures, over how many events."""

    names: list[str] | None = None
    window: Positive = 1000
    fading: Annotated[float, Meta(gt=0, lt=1)] = 0.999


class Checkpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[checkpoint]``: due after so many events or seconds, whichever comes first."""

    events: Positive = 10_000
    seconds: Seconds = 5.0


class Snapshots(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[snapshot]``: which checkpoints carry a snapshot.

    One in ``every`` checkpoints, and fewer if making them would take more than
    ``max_overhead`` of the time (a forest of many MB costs some seconds each). With ``fork``
    a large one is made in a copy of the process while learning goes on, which may need as
    much memory again; on Linux only, and for learners whose state allows it. The trainer
    signs with ``signing_key`` (``file:PATH`` or ``env:NAME``); who reads takes only what
    one of ``trusted_keys`` signed (the same, or a public key in base64), if there are any.

    No follower adopts a snapshot that is older than ``expires_s``, unless a heartbeat has
    renewed it: every ``heartbeat_s`` a trainer says which snapshot is the newest, also when
    no events arrive; 0 says nothing.

    With ``serving`` a second, smaller snapshot is published beside each one, on
    ``APP.serving``: of the learner what predicts, with weights of this precision.
    """

    every: Positive = 1
    max_overhead: Annotated[float, Meta(gt=0, le=1)] = 0.1
    fork: bool = True
    compression_level: Annotated[int, Meta(ge=1, le=19)] = 3
    signing_key: str = ""
    trusted_keys: tuple[str, ...] = ()
    expires_s: Seconds | None = None
    heartbeat_s: Annotated[float, Meta(ge=0)] = 30.0
    serving: Precision | None = None
    limits: Limits = Limits()


class Score(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[score]``: the events that ``stream-update score`` predicts.

    When no snapshot and no heartbeat came for ``max_age`` seconds, or the snapshot has
    expired, the model is stale: ``when_stale`` says whether to ``"warn"``, to ``"flag"`` each
    prediction, or to ``"refuse"`` to predict until it is fresh again. ``follow`` says whether
    the model is that of the ``"snapshots"``, or that which ``[snapshot] serving`` publishes.
    """

    topic: Name | None = None
    group_id: str | None = None
    wait_s: Seconds = 60.0
    batch: Positive = 500
    max_age: Seconds | None = None
    when_stale: WhenStale = "warn"
    follow: Literal["snapshots", "serving"] = "snapshots"


class DeadLetters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[dead_letters]``: when too many events are bad, something else is wrong.

    The trainer stops when more than ``max_ratio`` of the last ``window`` events of a
    lane were bad; 1.0 never stops.
    """

    max_ratio: Annotated[float, Meta(gt=0, le=1)] = 1.0
    window: Positive = 10_000


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole application, as one file describes it."""

    app: Name
    log: str
    task: Literal["binary", "multiclass", "multilabel", "regression"]
    source: Source
    learner: dict[str, Any]
    wrap: list[dict[str, Any]] = []
    lineage: Name = ""
    lanes: Literal["per-partition", "single"] = "per-partition"
    group_id: str = ""
    delivery: Literal["exactly-once", "at-least-once"] = "exactly-once"
    seed: int = 0
    max_poll_records: Positive = 500
    monitor: list[dict[str, Any]] = []
    metrics: Metrics = Metrics()
    metric: list[dict[str, Any]] = []
    checkpoint: Checkpoint = Checkpoint()
    snapshot: Snapshots = Snapshots()
    score: Score = Score()
    dead_letters: DeadLetters = DeadLetters()
    kafka: dict[str, Any] = {}

    @property
    def lineage_name(self) -> str:
        """The lineage: ``lineage`` if set, else the app's name."""
        return self.lineage or self.app

    @property
    def trainer_group(self) -> str:
        """The trainers' consumer group; every lineage has its own, so a new lineage
        starts at the beginning of the topic and leaves the old one alone.
        """
        if self.group_id:
            return self.group_id
        return self.app if self.lineage_name == self.app else f"{self.app}.{self.lineage_name}"

    @property
    def scorer_group(self) -> str:
        return self.score.group_id or f"{self.app}.score"

    @property
    def score_topic(self) -> str:
        return self.score.topic or self.source.topic

    def topic(self, kind: str) -> str:
        """The name of one of the app's own topics (``snapshots``, ``metrics``, ...)."""
        return f"{self.app}.{kind}"


SECTIONS: dict[str, type[Struct]] = {
    "source": Source,
    "metrics": Metrics,
    "checkpoint": Checkpoint,
    "snapshot": Snapshots,
    "score": Score,
    "dead_letters": DeadLetters,
}


def load(
    path: str | Path,
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Read a TOML file, apply the environment and ``key=value`` overrides, check it.

    Raises :class:`ConfigError` for a file that cannot be read or does not make sense.
    """
    path = Path(path)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"there is no configuration file {path}", hint="give one with -c FILE"
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder, not a TOML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    for name, value in sorted((os.environ if environment is None else environment).items()):
        if name.startswith(ENVIRONMENT_PREFIX) and name not in RESERVED_ENVIRONMENT:
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            _assign(tree, key, _value(value), origin=f"environment variable {name}")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"-s {override}: expected key=value", hint="-s checkpoint.events=500")
        _assign(tree, key.strip(), _value(value.strip()), origin=f"-s {override}")
    return parse(tree)


LISTED = ("wrap", "monitor", "metric")
"""Keys that hold several tables."""


def parse(tree: Mapping[str, Any]) -> Config:
    """Check a configuration that is already a tree of plain values."""
    known = set(get_type_hints(Config))
    for key in tree:
        if key not in known:
            raise ConfigError(f"{key}: unknown key{_nearest(key, known)}", hint=_accepted(known))
    for key in ("app", "log", "task", "source", "learner"):
        if key not in tree:
            raise ConfigError(f"{key}: this key is required", hint=_example(key))
    ready: dict[str, Any] = {}
    for key, value in tree.items():
        section = SECTIONS.get(key)
        if key in LISTED and isinstance(value, dict):
            raise ConfigError(f"{key}: there may be several, each written [[{key}]]")
        if section is None:
            ready[key] = value
        elif not isinstance(value, dict):
            raise ConfigError(f"{key}: expected a table, written [{key}]")
        else:
            ready[key] = _convert(value, section, f"[{key}] ")
    config: Config = _convert(ready, Config, "")
    _check_listed(config)
    if not ({"use", "factory"} & config.learner.keys()):
        raise ConfigError("[learner] needs use or factory", hint=_example("learner"))
    _check_source(config.source)
    _check_times(config)
    if config.score.follow == "serving" and config.snapshot.serving is None:
        raise ConfigError(
            "[score] follow: nobody publishes what it would follow",
            hint='[snapshot] serving = "float32", "bfloat16" or "float16" does',
        )
    if "://" not in config.log:
        raise ConfigError(f"log: {config.log!r} is no address", hint=_example("log"))
    return config


def _check_listed(config: Config) -> None:
    for key in LISTED:
        for number, table in enumerate(getattr(config, key)):
            if not isinstance(table.get("use"), str):
                raise ConfigError(f"[[{key}]] number {number + 1}: use: this key is required")


def _check_source(source: Source) -> None:
    if source.raw is not None and source.format != "raw":
        raise ConfigError("[source] raw: records are JSON", hint='format = "raw"')
    if source.duplicate_window and source.id is None:
        raise ConfigError(
            "[source] duplicate_window: events need an id to be recognised by",
            hint='name its field or header: id = "event_id" or id = "header:event-id"',
        )
    if source.max_share < 1 and source.origin is None:
        raise ConfigError(
            "[source] max_share: events need an origin to be counted by",
            hint='name its field or header: origin = "user" or origin = "header:user", or '
            'origin = "record" for the key of the record',
        )


def _check_times(config: Config) -> None:
    beat = config.snapshot.heartbeat_s
    expires = config.snapshot.expires_s
    if expires is not None and beat >= expires:
        raise ConfigError(
            f"[snapshot] expires_s: {expires:g} s are over before the next heartbeat, which "
            f"comes every {beat:g} s",
            hint="make it a few times heartbeat_s, or that one smaller; 0 for no heartbeats",
        )


def _convert(value: Any, kind: type[Any], where: str) -> Any:
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        text = str(error)
    hints = get_type_hints(kind)
    unknown = re.search(r"unknown field `(.+?)`", text)
    if unknown:
        name = unknown[1]
        raise ConfigError(
            f"{where}{name}: unknown key{_nearest(name, hints)}", hint=_accepted(hints)
        )
    missing = re.search(r"missing required field `(.+?)`", text)
    if missing:
        raise ConfigError(f"{where}{missing[1]}: this key is required", hint=_example(missing[1]))
    message, _, path = text.partition(" - at `$.")
    key = path.rstrip("`")
    name = re.split(r"[.\[]", key)[0]
    given = value.get(name) if isinstance(value, dict) else value
    literals = _literals(hints.get(name))
    hint = ""
    if literals and all(isinstance(item, str) for item in literals):
        message, hint = f"{given!r} is not one of the accepted values", _accepted(literals)
    elif "matching regex" in message:
        message = f"{given!r} has characters that a topic name cannot have"
        hint = "letters, digits, dot, underscore and hyphen, at most 200"
    else:
        message = f"{message.replace('`', '').lower()} (the value is {given!r})"
    raise ConfigError(f"{where}{key}: {message}", hint=hint)


def _literals(hint: Any) -> tuple[Any, ...]:
    """The values that a key accepts, if it accepts only some."""
    options = [arg for arg in get_args(hint) if arg is not NoneType]
    return get_args(options[0]) if len(options) == 1 else tuple(options)


def _value(text: str) -> Any:
    """A TOML value if it is one, else the text itself, so quotes can be left out."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _assign(tree: dict[str, Any], key: str, value: Any, origin: str) -> None:
    parts = [part for part in re.split(r"[.\[\]]+", key) if part]
    if not parts:
        raise ConfigError(f"{origin}: there is no key before the equals sign")
    here: Any = tree
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(here, list):
            if not part.isdigit() or int(part) >= len(here):
                raise ConfigError(
                    f"{origin}: {'.'.join(parts[:depth])} has {len(here)} entries, no {part!r}"
                )
            index: Any = int(part)
        elif isinstance(here, dict):
            index = part
        else:
            raise ConfigError(f"{origin}: {'.'.join(parts[:depth])} is a value, not a table")
        if last:
            here[index] = value
        elif isinstance(here, dict):
            here = here.setdefault(index, {})
        else:
            here = here[index]


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _accepted(names: Iterable[Any]) -> str:
    return "accepted: " + ", ".join(sorted(str(name) for name in names))


def _example(key: str) -> str:
    examples = {
        "app": 'app = "weather"',
        "log": 'log = "sqlite:///weather.db" or log = "kafka://127.0.0.1:9092"',
        "task": 'task = "binary", "multiclass", "multilabel" or "regression"',
        "source": '[source] with topic = "..." and label = "..."',
        "topic": 'topic = "weather.labelled"',
        "learner": '[learner] use = "river.linear_model:LogisticRegression"',
    }
    return examples.get(key, "")
