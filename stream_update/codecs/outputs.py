"""What the pipeline says, as records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from stream_update.events import DeadLetter, Headers, Record

__all__ = ["dead_letter_record", "json_record", "prediction_record"]


def dead_letter_record(letter: DeadLetter, topic: str, source_topic: str, lineage: str) -> Record:
    """The original bytes and key, with the where and why in headers."""
    headers = {
        "topic": source_topic,
        "partition": str(letter.partition),
        "offset": str(letter.offset),
        "reason": letter.reason,
        "detail": letter.detail,
        "lineage": lineage,
        "timestamp": "" if letter.timestamp_ms is None else str(letter.timestamp_ms),
    }
    return Record(
        topic,
        letter.value,
        key=letter.key,
        headers=[(name, text.encode(errors="replace")) for name, text in headers.items()],
    )


def json_record(
    topic: str,
    value: Mapping[str, Any],
    key: bytes | None = None,
    partition: int | None = None,
    headers: Headers = (),
) -> Record:
    """A JSON object; raises ValueError for a number that JSON does not have."""
    # orjson would write null for NaN and infinity without a word.
    return Record(topic, msgspec.json.encode(_finite(value)), key, partition, headers)


def prediction_record(
    topic: str,
    *,
    id: Any,  # noqa: A002 - the field's name
    key: bytes | None,
    source_topic: str,
    partition: int,
    offset: int,
    prediction: Any,
    probabilities: Mapping[Any, float] | None,
    lineage: str,
    version: str,
    learned_up_to: Mapping[int, int],
) -> Record:
    """One prediction, with the event it is for and the model that made it."""
    value = {
        "id": id.decode(errors="replace") if isinstance(id, bytes) else id,
        "topic": source_topic,
        "partition": partition,
        "offset": offset,
        "prediction": prediction,
        "probabilities": None
        if probabilities is None
        else {_name(label): share for label, share in probabilities.items()},
        "model": {
            "lineage": lineage,
            "version": version,
            "learned_up_to": {str(p): at for p, at in learned_up_to.items()},
        },
    }
    return Record(topic, orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), key)


def _name(label: Any) -> str:
    return str(label).lower() if isinstance(label, bool) else str(label)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and value - value != 0:
        raise ValueError(f"{value} is not a number that JSON has")
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
