"""``why``: what became of one event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from stream_update import assemble
from stream_update.cli.options import configured, json_option, lineage_option, looked_at, print_json
from stream_update.config import Config
from stream_update.errors import LineageMismatch
from stream_update.proof import Answer, why
from stream_update.proof.why import Fate

__all__ = ["commands"]

SAID: dict[Fate, str] = {
    "learned": "learned",
    "waiting": "read, and waiting in a mini-batch that is not full yet",
    "rejected": "rejected, a dead letter",
    "poison": "rejected, a dead letter: it broke the learner while it learned",
    "unlabelled": "counted apart: it has no label, and only learners with pretrain or "
    "unlabelled = true learn from it",
    "duplicate": "counted and not learned: an event with its id was there before",
    "gap": "not read: in a gap that is written down in the lineage",
    "before-lineage": "not read: it is from before the lineage began",
}
LONGEST = 400


@click.command("why")
@click.argument("offset", type=click.IntRange(min=0))
@configured
@lineage_option
@click.option("--partition", type=int, default=0, show_default=True)
@json_option
def why_command(config: Config, offset: int, partition: int, as_json: bool) -> None:
    """What became of the event at OFFSET of the source topic.

    Whether it was learned, what was predicted for it before, and which snapshot has it. The
    state before it is made again from the log; exit code 3 if that does not lead to the
    snapshot after it, or if the log no longer holds what is needed; 5 if the event has not
    been processed yet.
    """
    with assemble.open_log(config) as log:
        config = looked_at(config, log)
        answer = why(config, log, partition, offset)
    if as_json:
        print_json(
            {"lineage": config.lineage_name, "topic": config.source.topic} | answer.as_dict()
        )
    else:
        for name, text in _lines(config, answer):
            click.echo(f"{name:<12} {text}")
    if answer.proven is False:
        assert answer.first is not None
        raise LineageMismatch(
            f"learning the events again does not lead to snapshot {answer.first.manifest.seq}, so "
            "this may not be what happened"
            + "".join(f"; changed since: {change}" for change in answer.other_code),
            hint="stream-update snapshots verify says which snapshot is the first that differs",
        )


def _lines(config: Config, answer: Answer) -> list[tuple[str, str]]:
    lines = [
        ("event", f"{config.source.topic}[{answer.partition}] offset {answer.offset}"),
        ("lineage", config.lineage_name),
        ("outcome", SAID[answer.fate]),
    ]
    if answer.reason:
        lines.append(("reason", answer.reason))
    if answer.detail:
        lines.append(("detail", answer.detail))
    if answer.features is not None:
        lines.append(("features", _cut(", ".join(f"{k}={v}" for k, v in answer.features.items()))))
    if answer.fate == "learned":
        lines += [("predicted", _predicted(answer)), ("label", _label(answer.label))]
    if answer.replayed:
        origin = f"snapshot {answer.base.manifest.seq}" if answer.base else "an empty model"
        lines.append(("replayed", f"{answer.replayed:,} events from {origin} on"))
    lines.append(("in snapshot", _first(answer)))
    return lines


def _label(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    return _cut(", ".join(str(name) for name, applies in value.items() if applies) or "no class")


def _predicted(answer: Answer) -> str:
    value = (
        "nothing: the model had no answer yet"
        if answer.prediction is None
        else _label(answer.prediction)
    )
    if not answer.probabilities:
        return value
    ranked: list[tuple[Any, float]] = sorted(
        answer.probabilities.items(), key=lambda item: -item[1]
    )
    return _cut(f"{value} ({', '.join(f'{label}: {p:.4f}' for label, p in ranked)})")


def _first(answer: Answer) -> str:
    if answer.first is None:
        return "none yet"
    text = str(answer.first.manifest.seq)
    if answer.earlier_lost:
        text += " (or one before it that the topic no longer holds)"
    return f"{text}, which is what the replay comes to" if answer.proven else text


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


commands = (why_command,)
