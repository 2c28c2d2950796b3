"""Whether what was dumped was made with the configuration that is to go on with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream_update.errors import CorruptSnapshot

__all__ = ["check_settings"]


def check_settings(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise :class:`~stream_update.errors.CorruptSnapshot` that names what differs."""
    changed = [
        key
        for key in {**expected, **found}
        if key not in found or key not in expected or found[key] != expected[key]
    ]
    if changed:
        raise CorruptSnapshot(
            "settings differ: "
            + "; ".join(
                f"{key} ({found.get(key)!r:.200}, not {expected.get(key)!r:.200})"
                for key in changed
            ),
            hint="it was made with another configuration of the learner",
        )
