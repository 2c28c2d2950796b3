"""Several opinions on one event made one, and what is learned from how good they were.

An opinion is a mapping of label to probability, empty without one (where several classes may
apply, the probability of each is by itself); or, for regression, a number, None without one.
What is not finite is no opinion.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from stream_update.answers import applying, certain
from stream_update.errors import ConfigError, CorruptSnapshot
from stream_update.events import Predictions, Tree

__all__ = ["Combiner", "Opinion", "combiner", "opinions"]

Opinion = Mapping[Any, float] | float | None

LEAST = 1e-3
"""A smaller probability counts as this one where logarithms are taken."""


def opinions(said: Predictions, task: str) -> list[Opinion]:
    """What a member said, event by event; a label without probabilities is a certain one."""
    if task == "regression":
        return [
            float(value) if value is not None and math.isfinite(value) else None
            for value in said.values
        ]
    chances: Sequence[Mapping[Any, float]] = said.probabilities or list(map(certain, said.values))
    return [one if all(map(math.isfinite, one.values())) else {} for one in chances]


class Combiner(Protocol):
    """Combines what the members say of one event; it is told the truth after that.

    ``combine`` changes nothing. Both get one opinion for each member, in their order. One
    that ``learns`` nothing need not be told.
    """

    learns: bool

    def combine(self, said: Sequence[Opinion]) -> Opinion: ...

    def learn(self, said: Sequence[Opinion], label: Any) -> None: ...

    def readable(self) -> Iterator[tuple[str, float]]:
        """What it has learned of each member."""
        ...

    def dump(self) -> Tree: ...

    def load(self, tree: Tree) -> None:
        """Raises :class:`~stream_update.errors.CorruptSnapshot` for what is not finite."""
        ...


class Mean:
    """The mean of all opinions: of the probabilities, or of the numbers."""

    learns = False

    def combine(self, said: Sequence[Opinion]) -> Opinion:
        return _pooled(said, [1.0] * len(said))

    def learn(self, said: Sequence[Opinion], label: Any) -> None:
        """There is nothing to be learned."""

    def readable(self) -> Iterator[tuple[str, float]]:
        yield from ()

    def dump(self) -> Tree:
        return None

    def load(self, tree: Tree) -> None:
        if tree is not None:
            raise CorruptSnapshot("a mean has no state")


class Vote(Mean):
    """The label that most members would give; its probability is their share."""

    def combine(self, said: Sequence[Opinion]) -> Opinion:
        votes: list[Opinion] = [
            {max(one, key=one.__getitem__): 1.0} if isinstance(one, Mapping) and one else {}
            for one in said
        ]
        return super().combine(votes)


class VoteOnEach(Mean):
    """Of each class by itself how many members would say that it applies."""

    def combine(self, said: Sequence[Opinion]) -> Opinion:
        return super().combine(
            [certain(applying(one)) if isinstance(one, Mapping) else {} for one in said]
        )


class Weighted:
    """The mean with weights that fall exponentially with each member's recent loss.

    The exponentially weighted average forecaster (Cesa-Bianchi and Lugosi, 2006, chapter 2)
    with losses that are forgotten by half every ``half_life`` events. The loss is half the
    Brier score, or for regression the absolute error divided by four times the mean one
    of all members, at most 1. ``rate`` is by default sqrt(8 ln(members) / memory),
    where the memory is half_life / ln(2) events. A member that says nothing is charged what
    the others are on average.
    """

    learns = True

    def __init__(self, members: int, half_life: float, rate: float | None) -> None:
        self._decay = 0.5 ** (1 / half_life)
        memory = half_life / math.log(2)
        self._rate = math.sqrt(8 * math.log(max(2, members)) / memory) if rate is None else rate
        self._losses = [0.0] * members
        self._scale = 0.0
        self._scaled = 0.0

    @property
    def weights(self) -> list[float]:
        """One for each member; their sum is 1."""
        least = min(self._losses)
        raw = [max(1e-12, math.exp(-self._rate * (loss - least))) for loss in self._losses]
        return [one / sum(raw) for one in raw]

    def combine(self, said: Sequence[Opinion]) -> Opinion:
        return _pooled(said, self.weights)

    def learn(self, said: Sequence[Opinion], label: Any) -> None:
        losses = [self._loss(one, label) for one in said]
        known = [loss for loss in losses if loss is not None]
        if not known:
            return
        numbers = [one for one in said if isinstance(one, float)]
        if numbers:
            error = sum(abs(one - label) for one in numbers) / len(numbers)
            self._scale = self._decay * self._scale + error
            self._scaled = self._decay * self._scaled + 1.0
        mean = sum(known) / len(known)
        self._losses = [
            self._decay * before + (mean if loss is None else loss)
            for before, loss in zip(self._losses, losses, strict=True)
        ]

    def _loss(self, said: Opinion, label: Any) -> float | None:
        if isinstance(said, Mapping):
            if not said:
                return None
            squares = sum(chance * chance for chance in said.values())
            return min(1.0, max(0.0, (squares - 2 * said.get(label, 0.0) + 1) / 2))
        if said is None:
            return None
        mean = self._scale / self._scaled if self._scaled else 0.0
        return min(1.0, abs(said - label) / (4 * mean)) if mean > 0 else 0.0

    def readable(self) -> Iterator[tuple[str, float]]:
        for number, weight in enumerate(self.weights):
            yield f"weight[{number}]", weight

    def dump(self) -> Tree:
        return [self._losses, self._scale, self._scaled]

    def load(self, tree: Tree) -> None:
        losses, scale, scaled = tree
        self._losses = _finite(losses, len(self._losses))
        self._scale, self._scaled = _finite([scale, scaled], 2)


class WeightedOverSets(Weighted):
    """The same where several classes may apply: the loss is the mean of their Brier scores."""

    def _loss(self, said: Opinion, label: Any) -> float | None:
        if not isinstance(said, Mapping) or not said:
            return None
        squares = [(said.get(name, 0.0) - applies) ** 2 for name, applies in label.items()]
        return min(1.0, sum(squares) / len(squares)) if squares else 0.0


class StackedClasses:
    """Multinomial logistic regression on what the members say, learned event by event.

    The score of a class is a bias and, for each member, a weight of that class times the
    logarithm of the member's probability. It begins as the geometric mean of all members.
    Steps are those of AdaGrad (Duchi, Hazan and Singer, 2011).
    """

    learns = True

    def __init__(self, members: int, rate: float | None) -> None:
        self._members = members
        self._rate = 0.02 if rate is None else rate
        self._fresh = [0.0, *[1 / members] * members]
        self._weights: dict[Any, list[float]] = {}
        self._squares: dict[Any, list[float]] = {}

    def combine(self, said: Sequence[Opinion]) -> Opinion:
        return self._chances(self._inputs(said, []))

    def learn(self, said: Sequence[Opinion], label: Any) -> None:
        inputs = self._inputs(said, [label])
        for one, chance in self._chances(inputs).items():
            weights = self._weights.setdefault(one, list(self._fresh))
            squares = self._squares.setdefault(one, [1e-8] * len(weights))
            error = chance - (one == label)
            for index, x in enumerate(inputs[one]):
                slope = error * x
                squares[index] += slope * slope
                weights[index] -= self._rate * slope / math.sqrt(squares[index])

    def _inputs(self, said: Sequence[Opinion], labels: Sequence[Any]) -> dict[Any, list[float]]:
        """For each class that anybody speaks of 1, and the members' logarithms."""
        heard = [one if isinstance(one, Mapping) else {} for one in said]
        classes = dict.fromkeys(label for one in [*heard, labels] for label in one)
        unsure = 1 / max(1, len(classes))
        return {
            label: [
                1.0,
                *(math.log(max(LEAST, one.get(label, 0.0) if one else unsure)) for one in heard),
            ]
            for label in classes
        }

    def _chances(self, inputs: Mapping[Any, Sequence[float]]) -> dict[Any, float]:
        scores = {
            label: _dot(self._weights.get(label, self._fresh), xs) for label, xs in inputs.items()
        }
        most = max(scores.values(), default=0.0)
        raw = {label: math.exp(score - most) for label, score in scores.items()}
        total = sum(raw.values())
        return {label: one / total for label, one in raw.items()}

    def readable(self) -> Iterator[tuple[str, float]]:
        for label, (bias, *weights) in self._weights.items():
            yield f"bias[{label!r}]", bias
            for number, weight in enumerate(weights):
                yield f"weight[{number}][{label!r}]", weight

    def dump(self) -> Tree:
        return [[label, *row, *self._squares[label]] for label, row in self._weights.items()]

    def load(self, tree: Tree) -> None:
        count = self._members + 1
        rows = {label: _finite(row, 2 * count) for label, *row in tree}
        self._weights = {label: row[:count] for label, row in rows.items()}
        self._squares = {label: row[count:] for label, row in rows.items()}


