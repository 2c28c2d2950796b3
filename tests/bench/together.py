"""Ensembles against their members, and a student with and without its teacher.

    python -m tests.bench.together [--rows 10000]

Elec2 in the order in which it came, each batch predicted before it is learned. A table for
river learners one event at a time, and one with a network among them, where all predict and
learn 8 events at a time, members alone too. A third one is of students whose teacher speaks
of the events without a label, where only every 20th has one.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import Any

from stream_update.components import components
from stream_update.config import parse
from tests.programs import elec2

Table = dict[str, Any]

SCALER: Table = {"use": "river.preprocessing:StandardScaler"}
MEMBERS: dict[str, Table] = {
    "logistic regression": {
        "use": "river.compose:Pipeline",
        "steps": [
            SCALER,
            {
                "use": "river.linear_model:LogisticRegression",
                "optimizer": {"use": "river.optim:SGD", "lr": 0.05},
            },
        ],
    },
    "naive Bayes": {"use": "river.naive_bayes:GaussianNB"},
    "adaptive Hoeffding tree": {"use": "river.tree:HoeffdingAdaptiveTreeClassifier"},
}
NETWORK: Table = {
    "use": "torch",
    "module": {"use": "mlp", "hidden": [64]},
    "optimizer": {"use": "adam", "lr": 0.01},
    "batch": 8,
}
FEW = 20
COMBINED = ("mean", "vote", "weighted", "stacking")


def one_by_one() -> Iterator[tuple[str, Table]]:
    yield from MEMBERS.items()
    for combine in COMBINED:
        yield combine, {"use": "ensemble", "combine": combine, "members": [*MEMBERS.values()]}
    yield from distilled("the tree", MEMBERS["adaptive Hoeffding tree"])


def with_a_network() -> Iterator[tuple[str, Table]]:
    yield from MEMBERS.items()
    yield "MLP 64", NETWORK
    members = [*MEMBERS.values(), NETWORK]
    for combine in COMBINED:
        yield combine, {"use": "ensemble", "combine": combine, "members": members}
    yield from distilled("MLP 64", NETWORK)


def with_few_labels() -> Iterator[tuple[str, Table]]:
    student = MEMBERS["logistic regression"]
    yield "logistic regression", student
    for name in ("naive Bayes", "adaptive Hoeffding tree"):
        yield name, MEMBERS[name]
        table = {"use": "distil", "weight": 0, "unlabelled": True, "student": student}
        yield f"logistic regression taught by {name}", {**table, "teacher": MEMBERS[name]}


def distilled(name: str, teacher: Table) -> Iterator[tuple[str, Table]]:
    student = MEMBERS["logistic regression"]
    for weight in (0.5, 0.9):
        yield (
            f"logistic regression distilled from {name}, weight {weight}",
            {"use": "distil", "weight": weight, "teacher": teacher, "student": student},
        )


def measured(table: Table, rows: list[tuple[Table, bool]], batch: int, every: int) -> str:
    """Accuracy and log loss, as cells of a table. Of ``every`` batches one has labels."""
    tree = {
        "app": "together",
        "log": "sqlite:///none.db",
        "task": "binary",
        "source": {"topic": "elec2", "label": "class", "features": "*"},
        "learner": table,
    }
    learner: Any = components(parse(tree)).make_learner()
    right, loss, count = 0, 0.0, 0
    for start in range(0, len(rows) - batch + 1, batch):
        events = [event for event, _ in rows[start : start + batch]]
        labels = [label for _, label in rows[start : start + batch]]
        if batch == every == 1:
            said = learner.predict_then_learn(events, labels)
        else:
            said = learner.predict(events)
            if start // batch % every == 0:
                learner.learn(events, labels)
            elif getattr(learner, "unlabelled_batch", 0):
                learner.learn_unlabelled(events)
        assert said.probabilities is not None
        for value, chances, label in zip(said.values, said.probabilities, labels, strict=True):
            right += value == label
            loss -= math.log(
                min(1 - 1e-15, max(1e-15, chances.get(label, 0.0) if chances else 0.5))
            )
            count += 1
    return f"{right / count:.2%} | {loss / count:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    options = parser.parse_args()
    rows = [
        ({k: v for k, v in event.items() if k != "class"}, event["class"] == 1)
        for event in elec2(options.rows)
    ]
    tables = (
        ("1 at a time", 1, 1, one_by_one()),
        ("8 at a time", 8, 1, with_a_network()),
        (f"every {FEW}th has a label", 1, FEW, with_few_labels()),
    )
    for title, batch, every, learners in tables:
        print(f"\n| {title} | accuracy | log loss |\n|---|---|---|")
        for name, table in learners:
            print(f"| {name} | {measured(table, rows, batch, every)} |", flush=True)


if __name__ == "__main__":
    main()
