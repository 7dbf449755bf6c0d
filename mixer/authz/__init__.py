"""Check: a CheckRequest into a policy's input, its decision into a CheckResponse."""