class StackedNumbers:
    """Linear regression on what the members say, with weights whose sum stays 1.

    It begins as the mean, and learns by normalised least mean squares how far to go from
    there towards each member. Neither the unit nor the zero of the numbers matters.
    """

    learns = True

    def __init__(self, members: int, rate: float | None) -> None:
        self._rate = 0.05 if rate is None else rate
        self._steps = [0.0] * members
        self._noise = 0.0

    def combine(self, said: Sequence[Opinion]) -> Opinion:
        found = self._parts(said)
        if found is None:
            return None
        mean, apart = found
        return mean + _dot(self._steps, apart)

    def learn(self, said: Sequence[Opinion], label: Any) -> None:
        found = self._parts(said)
        if found is None:
            return
        mean, apart = found
        error = label - mean - _dot(self._steps, apart)
        self._noise += 0.01 * ((label - mean) ** 2 - self._noise) if self._noise else error**2
        power = self._noise + _dot(apart, apart)
        if power > 0 and math.isfinite(power):
            self._steps = [
                step + self._rate * error * x / power
                for step, x in zip(self._steps, apart, strict=True)
            ]

    @staticmethod
    def _parts(said: Sequence[Opinion]) -> tuple[float, list[float]] | None:
        """The mean, and how far each member is from it."""
        mean = _pooled(said, [1.0] * len(said))
        if not isinstance(mean, float):
            return None
        return mean, [one - mean if isinstance(one, float) else 0.0 for one in said]

    def readable(self) -> Iterator[tuple[str, float]]:
        middle = sum(self._steps) / len(self._steps)
        for number, step in enumerate(self._steps):
            yield f"weight[{number}]", 1 / len(self._steps) + step - middle

    def dump(self) -> Tree:
        return [*self._steps, self._noise]

    def load(self, tree: Tree) -> None:
        *self._steps, self._noise = _finite(tree, len(self._steps) + 1)


