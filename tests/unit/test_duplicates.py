"""An event that was sent twice is learned once, wherever the log was cut."""

from __future__ import annotations

import itertools
import json
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_update.codecs import JsonCodec
from stream_update.codecs.duplicates import DuplicateFilter
from stream_update.config import Source, parse
from stream_update.errors import ConfigError
from stream_update.events import Batch
from tests.programs import call, configure, elec2, report_of, start, write_jsonl

names = st.none() | st.integers(0, 6) | st.sampled_from(["a", "b", "0"])
cuts = st.lists(st.integers(0, 40), max_size=5)


def source(window: int, name: str = "id") -> Source:
    return Source(topic="t", features="*", id=name, duplicate_window=window)


def batch(first: int, ids: list[int | str | None], *, header: bool = False) -> Batch:
    offsets = list(range(first, first + len(ids)))
    values = [
        json.dumps({"a": offset, "label": 1, **({} if header else {"id": name})}).encode()
        for offset, name in zip(offsets, ids, strict=True)
    ]
    headers = [(("id", str(name).encode()),) if name is not None else () for name in ids]
    return Batch("t", 0, offsets, values, headers=headers)


def first_ones(ids: list[int | str | None], window: int) -> list[int]:
    known: deque[int | str] = deque(maxlen=window)
    found = []
    for offset, name in enumerate(ids):
        if name is None or name not in known:
            found.append(offset)
            if name is not None:
                known.append(name)
    return found


@given(st.lists(names, min_size=1, max_size=40), cuts, st.integers(1, 8))
def test_each_id_is_taken_once_within_the_window(
    ids: list[int | str | None], at: list[int], window: int
) -> None:
    taken: list[int] = []
    repeated = 0
    codec = JsonCodec(source(window), "binary")
    edges = sorted({0, len(ids), *(cut for cut in at if cut < len(ids))})
    for start_at, stop in itertools.pairwise(edges):
        block = codec.decode(batch(start_at, ids[start_at:stop]))
        taken += block.offsets
        repeated += block.duplicates
        assert [x["a"] for x in block.features] == list(block.offsets)
        assert block.count == len(block.offsets) + block.duplicates
        assert codec.duplicates is not None
        tree = codec.duplicates.dump()
        codec.duplicates.load(json.loads(json.dumps(tree)))
    assert taken == first_ones(ids, window)
    assert repeated == len(ids) - len(taken)


def test_the_id_may_stand_in_a_header() -> None:
    block = JsonCodec(source(5, "header:id"), "binary").decode(
        batch(0, ["x", "y", "x", None, None], header=True)
    )
    assert list(block.offsets) == [0, 1, 3, 4]


@pytest.mark.parametrize("tree", [[1, 1], [1, 2, 3]], ids=["twice", "too many"])
def test_a_damaged_memory_is_not_loaded(tree: list[int]) -> None:
    with pytest.raises(ValueError, match="at most 2"):
        DuplicateFilter(2).load(tree)


def test_a_window_without_ids_is_refused() -> None:
    tree = {
        "app": "a",
        "log": "sqlite:///x.db",
        "task": "binary",
        "source": {"topic": "t", "duplicate_window": 5},
        "learner": {"use": "x"},
    }
    with pytest.raises(ConfigError, match="duplicate_window"):
        parse(tree)


def test_a_file_that_is_sent_twice_changes_nothing(tmp_path: Path) -> None:
    events = [{**event, "number": number} for number, event in enumerate(elec2(600))]
    file = write_jsonl(tmp_path / "events.jsonl", events)
    reports = []
    for app, times in (("once", 1), ("twice", 2)):
        config = configure(
            tmp_path,
            f"sqlite:///{tmp_path / app}.db",
            app,
            checkpoint=100,
            source='id = "number"\nduplicate_window = 1000',
        )
        for _ in range(times):
            call("produce", file, "-c", config, cwd=tmp_path)
        call("run", "-c", config, "--max-events", "450", cwd=tmp_path)
        reports.append(report_of(start("run", "-c", config, "--until-end", "--json", cwd=tmp_path)))
    once, twice = reports
    assert (once["learned"], once["duplicates"]) == (600, 0)
    assert (twice["events"], twice["learned"], twice["duplicates"]) == (1200, 600, 600)
    assert twice["metrics"] == once["metrics"]
