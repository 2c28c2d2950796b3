"""Learners made of learners.

Each is a :class:`~stream_update.protocols.Learner` itself, and has a ``serving``, a static
method that takes the part of a dump that predicts: a follower restores that and no more.
"""

from stream_update.wraps.ensemble import Ensemble
from stream_update.wraps.replay import Replay
from stream_update.wraps.twin import BackgroundTwin

__all__ = ["BackgroundTwin", "Ensemble", "Replay"]
