"""What river's objects hold that a snapshot must not, or need not, keep.

*Pipelines* cache a plan of their steps; it is built again at the next call.

*Probability distributions* carry a Mersenne twister each, 2.5 kB, and a Hoeffding tree
has a distribution for every feature, class and leaf. A twister is used by ``sample()``
and nothing else, and in river 0.26 only ``bandit.ThompsonSampling`` samples, from
clones that it gives a seed. So a twister that has not moved since it was seeded is made
again from the seed, one without a seed is replaced by another without a seed (nobody
could tell), and one that has moved is kept.

*AMRules* files its rules under their addresses in memory. Only their order matters, and
in another process an old address may be that of a new rule: they are numbered instead.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping
from typing import Any, Protocol

from stream_update.objects.columns import Damaged
from stream_update.objects.names import name_of

__all__ = ["OUTLAWS", "Quirk", "quirk_of"]

OUTLAWS = {
    "river.feature_extraction.kernel_approx:RandomTreesEmbedding": (
        "finds its leaves by their address in memory, which is another one after a restart"
    ),
    **dict.fromkeys(
        ("river.sketch.counter:Counter", "river.sketch.set:Set"),
        "counts by Python's hash of a value, which for text is another one after a restart",
    ),
}
"""Classes whose state means nothing in another process: name to the reason."""


class Quirk(Protocol):
    """How the instances of a class differ from what a snapshot has of them."""

    def lean(self, state: Mapping[str, Any], /) -> dict[str, Any]:
        """The attributes to keep."""
        ...

    def recreate(self, objects: list[Any], attributes: tuple[str, ...], /) -> None:
        """Give new objects, which have ``attributes``, those that were not kept."""
        ...


class Pipelines:
    """Without the cached plan."""

    empty: Mapping[str, Any] = {
        "_plan": None,
        "_inference_transformers": (),
        "_last_step_cached": None,
    }
    built_later = frozenset({"_last_step_params"})

    def lean(self, state: Mapping[str, Any]) -> dict[str, Any]:
        cached = self.empty.keys() | self.built_later
        return {name: value for name, value in state.items() if name not in cached}

    def recreate(self, objects: list[Any], _attributes: tuple[str, ...]) -> None:
        for one in objects:
            for name, value in self.empty.items():
                object.__setattr__(one, name, value)


class Distributions:
    """Without a random generator that is as its seed made it."""

    def lean(self, state: Mapping[str, Any]) -> dict[str, Any]:
        lean = dict(state)
        if "_rng" in lean and self._as_seeded(lean["_rng"], lean.get("seed", "")):
            del lean["_rng"]
        return lean

    @staticmethod
    def _as_seeded(generator: Any, seed: Any) -> bool:
        if type(generator) is not random.Random or type(seed) not in {int, type(None)}:
            return False
        return seed is None or bool(generator.getstate() == random.Random(seed).getstate())  # noqa: S311

    def recreate(self, objects: list[Any], attributes: tuple[str, ...]) -> None:
        if "_rng" in attributes or "seed" not in attributes:
            return
        unseeded = random.Random()  # noqa: S311
        for one in objects:
            if one.seed is not None and type(one.seed) is not int:
                raise Damaged(f"a {type(one).__name__} whose seed is no integer")
            generator = unseeded if one.seed is None else random.Random(one.seed)  # noqa: S311
            object.__setattr__(one, "_rng", generator)


class Rules:
    """With rules that are numbered."""

    def lean(self, state: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: dict(enumerate(value.values())) if name == "_rules" else value
            for name, value in state.items()
        }

    def recreate(self, objects: list[Any], attributes: tuple[str, ...]) -> None:
        """The numbers are as good as the addresses."""


QUIRKS: dict[str, Quirk] = {
    "river.compose.pipeline:Pipeline": Pipelines(),
    "river.proba.base:Distribution": Distributions(),
    "river.rules.amrules:AMRules": Rules(),
}


@functools.cache
def quirk_of(cls: type) -> Quirk | None:
    """What is peculiar about a class, or one of its bases."""
    for base in cls.__mro__:
        if (name := name_of(base)) in QUIRKS:
            return QUIRKS[name]
    return None
