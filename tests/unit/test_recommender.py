from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from stream_update.errors import ConfigError, CorruptSnapshot, LearnerFailed
from stream_update.protocols import Learner
from tests.ratings import clicks, ratings
from tests.streams import through_bytes

torch: Any = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from stream_update.learners.recommender import Recommender  # noqa: E402
from stream_update.learners.recommender.options import MODULES  # noqa: E402
from stream_update.learners.recommender.rows import OPTIMIZERS, Optimizer, Rows  # noqa: E402
from stream_update.learners.recommender.scorers import SCORERS, Asking  # noqa: E402
from stream_update.learners.torch import weights  # noqa: E402

LABELS = {"regression": "rating", "binary": "class"}


def stream(count: int, task: str = "regression", seed: int = 1) -> tuple[list[Any], list[Any]]:
    name = LABELS[task]
    events = ratings(count, seed) if task == "regression" else clicks(count, seed)
    labels = [event.pop(name) for event in events]
    return events, labels if task == "regression" else list(map(bool, labels))


def batches(events: Sequence[Any], labels: Sequence[Any], size: int) -> Iterator[Any]:
    for start in range(0, len(events) - size + 1, size):
        yield events[start : start + size], labels[start : start + size]


def run(learner: Recommender, events: Sequence[Any], labels: Sequence[Any]) -> list[Any]:
    answers = []
    for xs, ys in batches(events, labels, learner.batch):
        answers.append(learner.predict(xs))
        learner.learn(xs, ys)
    return answers


def made(task: str = "regression", **options: Any) -> Recommender:
    defaults: dict[str, Any] = {"batch": 16, "dim": 6, "hidden": 8, "history": 5, "seed": 3}
    if options.get("module") in {"two-tower", "dnn"}:
        defaults["item_features"] = ["genre"]
    return Recommender(task, **defaults | options)


def rmse(answers: Sequence[Any], labels: Sequence[float]) -> float:
    values = [value for answer in answers for value in answer.values]
    return float(np.sqrt(np.mean([(a - b) ** 2 for a, b in zip(values, labels, strict=False)])))


# -- against bare loops


def test_factors_as_a_bare_loop_with_an_adam_for_each_row() -> None:
    events, labels = stream(480)
    learner = made(optimizer={"use": "adam", "lr": 0.05}, l2=0.1, batch=16)
    answers = run(learner, events, labels)
    rows: dict[tuple[str, str], Any] = {}
    steps: dict[tuple[str, str], Any] = {}
    said: list[float] = []
    seen: list[float] = []
    for number, (xs, ys) in enumerate(batches(events, labels, 16)):
        nobody = torch.zeros(7)
        with torch.no_grad():
            for x in xs:
                user = rows.get(("user", x["user"]), nobody)
                item = rows.get(("item", x["item"]), nobody)
                score = user[0] + item[0] + user[1:] @ item[1:] + float(np.mean(seen or [0.0]))
                low, high = (min(seen), max(seen)) if seen else (0.0, 0.0)
                said.append(float(score.clamp(low, high)))
        for kind, name in enumerate(("user", "item")):
            new = [one for one in dict.fromkeys(x[name] for x in xs) if (name, one) not in rows]
            drawn = np.random.default_rng([3, kind, number]).normal(0, 0.1, (len(new), 7))
            drawn[:, 0] = 0
            for one, vector in zip(new, drawn, strict=True):
                rows[name, one] = torch.nn.Parameter(torch.tensor(vector, dtype=torch.float32))
                steps[name, one] = torch.optim.Adam([rows[name, one]], lr=0.05)
        seen += ys
        mean, loss = float(np.mean(seen)), torch.zeros(())
        used = {(name, x[name]) for x in xs for name in ("user", "item")}
        for x, y in zip(xs, ys, strict=True):
            user, item = rows["user", x["user"]], rows["item", x["item"]]
            error = mean + user[0] + item[0] + user[1:] @ item[1:] - y
            loss = loss + 0.5 * error**2
            loss = loss + 0.05 * (user.square().sum() + item.square().sum())
        for one in used:
            steps[one].zero_grad()
        loss.backward()
        for one in used:
            steps[one].step()
    values = [value for answer in answers for value in answer.values]
    assert values == pytest.approx(said, abs=1e-4)


