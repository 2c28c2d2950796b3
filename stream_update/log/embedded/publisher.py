"""Atomic checkpoints: one SQL transaction each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stream_update.errors import Doubt, Refused, Transient
from stream_update.events import Committed, Record
from stream_update.log.embedded.member import EmbeddedMember
from stream_update.log.embedded.store import Store
from stream_update.log.embedded.writing import Writing
from stream_update.protocols import Closing, Member

__all__ = ["EmbeddedPublisher"]

WAIT_S = 5.0
"""How long a checkpoint waits for those who write, before it is refused."""


class Written:
    """A checkpoint that is in the log: there is nothing to wait for but the disk."""

    def __init__(self, given: list[int]) -> None:
        self._given = given

    def done(self) -> bool:
        return True

    def result(self) -> list[int]:
        return self._given


class EmbeddedPublisher(Closing):
    """See :class:`stream_update.protocols.Publisher`.

    The fence is asked in the same transaction: while it is open nobody can take a
    partition over, and whoever does so later finds it committed or not at all.
    """

    def __init__(self, store: Store, group_id: str) -> None:
        self._store = store
        self._group_id = group_id
        self._writing = Writing(store)
        self._doubt: Doubt | None = None

    def close(self) -> None:
        self._store.close()

    def begin(
        self, records: Sequence[Record], offsets: Mapping[int, Committed], member: Member
    ) -> Written:
        if self._doubt is not None:
            raise self._doubt
        if not isinstance(member, EmbeddedMember) or member.group_id != self._group_id:
            raise TypeError(f"a publisher of group {self._group_id} needs a member of that group")
        if not offsets:
            raise Refused("a checkpoint without offsets would not be fenced")
        try:
            with self._store.writing(f"a checkpoint of group {self._group_id}", WAIT_S) as sql:
                member.commit(sql, offsets)
                given = self._writing.write(sql, records)
        except Doubt as error:
            self._doubt = error
            raise
        except Transient as error:
            raise Refused(str(error), hint=error.hint) from error
        return Written(given)

    def publish(
        self, records: Sequence[Record], offsets: Mapping[int, Committed], member: Member
    ) -> list[int]:
        return self.begin(records, offsets, member).result()
