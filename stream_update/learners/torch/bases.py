"""What a network may begin with, read from a file: weights, and what is known of their inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from stream_update import plugins
from stream_update.errors import ConfigError, CorruptSnapshot, StreamUpdateError
from stream_update.events import Features, Tree
from stream_update.exported import read_exported
from stream_update.learners.torch import weights

__all__ = ["Base", "Source", "read_base"]

FISHER = "fisher."
SCALER = {f"scaler.{part}": part for part in ("count", "mean", "squares")}
WRAPS = "stream_update.wraps"


class Base(NamedTuple):
    """Somebody's weights by name.

    ``columns`` are the inputs as :meth:`~.columns.Columns.dump` gives them, empty if their
    names are not known; ``scaler`` is as :meth:`~.scaling.Scaler.dump` gives it, None if there
    is none; ``classes`` are the outputs in order, None if they are not known. ``fisher`` has
    the diagonal of the Fisher information of each weight, if the file has it. ``digest`` is
    the SHA-256 of the file. The head of a base with ``deviations`` says numbers as they are
    apart from a mean, in standard deviations.
    """

    weights: Mapping[str, Any]
    columns: list[list[Any]]
    scaler: Tree
    classes: list[Any] | None
    task: str | None
    fisher: Mapping[str, Any]
    digest: str
    deviations: bool = False
    fields: Tree = None
    """As :meth:`~.fields.Fields.dump` gives it, None if it is not known."""


def read_base(use: str, file: str, features: Sequence[str] | None, sha256: str) -> Base:
    """Read a safetensors file, or a snapshot that ``snapshots export`` has written.

    A safetensors file may say in its metadata, as JSON lists, what its ``features`` and
    ``classes`` are, and which ``task`` it was made for; it may have float64 tensors
    ``scaler.count``, ``scaler.mean`` and ``scaler.squares`` (the sum of squared
    differences) of the features, and ``fisher.NAME`` beside each weight. Raises
    :class:`ConfigError`.
    """
    if use not in {"safetensors", "snapshot"}:
        raise ConfigError(
            f"learner.start: there is no {use!r}",
            hint="safetensors, or snapshot: a file that stream-update snapshots export has "
            "written of another lineage",
        )
    try:
        raw = Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"learner.start: {file} cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(raw).hexdigest()
    if sha256 and sha256 != digest:
        raise ConfigError(
            f"learner.start: {file} has the SHA-256 {digest}, not {sha256}",
            hint="it is not the file that the configuration was written for",
        )
    try:
        if use == "snapshot":
            base = _from_snapshot(Path(file), digest)
        else:
            base = _from_safetensors(raw, features, digest)
        if name := weights.non_finite(base.weights):
            raise CorruptSnapshot(f"weight {name:.200} is NaN or infinite")
    except ConfigError:
        raise
    except (StreamUpdateError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"learner.start: {file} is no {use}: {error}") from error
    return base


def _from_safetensors(raw: bytes, features: Sequence[str] | None, digest: str) -> Base:
    tensors = weights.read(raw, "weights of the base")
    length = int.from_bytes(raw[:8], "little")
    told = json.loads(raw[8 : 8 + length]).get("__metadata__", {})
    names = json.loads(told.get("features", "[]")) if features is None else features
    scaler = None
    if SCALER.keys() <= tensors.keys():
        scaler = {
            part: tensors[name].to(torch.float64).numpy().tobytes() for name, part in SCALER.items()
        }
    return Base(
        {k: v for k, v in tensors.items() if k not in SCALER and not k.startswith(FISHER)},
        [["number", str(name)] for name in names],
        scaler,
        json.loads(told["classes"]) if "classes" in told else None,
        told.get("task"),
        {k.removeprefix(FISHER): v for k, v in tensors.items() if k.startswith(FISHER)},
        digest,
    )


def _from_snapshot(path: Path, digest: str) -> Base:
    snapshot = read_exported(path).snapshot
    identity = snapshot.manifest.identity
    # "twin(torch)" is a wrap around a learner: what predicts is the base.
    *wraps, name = identity.learner.replace(")", "").split("(")
    if name != "torch" or not set(wraps) <= set(plugins.names(WRAPS)):
        raise ConfigError(
            f"learner.start: {path} is a snapshot of {identity.learner:.200}, which is no torch "
            "learner"
        )
    tree = snapshot.state()["learner"]
    for wrap in wraps:
        tree = plugins.resolve(wrap, "learner.start", WRAPS).serving(tree)
    if tree["learned"] is None:
        raise ConfigError(f"learner.start: {path} has learned nothing yet")
    settings = tree["settings"]
    return Base(
        # An average has learned nothing as long as there are no labels.
        weights.served(tree["learned"], learns=not tree["knows_labels"]),
        tree["columns"],
        tree["scaler"] if settings["standardise"] else None,
        tree["classes"],
        identity.task,
        {},
        digest,
        settings.get("standardise_target", False),
        tree["fields"] if settings["standardise"] else None,
    )


class Source:
    """Events of the task that the base was made for, from a file of JSON lines.

    ``label`` is the field with the label, every other field a feature. Only the first
    ``limit`` events are read.
    """

    def __init__(self, file: str, label: str, limit: int = 10_000) -> None:
        if limit < 1:
            raise ConfigError(f"learner.start.source.limit: {limit} is not positive")
        try:
            lines = Path(file).read_bytes().splitlines()[:limit]
        except OSError as error:
            raise ConfigError(
                f"learner.start.source: {file} cannot be read: {error.strerror}"
            ) from error
        self.features: list[Features] = []
        self.labels: list[Any] = []
        for number, line in enumerate(lines, 1):
            try:
                event = msgspec.json.decode(line, type=dict[str, Any])
                self.labels.append(event.pop(label))
            except (msgspec.MsgspecError, KeyError) as error:
                raise ConfigError(
                    f"learner.start.source: line {number} of {file} is no event with a field "
                    f"{label!r}: {error}"
                ) from error
            self.features.append(event)
        if not lines:
            raise ConfigError(f"learner.start.source: {file} has no events")
        self.digest = hashlib.sha256(b"\n".join(lines)).hexdigest()
