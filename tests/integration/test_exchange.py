"""Out of the log into a file, and back only if no event is lost or repeated by it."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaAdminClient

from stream_update import ModelSubscriber, assemble
from stream_update.assemble import Trainer
from stream_update.config import Config, load
from stream_update.errors import (
    ConfigError,
    CorruptSnapshot,
    LineageMismatch,
    LogGap,
    Transient,
)
from stream_update.events import Record, TopicPartition
from stream_update.exchange import Import, import_snapshot, write_snapshot
from stream_update.log.embedded import EmbeddedLog
from stream_update.proof import verify
from stream_update.proof.held import Held, held_records, republished
from stream_update.protocols import Log
from stream_update.restore import read_range
from stream_update.topics import create_topics
from tests.kafka_setting import until
from tests.programs import call, configure, elec2

EVENTS = 600
HALF = 300
NOW_MS = int(time.time() * 1000)
"""Twins have events of the same time; of long ago Kafka would delete them."""


class Setting:
    """Half of the events are learned, with a snapshot after each 100."""

    def __init__(
        self,
        folder: Path,
        *,
        url: str = "",
        app: str = "ex",
        lanes: str = "per-partition",
        keys: str = "",
    ) -> None:
        self.folder = folder
        self.partitions = 2 if lanes == "single" else 1
        self.path = configure(
            folder,
            url or f"sqlite:///{folder / 'ex.db'}?session_timeout_ms=3000",
            app,
            partitions=self.partitions,
            checkpoint=100,
            top=f'lanes = "{lanes}"',
            extra=f"[snapshot]\nmax_overhead = 1.0\n{keys}",
        )
        self.config: Config = load(self.path)
        self.log: Log = assemble.open_log(self.config)
        self.topic = self.config.topic("snapshots")
        create_topics(self.config, self.log)
        with self.log.appender() as appender:
            appender.append(
                Record(
                    self.config.source.topic,
                    b"{" if number % 100 == 42 else json.dumps(event).encode(),
                    partition=number % self.partitions,
                    timestamp_ms=NOW_MS + number,
                )
                for number, event in enumerate(elec2(EVENTS))
            )
            appender.flush()

    def learn(self, events: int | None = None) -> None:
        Trainer(self.config, self.log, max_events=events, until_end=events is None).run()

    def held(self) -> list[Held]:
        with self.log.reader() as reader:
            return held_records(self.config, reader, 0)

    def values(self, kind: str) -> list[dict[str, Any]]:
        places = [TopicPartition(self.config.topic(kind), p) for p in range(self.partitions)]
        with self.log.reader() as reader:
            ends = reader.end_offsets(places)
            return [
                {**dict(headers), "value": value}
                for place in places
                for batch in read_range(reader, place, 0, ends[place])
                for value, headers in zip(batch.values, batch.headers, strict=True)
            ]

    def export(self, number: int = -1) -> Path:
        path = self.folder / f"{len(list(self.folder.iterdir()))}.snapshot"
        write_snapshot(path, self.held()[number])
        return path

    def lose(self, keep: Iterable[int] = ()) -> None:
        """All snapshots but those with these numbers are gone from the topic."""
        kept = [one for one in self.held() if one.snapshot.manifest.seq in set(keep)]
        if isinstance(self.log, EmbeddedLog):
            where = TopicPartition(self.topic, 0)
            with self.log.reader() as reader:
                self.log.delete_before(self.topic, 0, reader.end_offsets([where])[where])
        else:  # Kafka deletes nothing from the front of a compacted topic
            admin = KafkaAdminClient(bootstrap_servers=self.config.log.removeprefix("kafka://"))
            admin.delete_topics([self.topic])
            admin.close()
            until(lambda: self.topic not in self.log.topics())
            create_topics(self.config, self.log)
        with self.log.appender() as appender:
            for one in kept:
                appender.append(republished(one, self.topic))

    def bring(self, path: Path, **options: Any) -> Import:
        return import_snapshot(self.config, self.log, path, **options)


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    one = Setting(tmp_path)
    one.learn(HALF)
    yield one
    one.log.close()


@pytest.mark.parametrize("lanes", ["per-partition", "single"])
def test_a_lost_topic_is_made_good_and_nothing_is_lost_or_repeated(
    tmp_path: Path, log_url: str, app: str, lanes: str
) -> None:
    (tmp_path / "twin").mkdir()
    twin = Setting(tmp_path / "twin", lanes=lanes)
    twin.learn(HALF)
    twin.learn()
    setting = Setting(tmp_path, url=log_url, app=app, lanes=lanes)
    setting.learn(HALF)
    path = setting.export()
    setting.lose()
    dry = setting.bring(path, dry_run=True)
    assert not dry.published
    assert setting.held() == []
    done = setting.bring(path)
    assert done.published
    assert dry.notes == done.notes
    (held,) = setting.held()
    assert held.snapshot.manifest.seq == done.manifest.seq
    again = setting.bring(path)
    assert not again.published
    assert "newest on the topic already" in again.notes[-1]
    setting.learn()
    last, expected = setting.held()[-1].snapshot.manifest, twin.held()[-1].snapshot.manifest
    assert last.events == EVENTS
    assert last.seq == expected.seq
    assert {v.ok for v in verify(setting.config, setting.log, 0) if v.manifest.seq > 3} == {True}
    if lanes == "per-partition":  # the other kind takes its events as they come
        assert last.digest == expected.digest
    for kind in ("dead-letters", "metrics"):
        found, wanted = setting.values(kind), twin.values(kind)
        assert len(found) == len(wanted)
    rejected = [(one["partition"], one["offset"]) for one in setting.values("dead-letters")]
    assert len(rejected) == len(set(rejected)) == EVENTS // 100
    with ModelSubscriber(setting.config.app, log=setting.log) as model:
        model.wait(30)
        assert sum(model.learned_up_to.values()) == EVENTS
    setting.log.close()
    twin.log.close()


def test_what_is_between_is_learned_again(setting: Setting) -> None:
    path = setting.export()
    setting.lose(keep=[1])
    done = setting.bring(path)
    assert any("make exactly snapshot 3" in note for note in done.notes)
    assert [one.snapshot.manifest.seq for one in setting.held()] == [1, 3]


def test_an_earlier_one_than_the_group_knows(setting: Setting) -> None:
    path = setting.export(1)
    setting.lose()
    done = setting.bring(path)
    assert any("100 events, 200 to 300, will be learned again" in note for note in done.notes)
    assert any("last snapshot was 3" in note for note in done.notes)
    setting.learn()  # waits for the third, which is not to be had
    last = setting.held()[-1].snapshot.manifest
    assert last.events == EVENTS
    assert last.seq > 3, "readers never see a number twice"
    rejected = [one["offset"] for one in setting.values("dead-letters")]
    assert len(rejected) == len(set(rejected)) == 6


def test_the_file_is_checked_with_the_command(setting: Setting, tmp_path: Path) -> None:
    out, _ = call("snapshots", "export", "-o", "a.snap", "-c", setting.path, cwd=tmp_path)
    assert "snapshot 3 of lineage ex, 300 events" in out
    _, said = call("snapshots", "export", "-o", "a.snap", "-c", setting.path, cwd=tmp_path, code=2)
    assert "exists" in said
    call("snapshots", "export", "9", "-o", "b", "-c", setting.path, cwd=tmp_path, code=2)
    assert not (tmp_path / "b").exists()
    setting.lose()
    out, _ = call(
        "snapshots", "import", "a.snap", "--dry-run", "-c", setting.path, "--json", cwd=tmp_path
    )
    assert json.loads(out)["published"] is False
    out, _ = call("snapshots", "import", "a.snap", "-c", setting.path, cwd=tmp_path)
    assert "published snapshot 3" in out
    out, _ = call("snapshots", "import", "a.snap", "-c", setting.path, cwd=tmp_path)
    assert "newest on the topic already" in out
    call("snapshots", "import", "none", "-c", setting.path, cwd=tmp_path, code=2)


def refused(setting: Setting, path: Path, words: str, kind: type[Exception] = LineageMismatch,
            config: Config | None = None) -> None:  # fmt: skip
    before = [one.manifest for one in setting.held()]
    for dry_run in (True, False):
        with pytest.raises(kind, match=words):
            import_snapshot(config or setting.config, setting.log, path, dry_run=dry_run)
    assert [one.manifest for one in setting.held()] == before


def test_never_back(setting: Setting) -> None:
    refused(setting, setting.export(0), r"holds snapshot 3 .* newer")


def test_not_past_what_was_said(setting: Setting, tmp_path: Path) -> None:
    path = setting.export()
    setting.lose()
    with sqlite3.connect(tmp_path / "ex.db") as sql:
        assert sql.execute("UPDATE commits SET offset = 250").rowcount == 1
    sql.close()
    refused(setting, path, r"up to offset 300.* is at .*250.*lost")


def test_only_what_this_group_has_committed(setting: Setting) -> None:
    path = setting.export()
    setting.lose()
    other = load(setting.path, ["group_id=other"])
    refused(setting, path, "no committed offset", config=other)


def test_not_if_the_events_after_it_are_gone(setting: Setting) -> None:
    path = setting.export(1)
    setting.lose()
    assert isinstance(setting.log, EmbeddedLog)
    setting.log.delete_before("ex.labelled", 0, 250)
    refused(setting, path, "holds nothing before offset 250", LogGap)


def test_only_of_the_same_model(setting: Setting, tmp_path: Path) -> None:
    path = setting.export()
    setting.lose()
    for override, words in (
        ("seed=4", "seed: 0 -> 4"),
        ("lineage=other", "no manifest of this lineage, but something of 'ex'"),
    ):
        refused(setting, path, words, config=load(setting.path, [override]))
    (tmp_path / "b").mkdir()
    elsewhere = Setting(tmp_path / "b")
    elsewhere.learn(HALF)
    theirs = elsewhere.export()
    refused(setting, theirs, "topic ex.labelled with id")
    elsewhere.log.close()


def test_not_after_the_lineage_went_another_way(setting: Setting, tmp_path: Path) -> None:
    path = setting.export()
    setting.lose(keep=[2])
    setting.learn(150)  # goes back to the second, and never makes a third again
    assert [one.snapshot.manifest.seq for one in setting.held()] == [2, 4, 5]
    refused(setting, path, r"holds snapshot 5 .* newer")
    setting.lose(keep=[2])
    (second,) = setting.held()
    manifest = msgspec.structs.replace(second.snapshot.manifest, created_ms=1)
    setting.lose()
    other = second._replace(manifest=msgspec.json.encode(manifest))
    with setting.log.appender() as appender:
        appender.append(republished(other, setting.topic))
    refused(setting, path, r"does not continue snapshot 2.*its parent is another one")
    setting.lose()
    with sqlite3.connect(tmp_path / "ex.db") as sql:
        (note,) = sql.execute("SELECT metadata FROM commits").fetchone()
        changed = {**json.loads(note), "seq": 3, "sha": "00000000"}
        sql.execute("UPDATE commits SET metadata = ?", (json.dumps(changed),))
    sql.close()
    refused(setting, path, "committed another snapshot with the number 3")


def test_not_if_the_events_make_another(setting: Setting, tmp_path: Path) -> None:
    path = setting.export()
    setting.lose(keep=[2])
    value = json.dumps(elec2(EVENTS)[250]).encode()
    with sqlite3.connect(tmp_path / "ex.db") as sql:
        sql.execute("UPDATE records SET value = ? WHERE value = ?", (b"{", value))
    sql.close()
    refused(setting, path, "make another state than that of snapshot 3")


def test_another_trainer_has_the_lane(setting: Setting) -> None:
    path = setting.export()
    setting.lose()
    with setting.log.member("ex", "ex.labelled") as member:
        while 0 not in member.poll(0.2).gained:
            pass
        with pytest.raises(Transient, match="does not let go"):
            setting.bring(path, join_s=0.5)
        assert setting.held() == []
        assert not setting.bring(path, dry_run=True).published


def test_signatures_go_with_the_file(tmp_path: Path) -> None:
    said, _ = call("keys", "generate", "a.key", cwd=tmp_path)
    other, _ = call("keys", "generate", "b.key", cwd=tmp_path)
    mine, theirs = (re.findall(r"public key (\S+)", text)[0] for text in (said, other))
    keys = f'signing_key = "file:{tmp_path / "a.key"}"\ntrusted_keys = ["{mine}"]'
    setting = Setting(tmp_path, keys=keys)
    setting.learn(HALF)
    path = setting.export()
    (held,) = setting.held()[-1:]
    setting.lose()
    refused(
        setting, path, "not trusted", CorruptSnapshot,
        load(setting.path, [f'snapshot.trusted_keys=["{theirs}"]']),
    )  # fmt: skip
    unsigned = [(k, v) for k, v in held.headers if k not in {"signature", "key-id"}]
    write_snapshot(tmp_path / "unsigned", held._replace(headers=unsigned))
    refused(setting, tmp_path / "unsigned", "not signed", CorruptSnapshot)
    forged = held._replace(manifest=held.manifest.replace(b'"rejected":3', b'"rejected":2'))
    assert forged != held
    write_snapshot(tmp_path / "forged", forged)
    refused(setting, tmp_path / "forged", "signature is wrong", CorruptSnapshot)
    assert setting.bring(path).published
    assert setting.held()[-1].headers == held.headers
    with ModelSubscriber("ex", log=setting.log, trusted_keys=[mine]) as model:
        model.wait(30)
        assert model.learned_up_to == {0: HALF}
    setting.learn()
    setting.log.close()


def test_a_folder_or_a_file_of_another_kind(setting: Setting, tmp_path: Path) -> None:
    refused(setting, tmp_path, "cannot be read", ConfigError)
    (tmp_path / "text").write_text("hello")
    refused(setting, tmp_path / "text", "is no snapshot", CorruptSnapshot)
