"""How well an item suits a user: models that answer with a number for any pair.

Each makes a vector of the user (``ask``) and one of the item (``offer``) and scores the two,
so that one user can be scored against all items at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

__all__ = ["SCORERS", "Asking", "Factors"]


class Asking(NamedTuple):
    """What is known of the users of some events.

    ``users`` are their vectors, shape (events, size). ``context`` has shape (events, hidden),
    what side features contribute, None where there are none. ``items`` are the vectors of
    those that each user has taken, the oldest first, shape (events, history, size), and
    ``lengths`` how many they are. ``noise`` is the seed of what is drawn while the model
    learns, None while it answers.
    """

    users: Any
    context: Any = None
    items: Any = None
    lengths: Any = None
    noise: int | None = None


class Factors(nn.Module):  # type: ignore[misc]
    """Biased matrix factorisation (Koren, Bell and Volinsky 2009): the product of the user's
    vector and the item's. The biases are added by whoever asks.
    """

    sides = False
    """Whether it sees features besides user and item."""
    remembers = False
    """Whether it sees the user's last items."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.size, self.hidden = size, hidden

    def ask(self, given: Asking) -> tuple[Any, Any]:
        """Vectors of users, and what is added to the loss for them."""
        return given.users, 0.0

    def offer(self, items: Any, traits: Any) -> Any:  # noqa: ARG002
        """Vectors of items; ``traits`` is as the context is."""
        return items

    def pair(self, asked: Any, offered: Any) -> Any:
        """A score for each user with the item of the same place."""
        return (asked * offered).sum(1)

    def cross(self, asked: Any, offered: Any) -> Any:
        """A score for each user with each item, shape (users, items)."""
        return asked @ offered.T


class TwoTower(Factors):
    """Two small networks, one for user and context, one for the item and what is known of
    it; the score is the product of their outputs (Yi et al. 2019).
    """

    sides = True

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__(size, hidden)
        self.user, self.user_out = nn.Linear(size, hidden), nn.Linear(hidden, size)
        self.item, self.item_out = nn.Linear(size, hidden), nn.Linear(hidden, size)

    def ask(self, given: Asking) -> tuple[Any, Any]:
        inner = torch.relu(_plus(self.user(given.users), given.context))
        return given.users + self.user_out(inner), 0.0

    def offer(self, items: Any, traits: Any) -> Any:
        inner = torch.relu(_plus(self.item(items), traits))
        return items + self.item_out(inner)


class Deep(Factors):
    """User, item and side features side by side into one network (Covington et al. 2016).

    The first layer is a sum over its inputs, so the user's part and the item's are made
    apart and joined in :meth:`pair`.
    """

    sides = True

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__(size, hidden)
        self.user, self.item = nn.Linear(size, hidden), nn.Linear(size, hidden, bias=False)
        half = max(1, hidden // 2)
        self.inner, self.last = nn.Linear(hidden, half), nn.Linear(half, 1)

    def ask(self, given: Asking) -> tuple[Any, Any]:
        return _plus(self.user(given.users), given.context), 0.0

    def offer(self, items: Any, traits: Any) -> Any:
        return _plus(self.item(items), traits)

    def pair(self, asked: Any, offered: Any) -> Any:
        return self._top(asked + offered)

    def cross(self, asked: Any, offered: Any) -> Any:
        # One user after the other: all at once would be as large as users times items.
        return torch.stack([self._top(one + offered) for one in asked])

    def _top(self, joined: Any) -> Any:
        return self.last(torch.relu(self.inner(torch.relu(joined)))).squeeze(1)


class Recurrent(Factors):
    """A GRU over the user's last items (Hidasi et al. 2016), added to the user's own vector."""

    remembers = True

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__(size, hidden)
        self.gru = nn.GRU(size, hidden, batch_first=True)
        self.out = nn.Linear(hidden, size, bias=False)

    def ask(self, given: Asking) -> tuple[Any, Any]:
        items, lengths = given.items, given.lengths
        steps, _ = self.gru(items[:, : max(1, int(lengths.max()))])
        last = (lengths - 1).clamp(min=0)
        state = steps[torch.arange(len(items)), last]
        # Who has taken nothing is known by nothing.
        return given.users + self.out(state * (lengths > 0).unsqueeze(1)), 0.0


class Autoencoder(Factors):
    """A variational autoencoder over the set of the user's last items (Liang et al. 2018).

    The encoder is theirs, with the mean of the items' vectors for the first layer; the
    decoder answers for the item that is asked for, in place of a multinomial over all, and
    the divergence from the prior is weighed by ``BETA`` throughout.
    """

    remembers = True
    BETA = 0.02

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__(size, hidden)
        self.encoder = nn.Linear(size, 2 * hidden)
        self.decoder = nn.Linear(hidden, size)

    def ask(self, given: Asking) -> tuple[Any, Any]:
        items, lengths = given.items, given.lengths
        known = (lengths > 0).unsqueeze(1)
        mean = items.sum(1) / lengths.clamp(min=1).sqrt().unsqueeze(1)
        middle, spread = self.encoder(torch.tanh(mean)).chunk(2, dim=1)
        penalty: Any = 0.0
        if given.noise is not None:
            drawn = torch.randn(middle.shape, generator=torch.Generator().manual_seed(given.noise))
            apart = middle.square() + spread.exp() - spread - 1.0
            penalty = self.BETA * 0.5 * (apart * known).sum()
            middle = middle + drawn * (0.5 * spread).exp()
        return given.users + self.decoder(middle) * known, penalty


def _plus(inner: Any, more: Any) -> Any:
    return inner if more is None else inner + more


SCORERS: dict[str, type[Factors]] = {
    "mf": Factors,
    "two-tower": TwoTower,
    "dnn": Deep,
    "gru": Recurrent,
    "vae": Autoencoder,
}
