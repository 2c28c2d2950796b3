"""Columns over the messages that the client returned."""

from __future__ import annotations

from collections.abc import Sequence
from operator import methodcaller
from typing import Any

from confluent_kafka import Message

from stream_update.events import Batch, Headers

__all__ = ["MessagesBatch"]

_offset = Message.offset
_value = Message.value
_key = Message.key
_timestamp = Message.timestamp
# For a name that is no text the client returns something and leaves an exception set, which the
# interpreter looks for only where a call goes through C.
_tell = methodcaller("headers")


class MessagesBatch(Batch):
    """A batch over confluent-kafka's ``Message`` objects.

    Offsets and values are there at once; keys, timestamps and headers are taken
    out of the messages when somebody asks.
    """

    __slots__ = ("_messages",)

    def __init__(self, topic: str, partition: int, messages: Sequence[Any]) -> None:
        super().__init__(topic, partition, [*map(_offset, messages)], [*map(_value, messages)])
        self._messages = messages

    @property
    def keys(self) -> Sequence[bytes | None]:
        if not self._keys:
            self._keys = [*map(_key, self._messages)]
        return self._keys

    @property
    def timestamps(self) -> Sequence[int]:
        if not self._timestamps:
            self._timestamps = [stamp for _, stamp in map(_timestamp, self._messages)]
        return self._timestamps

    @property
    def headers(self) -> Sequence[Headers]:
        if not self._headers:
            self._headers = [
                # Kafka knows headers without a value; nobody above this module needs to.
                [(name, value or b"") for name, value in found]
                for found in map(_headers, self._messages)
            ]
        return self._headers

    def slice(self, start: int, stop: int) -> Batch:
        return MessagesBatch(self.topic, self.partition, self._messages[start:stop])


def _headers(message: Any) -> Sequence[tuple[str, bytes | None]]:
    try:
        found: Sequence[tuple[str, bytes | None]] = _tell(message) or ()
    except (SystemError, UnicodeDecodeError):
        return ()  # the name of one is no text: the client can tell none of them then
    return found