def combiner(
    name: str, task: str, members: int, *, half_life: float = 1000, rate: float | None = None
) -> Combiner:
    """A fresh one: mean, vote, weighted or stacking. Raises
    :class:`~stream_update.errors.ConfigError`.
    """
    if not half_life > 0:
        raise ConfigError(f"learner.half_life: {half_life!r} is not positive")
    if rate is not None and not rate > 0:
        raise ConfigError(f"learner.rate: {rate!r} is not positive")
    if name == "vote" and task == "regression":
        raise ConfigError(
            "learner.combine: numbers cannot be voted on", hint="mean, weighted or stacking"
        )
    if name == "stacking" and task == "multilabel":
        raise ConfigError(
            "learner.combine: stacking is not for several classes at once",
            hint="mean, vote or weighted",
        )
    sets = task == "multilabel"
    if name == "mean":
        return Mean()
    if name == "vote":
        return VoteOnEach() if sets else Vote()
    if name == "weighted":
        return (WeightedOverSets if sets else Weighted)(members, half_life, rate)
    if name == "stacking":
        return (StackedNumbers if task == "regression" else StackedClasses)(members, rate)
    raise ConfigError(
        f"learner.combine: there is no {name!r}", hint="mean, vote, weighted or stacking"
    )


def _pooled(said: Sequence[Opinion], weights: Sequence[float]) -> Opinion:
    """The weighted mean of the opinions that there are."""
    total = 0.0
    number = 0.0
    chances: dict[Any, float] = {}
    for one, weight in zip(said, weights, strict=True):
        if isinstance(one, Mapping):
            total += weight if one else 0.0
            for label, chance in one.items():
                chances[label] = chances.get(label, 0.0) + weight * chance
        elif one is not None:
            total += weight
            number += weight * one
    if not total:
        return {} if any(isinstance(one, Mapping) for one in said) else None
    if chances:
        return {label: chance / total for label, chance in chances.items()}
    return number / total


def _dot(weights: Sequence[float], xs: Sequence[float]) -> float:
    return sum(weight * x for weight, x in zip(weights, xs, strict=True))


def _finite(values: Sequence[Any], count: int) -> list[float]:
    if len(values) != count:
        raise CorruptSnapshot(f"{len(values)} numbers of an ensemble where {count} are due")
    if not all(type(value) in {int, float} and math.isfinite(value) for value in values):
        raise CorruptSnapshot("a number of an ensemble is NaN or infinite", reason="non-finite")
    return [float(value) for value in values]
