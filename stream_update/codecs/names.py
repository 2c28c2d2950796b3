"""Which feature names a lane has seen: a model grows with each, and never shrinks."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from stream_update.codecs.words import shown
from stream_update.errors import BadEvent
from stream_update.events import Tree

__all__ = ["FeatureNames"]


class FeatureNames:
    """Admits feature names as they come, up to ``limit`` of them (``source.max_names``)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def known(self, names: AbstractSet[str]) -> bool:
        """Whether all of them have been admitted."""
        return names <= self._known

    def check(self, names: Iterable[str]) -> None:
        """Raise :class:`BadEvent` if there is no room for these."""
        new = {*names} - self._known
        if new and len(self._known) + len(new) > self._limit:
            raise BadEvent(
                "too-many-names",
                f"feature {shown(min(new))} is new, and the lane has seen {len(self._known)} "
                f"feature names already, of at most {self._limit} (source.max_names)",
            )

    def admit(self, names: Iterable[str]) -> None:
        self._known.update(names)

    def dump(self) -> Tree:
        return sorted(self._known)

    def load(self, tree: Tree) -> None:
        """Replace what has been admitted by what :meth:`dump` returned."""
        self._known = set(tree)