@pytest.mark.parametrize("module", MODULES)
def test_any_module_as_a_bare_loop_over_whole_tables(module: str) -> None:
    """A row that has no gradient stays as it is with SGD: so whole tables can be stepped."""
    events, labels = stream(320)
    for event in events:
        del event["genre"], event["group"]
    learner = made(module=module, optimizer={"use": "sgd", "lr": 0.03}, l2=0.0, item_features=[])
    answers = run(learner, events, labels)
    net = made(module=module)._model.module
    tables = {name: torch.zeros(1, 7) for name in ("user", "item")}
    ids: dict[str, dict[str, int]] = {"user": {}, "item": {}}
    taken: dict[str, list[int]] = {}
    said: list[float] = []
    seen: list[float] = []

    def asked(xs: Sequence[Any], users: Any, items: Any, noise: int | None) -> Any:
        past = [taken.get(x["user"], [])[-5:] for x in xs]
        rows = torch.tensor([one + [0] * (5 - len(one)) for one in past])
        lengths = torch.tensor([len(one) for one in past])
        return net.ask(Asking(users[:, 1:], None, items[rows][..., 1:], lengths, noise))

    for number, (xs, ys) in enumerate(batches(events, labels, 16)):
        with torch.no_grad():
            at = {k: [ids[k].get(x[k], 0) for x in xs] for k in ids}
            users, items = (tables[k][at[k]] for k in ("user", "item"))
            vectors, _ = asked(xs, users, tables["item"], None)
            scores = net.pair(vectors, net.offer(items[:, 1:], None)) + users[:, 0] + items[:, 0]
            low, high = (min(seen), max(seen)) if seen else (0.0, 0.0)
            said += (scores + float(np.mean(seen or [0.0]))).clamp(low, high).tolist()
        for kind, name in enumerate(ids):
            new = [one for one in dict.fromkeys(x[name] for x in xs) if one not in ids[name]]
            drawn = np.random.default_rng([3, kind, number]).normal(0, 0.1, (len(new), 7))
            drawn[:, 0] = 0
            ids[name] |= {one: 1 + len(ids[name]) + i for i, one in enumerate(new)}
            more = torch.tensor(drawn, dtype=torch.float32)
            tables[name] = torch.cat([tables[name].detach(), more])
        seen += ys
        leaves = {name: table.requires_grad_() for name, table in tables.items()}
        users, items = (leaves[k][[ids[k][x[k]] for x in xs]] for k in ("user", "item"))
        vectors, penalty = asked(xs, users, leaves["item"], 4 + number)
        scores = net.pair(vectors, net.offer(items[:, 1:], None)) + users[:, 0] + items[:, 0]
        loss = 0.5 * (scores + float(np.mean(seen)) - torch.tensor(ys)).square().sum() + penalty
        net.zero_grad()
        loss.backward()
        with torch.no_grad():
            for leaf in leaves.values():
                leaf.sub_(0.03 * leaf.grad)
                leaf[0] = 0.0
            for part in net.parameters():
                part.sub_(0.03 * part.grad / 16)
        for x in xs:
            taken.setdefault(x["user"], []).append(ids["item"][x["item"]])
    values = [value for answer in answers for value in answer.values]
    assert values == pytest.approx(said, abs=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_row_is_stepped_as_torch_would_step_it(name: str) -> None:
    kind = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "adam": torch.optim.Adam}[name]
    torch_made = torch.nn.Parameter(torch.arange(1.0, 13.0).view(3, 4).clone())
    theirs = kind([torch_made], lr=0.1)
    table = Rows(4, Optimizer({"use": name, "lr": 0.1}))
    table.admit(5)
    table.admit(8, [6, 7, 8], torch.arange(1.0, 13.0).view(3, 4))
    at = torch.tensor([6, 7, 8])
    for step in range(4):
        leaf = table.take(at)
        for weight in (leaf, torch_made):
            weight.grad = None
            (weight.sin() * (step + 1)).sum().backward()
        table.step(at, leaf)
        theirs.step()
    assert torch.allclose(table.weight[6:], torch_made, atol=1e-6)
    assert not table.weight[:6].any()


