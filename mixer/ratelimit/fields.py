"""What the client is told of its limits in headers.

The older fields are envoyproxy/ratelimit's: the numbers of the limit that has the least left. The IETF's
(draft-ietf-httpapi-ratelimit-headers-10) tell all limits by their names, as Structured Fields (RFC 9651).
"""

from collections.abc import Iterator, Sequence

from mixer import config
from mixer.ratelimit.claims import Claim
from mixer.ratelimit.counters import Outcome, Outcomes, Rule
from mixer.ratelimit.judge import Verdict
from mixer.ratelimit.tree import Limit

Found = Sequence[Claim | None]
Headers = tuple[tuple[str, str], ...]


class Fields:
    def __init__(self, settings: config.ResponseHeaders) -> None:
        self.enabled = settings.enabled
        self._names = settings.limit, settings.remaining, settings.reset
        self._draft = settings.draft

    def of(self, verdict: Verdict, claims: Found, outcomes: Outcomes) -> Headers:
        """For an answer, over the limit or not."""
        if (least := verdict.least) is None:
            return ()
        limit, remaining, reset = self._names
        older = (
            (limit, str(least.limit.requests_per_unit)),
            (remaining, str(verdict.left)),
            (reset, str(verdict.reset)),
        )
        return (*older, *_draft(claims, outcomes)) if self._draft else older


def retry_after(claims: Found, outcomes: Outcomes) -> tuple[str, str]:
    """When all that is over may have room again (RFC 9110, 10.2.3). A slot comes back when whoever has it is done, not
    when its lease ends: there it says a second."""
    retry = 1
    for limit, rule, outcome in _counted(claims, outcomes):
        if outcome.over and not limit.shadow_mode and rule.algorithm != "concurrency":
            retry = max(retry, outcome.retry)
    return "Retry-After", str(retry)


def _counted(claims: Found, outcomes: Outcomes) -> Iterator[tuple[Limit, Rule, Outcome]]:
    each = iter(outcomes)
    for claim in claims:
        if claim is not None and claim.hit is not None:
            yield claim.limit, claim.hit.rule, next(each)


def _draft(claims: Found, outcomes: Outcomes) -> Headers:
    policies, states = [], []
    for limit, rule, outcome in _counted(claims, outcomes):
        name = _string(limit.label)
        if rule.algorithm == "concurrency":
            policies.append(f'{name};q={rule.limit};qu="concurrent-requests"')
            states.append(f"{name};r={outcome.remaining}")
        else:
            policies.append(f"{name};q={rule.limit};w={rule.seconds}")
            states.append(f"{name};r={outcome.remaining};t={outcome.reset}")
    return (("RateLimit-Policy", ", ".join(policies)), ("RateLimit", ", ".join(states)))


def _string(text: str) -> str:
    """A String of Structured Fields, which has printable ASCII alone."""
    shown = "".join(character if " " <= character <= "~" else "?" for character in text)
    return '"' + shown.replace("\\", "\\\\").replace('"', '\\"') + '"'
