"""What operators and probes look at, over HTTP."""
