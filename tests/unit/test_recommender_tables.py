"""What a recommender keeps of ids, histories, ranks and averages; needs no torch."""

from __future__ import annotations

import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_update.errors import ConfigError, CorruptSnapshot
from stream_update.learners.recommender.averages import Averages
from stream_update.learners.recommender.history import History
from stream_update.learners.recommender.ids import IdTable, check_id
from stream_update.learners.recommender.options import Options
from stream_update.learners.recommender.ranking import Ranking
from tests.streams import through_bytes

LIMIT = 6

batches = st.lists(st.lists(st.integers(0, 15), min_size=1, max_size=LIMIT), max_size=40)


@given(batches, st.integers(0, 3))
def test_a_table_keeps_its_limit_and_its_rows(calls: list[list[int]], protect: int) -> None:
    table = IdTable(LIMIT, protect=protect)
    other = IdTable(LIMIT, protect=protect)
    owner: dict[int, int] = {}
    for ids in calls:
        had = {one: int(table.find([one])[0]) for one in ids}
        rows, fresh = table.admit(ids)
        assert len(table) <= LIMIT
        assert table.find(ids).tolist() == rows
        assert sorted(set(fresh)) == sorted(fresh)
        assert set(fresh) == {row for one, row in zip(ids, rows, strict=True) if not had[one]}
        assert all(had[one] in {0, row} for one, row in zip(ids, rows, strict=True))
        owner |= dict(zip(rows, ids, strict=True))
        assert all(1 <= row <= LIMIT and table.id_of(row) == one for row, one in owner.items())
        other.admit(ids)
        assert other.dump() == table.dump()
        tree = through_bytes(table.dump())
        other = IdTable(LIMIT, protect=protect)
        other.load(tree)
        assert other.dump() == table.dump()


@given(batches)
def test_without_protection_the_least_recently_used_leaves(calls: list[list[int]]) -> None:
    table = IdTable(LIMIT)
    naive: OrderedDict[int, None] = OrderedDict()
    for ids in calls:
        for one in ids:
            if one in naive:
                naive.move_to_end(one)
        for one in ids:
            naive[one] = None
            naive.move_to_end(one)
        while len(naive) > LIMIT:
            naive.popitem(last=False)
        table.admit(ids)
        assert {one for one in range(16) if one in table} == set(naive)


def test_frequent_ids_outlast_a_wave_and_leave_in_the_end() -> None:
    table = IdTable(10, protect=3)
    for _ in range(6):
        table.admit(["often", "also"])
    table.admit([f"once-{i}" for i in range(8)])
    for i in range(12):
        table.admit([f"wave-{i}"])
    assert "often" in table
    assert "also" in table
    assert "once-0" not in table
    for i in range(60):
        table.admit([f"later-{i}"])
    assert "often" not in table
    assert len(table) == 10
    assert table.evicted == 72


def test_a_row_that_changed_hands_has_another_serial_number() -> None:
    table = IdTable(2)
    rows, _ = table.admit(["a", "b"])
    before = table.serials.copy()
    again, fresh = table.admit(["c"])
    assert again == fresh == rows[:1]
    assert table.serials[rows[0]] > before.max()
    assert table.serials[rows[1]] == before[rows[1]]
    assert table.find(["a", "b", "c", [], None][:3]).tolist() == [0, rows[1], rows[0]]


def test_more_at_once_than_there_is_room_for() -> None:
    table = IdTable(3)
    table.admit(["a"])
    before = table.dump()
    with pytest.raises(ValueError, match="4 ids at once in a table that takes 3"):
        table.admit(list("abcd"))
    assert table.dump() == before


def test_texts_and_numbers_are_different_ids() -> None:
    table = IdTable(5)
    assert table.admit(["1", 1, 1]).rows == [1, 2, 2]


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (None, "not a NoneType"),
        (True, "not a bool"),
        (1.5, "not a float"),
        (["a"], "not a list"),
        ("x" * 257, "longer than 256"),
        (2**63, "at most 64 bits"),
    ],
    ids=str,
)
def test_what_cannot_be_an_id(one: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        check_id(one)


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree["ids"].append("more"),
        lambda tree: tree["ids"].extend(["more"] * 20),
        lambda tree: tree.update(ids=["a", "a", "c"]),
        lambda tree: tree.update(counts=b""),
        lambda tree: tree.update(serials=np.zeros(4, dtype=np.int64).tobytes()),
        lambda tree: tree.update(order=np.array([1, 2, 2]).tobytes()),
        lambda tree: tree.update(order=np.array([0, 1, 2]).tobytes()),
    ],
    ids=["more", "too many", "twice", "counts", "serials", "row twice", "row 0"],
)
def test_ids_that_do_not_fit_are_refused(change: Callable[[dict[str, Any]], None]) -> None:
    table = IdTable(10)
    table.admit(["a", "b", "c"])
    tree = table.dump()
    change(tree)
    with pytest.raises(CorruptSnapshot):
        IdTable(10).load(tree)


