"""What changed between two snapshots, in words for people.

Manifests are compared field by field. States are not compared as they are written, but as
what they stand for: both are thawed, and asked for weights by feature, sizes of trees,
figures of metrics, and where the drift detectors stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from stream_update.events import Tree
from stream_update.lane import Lane
from stream_update.learners.river import RiverLearner
from stream_update.monitors.drift import DriftMonitor
from stream_update.objects.readable import Value, readable
from stream_update.protocols import Learner, Monitor
from stream_update.snapshot import Snapshot, changed_sources, differences

__all__ = ["Change", "Compared", "Comparison", "compare", "described"]

Section = dict[str, Value]

FACTS = (
    "seq",
    "parent",
    "next",
    "events",
    "learned",
    "rejected",
    "unlabelled",
    "recent_loss",
    "event_time",
    "created_ms",
    "gaps",
    "poisoned",
    "size",
    "unpacked_size",
    "journal",
)


class Change(NamedTuple):
    """One value that is not the same; ``missing`` says on which side it is not there at all."""

    name: str
    old: Value
    new: Value
    missing: str = ""

    @property
    def moved(self) -> float | None:
        """By how much a number went up, None if it is no number on both sides."""
        for value in (self.old, self.new):
            if isinstance(value, bool) or not isinstance(value, int | float):
                return None
        assert isinstance(self.old, int | float)
        assert isinstance(self.new, int | float)
        return self.new - self.old


class Compared(NamedTuple):
    """One part of the state: how many values it has on either side, and those that changed."""

    values: int
    changes: list[Change]


class Comparison(NamedTuple):
    """``facts`` are the manifest's fields that differ, old and new; ``configuration`` what
    differs in configuration, versions and code, in words. ``sections`` are the parts of the
    state by name (``learner``, ``metrics``, other monitors by their names, ``events``);
    ``same_state`` says whether the states are equal in everything, told here or not.
    """

    facts: dict[str, tuple[Any, Any]]
    configuration: list[str]
    same_state: bool
    sections: dict[str, Compared]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self._asdict(),
            "sections": {
                name: {
                    "values": section.values,
                    "changes": [change._asdict() for change in section.changes],
                }
                for name, section in self.sections.items()
            },
        }


def compare(
    first: Snapshot, second: Snapshot, thaw: Callable[[Snapshot], Lane] | None
) -> Comparison:
    """What changed from the first to the second; without ``thaw`` only in the manifests."""
    old, new = first.manifest, second.manifest
    sections: dict[str, Compared] = {}
    if thaw is not None:
        was, now = (described(thaw(one), one.state()) for one in (first, second))
        for name in {**was, **now}:
            sections[name] = _compared(was.get(name, {}), now.get(name, {}))
    configuration = differences(
        {**msgspec.to_builtins(old.identity), "sources": {}},
        {**msgspec.to_builtins(new.identity), "sources": {}},
    )
    return Comparison(
        {
            name: (getattr(old, name), getattr(new, name))
            for name in FACTS
            if getattr(old, name) != getattr(new, name)
        },
        configuration + changed_sources(old, new.identity),
        old.digest == new.digest,
        sections,
    )


def described(lane: Lane, state: Tree) -> dict[str, Section]:
    """What a lane knows, by section and name; ``state`` is the state that it was thawed from."""
    sections = {"learner": dict(_learner(lane.learner))}
    for monitor in lane.monitors:
        sections[monitor.name] = dict(_monitor(monitor))
    sections["events"] = dict(_events(state.get("extras", {})))
    return sections


def _learner(learner: Learner) -> Iterator[tuple[str, Value]]:
    if isinstance(learner, RiverLearner):
        yield from readable(learner.model)
        return
    parts: Mapping[str, Learner] = getattr(learner, "learners", {})
    for role, part in parts.items():
        for name, value in _learner(part):
            yield f"{role}.{name}", value
    if hasattr(learner, "readable"):
        yield from learner.readable()
    elif not parts:
        yield from _flat("", learner.dump())


def _monitor(monitor: Monitor) -> Iterator[tuple[str, Value]]:
    yield from _flat("", monitor.report())
    if isinstance(monitor, DriftMonitor):
        for role, detector in monitor.detectors.items():
            for name, value in readable(detector):
                yield f"{role}.{name}", value


def _events(extras: Mapping[str, Tree]) -> Iterator[tuple[str, Value]]:
    """What a lane has seen of labels, features and ids."""
    for name in extras.get("names", []):
        yield f"feature[{name!r}]", True
    for label in extras.get("labels", {}).get("classes", []):
        yield f"class[{label!r}]", True
    if "duplicates" in extras:
        yield "ids remembered", len(extras["duplicates"])


def _flat(name: str, value: Any) -> Iterator[tuple[str, Value]]:
    """The leaves of a tree that hold anything."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _flat(f"{name}[{index}]", item)
    elif isinstance(value, bytes):
        yield name, f"{len(value)} bytes"
    elif value is not None:
        yield name, value


def _compared(was: Section, now: Section) -> Compared:
    changes = [
        Change(name, was[name], now[name])
        if name in was and name in now
        else Change(name, was.get(name), now.get(name), "old" if name in now else "new")
        for name in {**was, **now}
        if name not in was or name not in now or not _same(was[name], now[name])
    ]
    return Compared(len({**was, **now}), changes)


def _same(a: Value, b: Value) -> bool:
    return type(a) is type(b) and (a == b or (a != a and b != b))  # noqa: PLR0124 - NaN
