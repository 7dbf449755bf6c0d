"""How long to wait before a worker is started again."""

FIRST, LONGEST = 0.1, 30.0  # seconds
HEALTHY = 60.0  # seconds for which a worker must run until its next end counts as the first


class Backoff:
    """At once after a long run; doubled from there on, up to `LONGEST`."""

    def __init__(self) -> None:
        self._ends = 0

    def after(self, ran: float) -> float:
        """Seconds to wait after a worker that ran for so many."""
        self._ends = 1 if ran >= HEALTHY else self._ends + 1
        return float(min(LONGEST, FIRST * 2 ** min(self._ends - 1, 16)))
