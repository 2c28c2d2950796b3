"""Every error names the key and the accepted values."""

from __future__ import annotations

import fractions
import hashlib
from pathlib import Path
from typing import Any

import pytest

from stream_update import plugins
from stream_update.cadence import Cadence
from stream_update.components import components
from stream_update.config import Config, load, parse
from stream_update.errors import ConfigError

GOOD: dict[str, Any] = {
    "app": "weather",
    "log": "sqlite:///weather.db",
    "task": "binary",
    "source": {"topic": "weather.labelled", "label": "target", "features": "*"},
    "learner": {"use": "river.linear_model:LogisticRegression"},
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (changed(tsk="x"), ("tsk", "unknown key", "did you mean task", "accepted")),
        (
            changed(task="ranking"),
            ("task", "'ranking'", "binary, multiclass, multilabel, regression"),
        ),
        (changed(app="a b"), ("app", "'a b'", "letters")),
        (changed(log="weather.db"), ("log", "sqlite:///")),
        (changed(source={}), ("[source] topic", "required")),
        (changed(source={"topic": "t", "labl": "y"}), ("[source] labl", "did you mean label")),
        (changed(source={"topic": "t", "partitions": 0}), ("[source] partitions", "0")),
        (changed(source={"topic": "t", "partitions": "2"}), ("[source] partitions", "int")),
        (changed(source=3), ("source", "[source]")),
        (changed(checkpoint={"seconds": 0}), ("[checkpoint] seconds",)),
        (changed(wrap={"use": "replay"}), ("wrap", "written [[wrap]]")),
        (changed(monitor=[{}]), ("[[monitor]] number 1", "use")),
        (changed(learner={}), ("[learner]", "use")),
        ({k: v for k, v in GOOD.items() if k != "task"}, ("task", "required")),
    ],
)
def test_errors(tree: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(tree)
    message = f"{caught.value} {caught.value.hint}"
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("learner", "words"),
    [
        ({"use": "river.linear_model:LogisticRegressoin"}, ("learner.use", "LogisticRegression")),
        ({"use": "no_such_module:x"}, ("learner.use", "no_such_module")),
        ({"use": "no-such-name"}, ("learner.use", "module:attribute")),
        ({"use": "tourch"}, ("learner.use", "did you mean torch?", "ensemble")),
        (
            {"use": "ensemble", "members": [{"use": "rivr"}]},
            ("learner.members[0].use", "there is no learner 'rivr'", "module:attribute"),
        ),
        (
            {"use": "river.linear_model:LogisticRegression", "l2": "strong"},
            ("learner.l2", "expected float", "'strong'"),
        ),
        (
            {"use": "river.linear_model:LogisticRegression", "intercept_lr": "0.1"},
            ("learner.intercept_lr", "expected float or Scheduler"),
        ),
        (
            {
                "use": "river.linear_model:LogisticRegression",
                "optimizer": {"use": "river.optim:SGD", "lr": "x"},
            },
            ("learner.optimizer.lr", "expected int or float or Scheduler", "'x'"),
        ),
        (
            {"use": "river.linear_model:LogisticRegression", "l3": 1},
            ("learner.l3", "no such option", "l2", "it accepts"),
        ),
        (
            {
                "use": "river.compose:Pipeline",
                "steps": [{"use": "river.preprocessing:StandardScaler", "with_st": True}],
            },
            ("learner.steps[0].with_st", "with_std"),
        ),
        ({"use": "river.linear_model:LinearRegression"}, ("classifier",)),
        ({"use": "collections:Counter"}, ("no river estimator",)),
    ],
)
def test_errors_of_components(learner: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        components(parse(changed(learner=learner)))
    message = f"{caught.value} {caught.value.hint}"
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "optimizer", ["SGD", "AdaGrad", "RMSProp", "Adam"], ids=["sgd", "adagrad", "rmsprop", "adam"]
)
def test_learners_chosen_in_the_file(optimizer: str) -> None:
    learner = {
        "use": "river.compose:Pipeline",
        "steps": [
            {"use": "river.preprocessing:StandardScaler"},
            {
                "use": "river.linear_model:LogisticRegression",
                "l2": 0.01,
                "optimizer": {"use": f"river.optim:{optimizer}", "lr": 0.05},
                "loss": {"use": "river.optim.losses:Log"},
            },
        ],
    }
    model = plugins.build(learner, "learner")
    step = list(model.steps.values())[-1]
    assert (step.l2, step.optimizer.learning_rate) == (0.01, 0.05)
    assert type(step.optimizer).__name__ == optimizer


