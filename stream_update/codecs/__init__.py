"""Record bytes to events, and what the pipeline says to records. Validation lives here."""

from stream_update.codecs.decode import JsonCodec, ScoreBlock
from stream_update.codecs.outputs import (
    dead_letter_record,
    json_record,
    prediction_record,
    unreadable_letter,
)

__all__ = [
    "JsonCodec",
    "ScoreBlock",
    "dead_letter_record",
    "json_record",
    "prediction_record",
    "unreadable_letter",
]