# -- what it learns


@pytest.mark.parametrize("module", MODULES)
def test_it_learns_ratings(module: str) -> None:
    events, labels = stream(2400)
    learner = made(module=module, rank_among=20 if module == "dnn" else "all")
    answers = run(learner, events, labels)
    assert answers[0].values == [0.0] * 16
    late = slice(1200, 2400)
    mean = float(np.sqrt(np.mean((np.array(labels[late]) - np.mean(labels[:1200])) ** 2)))
    assert rmse(answers[75:], labels[late]) < 0.95 * mean
    figures = learner.figures()["metrics"]
    assert figures["hit_rate@10"][0] > 900
    assert 0.0 < figures["ndcg@10"][1] < figures["hit_rate@10"][1] < 1.0


def test_drawn_items_make_lists_better_and_chances_stay_those_of_the_events() -> None:
    events, labels = stream(3000, "binary")
    hits, means = [], []
    for negatives in (0, 4):
        learner = made("binary", negatives=negatives)
        answers = run(learner, events, labels)
        hits.append(learner.figures()["metrics"]["hit_rate@10"][1])
        chances = [p[True] for answer in answers[60:] for p in answer.probabilities]
        means.append(float(np.mean(chances)))
    assert hits[1] > 1.1 * hits[0]
    assert means == pytest.approx([0.5, 0.5], abs=0.05)


@pytest.mark.parametrize("repeats", [True, False])
def test_ranks_are_counted_with_the_model_as_it_was(repeats: bool) -> None:
    events, labels = stream(800)
    learner = made(positive=4.0, repeats=repeats, history=200)
    ranks: list[int] = []
    for xs, ys in batches(events, labels, 16):
        for x, y in zip(xs, ys, strict=True):
            if y >= 4.0:
                names = [item for item, _ in learner.recommend(x["user"], 10_000)]
                ranks.append(1 + names.index(x["item"]) if x["item"] in names else 0)
        learner.learn(xs, ys)
    events_counted, hits = learner.figures()["metrics"]["hit_rate@10"]
    assert events_counted == len(ranks) > 100
    assert hits == pytest.approx(np.mean([0 < rank <= 10 for rank in ranks]), abs=0.005)


def test_a_drawn_list_is_easier() -> None:
    events, labels = stream(1600)
    whole, part, none = (made(rank_among=among) for among in ("all", 15, 0))
    for learner in (whole, part, none):
        run(learner, events, labels)
    assert none.figures() == {"metrics": {}, "rolling": {}}
    easy = part.figures()["metrics"]["hit_rate@10"]
    hard = whole.figures()["metrics"]["hit_rate@10"]
    assert easy[0] == hard[0]
    assert easy[1] > hard[1]
    assert part.predict(events).values == whole.predict(events).values


def test_unknown_users_and_items_fall_back() -> None:
    events, labels = stream(800)
    learner = made()
    run(learner, events, labels)
    model = learner._model
    biases = {
        kind: rows.weight[int(table.find([one])[0]), 0].item()
        for kind, rows, table, one in (
            ("user", model._user_rows, model.users, events[-20]["user"]),
            ("item", model._item_rows, model.items, events[-20]["item"]),
        )
    }
    mean = learner._averages.mean
    new = {"user": "?", "item": "?"}
    said = learner.predict([new, new | {"user": events[-20]["user"]}, events[-20] | {"user": 7}])
    assert said.values == pytest.approx([mean, mean + biases["user"], mean + biases["item"]])
    ranked = learner.recommend("nobody", 5)
    assert len(ranked) == 5
    assert [value for _, value in ranked] == sorted((v for _, v in ranked), reverse=True)


