"""What is left of a learner for those who only predict, kind by kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from river import linear_model, preprocessing

from stream_update import plugins
from stream_update.components import components
from stream_update.config import parse
from stream_update.errors import ConfigError, CorruptSnapshot
from stream_update.learners.river import RiverLearner
from stream_update.protocols import Learner, Precision, Serves
from stream_update.serving import Serving
from stream_update.snapshot import (
    Assembler,
    Identity,
    Manifest,
    ServingManifest,
    Snapshot,
    encode_manifest,
    read_manifest,
    records,
    seal,
)
from stream_update.wraps import Replay
from tests.ratings import ratings
from tests.streams import through_bytes

EVENTS = [{"a": i % 7 - 3.0, "b": i % 5 * 0.25, "c": float(i % 3)} for i in range(128)]
LABELS = [x["a"] + x["b"] > 0 for x in EVENTS]
CONFIG: dict[str, Any] = {
    "app": "app",
    "log": "sqlite:///log.db",
    "task": "binary",
    "source": {"topic": "labelled"},
    "learner": {"use": "river.naive_bayes:GaussianNB"},
}


def river() -> RiverLearner:
    def make() -> Any:
        return preprocessing.StandardScaler() | linear_model.LogisticRegression()

    return RiverLearner(make, "binary")


def snapshot(learner: Learner, kind: str, seq: int = 3) -> Snapshot:
    identity = Identity(
        app="app", lineage="app", task="binary", topic="t", topic_id="i", learner=kind,
        fingerprint="", config={}, versions={}, seed=0,
    )  # fmt: skip
    return seal(
        {"learner": learner.dump(), "monitors": {"metrics": 1}}, identity, partition=0, seq=seq,
        parent="abc", next={"0": 128}, events=128, learned=120, rejected=3, unlabelled=5,
        recent_loss=0.5, event_time=None, created_ms=1,
    )  # fmt: skip


def served(learner: Learner, kind: str, precision: Precision) -> tuple[Snapshot, Learner]:
    """As it is published, and as a follower has it then."""
    made = Serving("app.serving", precision).seal(snapshot(learner, kind), learner.dump())
    manifest = made.manifest
    tree = made.state()["learner"]
    return made, plugins.restored(manifest.identity.learner, tree, "binary", where="here")


def test_it_says_what_it_was_made_of() -> None:
    learner = Replay(river, "binary", max_events=50, seed=1)
    learner.predict_then_learn(EVENTS, LABELS)
    full = snapshot(learner, "replay(river)")
    made, restored = served(learner, "replay(river)", "float32")
    manifest = made.manifest
    assert isinstance(manifest, ServingManifest)
    assert (manifest.snapshot, manifest.precision) == (full.sha256, "float32")
    assert made.origin == full.sha256 == full.origin
    assert manifest.identity == msgspec.structs.replace(full.manifest.identity, learner="river")
    same = ("seq", "parent", "next", "events", "learned", "rejected", "created_ms", "partition")
    assert [getattr(manifest, name) for name in same] == [
        getattr(full.manifest, name) for name in same
    ]
    assert made.state().keys() == {"learner"}
    assert len(made.payload) < 0.7 * len(full.payload)
    assert restored.predict(EVENTS) == learner.predict(EVENTS)


def test_neither_manifest_is_taken_for_the_other() -> None:
    full = snapshot(river(), "river")
    made, _ = served(river(), "river", "float32")
    assert read_manifest(encode_manifest(made.manifest), ServingManifest) == made.manifest
    for manifest, kind in ((full.manifest, ServingManifest), (made.manifest, Manifest)):
        with pytest.raises(CorruptSnapshot, match="cannot be parsed") as caught:
            read_manifest(encode_manifest(manifest), kind)
        assert caught.value.reason == "not-a-snapshot"
    for other, kind in ((full, ServingManifest), (made, Manifest)):
        assembler = Assembler("app", kind=kind)
        for record in records(other, "app.serving"):
            assert assembler.add(record.value, record.headers) is None
        assert [refusal.reason for refusal in assembler.refused] == ["not-a-snapshot"]


def test_who_has_no_weights_is_refused_half_of_them() -> None:
    wanted = {**CONFIG, "snapshot": {"serving": "bfloat16"}}
    with pytest.raises(ConfigError, match=r"\[snapshot\] serving: .*'river' have no weights") as no:
        components(parse(wanted))
    assert "float32" in no.value.hint
    members = [CONFIG["learner"], {"use": "river.tree:HoeffdingTreeClassifier"}]
    ensemble = {"use": "ensemble", "members": members}
    with pytest.raises(ConfigError, match="have no weights that could be bfloat16"):
        components(parse({**wanted, "learner": ensemble}))
    for learner in (CONFIG["learner"], ensemble):
        components(parse({**CONFIG, "learner": learner, "snapshot": {"serving": "float32"}}))


def test_the_option_is_no_part_of_what_is_learned() -> None:
    plain, both = (
        components(parse({**CONFIG, "snapshot": {"serving": one} if one else {}}))
        for one in ("", "float32")
    )
    assert plain.fingerprint == both.fingerprint


@pytest.mark.parametrize(
    ("tables", "match"),
    [
        ({"snapshot": {"serving": "float8"}}, r"\[snapshot\] serving: .*not one of the accepted"),
        ({"score": {"follow": "serving"}}, r"\[score\] follow: nobody publishes"),
        ({"score": {"follow": "snapshot"}}, r"\[score\] follow: .*not one of the accepted"),
    ],
)
def test_options_that_cannot_work(tables: Mapping[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        parse({**CONFIG, **tables})


# -- with torch


def torch_learner(**options: Any) -> Any:
    pytest.importorskip("safetensors")
    pytest.importorskip("torch")
    from stream_update.learners.torch import TorchLearner  # noqa: PLC0415 - where there is torch

    given: dict[str, Any] = {
        "module": {"use": "mlp", "hidden": [32]},
        "optimizer": {"use": "adam", "lr": 0.01},
        "batch": 16,
        "seed": 1,
    }
    return TorchLearner("binary", **(given | options))


def taught(learner: Any) -> Any:
    for at in range(0, len(EVENTS), learner.batch):
        learner.learn(EVENTS[at : at + learner.batch], LABELS[at : at + learner.batch])
    return learner


def ensemble() -> Learner:
    from stream_update.wraps import Ensemble  # noqa: PLC0415

    def make_member(member: Mapping[str, Any], _: str, number: int) -> Any:
        if member["use"] == "river":
            return "river", river
        return "replay(torch)", lambda: Replay(
            lambda: torch_learner(seed=number), "binary", max_events=20, seed=2
        )

    tables = [{"use": "torch"}, {"use": "river"}]
    return Ensemble("binary", tables, combine="weighted", make_member=make_member)


KINDS: dict[str, tuple[str, Callable[[], Any]]] = {
    "plain": ("torch", torch_learner),
    "averaged": ("torch", lambda: torch_learner(ema=0.9)),
    "pretrained": (
        "torch",
        lambda: torch_learner(pretrain={"mask": 0.3, "batch": 16, "labelled": True}),
    ),
    "replay": (
        "replay(torch)",
        lambda: Replay(torch_learner, "binary", max_events=100, seed=1),
    ),
    "ensemble": ("ensemble", ensemble),
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", KINDS)
def test_rounded_networks_say_nearly_the_same(name: str, precision: Precision) -> None:
    kind, make = KINDS[name]
    learner = taught(make())
    before = through_bytes(learner.dump())
    made, restored = served(learner, kind, precision)
    assert through_bytes(learner.dump()) == before
    expected, found = learner.predict(EVENTS).probabilities, restored.predict(EVENTS).probabilities
    assert expected is not None
    assert found is not None
    differences = [abs(one[True] - two[True]) for one, two in zip(expected, found, strict=True)]
    if precision == "float32":
        assert max(differences) < 1e-6
    else:
        assert 0 < max(differences) < 0.02
    full = snapshot(learner, kind)
    share = {"float32": 0.7, "bfloat16": 0.4, "float16": 0.4}[precision]
    if name != "ensemble":
        assert len(made.payload) < share * len(full.payload)
    with pytest.raises((CorruptSnapshot, KeyError)):
        make().load(made.state()["learner"])


def test_the_seam_is_declared() -> None:
    assert isinstance(torch_learner(), Serves)
    assert not isinstance(river(), Serves)


def test_what_float16_does_not_have_stays() -> None:
    learner = taught(torch_learner())
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        next(iter(learner.module.parameters()))[0, 0] = 1e6
    restored: Any = served(learner, "torch", "float16")[1]
    weights = dict(restored.module.named_parameters())
    assert {one.dtype for one in weights.values()} == {torch.float32}
    assert max(float(one.detach().max()) for one in weights.values()) == 1e6


def test_a_diverged_network_is_published_and_refused() -> None:
    learner = taught(torch_learner())
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        next(iter(learner.module.parameters()))[0, 0] = float("nan")
    with pytest.raises(CorruptSnapshot, match="NaN or infinite"):
        served(learner, "torch", "bfloat16")


def test_nothing_learned_yet() -> None:
    _, restored = served(torch_learner(), "torch", "bfloat16")
    assert restored.predict(EVENTS[:2]).values == [None, None]


@pytest.mark.parametrize("module", ["mf", "gru"])
def test_recommenders(module: str) -> None:
    pytest.importorskip("safetensors")
    pytest.importorskip("torch")
    from stream_update.learners.recommender import Recommender  # noqa: PLC0415

    events = ratings(320, 1)
    labels = [event.pop("rating") for event in events]

    def make() -> Any:
        return Recommender("regression", module=module, batch=16, dim=6, hidden=8, seed=3)

    learner = make()
    for at in range(0, 320, 16):
        learner.learn(events[at : at + 16], labels[at : at + 16])
    expected = learner.predict(events).values
    within: dict[Precision, float] = {"float32": 1e-6, "bfloat16": 0.1, "float16": 0.02}
    for precision, apart in within.items():
        tree = through_bytes(Recommender.for_serving(learner.dump(), precision))
        restored: Any = plugins.restored("recommender", tree, "regression", where="here")
        assert restored.predict(events).values == pytest.approx(expected, abs=apart)
        user = str(events[-1]["user"])
        assert len(restored.recommend(user, 5)) == len(learner.recommend(user, 5))
        with pytest.raises((CorruptSnapshot, KeyError)):
            make().load(tree)
