"""Labels of several classes at once: a list of those that apply, or an object."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from stream_update.codecs.words import shown
from stream_update.errors import BadEvent

__all__ = ["check_set", "known_sets"]


def known_sets(
    raw: Sequence[Any],
    unlabelled: Container[Any],
    nothing: Mapping[Any, bool],
    types: set[type],
) -> list[Any] | None:
    """Labels of which nothing has to be asked, None for an event that is not labelled.

    ``nothing`` is the label with no class, ``types`` are those of its classes. Returns None
    (for all) if any label has to be judged by itself.
    """
    labels: list[Any] = []
    count = len(nothing)
    for one in raw:
        if type(one) is list:
            if not types.issuperset(map(type, one)):
                return None
            # A key of a dict stays what it was: 1.0 in the place of 1 is 1.
            label = {**nothing, **dict.fromkeys(one, True)}
            if len(label) != count or sum(label.values()) != len(one):
                return None
            labels.append(label)
        elif type(one) is dict:
            label = {**nothing, **one}
            if len(label) != count or not set(map(type, label.values())) <= {bool}:
                return None
            labels.append(label)
        elif isinstance(one, float | int | str) or one not in unlabelled:
            return None
        else:
            labels.append(None)
    return labels


def check_set(raw: Any, name: str) -> list[tuple[Any, bool]]:
    """What the label ``name`` says of classes, in its order. Raises :class:`BadEvent`."""
    if isinstance(raw, list):
        return [(one, True) for one in raw]
    if not isinstance(raw, dict):
        raise BadEvent(
            "label-type",
            f'label "{name}" is {shown(raw)}; task = "multilabel" takes a list of classes, or an '
            "object of class to true or false",
        )
    for one, applies in raw.items():
        if not isinstance(applies, bool):
            raise BadEvent(
                "label-type",
                f'label "{name}" says {shown(applies)} of the class {shown(one)}; it takes true '
                "or false",
            )
    return list(raw.items())
