"""The logs: each folder or module makes one look like :class:`stream_update.protocols.Log`."""
