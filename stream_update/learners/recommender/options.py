"""What can be configured of a recommender, and what cannot be."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from stream_update.errors import ConfigError

__all__ = ["MODULES", "Options"]

MODULES = ("mf", "two-tower", "dnn", "gru", "vae")

MOST = {
    "batch": 1 << 20,
    "dim": 1024,
    "hidden": 1024,
    "history": 1024,
    "max_users": 1 << 31,
    "max_items": 1 << 31,
    "max_columns": 1 << 16,
    "threads": 256,
    "top_k": 10_000,
}
"""A snapshot says these numbers too, and whoever follows makes room by some of them."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Checked when it is made; raises :class:`ConfigError`. See the learner for their meaning."""

    task: str
    module: str
    user: str
    item: str
    item_features: list[str]
    dim: int
    hidden: int
    history: int
    optimizer: dict[str, Any]
    l2: float
    batch: int
    negatives: int
    max_users: int
    max_items: int
    protect: int
    max_columns: int
    top_k: int
    rank_among: str | int
    positive: float | None
    repeats: bool
    threads: int

    def __post_init__(self) -> None:
        if self.task not in {"binary", "regression"}:
            raise ConfigError(
                f"task: a recommender cannot learn {self.task!r}", hint="regression or binary"
            )
        if self.module not in MODULES:
            raise ConfigError(
                f"learner.module: there is no {self.module!r}", hint=f"one of: {', '.join(MODULES)}"
            )
        for name, most in MOST.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ConfigError(f"learner.{name}: {value!r} is no whole number from 1 to {most}")
        for name in ("negatives", "protect"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ConfigError(f"learner.{name}: {value!r} is neither 0 nor a whole number")
        among: Any = self.rank_among
        if among != "all" and (type(among) is not int or among < 0):
            raise ConfigError(
                f"learner.rank_among: {among!r} is none",
                hint='"all", or how many items are drawn; 0 counts nothing',
            )
        if not self.l2 >= 0:
            raise ConfigError(f"learner.l2: {self.l2!r} is less than 0")
        if min(self.max_users, self.max_items) < self.batch:
            raise ConfigError(
                f"learner: {min(self.max_users, self.max_items)} ids are fewer than may come in "
                f"a batch of {self.batch}",
                hint="a smaller batch, or more max_users and max_items",
            )
        if self.negatives and self.task != "binary":
            raise ConfigError("learner.negatives: ratings have none", hint='task = "binary"')
        if self.user == self.item:
            raise ConfigError(f"learner: user and item are both {self.user!r}")

    def settings(self) -> dict[str, Any]:
        """All but the task, as plain values."""
        return {name: value for name, value in asdict(self).items() if name != "task"}

    @classmethod
    def names(cls) -> set[str]:
        """What :meth:`settings` names."""
        return {field.name for field in fields(cls)} - {"task"}