def test_recommendations_leave_out_what_they_are_told_to() -> None:
    events, labels = stream(800)
    learner = made(repeats=False)
    assert learner.recommend("u1") == []
    run(learner, events, labels)
    user = events[790]["user"]
    taken = [event["item"] for event in events[:800] if event["user"] == user][-5:]
    everything = [item for item, _ in learner.recommend(user, 10_000)]
    assert set(everything).isdisjoint(taken)
    assert len(everything) == learner.items - len(set(taken))
    assert [item for item, _ in learner.recommend(user, 3, exclude=everything[:2])] == (
        everything[2:5]
    )
    assert learner.recommend(user, 0) == []
    assert made(repeats=True).recommend(user, 3) == []


def test_item_features_help_with_new_items_and_are_remembered() -> None:
    learner = made("regression", module="two-tower", dim=4, optimizer={"use": "adam", "lr": 0.05})
    chance = np.random.default_rng(1)
    for step in range(150):
        genres = ["good" if one else "bad" for one in chance.random(16) < 0.5]
        learner.learn(
            [
                {"user": int(chance.integers(20)), "item": f"{step}-{i}", "genre": genre}
                for i, genre in enumerate(genres)
            ],
            [5.0 if genre == "good" else 1.0 for genre in genres],
        )
    good, bad = ({"user": 1, "item": "new", "genre": genre} for genre in ("good", "bad"))
    said = learner.predict([good, bad]).values
    assert said[0] > 4
    assert said[1] < 2
    learner.learn([good, bad | {"item": "other"}] * 8, [3.0] * 16)
    said = learner.predict([{"user": 2, "item": "new"}, {"user": 2, "item": "other"}]).values
    assert said[0] > said[1] + 0.5


# -- growing and leaving


def test_memory_is_bounded_and_a_new_owner_finds_an_empty_row() -> None:
    events, labels = stream(1600)
    learner = made(max_users=20, max_items=25, module="gru", optimizer="adam")
    run(learner, events, labels)
    assert (learner.users, learner.items) == (20, 25)
    model = learner._model
    assert model.users.evicted > 10
    for name, tensor in model.tensors()[0].items():
        if name in {"users", "items"}:
            assert len(tensor) in {21, 26}
    # The next newcomer's row: as if nobody had had it.
    fresh = {"user": "quite new", "item": "quite new"}
    learner.learn([fresh], [3.0])
    _, moments = model._user_rows.dump()
    assert moments["steps"][int(model.users.find(["quite new"])[0])] == 1
    assert moments["steps"].max() > 1


def test_more_ids_at_once_than_a_table_takes_are_a_failure() -> None:
    events, labels = stream(400)
    learner = made(max_users=16, max_items=16)
    with pytest.raises(LearnerFailed, match="at once in a table that takes 16"):
        learner.learn(events, labels)


def test_an_item_that_left_is_in_no_history() -> None:
    learner = made(max_items=16, max_users=16, protect=0, module="gru")
    learner.learn([{"user": "u", "item": i} for i in range(16)], [3.0] * 16)
    model = learner._model
    row = model.users.find(["u"])
    assert (model.before(row) > 0).all()
    learner.learn([{"user": "v", "item": 100 + i} for i in range(16)], [3.0] * 16)
    assert not model.before(row).any()


# -- laws


def test_it_has_the_shape_of_a_learner() -> None:
    assert isinstance(made(), Learner)
    assert tuple(SCORERS) == MODULES


def test_nothing_outside_changes() -> None:
    events, labels = stream(96)
    copies = [dict(event) for event in events]
    before = torch.random.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    for module in MODULES:
        learner = made(module=module)
        run(learner, events, labels)
        learner.recommend(events[0]["user"])
    after = torch.random.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert events == copies


@pytest.mark.parametrize("module", MODULES)
def test_predicting_changes_nothing(module: str) -> None:
    events, labels = stream(320)
    one, other = made(module=module), made(module=module)
    for xs, ys in batches(events, labels, 16):
        one.predict(xs)
        one.predict([{"user": 5, "item": "?", "more": 1.0, "genre": "?"}])
        one.recommend(xs[0]["user"], features={"group": "?"})
        one.learn(xs, ys)
        other.learn(xs, ys)
    assert one.dump() == other.dump()


