"""A stream of ratings and one of clicks, by a rule that is written down here.

Every user and every item has four numbers; how far they point the same way is how much one
likes the other. A user's numbers follow what was taken last. With every event there may be
a new user (one in 30) or a new item (one in 100), for ever; who was active lately is likelier to
be active, and some items are seen by more users than others. The user is shown some items that
were not taken yet and takes what suits most; a rating is that plus how strict the user and how
good the item is, from 1 to 5 in halves. ``genre`` and ``group`` are where the numbers of item
and user are largest.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

SIZE = 4
SHOWN = 12
ACTIVE = 400


class Event(NamedTuple):
    user: str
    item: str
    rating: float
    refused: str
    group: str
    genre: str
    genre_of_refused: str


class _World:
    def __init__(self, seed: int) -> None:
        self.chance = np.random.default_rng(seed)
        self.users: list[dict[str, Any]] = []
        self.active: list[int] = []
        self.vectors = np.zeros((0, SIZE))
        self.fame = np.zeros(0)
        self.quality = np.zeros(0)
        for _ in range(60):
            self.new_item()

    def new_item(self) -> None:
        chance = self.chance
        self.vectors = np.vstack([self.vectors, chance.normal(0, 1, SIZE)])
        self.fame = np.append(self.fame, chance.pareto(1.2) + 0.2)
        self.quality = np.append(self.quality, chance.normal(0, 0.45))

    def new_user(self) -> int:
        chance = self.chance
        self.users.append(
            {"taste": chance.normal(0, 1, SIZE), "mood": np.zeros(SIZE), "seen": set(),
             "strict": chance.normal(0, 0.4)}
        )  # fmt: skip
        self.active = [*self.active[1 - ACTIVE :], len(self.users) - 1]
        return len(self.users) - 1

    def event(self) -> Event:
        chance = self.chance
        if chance.random() < 0.01:
            self.new_item()
        if chance.random() < 1 / 30 or not self.active:
            number = self.new_user()
        else:
            number = self.active[int(chance.integers(len(self.active)))]
        user = self.users[number]
        shares = self.fame / self.fame.sum()
        shown = [
            int(item)
            for item in chance.choice(len(self.fame), SHOWN, replace=False, p=shares)
            if item not in user["seen"]
        ]
        if len(shown) < 2:
            # Who has seen nearly everything goes.
            self.active.remove(number)
            return self.event()
        wish = 0.7 * user["taste"] + 0.9 * user["mood"]
        liking = self.vectors[shown] @ wish / 2 + self.quality[shown]
        order = np.argsort(-(liking + chance.gumbel(0, 0.2, len(shown))))
        item, other = shown[order[0]], shown[order[-1]]
        # A quarter of all choices are made for no reason, or there would be no bad ratings.
        if chance.random() < 0.25:
            item, other = other, item
        vector = self.vectors[item]
        raw = 3.2 + user["strict"] + self.quality[item] + vector @ wish / 2
        rating = float(np.clip(np.round(2 * (raw + chance.normal(0, 0.3))) / 2, 1, 5))
        user["seen"].add(item)
        user["mood"] = 0.7 * user["mood"] + 0.3 * vector
        return Event(
            f"u{number}", f"i{item}", rating, f"i{other}",
            f"g{int(np.argmax(user['taste']))}",
            f"k{int(np.argmax(vector))}", f"k{int(np.argmax(self.vectors[other]))}",
        )  # fmt: skip


def _events(count: int, seed: int) -> list[Event]:
    world = _World(seed)
    return [world.event() for _ in range(count)]


def ratings(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Events with ``user``, ``item``, ``group``, ``genre`` and the label ``rating``."""
    return [
        {"user": e.user, "item": e.item, "group": e.group, "genre": e.genre, "rating": e.rating}
        for e in _events(count, seed)
    ]


def clicks(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Events with the label ``class``: what was taken (1), and what was shown and was not (0)."""
    found: list[dict[str, Any]] = []
    for e in _events((count + 1) // 2, seed):
        who = {"user": e.user, "group": e.group}
        found.append({**who, "item": e.item, "genre": e.genre, "class": 1})
        found.append({**who, "item": e.refused, "genre": e.genre_of_refused, "class": 0})
    return found[:count]
