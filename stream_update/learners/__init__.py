"""Models behind the :class:`~stream_update.protocols.Learner` seam, one module for each library."""
