"""A snapshot verifies if it is what its events make of the one before it, and only then."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stream_update.assemble import Trainer
from stream_update.config import Config, load
from stream_update.errors import ConfigError
from stream_update.events import Record
from stream_update.log.embedded import EmbeddedLog
from stream_update.proof import Verdict, verify
from stream_update.topics import create_topics
from tests.programs import PIPELINE, call, configure, elec2

EVENTS = 2000
EVERY_CHECKPOINT = "[snapshot]\nmax_overhead = 1.0"
TREE = 'use = "river.tree:HoeffdingAdaptiveTreeClassifier"\ngrace_period = 50'
# Every value is a category, of which there are more than anybody puts back in their order.
CATEGORIES = """
use = "river.compose:Pipeline"
steps = [{ use = "river.preprocessing:OneHotEncoder" },
  { use = "river.linear_model:LogisticRegression" }]
"""


class Setting:
    """A lineage with a snapshot after each 100 events, cut into several runs."""

    def __init__(
        self, folder: Path, *, learner: str = PIPELINE, lanes: str = "per-partition"
    ) -> None:
        self.file = folder / "proof.db"
        self.log = EmbeddedLog(f"sqlite:///{self.file}")
        self.partitions = 1 if lanes == "per-partition" else 2
        self.path = configure(
            folder,
            self.log.url,
            "proof",
            learner=learner,
            partitions=self.partitions,
            checkpoint=100,
            top=f'lanes = "{lanes}"',
            extra=EVERY_CHECKPOINT,
        )
        self.config: Config = load(self.path)
        create_topics(self.config, self.log)
        self.values = [
            b"{" if number % 333 == 1 else json.dumps({**event, "number": number}).encode()
            for number, event in enumerate(elec2(EVENTS))
        ]
        with self.log.appender() as appender:
            appender.append(
                Record("proof.labelled", value, partition=number % self.partitions)
                for number, value in enumerate(self.values)
            )

    def learn(self, **options: Any) -> None:
        for events in (150, 730):
            Trainer(self.config, self.log, max_events=events, **options).run()
        Trainer(self.config, self.log, until_end=True, **options).run()

    def change(self, number: int, value: bytes) -> None:
        """One event, on the disk."""
        with sqlite3.connect(self.file) as sql:
            done = sql.execute(
                "UPDATE records SET value = ? WHERE value = ?", (value, self.values[number])
            )
            assert done.rowcount == 1
        sql.close()

    def verdicts(self, config: Config | None = None) -> list[Verdict]:
        return list(verify(config or self.config, self.log, 0))


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    made = Setting(tmp_path)
    yield made
    made.log.close()


@pytest.mark.parametrize(
    ("learner", "least"),
    # Large states are written less often.
    [(PIPELINE, 20), (TREE, 20), (CATEGORIES, 8)],
    ids=["pipeline", "tree", "categories"],
)
def test_every_snapshot_verifies(tmp_path: Path, learner: str, least: int) -> None:
    setting = Setting(tmp_path, learner=learner)
    setting.learn()
    verdicts = setting.verdicts()
    assert len(verdicts) >= least
    assert [verdict.ok for verdict in verdicts] == [True] * len(verdicts)
    ends = [verdict.ranges[0][2] for verdict in verdicts]
    assert [verdict.ranges[0][1] for verdict in verdicts] == [0, *ends[:-1]], "no event left out"
    assert ends[-1] == EVENTS
    out, _ = call("snapshots", "verify", "-c", setting.path, "--json", cwd=tmp_path)
    assert json.loads(out)["verified"] == len(verdicts)
    setting.log.close()


def test_one_changed_event_is_found(setting: Setting, tmp_path: Path) -> None:
    setting.learn()
    event = json.loads(setting.values[1234])
    setting.change(1234, json.dumps({**event, "nswprice": event["nswprice"] + 1e-9}).encode())
    wrong = [verdict for verdict in setting.verdicts() if not verdict.ok]
    (verdict,) = wrong
    assert verdict.ok is False
    ((partition, start, end),) = verdict.ranges
    assert partition == 0
    assert start <= 1234 < end
    out, said = call("snapshots", "verify", "-c", setting.path, cwd=tmp_path, code=3)
    assert f"snapshot {verdict.manifest.seq}: DIFFERS" in out
    assert f"snapshot {verdict.manifest.seq} of lineage proof" in said.replace("\n", " ")
    number = str(verdict.manifest.seq)
    call("snapshots", "verify", number, "-c", setting.path, cwd=tmp_path, code=3)
    call("snapshots", "verify", "1", "-c", setting.path, cwd=tmp_path)


def test_an_event_that_was_taken_out_of_the_count_is_found(setting: Setting) -> None:
    setting.learn()
    setting.change(500, b"{")
    assert [verdict.ok for verdict in setting.verdicts()].count(False) == 1


@pytest.mark.parametrize(
    ("override", "word"), [("seed=1", "seed"), ("learner.steps.1.l2=0.1", "l2")]
)
def test_another_configuration_is_named(setting: Setting, override: str, word: str) -> None:
    setting.learn()
    verdicts = setting.verdicts(load(setting.path, [override]))
    assert {verdict.ok for verdict in verdicts} == {False}
    assert f"{word}: " in verdicts[0].detail


def test_a_lane_over_several_partitions_is_learned_in_the_order_of_its_journal(
    tmp_path: Path,
) -> None:
    setting = Setting(tmp_path, lanes="single")
    setting.learn()
    verdicts = setting.verdicts()
    assert len(verdicts) >= 20
    assert {verdict.ok for verdict in verdicts} == {True}
    event = json.loads(setting.values[1001])
    setting.change(1001, json.dumps({**event, "class": 1 - event["class"]}).encode())
    (wrong,) = [verdict for verdict in setting.verdicts() if not verdict.ok]
    assert any(p == 1 and start <= 500 < end for p, start, end in wrong.ranges)
    setting.log.close()


def test_what_the_log_no_longer_holds_is_not_known(setting: Setting, tmp_path: Path) -> None:
    setting.learn()
    setting.log.delete_before("proof.labelled", 0, 950)
    verdicts = setting.verdicts()
    unknown = [verdict for verdict in verdicts if verdict.ok is None]
    assert unknown == verdicts[: len(unknown)]
    assert unknown[-1].ranges[0][1] < 950 <= unknown[-1].ranges[0][2]
    assert {verdict.ok for verdict in verdicts[len(unknown) :]} == {True}
    _, said = call("snapshots", "verify", "-c", setting.path, cwd=tmp_path, code=3)
    assert f"{len(unknown)} snapshots could not be verified" in said


def test_an_accepted_gap_is_no_difference(setting: Setting) -> None:
    Trainer(setting.config, setting.log, max_events=430).run()
    setting.log.delete_before("proof.labelled", 0, 700)
    Trainer(setting.config, setting.log, until_end=True, accept_gap=True).run()
    verdicts = [v for v in setting.verdicts() if v.ranges[0][1] >= 430]
    assert verdicts
    assert {verdict.ok for verdict in verdicts} == {True}


def test_an_event_that_broke_the_learner_is_set_aside_again(tmp_path: Path) -> None:
    (tmp_path / "fragile.py").write_text(FRAGILE)
    setting = Setting(tmp_path, learner='factory = "fragile:model"\nallow = ["fragile:Fragile"]')
    for events in ("300", "1700"):
        call("run", "-c", setting.path, "--max-events", events, cwd=tmp_path)
    out, _ = call("snapshots", "verify", "-c", setting.path, "--json", cwd=tmp_path)
    found = json.loads(out)["snapshots"]
    assert len(found) >= 15
    assert all(one["ok"] for one in found)
    setting.log.close()


def test_there_has_to_be_such_a_snapshot(setting: Setting) -> None:
    with pytest.raises(ConfigError, match="no snapshot 7"):
        list(verify(setting.config, setting.log, 0, 7))


FRAGILE = '''
from river import base, linear_model


class Fragile(base.Classifier):
    """Breaks half way through learning one event."""

    def __init__(self):
        self.inner = linear_model.LogisticRegression()

    def predict_proba_one(self, x):
        return self.inner.predict_proba_one(x)

    def learn_one(self, x, y):
        self.inner.learn_one(x, y)
        if x["number"] == 777:
            raise ValueError("too much")


def model():
    return Fragile()
'''
