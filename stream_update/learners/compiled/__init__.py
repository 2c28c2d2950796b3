"""Linear models of river, compiled: the same numbers, many times as fast.

numba is imported when a :class:`CompiledLearner` is made, and not before: who only predicts
with what one has learned needs river alone.
"""

from stream_update.learners.compiled.learner import CompiledLearner

__all__ = ["CompiledLearner"]
