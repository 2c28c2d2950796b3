"""The command that prints dead letters, on both logs."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from stream_update.assemble import Trainer, open_log
from stream_update.config import load
from stream_update.events import Record
from stream_update.topics import create_topics
from tests.programs import call, configure, elec2


def test_where_why_and_what(tmp_path: Path, log_url: str, app: str) -> None:
    path = configure(tmp_path, log_url, app, partitions=2)
    config = load(path)
    good = [json.dumps(event).encode() for event in elec2(30)]
    with open_log(config) as log:
        create_topics(config, log)
        with log.appender() as appender:
            for partition, lines in enumerate(
                ([b"not json", *good, b"\xff\x00"], [*good, b'{"a": 1e300, "class": 1}'])
            ):
                appender.append(
                    Record(config.source.topic, line, b"k", partition) for line in lines
                )
        out, _ = call("dead-letters", "-c", path, cwd=tmp_path)
        assert out == f"{app}.dead-letters holds none\n"
        Trainer(config, log, until_end=True).run()
    out, _ = call("dead-letters", "--json", "-c", path, cwd=tmp_path)
    letters = [json.loads(line) for line in out.splitlines()]
    assert sorted((one["partition"], one["offset"], one["reason"]) for one in letters) == [
        (0, 0, "not-json"),
        (0, 31, "not-utf-8"),
        (1, 30, "number-out-of-range"),
    ]
    assert {(one["topic"], one["lineage"], one["by"], one["key"]) for one in letters} == {
        (config.source.topic, app, "trainer", "k")
    }
    by_offset = {one["offset"]: one for one in letters}
    assert by_offset[0]["value"] == "not json"
    assert by_offset[31]["value_base64"] == base64.b64encode(b"\xff\x00").decode()
    out, _ = call("dead-letters", "-c", path, "--reason", "not-utf-8", cwd=tmp_path)
    first, detail, value, count = out.splitlines()
    assert first.startswith(f"{config.source.topic}[0] offset 31: not-utf-8, by the trainer of ")
    assert detail.strip() == "byte 0 is not UTF-8"
    assert value.strip() == r"\xff\x00"
    assert count.split() == ["1", "not-utf-8"]
    out, _ = call("dead-letters", "-c", path, "--last", "1", "--partition", "0", cwd=tmp_path)
    assert out.count(" offset ") == 1
    assert {tuple(line.split()) for line in out.splitlines()[-2:]} == {
        ("1", "not-json"),
        ("1", "not-utf-8"),
    }
    _, err = call("dead-letters", "-c", path, "--topic", "none", cwd=tmp_path, code=2)
    assert "has no topic 'none'" in err
