"""Digits as raw bytes on the whole path, on both logs: what they are as JSON, bit for bit."""

from __future__ import annotations

import base64
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from stream_update import ModelSubscriber
from stream_update.assemble import Trainer, open_log
from stream_update.config import Config, load
from stream_update.events import Record, TopicPartition
from stream_update.proof import verify
from stream_update.restore import newest, read_range
from stream_update.topics import create_topics
from tests.programs import call, configure

DIGITS = Path(__file__).parents[1] / "data" / "digits.csv.gz"
COUNT = 800
CNN = """
use = "torch"
module = { use = "cnn", field = "picture", shape = [8, 8, 1], channels = [8], dim = 24 }
optimizer = { use = "adam", lr = 0.004 }
batch = 16
[[wrap]]
use = "replay"
max_events = 40
"""
RAW = 'format = "raw"\nraw = { field = "picture", shape = [8, 8, 1] }'


def digits() -> list[tuple[bytes, int]]:
    with gzip.open(DIGITS, "rt") as file:
        rows = [list(map(int, line.split(","))) for line in file]
    random.Random(1).shuffle(rows)
    return [(bytes(row[:64]), row[64]) for row in rows[:COUNT]]


def raw(place: int, pixels: bytes, digit: int) -> Record:
    headers = [("digit", str(digit).encode()), ("id", b"%d" % place), ("at", b"17000000%02d" % 7)]
    return Record("", pixels, partition=0, headers=headers)


def as_json(place: int, pixels: bytes, digit: int) -> Record:
    event = {"picture": base64.b64encode(pixels).decode(), "class": digit}
    return Record("", json.dumps({**event, "id": place, "at": 1700000007}).encode(), partition=0)


def learned(folder: Path, url: str, app: str, records: list[Record], source: str) -> Config:
    label = "header:digit" if "header" in source else "class"
    path = configure(
        folder, url, app, learner=CNN, label=label, task="multiclass", checkpoint=150, source=source
    )
    text = path.read_text()
    if "header" in source:
        text = text.replace('features = "*"\n', "")
    path.write_text(text)
    config = load(path)
    with open_log(config) as log:
        create_topics(config, log)
        with log.appender() as appender:
            appender.append(record._replace(topic=config.source.topic) for record in records)
        Trainer(config, log, max_events=333).run()
        Trainer(config, log, until_end=True).run()
    return config


def test_raw_bytes_are_learned_as_json_is(tmp_path: Path, log_url: str, app: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    rows = digits()
    bad = Record("", b"too short", partition=0, headers=[("digit", b"1")])
    wrong = Record("", b'{"picture": "too short"', partition=0)
    one = [raw(i, *row) for i, row in enumerate(rows)]
    two = [as_json(i, *row) for i, row in enumerate(rows)]
    one.insert(400, bad)
    two.insert(400, wrong)
    source = f'{RAW}\nid = "header:id"\ntime = "header:at"\nduplicate_window = 50'
    same = 'id = "id"\ntime = "at"\nduplicate_window = 50'
    configs = (
        learned(tmp_path, log_url, f"{app}-raw", [*one, one[-1]], source),
        learned(tmp_path, log_url, f"{app}-json", [*two, two[-1]], same),
    )
    answers, states = [], []
    for config in configs:
        with open_log(config) as log:
            with log.reader() as reader:
                found = newest(reader, config.topic("snapshots"), 0, config.app)
                assert found is not None
                states.append(found.state())
                where = TopicPartition(config.topic("dead-letters"), 0)
                end = reader.end_offsets([where])[where]
                letters = [
                    (value, dict(headers)["reason"])
                    for batch in read_range(reader, where, 0, end)
                    for value, headers in zip(batch.values, batch.headers, strict=True)
                ]
            assert {verdict.ok for verdict in verify(config, log, 0)} == {True}
            with ModelSubscriber(config.app, log=log) as model:
                model.wait()
                asked = [{"picture": base64.b64encode(row[0]).decode()} for row in rows[:50]]
                answers.append(model.predict_many(asked))
        if config is configs[0]:
            assert letters == [(b"too short", b"wrong-size")]
    counts = [states[0][name] for name in ("learned", "rejected", "duplicates", "events")]
    assert counts == [COUNT // 16 * 16, 1, 1, COUNT + 2]
    assert states[0]["event_time"] == 1_700_000_007_000
    for name in ("learner", "monitors", "waiting", "next", "learned", "rejected", "duplicates"):
        assert states[0][name] == states[1][name], name
    assert answers[0] == answers[1]
    assert sum(a == digit for a, (_, digit) in zip(answers[0], rows, strict=False)) > 30
    path = tmp_path / f"{app}-raw.toml"
    out, _ = call("score", "-c", path, "--until-end", "--json", cwd=tmp_path)
    report: dict[str, Any] = json.loads(out)
    assert (report["predictions"], report["dead_letters"]) == (COUNT + 1, 1)