@pytest.mark.parametrize("task", LABELS)
@pytest.mark.parametrize("module", MODULES)
def test_going_on_from_a_dump_is_going_on(module: str, task: str) -> None:
    events, labels = stream(480, task)
    for index in range(200, 480, 3):
        events[index]["late"] = float(index)
    options: dict[str, Any] = {
        "module": module,
        "max_users": 16,
        "max_items": 24,
        "optimizer": "adam" if task == "binary" else "adagrad",
        "rank_among": 10 if module == "dnn" else "all",
        "repeats": task == "binary",
        "negatives": 2 if task == "binary" else 0,
    }
    whole = made(task, **options)
    expected = run(whole, events, labels)
    cut = made(task, **options)
    answers = []
    for xs, ys in batches(events, labels, 16):
        tree = through_bytes(cut.dump())
        cut = made(task, **options)
        cut.load(tree)
        assert cut.dump() == tree
        answers.append(cut.predict(xs))
        cut.learn(xs, ys)
    assert answers == expected
    assert cut.dump() == whole.dump()
    assert cut.figures() == whole.figures()
    follower = Recommender.restored(through_bytes(whole.dump()), task)
    assert follower.predict(events) == whole.predict(events)
    user = events[-1]["user"]
    assert follower.recommend(user, 5) == whole.recommend(user, 5)
    with pytest.raises(LearnerFailed, match="only predicts"):
        follower.learn(events, labels)


def test_one_event_at_a_time_is_predict_and_then_learn() -> None:
    events, labels = stream(60)
    one, other = made(batch=1), made(batch=1)
    expected = []
    for event, label in zip(events, labels, strict=True):
        expected += one.predict([event]).values
        one.learn([event], [label])
    assert other.predict_then_learn(events, labels).values == expected
    assert one.dump() == other.dump()


