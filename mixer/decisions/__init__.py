"""The decision log: what Check decided, in OPA's event shape, masked, to the sinks."""
