"""What recommenders predict and how fast, against baselines, on the streams of tests/ratings.py.

    python -m tests.bench.recommender [--events 20000] [--file F]
                                      [--only ratings|clicks|updates|lists]

``ratings``: RMSE, and hit rate and NDCG at 10 of what was rated above the mean so far, among all
items that the user has not rated lately. ``clicks``: accuracy, and the same figures of what was
taken. ``updates``: three ways to step a table of embeddings. ``lists``: what ranking costs where
there are many items. Everything is predicted before it is
learned, ours in batches of 64, the others one by one. A second is one of this process on a
processor. ``--file``: events from a file of JSON lines with user, item and rating.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from river import optim, reco

from stream_update.learners.recommender import Recommender
from stream_update.learners.recommender.ranking import Ranking
from stream_update.learners.recommender.rows import Optimizer, Rows
from tests.ratings import clicks, ratings

BATCH = 64
SIDES = {"item_features": ["genre"]}

OURS: dict[str, dict[str, Any]] = {
    "mf": {"optimizer": {"use": "adagrad", "lr": 0.2}},
    "two-tower": SIDES,
    "dnn": SIDES,
    "gru": {},
    "vae": {},
}


class Result(NamedTuple):
    answers: list[Any]
    seconds: float
    figures: dict[str, Any]


def ours(task: str, xs: Sequence[Any], ys: Sequence[Any], **options: Any) -> Result:
    learner = Recommender(task, repeats=False, history=50, seed=1, batch=BATCH, **options)
    answers: list[Any] = []
    began = time.process_time()
    for start in range(0, len(xs) - BATCH + 1, BATCH):
        answers += learner.predict(xs[start : start + BATCH]).values
        learner.learn(xs[start : start + BATCH], ys[start : start + BATCH])
    return Result(answers, time.process_time() - began, learner.figures()["metrics"])


def rivers(model: Any, xs: Sequence[Any], ys: Sequence[float]) -> Result:
    answers = []
    began = time.process_time()
    for x, y in zip(xs, ys, strict=True):
        pair = {"user": x["user"], "item": x["item"]}
        answers.append(model.predict_one(**pair))
        model.learn_one(**pair, y=y)
    return Result(answers, time.process_time() - began, {})


def mean_so_far(ys: Sequence[float]) -> Result:
    before = np.concatenate([[0.0], np.cumsum(ys)[:-1]]) / np.maximum(1, np.arange(len(ys)))
    return Result(before.tolist(), 0.0, {})


def popularity(xs: Sequence[Any], taken: Sequence[bool], known: Sequence[bool]) -> dict[str, Any]:
    """How often each item was taken, as the score of everybody's list; ties count against."""
    ranking, counts = Ranking(10), Counter[str]()
    seen: dict[str, list[str]] = {}
    for start in range(0, len(xs) - BATCH + 1, BATCH):
        block = range(start, start + BATCH)
        for x in (xs[i] for i in block if taken[i]):
            gone = set(seen.get(x["user"], ())[-50:]) - {x["item"]}
            own = counts.get(x["item"])
            ahead = sum(count >= own for item, count in counts.items() if item not in gone) \
                if own is not None else 0  # fmt: skip
            ranking.add([ahead])
        for i in block:
            counts[xs[i]["item"]] += taken[i]
            if known[i]:
                seen.setdefault(xs[i]["user"], []).append(xs[i]["item"])
    return ranking.figures()["metrics"]


def shown(name: str, error: str, value: float, result: Result) -> None:
    figures = {key: share for key, (_, share) in result.figures.items()}
    lists = "".join(f"{figures[key]:>10.3f}" if key in figures else f"{'':>10}"
                    for key in ("hit_rate@10", "ndcg@10"))  # fmt: skip
    said = f"{value:>10.4f}" if error else f"{'':>10}"
    rate = f"{len(result.answers) / result.seconds:>12,.0f}" if result.seconds else ""
    print(f"{name:<22}{said}{lists}{rate}")


def bench_ratings(events: Sequence[dict[str, Any]]) -> None:
    ys = [float(event["rating"]) for event in events]
    xs = [{k: v for k, v in event.items() if k != "rating"} for event in events]
    _say("ratings", events, "RMSE")

    def rmse(answers: Sequence[float]) -> float:
        return math.sqrt(float(np.mean([(a - y) ** 2 for a, y in zip(answers, ys, strict=False)])))

    made: dict[str, Callable[[], Result]] = {
        "mean so far": lambda: mean_so_far(ys),
        "river Baseline": lambda: rivers(
            reco.Baseline(optimizer=optim.SGD(0.05), l2=0.02), xs, ys
        ),
        "river BiasedMF": lambda: rivers(
            reco.BiasedMF(
                n_factors=16, bias_optimizer=optim.SGD(0.05), latent_optimizer=optim.SGD(0.05),
                l2_bias=0.02, l2_latent=0.02, seed=1,
            ), xs, ys,
        ),
        "river BiasedMF, lr 0.1": lambda: rivers(
            reco.BiasedMF(
                n_factors=16, bias_optimizer=optim.SGD(0.1), latent_optimizer=optim.SGD(0.1),
                l2_bias=0.02, l2_latent=0.02, seed=1,
            ), xs, ys,
        ),
    }  # fmt: skip
    for name, make in made.items():
        result = make()
        shown(name, "RMSE", rmse(result.answers), result)
    for name, options in OURS.items():
        result = ours("regression", xs, ys, module=name, **options)
        shown(name, "RMSE", rmse(result.answers), result)
    mean = mean_so_far(ys).answers
    liked = [y > m for y, m in zip(ys, mean, strict=True)]
    shown("popularity", "", 0.0, Result([], 0.0, popularity(xs, liked, [True] * len(xs))))


