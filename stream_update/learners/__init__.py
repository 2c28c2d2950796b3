"""Learners: one module for each kind, all of the same shape (see :class:`~stream_update.protocols.Learner`)."""
