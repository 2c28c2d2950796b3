"""For readers of an application's topics that was run with delivery at least once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import orjson

from stream_update.events import Headers

__all__ = ["Once"]


class Once:
    """Tells repeated records from new ones, for one reader of one topic.

    Every record of dead letters, drift, metrics and predictions says which event, or which
    position of which lane, it is about; the last ``window`` of these are remembered. The
    first to arrive counts: a repeated prediction may be that of another model.
    """

    def __init__(self, window: int = 100_000) -> None:
        self._window = window
        self._seen: OrderedDict[Hashable, None] = OrderedDict()

    def is_new(self, value: bytes | None, headers: Headers = ()) -> bool:
        """Whether this record is not a repeat; a record that is about nothing known is new."""
        about = _about(value, dict(headers))
        if about is None:
            return True
        if about in self._seen:
            return False
        self._seen[about] = None
        if len(self._seen) > self._window:
            self._seen.popitem(last=False)
        return True


def _about(value: bytes | None, headers: dict[str, bytes]) -> Hashable | None:
    if "offset" in headers:
        names = ("lineage", "topic", "partition", "offset", "by")
        return tuple(headers.get(name) for name in names)
    try:
        record: Any = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return None
    if not isinstance(record, dict):
        return None
    if "offset" in record:
        fields = ("lineage", "topic", "partition", "offset", "kind", "monitor", "detector")
        return tuple(map(record.get, fields))
    if "next" in record:
        return record.get("lineage"), record.get("partition"), orjson.dumps(record["next"])
    return None
