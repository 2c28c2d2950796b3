"""Learners made of several: what each of them learns, and who is to blame."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest

from stream_update import plugins
from stream_update.errors import ConfigError, CorruptSnapshot, LearnerFailed, LineageMismatch
from stream_update.events import Features, Predictions, Tree
from stream_update.wraps import BackgroundTwin, Distilled, Ensemble, Replay
from tests.streams import through_bytes


class Sure:
    """Says ``label`` with probability ``p``, or that number; writes down what it learns."""

    versions: ClassVar = {"river": "0.26.1", "torch": "2.15.0"}

    def __init__(self, label: Any, p: float = 0.9, batch: int = 1, fails: Any = None) -> None:
        self.label, self.p, self.batch, self.fails = label, p, batch, fails
        self.calls: list[list[Any]] = []
        self.signals: list[str] = []

    def predict(self, features: Sequence[Features]) -> Predictions:
        for index, event in enumerate(features):
            if event.get("unreadable") == self.label:
                made = self._said(index)
                raise LearnerFailed(index, "predict", ValueError("unreadable"), made)
        return self._said(len(features))

    def _said(self, count: int) -> Predictions:
        if isinstance(self.label, float):
            return Predictions([self.label] * count)
        return Predictions([self.label] * count, [{self.label: self.p, "z": 1 - self.p}] * count)

    def learn(self, features: Sequence[Features], labels: Sequence[Any]) -> None:
        assert self.batch in {1, len(features)}
        if self.fails is not None and self.fails in labels:
            index = list(labels).index(self.fails)
            raise LearnerFailed(index, "learn", ValueError("refused"), Predictions([]))
        self.calls.append(list(labels))

    def predict_then_learn(
        self, features: Sequence[Features], labels: Sequence[Any]
    ) -> Predictions:
        raise AssertionError("members are asked and taught apart")

    def react(self, signal: str) -> None:
        self.signals.append(signal)

    def fingerprint(self) -> str:
        return f"{self.label} {self.p}"

    def describe(self) -> str:
        return f"sure of {self.label}"

    def dump(self) -> Tree:
        return {"calls": self.calls}

    def load(self, tree: Tree) -> None:
        self.calls = tree["calls"]


def make_member(table: Mapping[str, Any], _option: str, _number: int) -> Any:
    return "sure", lambda: Sure(**table)


def ensemble(*members: Mapping[str, Any], task: str = "multiclass", **options: Any) -> Any:
    made = Ensemble(task, list(members), make_member=make_member, **options)
    return made, list(made.learners.values())


def distilled(teacher: Mapping[str, Any], student: Mapping[str, Any], **options: Any) -> Any:
    task = options.pop("task", "multiclass")
    made = Distilled(task, teacher, student, make_member=make_member, **options)
    return made, made.learners["teacher"], made.learners["student"]


def events(count: int, **marked: int) -> list[Features]:
    """``events(5, a=2)``: event 2 cannot be read by the member that says ``a``."""
    made: list[Features] = [{"x": float(index)} for index in range(count)]
    for label, index in marked.items():
        made[index]["unreadable"] = label
    return made


A, B, C = {"label": "a"}, {"label": "b", "p": 0.8}, {"label": "b", "p": 0.6}


@pytest.mark.parametrize(
    ("combine", "value"), [("mean", "b"), ("vote", "b"), ("weighted", "b"), ("stacking", "z")]
)
def test_members_answer_together(combine: str, value: str) -> None:
    made, _ = ensemble(A, B, C, combine=combine)
    said = made.predict(events(2))
    assert said.values == [value, value]
    assert sum(said.probabilities[0].values()) == pytest.approx(1)
    assert set(said.probabilities[0]) == ({"a", "b"} if combine == "vote" else {"a", "b", "z"})


def test_every_member_learns_the_batches_that_it_would_learn_alone() -> None:
    made, (one, two, three) = ensemble(A, {**B, "batch": 2}, {**C, "batch": 3})
    assert made.batch == 6
    made.learn(events(6), list("uvwxyz"))
    assert one.calls == [list("uvwxyz")]
    assert two.calls == [["u", "v"], ["w", "x"], ["y", "z"]]
    assert three.calls == [["u", "v", "w"], ["x", "y", "z"]]
    assert ensemble(A, {**B, "batch": 2}, batch=8)[0].batch == 8


@pytest.mark.parametrize("batch", [5, 0, 2.0, True])
def test_a_batch_in_which_those_of_the_members_do_not_fit(batch: Any) -> None:
    with pytest.raises(ConfigError, match=r"no multiple of 4.*1, 4"):
        ensemble(A, {**B, "batch": 4}, batch=batch)


def test_weights_come_from_predictions_made_before_the_event_was_learned() -> None:
    made, _ = ensemble(A, B, combine="weighted", half_life=20)
    seen = []
    for _ in range(40):
        seen.append(made.predict(events(1)).values[0])
        made.learn(events(1), ["b"])
    figures = dict(made.readable())
    assert figures["weight[1]"] > 0.6
    assert seen[0] == "a"
    assert seen[-1] == "b"
    made.react("reset")
    assert dict(made.readable())["weight[0]"] == 0.5
    assert [member.signals for member in made.learners.values()] == [["reset"]] * 2


class TestFailures:
    def test_in_a_batch_the_place_among_all_events_is_named(self) -> None:
        made, _ = ensemble(A, {**B, "batch": 2, "fails": "x"})
        with pytest.raises(LearnerFailed) as caught:
            made.learn(events(4), list("uvwx"))
        assert (caught.value.index, caught.value.phase) == (3, "learn")

    def test_one_by_one_what_was_predicted_comes_with_the_failure(self) -> None:
        made, _ = ensemble(A, {**B, "fails": "x"})
        with pytest.raises(LearnerFailed) as caught:
            made.predict_then_learn(events(4), list("uvxy"))
        assert (caught.value.index, caught.value.phase) == (2, "learn")
        assert len(caught.value.predictions.values) == 3

    def test_the_first_event_that_any_member_cannot_predict_is_named(self) -> None:
        made, members = ensemble(A, B, C, combine="weighted")
        before = made.dump()
        with pytest.raises(LearnerFailed) as caught:
            made.predict(events(6, a=4, b=2))
        assert (caught.value.index, caught.value.phase) == (2, "predict")
        assert len(caught.value.predictions.values) == 2
        with pytest.raises(LearnerFailed) as caught:
            made.predict_then_learn(events(1, b=0), ["u"])
        assert (caught.value.index, caught.value.phase) == (0, "predict")
        assert caught.value.predictions.values == []
        assert made.dump() == before
        assert [member.calls for member in members] == [[], [], []]


def test_another_ensemble_is_refused_and_changes_nothing() -> None:
    made, members = ensemble(A, B, combine="weighted")
    made.learn(events(1), ["u"])
    for other in (ensemble(A, combine="weighted"), ensemble(A, B), ensemble(A, B, half_life=5.0)):
        with pytest.raises(CorruptSnapshot, match="an ensemble of"):
            other[0].load(through_bytes(made.dump()))
    broken = through_bytes(made.dump())
    broken["combiner"] = [[float("nan"), 0.0], 0.0, 0.0]
    with pytest.raises(CorruptSnapshot):
        made.load(broken)
    assert list(made.learners.values()) == members


@pytest.mark.parametrize("kind", ["os:system", "sure", "twin(sure)", "os(river)", "r" * 300])
def test_who_follows_imports_nothing_that_a_snapshot_names(kind: str) -> None:
    tree = {
        "settings": {"combine": "mean", "half_life": 1000, "rate": None},
        "members": [{"kind": kind, "state": {}}],
        "combiner": None,
    }
    with pytest.raises(LineageMismatch, match=r"learner\.members\[0\]"):
        plugins.restored("ensemble", tree, "binary", where="here")


@pytest.mark.parametrize("members", [[], "river", [A] * 101])
def test_the_number_of_members_is_limited(members: Any) -> None:
    with pytest.raises(ConfigError, match="1 to 100 members"):
        Ensemble("binary", members, make_member=make_member)


class TestDistilled:
    def test_the_student_is_who_answers(self) -> None:
        made, _, student = distilled(A, B)
        assert made.predict(events(2)) == student.predict(events(2))
        assert made.predict_then_learn(events(3), list("uvw")) == student.predict(events(3))
        assert made.kind == "distil(sure)"

    @pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
    def test_the_student_learns_the_mixture_of_label_and_teacher(self, weight: float) -> None:
        made, teacher, student = distilled({"label": "t", "p": 0.75}, B, weight=weight, seed=1)
        count = 4000
        made.learn(events(count), ["y"] * count)

        assert teacher.calls == [["y"]] * count
        learned = [call[0] for call in student.calls]
        shares = {label: learned.count(label) / count for label in ("y", "t", "z")}
        assert shares == pytest.approx(
            {"y": 1 - weight, "t": weight * 0.75, "z": weight * 0.25}, abs=0.03
        )

    def test_a_temperature_makes_the_teacher_less_sure(self) -> None:
        made, _, student = distilled(A, B, weight=1.0, temperature=2.0)
        made.learn(events(3000), ["y"] * 3000)
        share = sum(call == ["a"] for call in student.calls) / 3000
        assert share == pytest.approx(0.9**0.5 / (0.9**0.5 + 0.1**0.5), abs=0.03)

    def test_numbers_are_mixed(self) -> None:
        made, teacher, student = distilled(
            {"label": 10.0}, {"label": 0.0}, task="regression", weight=0.25
        )
        made.learn(events(2), [2.0, -6.0])
        assert teacher.calls == [[2.0], [-6.0]]
        assert student.calls == [[4.0], [-2.0]]
        made, _, student = distilled({"label": float("nan")}, {"label": 0.0}, task="regression")
        made.learn(events(1), [3.0])
        assert student.calls == [[3.0]]

    def test_batches_fit_both(self) -> None:
        made, teacher, student = distilled({**A, "batch": 4}, {**B, "batch": 2}, weight=0.0)
        assert made.batch == 4
        made.learn(events(4), list("uvwx"))
        assert teacher.calls == [list("uvwx")]
        assert student.calls == [["u", "v"], ["w", "x"]]

    @pytest.mark.parametrize("who", ["a", "b"])
    def test_what_either_cannot_predict_changes_nothing(self, who: str) -> None:
        made, _, _ = distilled(A, B, weight=1.0)
        made.predict_then_learn(events(5), list("uvwxy"))
        before = through_bytes(made.dump())
        with pytest.raises(LearnerFailed) as caught:
            made.predict_then_learn(events(1, **{who: 0}), ["u"])
        assert (caught.value.phase, caught.value.predictions.values) == ("predict", [])
        assert through_bytes(made.dump()) == before

    def test_what_the_student_cannot_learn_is_named_with_its_prediction(self) -> None:
        made, _, _ = distilled(A, {**B, "fails": "w"}, weight=0.0)
        with pytest.raises(LearnerFailed) as caught:
            made.predict_then_learn(events(4), list("uvwx"))
        assert (caught.value.index, caught.value.phase) == (2, "learn")
        assert caught.value.predictions.values == ["b"] * 3

    def test_who_follows_needs_no_library_of_the_teacher(self) -> None:
        class Modest(Sure):
            versions: ClassVar = {"river": "0.26.1"}

        class Newer(Sure):
            versions: ClassVar = {"torch": "2.16.0"}

        kinds = {"t": Sure, "s": Modest, "n": Newer}

        def make(table: Mapping[str, Any], _option: str, _number: int) -> Any:
            return table["label"], lambda: kinds[table["label"]](**table)

        old, new = (
            Distilled("multiclass", {"label": teacher}, {"label": "s"}, make_member=make)
            for teacher in "tn"
        )
        assert old.versions == {"river": "0.26.1"}
        assert old.fingerprint() != new.fingerprint()

    def test_another_teacher_is_refused(self) -> None:
        made, _, _ = distilled(A, B, weight=0.3)
        other, _, _ = distilled(A, B, weight=0.4)
        with pytest.raises(CorruptSnapshot, match="distilled from"):
            other.load(through_bytes(made.dump()))

    @pytest.mark.parametrize("options", [{"weight": 1.5}, {"weight": -0.1}, {"temperature": 0}])
    def test_options_that_make_no_sense(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=r"learner\.(weight|temperature)"):
            distilled(A, B, **options)


def test_draws_of_a_student_go_on_after_a_restart() -> None:
    chance = random.Random(1)
    labels = [chance.choice("yx") for _ in range(60)]
    whole, _, first = distilled(A, B, seed=5)
    cut, _, _ = distilled(A, B, seed=5)
    whole.learn(events(60), labels)
    cut.learn(events(25), labels[:25])
    back, _, _ = distilled(A, B, seed=5)
    back.load(through_bytes(cut.dump()))
    back.learn(events(35), labels[25:])
    assert back.learners["student"].calls == first.calls


# -- events without a label


class Hungry(Sure):
    """A learner that asks for events without a label, ``hunger`` at a time."""

    def __init__(self, hunger: int = 3, **options: Any) -> None:
        super().__init__(**options)
        self.unlabelled_batch = hunger
        self.eaten: list[int] = []

    def learn_unlabelled(self, features: Sequence[Features]) -> None:
        self.eaten.append(len(features))


def make_hungry(table: Mapping[str, Any], _option: str, _number: int) -> Any:
    return "hungry", lambda: (Hungry if "hunger" in table else Sure)(**table)


def test_events_without_a_label_reach_those_within_that_ask_for_them() -> None:
    three, five = {"hunger": 3, "label": "a"}, {"hunger": 5, "label": "b"}
    together = Ensemble("multiclass", [three, A, five], make_member=make_hungry)
    taught = Distilled("multiclass", three, five, make_member=make_hungry)
    again = Replay(lambda: Hungry(label="a"), "multiclass")
    twin = BackgroundTwin(lambda: Hungry(label="a"))
    twin.react("warning")
    for made, wanted, fed in ((together, 5, 2), (taught, 5, 2), (again, 3, 1), (twin, 3, 2)):
        assert made.unlabelled_batch == wanted
        made.learn_unlabelled(events(wanted))
        eaten = [one.eaten for one in made.learners.values() if isinstance(one, Hungry)]
        assert eaten == [[wanted]] * fed
    content = Ensemble("multiclass", [A, {"hunger": 0, "label": "a"}], make_member=make_hungry)
    assert content.unlabelled_batch == 0


def test_a_student_learns_what_the_teacher_says_of_events_without_a_label() -> None:
    made, teacher, student = distilled({**A, "p": 1.0}, {**B, "batch": 2}, unlabelled=True)
    assert made.unlabelled_batch == made.batch == 2
    made.learn_unlabelled(events(2))
    assert student.calls == [], "a teacher that has learned nothing has nothing to say"
    made.learn(events(2), ["u", "v"])
    made.learn_unlabelled(events(4))
    assert student.calls[1:] == [["a", "a"], ["a", "a"]]
    assert teacher.calls == [["u", "v"]], "the teacher learns labels alone"
    made.react("reset")
    made.learn_unlabelled(events(2))
    assert len(student.calls) == 3, "the teacher has begun again"


def test_a_regression_student_is_given_the_numbers_that_are_numbers() -> None:
    made, _, student = distilled({"label": 4.0}, {"label": 0.0}, unlabelled=True, task="regression")
    made.learn(events(1), [2.0])
    made.learn_unlabelled(events(1))
    assert student.calls == [[3.0], [4.0]]
    made, _, student = distilled(
        {"label": float("nan")}, {"label": 0.0}, unlabelled=True, task="regression"
    )
    made.learn(events(1), [2.0])
    made.learn_unlabelled(events(1))
    assert student.calls == [[2.0]]


def test_an_event_that_the_student_cannot_learn_is_named_among_all() -> None:
    made, _, _ = distilled({**A, "p": 1.0}, {**B, "fails": "a"}, unlabelled=True, weight=0.0)
    made.learn(events(1), ["u"])
    with pytest.raises(LearnerFailed) as caught:
        made.learn_unlabelled(events(3))
    assert caught.value.index == 0


def test_what_a_teacher_has_learned_is_known_after_a_restart() -> None:
    made, _, _ = distilled({**A, "p": 1.0}, B, unlabelled=True)
    made.learn(events(1), ["u"])
    again, _, student = distilled({**A, "p": 1.0}, B, unlabelled=True)
    again.load(through_bytes(made.dump()))
    again.learn_unlabelled(events(1))
    assert again.learners["student"].calls == [["u"], ["a"]]
    assert student.calls == []
