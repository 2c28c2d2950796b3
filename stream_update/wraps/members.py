"""What learners made of several others have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from stream_update.errors import ConfigError, LearnerFailed
from stream_update.events import Features, Predictions
from stream_update.protocols import Described, DumpsInACopy, Learner

__all__ = ["MakeMember", "common_batch", "dump_in_a_copy", "learn_in_batches"]

MakeMember = Callable[[Mapping[str, Any], str, int], tuple[str, Callable[[], Described]]]
"""Given a learner's table, the option it stands in, and a number that is added to the seed:
what snapshots call the learner, and what builds fresh ones."""


def common_batch(members: Sequence[Learner], batch: int | None) -> int:
    """How many events all of these can learn together, each in batches of its own size.

    That is the least common multiple of their batches, or a given multiple of it. Raises
    :class:`~stream_update.errors.ConfigError` for any other.
    """
    least = math.lcm(*(member.batch for member in members))
    if batch is None:
        return least
    if type(batch) is not int or batch < 1 or batch % least:
        raise ConfigError(
            f"learner.batch: {batch!r} is no multiple of {least}, in which the batches of the "
            f"members fit: {', '.join(str(member.batch) for member in members)}",
            hint=f"leave it out for {least}",
        )
    return batch


def learn_in_batches(member: Learner, features: Sequence[Features], labels: Sequence[Any]) -> None:
    """Let one member learn events, in batches of its own size.

    Raises :class:`~stream_update.errors.LearnerFailed` with the position among all of them.
    """
    size = len(features) if member.batch == 1 else member.batch
    for start in range(0, len(features), size or 1):
        try:
            member.learn(features[start : start + size], labels[start : start + size])
        except LearnerFailed as failure:
            index = start + failure.index
            raise LearnerFailed(index, "learn", failure.cause, Predictions([])) from failure.cause


def dump_in_a_copy(members: Iterable[Learner]) -> bool:
    """Whether the states of all of these can be written down in a forked process."""
    return all(isinstance(one, DumpsInACopy) and one.dumps_in_a_copy for one in members)
