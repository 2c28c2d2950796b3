"""Tables of users and items with the network above them: scores, places in a list, steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from stream_update.errors import CorruptSnapshot
from stream_update.events import Features, Tree
from stream_update.learners.recommender.history import History
from stream_update.learners.recommender.ids import NOBODY, Id, IdTable, Whole
from stream_update.learners.recommender.options import Options
from stream_update.learners.recommender.rows import Optimizer, Rows
from stream_update.learners.recommender.scorers import SCORERS, Asking
from stream_update.learners.recommender.sides import Sides, Traits
from stream_update.learners.torch import weights
from stream_update.learners.torch.network import drawing

__all__ = ["Events", "Model"]

SPREAD = 0.1
"""The standard deviation of the vectors that ids begin with."""

USERS, ITEMS, DRAWN, LISTED = range(4)
"""What is drawn for, so that no two draws are the same."""


class Events(NamedTuple):
    """Events as rows of the tables, 0 for an id that has none, and their side features."""

    users: Whole
    items: Whole
    context: Sequence[Features]
    traits: Sequence[Features]

    def some(self, at: Sequence[int]) -> Events:
        """Those at these places."""
        sides = [[side[i] for i in at] if side else side for side in (self.context, self.traits)]
        return Events(self.users[at], self.items[at], *sides)


class Model:
    """A bias and a vector for each user and each item, and a module that scores pairs of them.

    Scores are without the offset, which is the score of an average user with an average item.
    """

    def __init__(self, options: Options, seed: int) -> None:
        self._options = options
        self._seed = seed
        self._optimizer = optimizer = Optimizer(options.optimizer)
        self.users = IdTable(options.max_users, protect=options.protect)
        self.items = IdTable(options.max_items, protect=options.protect)
        self._user_rows = Rows(1 + options.dim, optimizer)
        self._item_rows = Rows(1 + options.dim, optimizer)
        self._history = History(options.history)
        self.context = Sides(options.hidden, optimizer, options.max_columns)
        self.traits = Traits(options.hidden, optimizer, options.max_columns)
        with drawing(seed):
            self.module = SCORERS[options.module](options.dim, options.hidden)
        self._moments = {
            name: optimizer.fresh(_flat(part)) for name, part in self.module.named_parameters()
        }
        self.steps = 0
        self.skipped = 0

    # -- scores; nothing here changes anything

    def find(self, users: Sequence[Any], items: Sequence[Any]) -> tuple[Whole, Whole]:
        """Rows of these ids; 0 for those that have none."""
        return self.users.find(users), self.items.find(items)

    def scores(self, events: Events) -> Any:
        """The score of each event's user with its item."""
        asked, bias = self._ask(events.users, events.context)
        rows = self._item_rows.weight[torch.from_numpy(events.items)]
        traits = None
        if self.module.sides and len(self.traits):
            traits = self.traits.of_events(events.traits, events.items)
        return self.module.pair(asked, self._offer(rows, traits)) + bias + rows[:, 0]

    def scores_of_all(self, user: int, context: Features) -> Any:
        """A user's scores with the items of the rows from 1 on."""
        asked, bias = self._ask(np.array([user]), [context])
        return self._cross(asked)[0] + bias

    def before(self, users: Whole) -> Whole:
        """The rows of the items that these users took last; see :class:`History`."""
        return self._history.read(users, self.items.serials)

    def ranks(self, events: Events) -> Whole:
        """The place of each event's item in its user's list, from 1 on; 0 if nobody has
        taken it yet. Items with the same score are before it.
        """
        ranks = np.zeros(len(events.items), dtype=np.int64)
        known = np.flatnonzero(events.items != NOBODY).tolist()
        if known:
            chosen = events.some(known)
            asked, _ = self._ask(chosen.users, chosen.context)
            among = self._options.rank_among
            ahead = (
                self._ahead_in_all(asked, chosen)
                if among == "all"
                else self._ahead_in_some(asked, chosen.items, int(among))
            )
            ranks[known] = 1 + ahead.numpy()
        return ranks

    def _ask(self, users: Whole, context: Sequence[Features]) -> tuple[Any, Any]:
        """Vectors and biases of users."""
        rows = self._user_rows.weight[torch.from_numpy(users)]
        told, items, lengths = None, None, None
        if self.module.sides and len(self.context):
            told = self.context.matrix(context) @ self.context.rows.weight[1:]
        if self.module.remembers:
            before = torch.from_numpy(self.before(users))
            items, lengths = self._item_rows.weight[before][..., 1:], (before > 0).sum(1)
        return self.module.ask(Asking(rows[:, 1:], told, items, lengths))[0], rows[:, 0]

    def _offer(self, rows: Any, traits: Any) -> Any:
        told = None if traits is None else traits @ self.traits.rows.weight[1:]
        return self.module.offer(rows[:, 1:], told)

    def _cross(self, asked: Any) -> Any:
        rows, traits = self._item_rows.weight[1:], None
        if self.module.sides and len(self.traits):
            traits = self.traits.known(np.arange(1, 1 + len(rows)))
        return self.module.cross(asked, self._offer(rows, traits)) + rows[:, 0]

    def _ahead_in_all(self, asked: Any, events: Events) -> Any:
        scores = self._cross(asked)
        target = torch.from_numpy(events.items)[:, None] - 1
        ahead = scores >= scores.gather(1, target)
        ahead.scatter_(1, target, value=False)
        if not self._options.repeats:
            before = torch.from_numpy(self.before(events.users))
            gone = torch.zeros(len(scores), scores.shape[1] + 1, dtype=torch.bool)
            ahead &= ~gone.scatter_(1, before, value=True)[:, 1:]
        return ahead.sum(1)

    def _ahead_in_some(self, asked: Any, items: Whole, count: int) -> Any:
        drawn = self._chance(LISTED).integers(1, len(self.items) + 1, (len(items), count))
        listed = np.column_stack([items, drawn])
        rows, traits = self._item_rows.weight[torch.from_numpy(listed.ravel())], None
        if self.module.sides and len(self.traits):
            traits = self.traits.known(listed.ravel())
        many = asked.repeat_interleave(count + 1, dim=0)
        scores = self.module.pair(many, self._offer(rows, traits)) + rows[:, 0]
        scores = scores.view(listed.shape)
        others = torch.from_numpy(listed != listed[:, :1])
        return ((scores >= scores[:, :1]) & others).sum(1)

    # -- learning

    def admit(self, users: Sequence[Id], items: Sequence[Id], events: Events) -> Events:
        """Give every id a row and every side feature a column."""
        of_users, of_items = self.users.admit(users), self.items.admit(items)
        for kind, rows, table, fresh in (
            (USERS, self._user_rows, self.users, of_users.fresh),
            (ITEMS, self._item_rows, self.items, of_items.fresh),
        ):
            drawn = self._chance(kind).normal(0.0, SPREAD, (len(fresh), rows.width))
            drawn[:, :1] = 0.0
            rows.admit(len(table), fresh, torch.from_numpy(drawn).to(torch.float32))
        self._history.admit(len(self.users), of_users.fresh)
        if self.module.sides:
            self.context.learn(events.context)
            self.traits.learn(events.traits)
            self.traits.admit(len(self.items), of_items.fresh)
        return events._replace(users=np.array(of_users.rows), items=np.array(of_items.rows))

    def draw(self, events: Events, taken: Sequence[int]) -> tuple[Whole, Whole]:
        """Items that were not taken, and for which event each of them stands."""
        owners = np.repeat(np.array(taken, dtype=np.int64), self._options.negatives)
        if not len(owners):
            return owners, owners
        drawn = self._chance(DRAWN).integers(1, len(self.items) + 1, len(owners))
        others = drawn != events.items[owners]
        return drawn[others], owners[others]

    def remember(self, events: Events, took: Sequence[int]) -> None:
        """Note what is known of the items by now, and who took them."""
        if self.module.sides:
            self.traits.note(events.traits, events.items)
        self._history.add(events.users[took], events.items[took], self.items.serials)

    def learn(
        self, events: Events, drawn: Whole, owners: Whole, targets: Any, offset: float
    ) -> NDArray[np.float64]:
        """One step along the gradient of the loss of the events, and of the ``drawn`` items with
        the users of the events ``owners``; ``targets`` has both. Return what the scores of the
        events were. A loss that is not finite is left out and counted.
        """
        count, total = len(events.users), len(events.items) + len(drawn)
        past = np.zeros((count, 0), dtype=np.int64)
        if self.module.remembers:
            past = self.before(events.users)
        users = _Taken(self._user_rows, events.users)
        items = _Taken(self._item_rows, np.concatenate([events.items, drawn, past.ravel()]))
        taken = [users, items]
        context, traits = None, None
        if self.module.sides and len(self.context):
            taken.append(_Taken(self.context.rows, np.arange(1, 1 + len(self.context))))
            context = self.context.matrix(events.context) @ taken[-1].leaf
        if self.module.sides and len(self.traits):
            taken.append(_Taken(self.traits.rows, np.arange(1, 1 + len(self.traits))))
            traits = torch.cat(
                [self.traits.of_events(events.traits, events.items), self.traits.known(drawn)]
            )
            traits = traits @ taken[-1].leaf
        before, lengths = None, None
        if self.module.remembers:
            before = items.rows(slice(total, None)).view(*past.shape, -1)[..., 1:]
            lengths = torch.from_numpy((past > 0).sum(1))
        of_users, of_items = users.rows(), items.rows(slice(total))
        asked, penalty = self.module.ask(
            Asking(of_users[:, 1:], context, before, lengths, self._seed + 1 + self.steps)
        )
        whose = torch.from_numpy(np.concatenate([np.arange(count), owners]))
        offered = self.module.offer(of_items[:, 1:], traits)
        pairs = self.module.pair(asked[whose], offered)
        scores = pairs + of_users[whose, 0] + of_items[:, 0]
        decay = of_users[whose].square().sum() + of_items.square().sum()
        loss = self._loss(scores + offset, torch.from_numpy(targets).to(torch.float32))
        loss = loss + penalty + 0.5 * self._options.l2 * decay
        if math.isfinite(loss.item()):
            self._descend(loss, taken, count)
        else:
            self.skipped += 1
        self.steps += 1
        found: NDArray[np.float64] = scores[:count].detach().numpy().astype(np.float64)
        return found

    def _descend(self, loss: Any, taken: Sequence[_Taken], count: int) -> None:
        parameters = dict(self.module.named_parameters())
        for parameter in parameters.values():
            parameter.grad = None
        loss.backward()
        for part in taken:
            part.step()
        for name, parameter in parameters.items():
            gradient = _flat(parameter.grad) / count
            self._optimizer.step(_flat(parameter), self._moments[name], gradient)

    def _loss(self, scores: Any, targets: Any) -> Any:
        """The sum over all pairs."""
        if self._options.task == "regression":
            return 0.5 * functional.mse_loss(scores, targets, reduction="sum")
        return functional.binary_cross_entropy_with_logits(scores, targets, reduction="sum")

    def _chance(self, kind: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, kind, self.steps])

    # -- state

    def dump(self) -> Tree:
        found, moments = self.tensors()
        return {
            "users": self.users.dump(),
            "items": self.items.dump(),
            "history": self._history.dump(len(self.users)),
            "context": self.context.dump(),
            "traits": self.traits.dump(),
            "steps": self.steps,
            "skipped": self.skipped,
            "weights": weights.write(found),
            "moments": weights.write(moments),
        }

    def tensors(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Weights, and the optimizer's moments, by name."""
        found: dict[str, Any] = {"known": self.traits.table(len(self.items))}
        moments: dict[str, Any] = {}
        for name, table in self._tables().items():
            found[name], held = table.dump()
            moments |= {f"{part}:{name}": tensor for part, tensor in held.items()}
        for name, parameter in self.module.named_parameters():
            found[f"net.{name}"] = parameter
            held = self._moments[name]
            moments |= {f"{part}:net.{name}": tensor for part, tensor in held.items()}
        return found, moments

    def _tables(self) -> dict[str, Rows]:
        return {
            "users": self._user_rows,
            "items": self._item_rows,
            "context": self.context.rows,
            "traits": self.traits.rows,
        }

    def load(self, tree: Tree, *, learns: bool) -> None:
        """Take everything from a tree into a fresh model; without ``learns`` no moments.

        Raises :class:`CorruptSnapshot`, and without ``learns`` also for weights that are NaN.
        """
        self.users.load(tree["users"])
        self.items.load(tree["items"])
        self._history.load(tree["history"], len(self.users), len(self.items))
        self.steps, self.skipped = int(tree["steps"]), int(tree["skipped"])
        found = weights.read(tree["weights"], "weights")
        if not learns:
            found = weights.whole(found, tree)
        if not learns and (name := weights.non_finite(found)):
            raise CorruptSnapshot(
                f"weight {name:.200} is NaN or infinite",
                reason="non-finite",
                hint="the model has diverged, or somebody made it so: look at its metrics",
            )
        held = weights.read(tree["moments"], "optimizer's moments") if learns else None
        self._load_tables(found, held)
        self.context.load(tree["context"])
        self.traits.load(tree["traits"])
        self.traits.load_known(found["known"], len(self.items) if self.module.sides else 0)
        prefix = "net."
        weights.copy_weights(
            self.module,
            {name.removeprefix(prefix): part for name, part in found.items() if prefix in name},
        )
        for name, parts in self._moments.items() if held is not None else ():
            _fill(parts, _of(held or {}, prefix + name))

    def _load_tables(self, found: Mapping[str, Any], held: Mapping[str, Any] | None) -> None:
        tables = self._tables()
        expected = {"known", *tables} | {f"net.{name}" for name in self._moments}
        for name in sorted(expected ^ found.keys()):
            where = "the snapshot has no" if name in expected else "the model has no"
            raise CorruptSnapshot(f"{where} weight {name:.200}", hint=weights.HINT)
        for name, table in tables.items():
            table.load(found[name], None if held is None else _of(held, name))
        for table, ids in ((self._user_rows, self.users), (self._item_rows, self.items)):
            if len(table) != len(ids):
                raise CorruptSnapshot(f"{len(table)} rows of weights for {len(ids)} ids")


class _Taken:
    """The rows of a table that one step needs, each once, and where each of them goes."""

    def __init__(self, table: Rows, rows: Whole) -> None:
        once, places = np.unique(rows, return_inverse=True)
        self._table = table
        self._once, self._places = torch.from_numpy(once), torch.from_numpy(places)
        self.leaf = table.take(self._once)

    def rows(self, which: slice = slice(None)) -> Any:
        """As they were asked for."""
        return functional.embedding(self._places[which], self.leaf)

    def step(self) -> None:
        self._table.step(self._once, self.leaf)


def _of(held: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The moments of one table or parameter."""
    return {
        full.removesuffix(f":{name}"): part
        for full, part in held.items()
        if full.endswith(f":{name}")
    }


def _fill(parts: Mapping[str, Any], held: Mapping[str, Any]) -> None:
    for name, tensor in parts.items():
        found = held.get(name)
        if found is None or found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise CorruptSnapshot(f"the optimizer's {name} does not fit", hint=weights.HINT)
        tensor.copy_(found)


def _flat(tensor: Any) -> Any:
    """The same memory with two dimensions, as the optimizer wants it."""
    return tensor.detach().view(len(tensor), -1)
