"""The verdict on a request: from the outcomes of its hits to the statuses of its descriptors and the overall code.

As envoyproxy/ratelimit judges (`shouldRateLimitWorker` in its `ratelimit.go`, `GetResponseDescriptorStatus` in its
`base_limiter.go`).
"""

from collections.abc import Iterable
from itertools import repeat

from mixer import config
from mixer.metrics import QUOTA_OUTCOMES, Metrics
from mixer.ratelimit import answer, counted
from mixer.ratelimit.answer import (
    MAX_REMAINING,
    OK,
    OVER_LIMIT,
    OVERALL,
    LimitTexts,
    begin_of,
    remaining,
    until_reset,
)
from mixer.ratelimit.claims import Asked
from mixer.ratelimit.counters import Hit, Outcomes
from mixer.ratelimit.on_error import Replaced
from mixer.ratelimit.tree import Limit

_OK, _OVER_LIMIT, _SHADOW, _UNLIMITED, _NO_LIMIT = range(len(QUOTA_OUTCOMES))


class Verdict:
    """What the descriptors of a request come to."""

    __slots__ = (
        "first_quota_over", "is_over", "least", "left", "parts", "passed", "quotas", "quotas_over", "reset",
        "taken", "unlimited",
    )  # fmt: skip

    def __init__(self) -> None:
        self.parts = [b""]  # of the answer: the overall code is to come first, then the statuses
        self.is_over = False  # of any ordinary limit
        self.least: LimitTexts | None = None  # the limit with the least left, or the last one that is over
        self.left = 0  # of that one
        self.reset = 0  # of that one, seconds
        self.quotas = 0
        self.quotas_over = 0
        self.first_quota_over: LimitTexts | None = None
        self.unlimited: LimitTexts | None = None
        self.passed: list[Limit] = []
        self.taken: list[Hit] = []  # slots

    def refuses(self) -> bool:
        """Any ordinary limit is over, or all quotas are."""
        return self.is_over or 0 < self.quotas == self.quotas_over

    def decisive(self) -> LimitTexts | None:
        """The limit that fired, else the one with the least left, else an unlimited one."""
        if self.is_over or not self.refuses():
            return self.least or self.unlimited
        return self.first_quota_over


class Judge:
    """Judges as the settings say, and keeps the statistics."""

    def __init__(self, settings: config.RateLimits, metrics: Metrics) -> None:
        self._shadow_mode = settings.shadow_mode
        self._quota_mode = settings.quota_mode
        self._tally = metrics.quota_descriptors.row
        self._is_plain = not (
            settings.shadow_mode
            or settings.quota_mode
            or settings.response_dynamic_metadata
            or settings.response_headers.enabled
        )

    def ordinary(self, asked: Asked, outcomes: Outcomes) -> bytes | None:
        """The answer by what `verdict` says, if each descriptor has an ordinary limit and the settings ask for nothing
        more: the way of most requests, and short. None for others."""
        if asked.ordinary is None or not self._is_plain:
            return None
        if asked.tells and any(outcome.over for outcome in outcomes):
            return None
        parts = [b""]
        least, least_left, over_limits = asked.ordinary[0].texts, MAX_REMAINING, 0
        for claim, hit, outcome in zip(asked.ordinary, asked.hits, outcomes, strict=True):
            over, used, left, reset, _, is_local = outcome
            _, texts, tally, _, _, _ = claim
            hits = hit[2]
            if over:
                over_limits += 1
                least, least_left = texts, left
                if is_local:
                    tally[counted.OVER_LOCAL] += hits
                else:
                    counted.add(tally, texts.near, hit, outcome, False)
                if not left:
                    parts.append(texts.over(reset))
                    continue
            elif used > texts.near or hits < 0:
                counted.add(tally, texts.near, hit, outcome, False)
            else:
                tally[counted.WITHIN] += hits
            if left < least_left:
                least, least_left = texts, left
            head = texts.status[over]
            rest = until_reset(reset) if not left else remaining(left) + until_reset(reset)
            parts += begin_of(len(head) + len(rest)), head, rest
        self._tally[_OVER_LIMIT] += over_limits
        self._tally[_OK] += len(outcomes) - over_limits
        overall = OVER_LIMIT if over_limits else OK
        parts[0] = OVERALL[overall]
        parts.append(least.metadata[overall])
        return b"".join(parts)

    def passed(self, asked: Asked, outcomes: Outcomes) -> LimitTexts | None:
        """The limit with the least left, if each is an ordinary one, none is over, and the settings ask for nothing
        more. None for others; nothing is counted then."""
        if asked.ordinary is None or not self._is_plain:
            return None
        for outcome in outcomes:
            if outcome[0]:
                return None
        least, least_left = asked.ordinary[0].texts, MAX_REMAINING
        for claim, hit, outcome in zip(asked.ordinary, asked.hits, outcomes, strict=True):
            _, used, left, _, _, _ = outcome
            _, texts, tally, _, _, _ = claim
            hits = hit[2]
            if used > texts.near or hits < 0:
                counted.add(tally, texts.near, hit, outcome, False)
            else:
                tally[counted.WITHIN] += hits
            if left < least_left:
                least, least_left = texts, left
        self._tally[_OK] += len(outcomes)
        return least

    def verdict(self, asked: Asked, outcomes: Outcomes, replaced: Replaced | None = None) -> Verdict:
        """`outcomes`: of `asked.hits`; or what stands in their place."""
        verdict = Verdict()
        modes: Iterable[str] = repeat("", len(outcomes))
        hits = asked.hits
        if replaced is not None:
            hits, outcomes, modes = replaced.hits, replaced.outcomes, replaced.modes
        each = iter(zip(hits, outcomes, modes, strict=True))
        for claim in asked.claims:
            if claim is None:
                self._tally[_NO_LIMIT] += 1
                verdict.parts.append(answer.NO_LIMIT)
                verdict.quotas += self._quota_mode
                continue
            limit, texts = claim.limit, claim.texts
            if claim.hit is None:
                self._tally[_UNLIMITED] += 1
                verdict.parts.append(answer.UNLIMITED)
                verdict.unlimited = texts
                continue
            hit, outcome, mode = next(each)
            over, _, left, reset, _, _ = outcome
            is_shadow = over and (limit.shadow_mode or self._shadow_mode)
            if not mode:
                counted.add(claim.tally, texts.near, hit, outcome, is_shadow)
            elif mode == "local":
                counted.add(claim.tally, hit.rule.size * 4 // 5, hit, outcome, is_shadow)
            self._tally[_SHADOW if is_shadow else _OVER_LIMIT if over else _OK] += 1
            refused = over and not limit.shadow_mode
            verdict.parts.append(answer.status(texts.status[refused], left, reset))
            is_quota = self._quota_mode or limit.quota_mode
            if verdict.least is None or left < verdict.left or (refused and not is_quota):
                verdict.least, verdict.left, verdict.reset = texts, left, reset
            if not refused:
                verdict.passed.append(limit)
            if is_quota:
                verdict.quotas += 1
                if refused:
                    verdict.quotas_over += 1
                    verdict.first_quota_over = verdict.first_quota_over or texts
            else:
                verdict.is_over |= refused
            if hit.holder and hit.hits > 0 and not over and not mode:
                verdict.taken.append(hit)
        return verdict