def test_a_reset_forgets_the_model_and_not_the_figures() -> None:
    events, labels = stream(320)
    learner = made()
    fresh = learner.dump()
    run(learner, events, labels)
    figures = learner.figures()
    learner.react("warning")
    assert learner.users
    learner.react("reset")
    assert learner.dump() | {"ranking": 0} == fresh | {"ranking": 0}
    assert learner.figures() == figures


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"item": "a"}, "the event has no 'user'"),
        ({"user": "a"}, "the event has no 'item'"),
        ({"user": None, "item": "a"}, "'user': an id is a text or a whole number"),
        ({"user": 1.5, "item": "a"}, "not a float"),
        ({"user": "a", "item": True}, "not a bool"),
        ({"user": ["a"], "item": "b"}, "not a list"),
        ({"user": "a" * 300, "item": "b"}, "longer than 256"),
        ({"user": "a", "item": "b", "genre": ["x"]}, "feature 'genre' is a list"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_event_that_cannot_be_used_is_named(event: dict[str, Any], said: str) -> None:
    events, labels = stream(32)
    learner = made(module="two-tower")
    learner.learn(events[:16], labels[:16])
    xs = [*events[16:23], event, *events[24:32]]
    for phase in ("predict", "learn"):
        with pytest.raises(LearnerFailed, match=said) as failed:
            learner.predict(xs) if phase == "predict" else learner.learn(xs, labels[16:])
        assert (failed.value.index, failed.value.phase) == (7, phase)
    single = made(batch=1, module="two-tower")
    with pytest.raises(LearnerFailed, match=said) as failed:
        single.predict_then_learn([*events[:3], event], labels[:4])
    assert failed.value.index == 3
    assert len(failed.value.predictions.values) in {3, 4}


def test_a_step_that_is_not_finite_is_left_out() -> None:
    events, labels = stream(320)
    learner = made()
    run(learner, events, labels)
    known = {"user": events[-1]["user"], "item": events[-1]["item"]}
    before = learner._model._user_rows.weight.clone()
    learner.learn([known], [1e30])
    assert learner._model.skipped == 1
    assert torch.equal(learner._model._user_rows.weight, before)


# -- snapshots


def put(name: str, tensor: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        held = weights.read(tree["model"]["weights"], "weights")
        tree["model"]["weights"] = weights.write({**held, name: tensor})

    return change


def set_to(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        for name in path[:-1]:
            tree = tree[name]
        tree[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("net.out.weight", torch.full((6, 8), math.nan)), "non-finite"),
        (put("users", torch.full((200, 7), math.inf)), "non-finite"),
        (put("users", torch.zeros(9, 7)), "bad-state"),
        (put("users", torch.zeros(9, 8)), "bad-state"),
        (put("items", torch.zeros(9, 7, dtype=torch.float64)), "bad-state"),
        (put("known", torch.zeros(1, 10**6)), "bad-state"),
        (put("net.out.weight", torch.zeros(6, 9)), "bad-state"),
        (put("more", torch.zeros(1)), "bad-state"),
        (set_to("model", "weights", value=b"no tensors"), "bad-state"),
        (set_to("format", value=2), "bad-state"),
        (set_to("averages", value=[1, math.nan, 0.0, 0.0, 0.0, 0.0]), "non-finite"),
        (set_to("settings", "max_users", value=16), "bad-state"),
        (set_to("model", "users", "ids", value=["a"] * 10**5), "bad-state"),
        (set_to("model", "history", "items", value=b"\0" * 800), "bad-state"),
    ],
    ids=[
        "NaN", "infinite", "rows", "columns", "type", "traits", "shape", "more", "bytes",
        "format", "mean", "limit", "ids", "history",
    ],
)  # fmt: skip
def test_a_follower_refuses_what_is_spoiled(
    change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    learner = made(module="gru")
    run(learner, *stream(1600))
    tree = through_bytes(learner.dump())
    change(tree)
    with pytest.raises(CorruptSnapshot) as refused:
        Recommender.restored(tree, "regression")
    assert refused.value.reason == reason


def test_what_claims_to_be_huge_makes_no_room() -> None:
    learner = made()
    run(learner, *stream(32))
    for name in ("dim", "hidden", "history"):
        tree = through_bytes(learner.dump())
        tree["settings"][name] = 10**12
        with pytest.raises(ConfigError, match="no whole number"):
            Recommender.restored(tree, "regression")


def test_a_trainer_keeps_what_it_has_if_a_snapshot_does_not_fit() -> None:
    events, labels = stream(160)
    learner = made()
    run(learner, events, labels)
    before = learner.dump()
    spoiled = through_bytes(before)
    put("users", torch.zeros(99, 7))(spoiled)
    with pytest.raises(CorruptSnapshot):
        learner.load(spoiled)
    with pytest.raises(CorruptSnapshot, match=r"settings differ: dim \(7, not 6\)") as refused:
        learner.load(made(dim=7).dump())
    assert "another configuration" in refused.value.hint
    assert learner.dump() == before


# -- configuration


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimizer": "lion"}, "there is no 'lion'"),
        ({"optimizer": {"use": "adam", "beta": 1}}, "did you mean beta"),
        ({"optimizer": {"use": "sgd", "lr": -1.0}}, "no positive number"),
        ({"module": "knn"}, "there is no 'knn'"),
        ({"batch": 0}, "no whole number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_configuration_that_cannot_work(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made(**options)


def test_the_fingerprint_is_that_of_the_configuration() -> None:
    prints = [
        made(**options).fingerprint()
        for options in ({}, {"seed": 4}, {"batch": 8}, {"module": "gru"}, {"l2": 0.5})
    ]
    assert len(set(prints)) == len(prints)
    assert made().fingerprint() == prints[0]
    assert "at most 100000 users" in made().describe()


def test_what_it_has_learned_is_readable() -> None:
    learner = made(module="two-tower")
    run(learner, *stream(160))
    told = dict(learner.readable())
    assert told["users"] == learner.users
    assert told["steps"] == 10
    assert told["norm[items]"] > 0
    assert "context['group=g0']" in told