def bench_clicks(events: Sequence[dict[str, Any]]) -> None:
    ys = [bool(event["class"]) for event in events]
    xs = [{k: v for k, v in event.items() if k != "class"} for event in events]
    _say("clicks", events, "accuracy")
    for name, options in OURS.items():
        for negatives in (0, 4):
            result = ours("binary", xs, ys, module=name, negatives=negatives, **options)
            right = float(np.mean([a == y for a, y in zip(result.answers, ys, strict=False)]))
            shown(f"{name}, negatives {negatives}", "accuracy", right, result)
    shown("popularity", "", 0.0, Result([], 0.0, popularity(xs, ys, ys)))


def _say(name: str, events: Sequence[dict[str, Any]], error: str) -> None:
    users, items = ({event[kind] for event in events} for kind in ("user", "item"))
    print(f"\n{name}: {len(events)} events, {len(users)} users, {len(items)} items")
    print(f"{'':<22}{error:>10}{'HR@10':>10}{'NDCG@10':>10}{'events/s':>12}")


# -- three ways to step a table


def ways(rows: int, size: int) -> dict[str, Callable[[Any], None]]:
    """Learn the sum of some rows, by torch's dense and sparse ways and by ours."""
    dense = torch.nn.Embedding(rows, size)
    dense_adam = torch.optim.Adam(dense.parameters())
    sparse = torch.nn.EmbeddingBag(rows, size, mode="sum", sparse=True)
    sparse_adam = torch.optim.SparseAdam(sparse.parameters())
    table = Rows(size, Optimizer("adam"))
    table.admit(rows - 1)

    def step_dense(at: Any) -> None:
        dense_adam.zero_grad()
        dense(at).square().sum().backward()
        dense_adam.step()

    def step_sparse(at: Any) -> None:
        sparse_adam.zero_grad()
        sparse(at[:, None]).square().sum().backward()
        sparse_adam.step()

    def step_rows(at: Any) -> None:
        once, places = np.unique(at.numpy(), return_inverse=True)
        where = torch.from_numpy(once)
        leaf = table.take(where)
        torch.nn.functional.embedding(torch.from_numpy(places), leaf).square().sum().backward()
        table.step(where, leaf)

    return {"dense": step_dense, "sparse bag": step_sparse, "rows": step_rows}


def bench_updates() -> None:
    print("\nstep of a table of 20,000 rows of 17 numbers with Adam, us an event")
    print(f"{'':<22}{'batch 1':>10}{'batch 64':>10}")
    chance = np.random.default_rng(1)
    for name, step in ways(20_000, 17).items():
        cells = []
        for batch, count in ((1, 60), (64, 60)):
            blocks = [torch.from_numpy(b) for b in chance.integers(1, 20_000, (count + 5, batch))]
            for block in blocks[:5]:
                step(block)
            began = time.process_time()
            for block in blocks[5:]:
                step(block)
            cells.append((time.process_time() - began) / count / batch * 1e6)
        print(f"{name:<22}" + "".join(f"{cell:>10.1f}" for cell in cells))


def bench_lists() -> None:
    print("\nmf with 20,000 users and 20,000 items, events/s by what a list is of")
    chance = np.random.default_rng(1)
    for among in ("all", 100, 0):
        learner = Recommender("regression", rank_among=among, max_items=20_000, seed=1)
        for first in range(0, 20_000 - BATCH, BATCH):
            known = [{"user": number, "item": number} for number in range(first, first + BATCH)]
            learner.learn(known, [3.0] * BATCH)
        blocks = [
            [{"user": int(u), "item": int(i)} for u, i in chance.integers(0, 19_000, (BATCH, 2))]
            for _ in range(100)
        ]
        stars = [float(star) for star in chance.integers(1, 6, BATCH)]
        began = time.process_time()
        for block in blocks:
            learner.predict(block)
            learner.learn(block, stars)
        print(f"{among:<22}{100 * BATCH / (time.process_time() - began):>10,.0f}")


def read(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--only", choices=["ratings", "clicks", "updates", "lists"])
    parser.add_argument("--file", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only in {None, "ratings"}:
        bench_ratings(list(read(options.file)) if options.file else ratings(options.events))
    if options.only in {None, "clicks"} and not options.file:
        bench_clicks(clicks(options.events))
    if options.only in {None, "updates"} and not options.file:
        bench_updates()
    if options.only in {None, "lists"} and not options.file:
        bench_lists()


if __name__ == "__main__":
    main()
