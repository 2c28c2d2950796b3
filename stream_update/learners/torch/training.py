"""How a network is taught, besides its module, its optimizer and its loss."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from stream_update.errors import ConfigError
from stream_update.learners.torch.schedules import Schedule

__all__ = ["MAX_THREADS", "Precision", "Training", "check_counts"]

MAX_THREADS = 256
"""A snapshot says how many, and a follower makes as many."""

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Training:
    """Checked when it is made; raises :class:`ConfigError`.

    ``l1`` times the sum of all absolute weights is added to the loss, and ``clip_norm``
    bounds the gradient of both. ``ema`` is the share of an average that stays in each step.
    """

    epochs: int = 1
    clip_norm: float | None = None
    l1: float = 0.0
    ema: float | None = None
    schedule: Schedule = field(default_factory=Schedule)
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"learner.clip_norm: {self.clip_norm!r} is not positive")
        if not 0 <= self.l1 < float("inf"):
            raise ConfigError(f"learner.l1: {self.l1!r} is negative or no number")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(
                f"learner.ema: {self.ema!r} is not between 0 and 1", hint="0.999, say"
            )
        if self.precision not in {"float32", "bfloat16"}:
            raise ConfigError(
                f"learner.precision: {self.precision!r} is none", hint="float32 or bfloat16"
            )

    def cast(self, device: Any) -> AbstractContextManager[Any]:
        """Around a module that answers: where its products may be coarser."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)  # type: ignore[no-any-return]

    def said(self) -> Mapping[str, Any]:
        """What is not as it is by default, for fingerprints."""
        told = {
            "l1": self.l1 or None,
            "ema": self.ema,
            "schedule": None
            if self.schedule.constant
            else [self.schedule.name, self.schedule.options],
            "precision": None if self.precision == "float32" else self.precision,
        }
        return {name: value for name, value in told.items() if value is not None}


def check_counts(**counts: Any) -> None:
    """Raise :class:`ConfigError` unless all are positive, and threads not too many."""
    for name, value in counts.items():
        if type(value) is not int or value < 1:
            raise ConfigError(f"learner.{name}: {value!r} is no positive whole number")
    if counts["threads"] > MAX_THREADS:
        raise ConfigError(f"learner.threads: {counts['threads']} are more than {MAX_THREADS}")