def test_seeds_are_given_to_those_that_lack_one() -> None:
    table = {"use": "river.forest:ARFClassifier", "n_models": 2}
    assert plugins.build(table, "learner", seed=7).seed == 7
    assert plugins.build({**table, "seed": 3}, "learner", seed=7).seed == 3


def test_file_environment_and_overrides_in_this_order(tmp_path: Path) -> None:
    path = tmp_path / "app.toml"
    path.write_text(
        'app = "a"\nlog = "sqlite:///x"\ntask = "binary"\n[source]\ntopic = "t"\npartitions = 1\n'
        '[learner]\nuse = "m:n"\nsteps = [{ use = "a:b", lr = 1 }]\n'
    )
    environment = {
        "STREAM_UPDATE_SOURCE__PARTITIONS": "3",
        "STREAM_UPDATE_SOURCE__LABEL": "y",
        "STREAM_UPDATE_KAFKA": "127.0.0.1:9092",
        "PATH": "/bin",
    }
    config = load(path, ["source.partitions=4", "learner.steps[0].lr=0.5"], environment)
    assert (config.source.partitions, config.source.label) == (4, "y")
    assert config.learner["steps"][0]["lr"] == 0.5
    for override, words in {
        "app": "key=value",
        "learner.steps[3].lr=1": "1 entries",
        "app.name=1": "not a table",
        "=3": "no key",
    }.items():
        with pytest.raises(ConfigError, match=words):
            load(path, [override], {})
    with pytest.raises(ConfigError, match="nonsense"):
        load(path, [], {"STREAM_UPDATE_NONSENSE": "1"})


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        load(tmp_path / "none.toml", [], {})
    with pytest.raises(ConfigError, match="folder"):
        load(tmp_path, [], {})
    bad = tmp_path / "bad.toml"
    bad.write_text("a = = 1")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(bad, [], {})


def test_names_that_follow_from_the_app() -> None:
    config: Config = parse(GOOD)
    second: Config = parse(changed(lineage="weather-v2"))
    assert (config.lineage_name, config.trainer_group) == ("weather", "weather")
    assert second.trainer_group == "weather.weather-v2"
    assert config.topic("snapshots") == second.topic("snapshots") == "weather.snapshots"


def test_a_checkpoint_is_due_by_count_exactly_or_by_time() -> None:
    cadence = Cadence(10, 5.0, now=100.0)
    assert cadence.room() == 10
    assert not cadence.due(200.0), "nothing was read"
    cadence.advance(9)
    assert (cadence.room(), cadence.due(104.9), cadence.due(105.0)) == (1, False, True)
    cadence.advance(1)
    assert cadence.due(100.0)
    cadence.begun(106.0)
    assert (cadence.room(), cadence.due(120.0)) == (10, False)


@pytest.mark.parametrize("begun", [True, False])
def test_a_refused_checkpoint_is_due_again_soon_and_not_at_once(begun: bool) -> None:
    cadence = Cadence(10, 5.0, every=2, now=0.0)
    cadence.begun(0.0)
    cadence.advance(10)
    assert cadence.snapshot_due(1.0)
    if begun:
        cadence.begun(1.0)
    cadence.refused(1.0, begun=begun)
    assert (cadence.due(1.0), cadence.due(1.3)) == (False, True)
    assert cadence.room() == 10, "events need not wait for it one by one"
    assert cadence.snapshot_due(1.3), "it carries what the refused one carried"
    cadence.begun(1.3)
    assert not cadence.due(1.6)


def test_snapshots_take_a_bounded_share_of_the_time() -> None:
    cadence = Cadence(10, 5.0, every=2, max_overhead=0.1, now=0.0)
    assert not cadence.snapshot_due(0.0)
    cadence.begun(1.0)
    assert cadence.snapshot_due(1.0)
    cadence.begun(2.0)
    cadence.took(2.0, 0.5)
    cadence.begun(3.0)
    assert not cadence.snapshot_due(6.9)
    assert cadence.snapshot_due(7.1)


def test_sources_are_those_of_the_users_own_modules() -> None:
    tables = [
        {"use": "river.compose:Pipeline", "steps": [{"use": "json.decoder:JSONDecoder"}]},
        {"factory": "hashlib:sha256", "name": "textwrap:fill", "allow": ["fractions:Fraction"]},
        {"use": "drift", "of": {"ref": "math:sqrt"}, "mine": {"use": "stream_update.plot:plot"}},
    ]
    found = plugins.sources(*tables)
    assert set(found) == {"json.decoder", "hashlib", "fractions"}, "math has no source"
    assert found["fractions"] == hashlib.sha256(Path(fractions.__file__).read_bytes()).hexdigest()
    assert plugins.sources() == {}
