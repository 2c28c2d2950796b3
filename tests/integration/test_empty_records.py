"""A record without value and key, which some client of Kafka wrote, stops nobody."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from tests.programs import call, configure, elec2, write_jsonl


@pytest.mark.parametrize("client", ["kafka-python", "librdkafka"])
def test_it_becomes_a_dead_letter_of_trainer_and_scorer(
    kafka_bootstrap: str, tmp_path: Path, client: str
) -> None:
    producing = pytest.importorskip("confluent_kafka")
    app = f"empty-{uuid.uuid4().hex[:8]}"
    config = configure(
        tmp_path,
        f"kafka://{kafka_bootstrap}",
        app,
        checkpoint=50,
        extra=f'[kafka]\nclient = "{client}"\n',
    )
    rows = write_jsonl(tmp_path / "events.jsonl", elec2(100))
    call("produce", rows, "-c", config, cwd=tmp_path)
    producer = producing.Producer({"bootstrap.servers": kafka_bootstrap})
    producer.produce(f"{app}.labelled", None, partition=0)
    assert producer.flush(30) == 0
    call("produce", rows, "-c", config, cwd=tmp_path)
    out, _ = call("run", "--until-end", "--json", "-c", config, cwd=tmp_path)
    report = json.loads(out)
    assert (report["learned"], report["dead_letters"]) == (200, 1)
    call("score", "--until-end", "-c", config, cwd=tmp_path)
    out, _ = call("dead-letters", "--json", "-c", config, cwd=tmp_path)
    letters = [json.loads(line) for line in out.splitlines()]
    assert {(letter["offset"], letter["reason"]) for letter in letters} == {(100, "empty")}
