"""Who is behind a refusal that speaks of another process with the same instance id."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stream_update.errors import Doubt, Fatal, Refused
from stream_update.log.checkpoints import Displaced, Transaction


class Member:
    """One that is known to the group as ``now``, and was as ``a`` when it published."""

    identity = SimpleNamespace(member_id="a")

    def __init__(self, now: str) -> None:
        self.now = now
        self.told: list[Fatal] = []

    def goes_by(self, identity: Any) -> bool:
        return bool(identity.member_id == self.now)

    def displaced(self, by: Fatal) -> None:
        self.told.append(by)


def refused(member: Member) -> pytest.ExceptionInfo[Refused]:
    def fail() -> None:
        raise Displaced("another process has the id", hint="stop one")

    call: Any = SimpleNamespace(result=fail)
    publication = Transaction(call, Doubt, member)  # type: ignore[arg-type]
    with pytest.raises(Refused) as error:
        publication.result()
    return error


def test_another_process_with_the_id_ends_this_one() -> None:
    member = Member(now="a")
    assert "another process" in str(refused(member).value)
    (told,) = member.told
    assert told.hint == "stop one"


@pytest.mark.parametrize("now", ["", "b"])
def test_a_member_that_comes_back_has_displaced_itself(now: str) -> None:
    member = Member(now)
    assert "gone on without" in str(refused(member).value)
    assert not member.told
