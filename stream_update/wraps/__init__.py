"""Learners made of learners.

Each is a :class:`~stream_update.protocols.Learner` itself. Where only a part of it predicts,
a static method ``serving`` takes that part out of a dump: a follower restores no more.
"""

from stream_update.wraps.distil import Distilled
from stream_update.wraps.ensemble import Ensemble
from stream_update.wraps.replay import Replay
from stream_update.wraps.twin import BackgroundTwin

__all__ = ["BackgroundTwin", "Distilled", "Ensemble", "Replay"]
