"""The scoring service: events in, predictions out, each by a model that can be named.

The position in the input and the predictions are committed together, so every event
gets one prediction that a reader of committed records sees.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from stream_update.codecs import (
    ScoreBlock,
    dead_letter_record,
    prediction_record,
    unreadable_letter,
)
from stream_update.errors import LearnerFailed, Refused, StaleModel, Transient, Unreadable
from stream_update.events import Batch, Committed, DeadLetter, Record, TopicPartition
from stream_update.follower import Answer, ModelSubscriber
from stream_update.protocols import Member, Publisher, Reader

__all__ = ["Scorer"]

logger = logging.getLogger(__name__)


class Scorer:
    """Predicts the events of one topic with the newest model of a subscriber.

    While a subscriber refuses to answer because its model is stale, nothing is read and
    nothing is committed. With ``ends`` it raises
    :class:`~stream_update.errors.StaleModel` after ``patience_s`` of that.
    """

    def __init__(
        self,
        subscriber: ModelSubscriber,
        member: Member,
        publisher: Publisher,
        reader: Reader,
        decode: Callable[[Batch], ScoreBlock],
        *,
        source_topic: str,
        predictions_topic: str,
        dead_letters_topic: str,
        batch: int = 500,
        patience_s: float = 60.0,
        ends: Mapping[int, int] | None = None,
        max_events: int | None = None,
        on_progress: Callable[[Scorer], None] | None = None,
    ) -> None:
        self.subscriber = subscriber
        self.events = 0
        self.predictions = 0
        self.dead_letters = 0
        self.stale = 0
        self.versions: dict[str, int] = {}
        self._member = member
        self._publisher = publisher
        self._reader = reader
        self._decode = decode
        self._source_topic = source_topic
        self._predictions_topic = predictions_topic
        self._dead_letters_topic = dead_letters_topic
        self._batch = batch
        self._patience_s = patience_s
        self._waiting_since: float | None = None
        self._ends = ends
        self._max_events = max_events
        self._on_progress = on_progress
        self._owned: set[int] = set()
        self._stopping = False

    def stop(self) -> None:
        """Finish the batch and leave the group. Safe to call from a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Until told to stop, or until a stop condition holds."""
        while not self._stopping:
            limit = self._batch
            if self._max_events is not None:
                limit = min(limit, self._max_events - self.events)
                if limit <= 0:
                    return
            try:
                poll = self._member.poll(0.2, limit)
            except Unreadable as damaged:
                self._step_over(damaged)
                continue
            self._owned -= set(poll.lost)
            self._owned |= set(poll.gained)
            if self._is_waiting():
                continue
            if poll.gained:
                self._resume(poll.gained)
            if poll.batches:
                self._score(poll.batches)
            if self._on_progress is not None:
                self._on_progress(self)
            if self._finished():
                return

    def _is_waiting(self) -> bool:
        """Whether the model is too old to answer; what was read meanwhile is read again."""
        if self.subscriber.when_stale != "refuse" or not self.subscriber.stale:
            if self._waiting_since is not None:
                logger.info("the model is fresh again: %s", self.subscriber.version)
                self._waiting_since = None
                self._resume(sorted(self._owned))
            return False
        now = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
            logger.error("the model %s is stale: no predictions", self.subscriber.version)
        for partition in self._owned:
            self._member.hold(partition)
        if self._ends is not None and now - self._waiting_since > self._patience_s:
            self.subscriber.answer([])
        return True

    def _resume(self, partitions: Sequence[int]) -> None:
        committed = self._member.committed(partitions)
        places = [TopicPartition(self._source_topic, p) for p in partitions]
        beginning = self._reader.beginning_offsets(places)
        for place in places:
            at = committed[place.partition]
            self._member.resume_at(place.partition, at.offset if at else beginning[place])

    def _step_over(self, damaged: Unreadable) -> None:
        """Go on behind records that cannot be decoded, and say so."""
        logger.warning("%s; going on at %d", damaged, damaged.first)
        letter = dead_letter_record(
            unreadable_letter(damaged),
            self._dead_letters_topic,
            self._source_topic,
            self.subscriber.lineage,
            by="scorer",
        )
        try:
            position = {damaged.partition: Committed(damaged.first)}
            self._publisher.publish([letter], position, self._member)
        except Refused as error:
            logger.info("refused, to be met again after the rebalance: %s", error)
            self._resume(sorted(self._owned & {damaged.partition}))
        else:
            self.dead_letters += 1
            self._member.resume_at(damaged.partition, damaged.first)

    def _score(self, batches: Sequence[Batch]) -> None:
        records: list[Record] = []
        offsets: dict[int, Committed] = {}
        predicted = bad = stale = 0
        for batch in batches:
            block = self._decode(batch)
            letters = list(block.dead_letters)
            try:
                answer, block, failed = self._answer(block, batch)
            except StaleModel:
                # Between the look at its age and now; what was read is read again.
                self._resume([batch.partition for batch in batches])
                return
            letters += failed
            stale += len(block.features) if answer.stale else 0
            records += self._predictions(block, answer)
            predicted += len(block.features)
            records += [
                dead_letter_record(
                    letter,
                    self._dead_letters_topic,
                    self._source_topic,
                    self.subscriber.lineage,
                    by="scorer",
                )
                for letter in letters
            ]
            bad += len(letters)
            offsets[batch.partition] = Committed(block.next_offset)
        try:
            self._publisher.publish(records, offsets, self._member)
        except Refused as error:
            logger.info("predictions refused, made again after the rebalance: %s", error)
            self._resume(sorted(self._owned & offsets.keys()))
            return
        self.events += sum(len(batch) for batch in batches)
        self.predictions += predicted
        self.dead_letters += bad
        self.stale += stale
        version = self.subscriber.version
        self.versions[version] = self.versions.get(version, 0) + predicted

    def _answer(
        self, block: ScoreBlock, batch: Batch
    ) -> tuple[Answer, ScoreBlock, list[DeadLetter]]:
        """Predict; an event that the model cannot take is set aside as a dead letter."""
        letters: list[DeadLetter] = []
        while True:
            try:
                return self.subscriber.answer(block.features, block.keys), block, letters
            except LearnerFailed as failure:
                index = failure.index
                offset = block.offsets[index]
                where = list(batch.offsets).index(offset)
                letters.append(
                    DeadLetter(
                        batch.partition,
                        offset,
                        "learner-failed",
                        str(failure),
                        batch.keys[where],
                        batch.values[where],
                        batch.timestamps[where],
                    )
                )
                keep = [i for i in range(len(block.features)) if i != index]
                block = block._replace(
                    offsets=[block.offsets[i] for i in keep],
                    features=[block.features[i] for i in keep],
                    ids=[block.ids[i] for i in keep],
                    keys=[block.keys[i] for i in keep],
                )

    def _predictions(self, block: ScoreBlock, answer: Answer) -> list[Record]:
        made = []
        for index, value in enumerate(answer.values):
            models = answer.models[index]
            learned: dict[int, int] = {}
            for model in models:
                learned |= model.manifest.positions
            made.append(
                prediction_record(
                    self._predictions_topic,
                    id=block.ids[index],
                    key=block.keys[index],
                    source_topic=self._source_topic,
                    partition=block.partition,
                    offset=block.offsets[index],
                    prediction=value,
                    probabilities=answer.probabilities[index] if answer.probabilities else None,
                    lineage=models[0].manifest.identity.lineage,
                    version=".".join(str(model.manifest.seq) for model in models),
                    learned_up_to=learned,
                    stale=answer.stale if self.subscriber.when_stale == "flag" else None,
                )
            )
        return made

    def _finished(self) -> bool:
        if self._ends is None:
            return False
        elsewhere = [p for p in self._ends if p not in self._owned]
        if any(self._member.position(p) < self._ends[p] for p in self._ends if p in self._owned):
            return False
        if not elsewhere:
            return True
        time.sleep(0.2)
        try:
            committed = self._member.committed(elsewhere)
        except Transient as error:
            logger.info("cannot see yet how far the other scorers are: %s", error)
            return False
        return all(
            (at := committed[p]) is not None and at.offset >= self._ends[p] for p in elsewhere
        )
