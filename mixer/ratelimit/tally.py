"""What several limits that apply to a request say together."""

from mixer.ratelimit.answer import OVER_LIMIT, LimitTexts


class Tally:
    """The descriptors of a request so far: who is over, and who has the least left."""

    __slots__ = (
        "_first_quota_over",
        "_is_over",
        "_quotas_over",
        "least",
        "left",
        "quotas",
        "unlimited",
        "until_reset",
    )

    def __init__(self) -> None:
        self.least: LimitTexts | None = None  # or the last one that is over
        self.left = 0  # of that one
        self.until_reset = 0  # of that one, seconds
        self.quotas = 0
        self.unlimited: LimitTexts | None = None
        self._is_over = False
        self._quotas_over = 0
        self._first_quota_over: LimitTexts | None = None

    def add(self, limit: LimitTexts, left: int, until_reset: int, code: int, is_quota: bool) -> None:
        is_over = code == OVER_LIMIT
        if self.least is None or left < self.left or (is_over and not is_quota):
            self.least, self.left, self.until_reset = limit, left, until_reset
        if not is_quota:
            self._is_over |= is_over
            return
        self.quotas += 1
        if is_over:
            self._quotas_over += 1
            self._first_quota_over = self._first_quota_over or limit

    def is_over(self) -> bool:
        """Any ordinary limit is over, or all quotas are."""
        return self._is_over or 0 < self.quotas == self._quotas_over

    def decisive(self) -> LimitTexts | None:
        """The limit that fired, else the one with the least left, else an unlimited one."""
        if self._is_over or not self.is_over():
            return self.least or self.unlimited
        return self._first_quota_over