def test_a_history_is_the_last_items_that_are_still_there() -> None:
    chance = random.Random(4)
    history, items = History(3), IdTable(8)
    naive: dict[int, deque[tuple[int, int]]] = {}
    for step in range(300):
        users = [chance.randint(1, 5) for _ in range(4)]
        rows = items.admit([chance.randint(0, 12) for _ in range(4)]).rows
        fresh = [2] if step % 50 == 49 else []
        history.admit(5, fresh)
        for user in fresh:
            naive.pop(user, None)
        serials = items.serials
        history.add(users, rows, serials)
        for user, row in zip(users, rows, strict=True):
            naive.setdefault(user, deque(maxlen=3)).append((row, int(serials[row])))
        found = history.read(np.arange(6), serials).tolist()
        for user in range(1, 6):
            kept = [row for row, serial in naive.get(user, ()) if serials[row] == serial]
            assert found[user] == kept + [0] * (3 - len(kept))
        assert found[0] == [0, 0, 0]
        other = History(3)
        other.load(through_bytes(history.dump(5)), 5, len(items))
        assert other.read(np.arange(6), serials).tolist() == found


@pytest.mark.parametrize("name", ["items", "serials", "counts"])
def test_a_history_that_does_not_fit_is_refused(name: str) -> None:
    history = History(3)
    history.admit(2, [])
    tree = history.dump(2)
    with pytest.raises(CorruptSnapshot, match="not those of 2 users"):
        History(3).load(tree | {name: tree[name][8:]}, 2, 5)
    history.add([1], [5], np.arange(9))
    with pytest.raises(CorruptSnapshot, match="a row that no item has"):
        History(3).load(history.dump(2), 2, 4)


def test_hit_rate_and_ndcg() -> None:
    ranking = Ranking(3, window=4)
    assert ranking.figures() == {"metrics": {}, "rolling": {}}
    ranks = [1, 4, 0, 3, 2, 1]
    for rank in ranks:
        ranking.add([rank])
    gains = [1 / math.log2(1 + rank) if 0 < rank <= 3 else 0.0 for rank in ranks]
    assert ranking.figures()["metrics"] == {
        "hit_rate@3": (6, 4 / 6),
        "ndcg@3": (6, pytest.approx(sum(gains) / 6)),
    }
    assert ranking.figures()["rolling"] == {
        "hit_rate@3": (4, 3 / 4),
        "ndcg@3": (4, pytest.approx(sum(gains[2:]) / 4)),
    }
    other = Ranking(3, window=4)
    other.load(through_bytes(ranking.dump()))
    assert other.figures() == ranking.figures()
    with pytest.raises(CorruptSnapshot, match="more than are kept"):
        Ranking(3, window=3).load(ranking.dump())


def test_chances_are_those_of_the_events_that_come() -> None:
    chance = np.random.default_rng(2)
    averages = Averages(chances=True, drawn=True)
    scores = chance.normal(0, 1, (400, 10))
    labels = (chance.random(scores.shape) < 1 / (1 + np.exp(-scores - 1.5))).astype(float)
    for some, right in zip(scores, labels, strict=True):
        averages.learn(np.concatenate([right, np.zeros(40)]))
        averages.compare(some, right)
    assert averages.offset == pytest.approx(math.log(0.15 / 0.85), abs=0.15)
    assert averages.answered == pytest.approx(1.5, abs=0.15)
    other = Averages(chances=True, drawn=True)
    other.load(through_bytes(averages.dump()))
    assert other.answered == averages.answered
    tree = averages.dump()
    with pytest.raises(CorruptSnapshot, match="no number"):
        other.load([*tree[:4], math.nan, 1.0])
    with pytest.raises(CorruptSnapshot, match="not between"):
        other.load([1, 5.0, 1.0, 2.0, 0.0, 0.0])


GOOD: dict[str, Any] = {
    "task": "regression", "module": "mf", "user": "user", "item": "item", "item_features": [],
    "dim": 4, "hidden": 4, "history": 5, "optimizer": {"use": "sgd"}, "l2": 0.0, "batch": 8,
    "negatives": 0, "max_users": 10, "max_items": 10, "protect": 0, "max_columns": 5,
    "top_k": 10, "rank_among": "all", "positive": None, "repeats": True, "threads": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "multiclass"}, "cannot learn 'multiclass'"),
        ({"module": "als"}, "there is no 'als'"),
        ({"dim": 0}, "no whole number from 1 to 1024"),
        ({"dim": 10**12}, "no whole number from 1 to 1024"),
        ({"history": 2.0}, "2.0 is no whole number"),
        ({"protect": -1}, "neither 0 nor"),
        ({"rank_among": "some"}, "'some' is none"),
        ({"l2": -0.1}, "less than 0"),
        ({"max_items": 7}, "7 ids are fewer"),
        ({"negatives": 2}, "ratings have none"),
        ({"item": "user"}, "are both 'user'"),
    ],
    ids=str,
)
def test_options_that_cannot_work(options: dict[str, Any], said: str) -> None:
    assert Options(**GOOD).settings().keys() == Options.names()
    with pytest.raises(ConfigError, match=said):
        Options(**GOOD | options)
