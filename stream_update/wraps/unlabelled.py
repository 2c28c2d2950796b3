"""Events without a label, for those of several learners that learn from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stream_update.events import Features
from stream_update.protocols import Learner, LearnsUnlabelled

__all__ = ["learn_unlabelled", "unlabelled_batch"]


def unlabelled_batch(learners: Iterable[Learner]) -> int:
    """The largest group that one of them asks for, and so what all of them are given."""
    return max((one.unlabelled_batch for one in _asking(learners)), default=0)


def learn_unlabelled(learners: Iterable[Learner], features: Sequence[Features]) -> None:
    """Let those learn them that ask for such events, one learner after the other."""
    for one in _asking(learners):
        one.learn_unlabelled(features)


def _asking(learners: Iterable[Learner]) -> list[LearnsUnlabelled]:
    return [one for one in learners if isinstance(one, LearnsUnlabelled) and one.unlabelled_batch]
