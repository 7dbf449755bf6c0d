"""Shadow policies: a candidate evaluated beside the live one, in a process of its own, for comparison alone."""
