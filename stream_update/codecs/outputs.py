"""What the pipeline says, as records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import orjson

from stream_update.errors import Unreadable
from stream_update.events import DeadLetter, Headers, Record

__all__ = ["dead_letter_record", "json_record", "prediction_record", "unreadable_letter"]


def dead_letter_record(
    letter: DeadLetter,
    topic: str,
    source_topic: str,
    lineage: str,
    by: Literal["trainer", "scorer"] = "trainer",
) -> Record:
    """The original bytes and key, with the where and why in headers.

    ``by`` tells apart what a trainer and a scorer say of one event that both have read.
    A record that has neither value nor key cannot be written: of one that had neither, the
    value is empty, and the header ``value`` says that there was none.
    """
    headers = {
        "topic": source_topic,
        "partition": str(letter.partition),
        "offset": str(letter.offset),
        "reason": letter.reason,
        "detail": letter.detail,
        "lineage": lineage,
        "by": by,
        "timestamp": "" if letter.timestamp_ms is None else str(letter.timestamp_ms),
    }
    value = letter.value
    if value is None and letter.key is None:
        value, headers["value"] = b"", "null"
    return Record(
        topic,
        value,
        key=letter.key,
        headers=[(name, text.encode(errors="replace")) for name, text in headers.items()],
    )


def unreadable_letter(gap: Unreadable) -> DeadLetter:
    """The dead letter for records that cannot be decoded; their bytes are not to be had."""
    return DeadLetter(gap.partition, gap.wanted, "undecodable-batch", str(gap), None, b"", None)


def json_record(
    topic: str,
    value: Mapping[Any, Any],
    key: bytes | None = None,
    partition: int | None = None,
    headers: Headers = (),
) -> Record:
    """A JSON object; raises ValueError for a number that JSON does not have."""
    encoded = orjson.dumps(_plain(value), option=orjson.OPT_SERIALIZE_NUMPY)
    return Record(topic, encoded, key, partition, headers)


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
    stale: bool | None = None,
) -> Record:
    """One prediction, with the event it is for and the model that made it.

    A prediction of several classes is written as the list of those that apply.
    ``stale`` says whether that model was, None to say nothing of it. A model that has
    diverged predicts NaN; that is no answer, and written as null.
    """
    if isinstance(prediction, Mapping):
        prediction = [label for label, applies in prediction.items() if applies]
    if probabilities is not None:
        shares = {_name(label): share for label, share in probabilities.items()}
        probabilities = shares if all(map(_is_finite, shares.values())) else None
    model: dict[str, Any] = {
        "lineage": lineage,
        "version": version,
        "learned_up_to": {str(number): at for number, at in learned_up_to.items()},
    }
    if stale is not None:
        model["stale"] = stale
    value = {
        "id": id,
        "topic": source_topic,
        "partition": partition,
        "offset": offset,
        "prediction": prediction if _is_finite(prediction) else None,
        "probabilities": probabilities,
        "model": model,
    }
    return Record(topic, orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), key)


def _plain(value: Any) -> Any:
    """The same in the types that JSON has; orjson would write null for NaN without a word."""
    if not _is_finite(value):
        raise ValueError(f"{value} is not a number that JSON has")
    if isinstance(value, Mapping):
        return {_name(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (TypeError, OverflowError):  # a text or the like, or a very large whole number
        return True


def _name(label: Any) -> str:
    # numpy's truth values are no bool, but share its name.
    return str(label).lower() if type(label).__name__ == "bool" else str(label)
