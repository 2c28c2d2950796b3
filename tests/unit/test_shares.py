"""Whoever floods a topic moves the model no more than the share that one origin may have."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_update.codecs.shares import ShareLimit
from stream_update.components import components, fresh_lane
from stream_update.config import Config, load, parse
from stream_update.errors import ConfigError
from stream_update.events import Batch
from tests.programs import configure

origins = st.lists(st.sampled_from([b"a", b"b", b"c", None]), min_size=1, max_size=60)


@given(origins, st.lists(st.integers(0, 60), max_size=5), st.integers(1, 12), st.floats(0.05, 0.95))
def test_no_origin_has_more_than_its_share_of_any_window(
    sent: list[bytes | None], at: list[int], window: int, share: float
) -> None:
    limit = ShareLimit(window, share)
    taken: list[bytes | None] = []
    edges = sorted({0, len(sent), *(cut for cut in at if cut < len(sent))})
    for first, stop in itertools.pairwise(edges):
        over = set(limit.over(sent[first:stop]))
        for index, origin in enumerate(sent[first:stop]):
            full = Counter(taken[-window:])[origin] >= limit.most
            assert (index in over) == full, "refused if, and only if, it has its share"
            if not full:
                taken.append(origin)
        again = ShareLimit(window, share)
        again.load(limit.dump())
        limit = again
    for end in range(len(taken) + 1):
        assert max(Counter(taken[max(0, end - window) : end]).values(), default=0) <= limit.most


@pytest.mark.parametrize("tree", [[b"a"] * 2, [b"a", b"b", b"c", b"d", b"e"]])
def test_a_damaged_memory_is_not_loaded(tree: list[bytes]) -> None:
    with pytest.raises(ValueError, match="at most 4 events, 1 of each"):
        ShareLimit(4, 0.25).load(tree)


def flooded(count: int, honest: int, attacker: float) -> list[dict[str, Any]]:
    """Events of some honest users, and of one who sends so many with the wrong label."""
    draw = random.Random(1)
    events = []
    for _ in range(count):
        x, y = draw.uniform(-1, 1), draw.uniform(-1, 1)
        label = int(x + y > 0)
        wrong = draw.random() < attacker
        user = "mallory" if wrong else f"user-{draw.randrange(honest)}"
        events.append({"x": x, "y": y, "user": user, "label": 1 - label if wrong else label})
    return events


def learned(config: Config, events: Sequence[dict[str, Any]]) -> tuple[Any, list[str]]:
    kit = fresh_lane(config, components(config), {0: 0})
    reasons = []
    for first in range(0, len(events), 400):
        values = [json.dumps(event).encode() for event in events[first : first + 400]]
        offsets = list(range(first, first + len(values)))
        said = kit.lane.feed(kit.decode(Batch("t", 0, offsets, values)))
        reasons += [letter.reason for letter in said.dead_letters]
    return kit.lane.learner, reasons


def right(learner: Any) -> float:
    """How often it is right about honest events that it has not seen."""
    fresh = flooded(1000, 20, 0.0)[-500:]
    answers = learner.predict([{"x": one["x"], "y": one["y"]} for one in fresh]).values
    hits = [bool(one["label"]) == answer for one, answer in zip(fresh, answers, strict=True)]
    return hits.count(True) / len(fresh)


def test_a_flood_of_false_labels_does_little(tmp_path: Path) -> None:
    source = 'origin = "user"\nmax_share = 0.1\nshare_window = 200'
    guarded = load(configure(tmp_path, "sqlite:///x.db", "guarded", label="label", source=source))
    plain = load(
        configure(tmp_path, "sqlite:///x.db", "plain", label="label"),
        ['source.features=["x", "y"]'],
    )
    events = flooded(4000, 20, 0.55)
    bad, none = learned(plain, events)
    assert none == []
    good, reasons = learned(guarded, events)
    assert right(bad) < 0.5
    assert right(good) > 0.95
    assert set(reasons) == {"origin-over-share"}
    sent = sum(event["user"] == "mallory" for event in events)
    assert sent * 0.8 < len(reasons) < sent, "hardly anything but the flood is refused"


def test_a_share_needs_an_origin() -> None:
    table = {
        "app": "a",
        "log": "sqlite:///x.db",
        "task": "binary",
        "learner": {"use": "river.linear_model:LogisticRegression"},
        "source": {"topic": "t", "max_share": 0.5},
    }
    with pytest.raises(ConfigError, match="need an origin"):
        parse(table)
