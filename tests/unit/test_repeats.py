from __future__ import annotations

import json
from typing import Any, Literal

import pytest

from stream_update.codecs import dead_letter_record, prediction_record
from stream_update.events import DeadLetter, Record
from stream_update.repeats import Once


def letter(offset: int, partition: int = 0, by: Literal["trainer", "scorer"] = "trainer") -> Record:
    dead = DeadLetter(partition, offset, "why", "because", None, b"raw", None)
    return dead_letter_record(dead, "dead", "topic", "lineage", by)


def prediction(offset: int, version: str = "a@1") -> Record:
    return prediction_record(
        "predictions",
        id=None,
        key=None,
        source_topic="topic",
        partition=0,
        offset=offset,
        prediction=True,
        probabilities=None,
        lineage="a",
        version=version,
        learned_up_to={0: 1},
    )


def said(**fields: Any) -> Record:
    return Record("t", json.dumps({"lineage": "a", "partition": 0, **fields}).encode())


@pytest.mark.parametrize(
    ("first", "repeat", "other"),
    [
        (letter(1), letter(1), letter(2)),
        (letter(1), letter(1), letter(1, partition=1)),
        (letter(1), letter(1), letter(1, by="scorer")),
        (prediction(3), prediction(3, "a@2"), prediction(4)),
        (
            said(offset=1, monitor="drift"),
            said(offset=1, monitor="drift"),
            said(offset=1, monitor="other"),
        ),
        (said(next={"0": 5}), said(next={"0": 5}, more=1), said(next={"0": 6})),
    ],
    ids=["letters", "partitions", "scorers", "predictions", "alarms", "metrics"],
)
def test_a_repeat_is_told_from_a_new_record(first: Record, repeat: Record, other: Record) -> None:
    once = Once()
    answers = [once.is_new(record.value, record.headers) for record in (first, repeat, other)]
    assert answers == [True, False, True]


@pytest.mark.parametrize("value", [None, b"", b"{", b"[1]", b"{}"])
def test_what_is_about_nothing_known_is_new(value: bytes | None) -> None:
    once = Once()
    assert once.is_new(value)
    assert once.is_new(value)


def test_only_so_many_are_remembered() -> None:
    once = Once(window=2)
    records = [letter(offset) for offset in (1, 2, 3, 1)]
    assert all(once.is_new(record.value, record.headers) for record in records)
