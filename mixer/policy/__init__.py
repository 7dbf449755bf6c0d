"""Decisions: the engine seam, its two engines, the fields that a decision can read, and the decision cache."""
