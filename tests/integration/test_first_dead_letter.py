"""Who sees only a terminal is told why events are not learned."""

from __future__ import annotations

import json
from pathlib import Path

from tests.programs import call

CONFIG = """
app = "app"
log = "sqlite:///stream.db"
task = "binary"

[source]
topic = "app.labelled"
label = "class"
features = "*"

[learner]
use = "river.naive_bayes:GaussianNB"
"""


def test_the_first_of_each_reason_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "app.toml").write_text(CONFIG)
    events = [{"x": 1.0, "class": "ham"}, {"x": 2.0, "class": "spam"}, {"x": 1.0}, {"x": "no"}]
    lines = "".join(json.dumps(event) + "\n" for event in events)
    (tmp_path / "events.jsonl").write_text(lines)
    call("produce", "events.jsonl", cwd=tmp_path)
    _, err = call("run", "--until-end", cwd=tmp_path)
    warnings = [line for line in err.splitlines() if "WARNING" in line]
    assert len(warnings) == 2
    assert "app.labelled[0] offset 0 is a dead letter, label-type: " in warnings[0]
    assert 'task = "multiclass"' in warnings[0]
    assert "app.labelled[0] offset 2 is a dead letter" in warnings[1]
    assert "app.dead-letters" in warnings[1]
