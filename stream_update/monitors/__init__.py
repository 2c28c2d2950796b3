"""Observers of outcomes: prequential metrics beside honest baselines, and drift detection."""

from __future__ import annotations

from stream_update.monitors.drift import DriftMonitor, alarm_record
from stream_update.monitors.prequential import Prequential, UserMetric, pooled
from stream_update.monitors.stopping import StopCondition

__all__ = [
    "DriftMonitor",
    "Prequential",
    "StopCondition",
    "UserMetric",
    "alarm_record",
    "pooled",
]
