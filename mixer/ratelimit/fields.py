"""What the client is told of its limits in headers.

The older fields are envoyproxy/ratelimit's: the numbers of the limit that has the least left. The IETF's
(draft-ietf-httpapi-ratelimit-headers-10) tell all limits by their names, as Structured Fields (RFC 9651).
"""

from collections.abc import Sequence

from mixer import config
from mixer.ratelimit.claims import Claim
from mixer.ratelimit.counters import Outcome
from mixer.ratelimit.tally import Tally

Judged = Sequence[tuple[Claim, Outcome]]
Headers = tuple[tuple[str, str], ...]


class Fields:
    def __init__(self, settings: config.ResponseHeaders) -> None:
        self.enabled = settings.enabled
        self._names = settings.limit, settings.remaining, settings.reset
        self._draft = settings.draft

    def of(self, tally: Tally, judged: Judged) -> Headers:
        """For an answer, over the limit or not."""
        if (least := tally.least) is None:
            return ()
        limit, remaining, reset = self._names
        older = (
            (limit, str(least.limit.requests_per_unit)),
            (remaining, str(tally.left)),
            (reset, str(tally.until_reset)),
        )
        return (*older, *_draft(judged)) if self._draft else older


def retry_after(judged: Judged) -> tuple[str, str]:
    """When all that is over may have room again (RFC 9110, 10.2.3). A slot comes back when whoever has it is done, not
    when its lease ends: there it says a second."""
    retry = 1
    for claim, outcome in judged:
        rule = claim.limit.rule
        if (
            outcome.over
            and not claim.limit.shadow_mode
            and rule is not None
            and rule.algorithm != "concurrency"
        ):
            retry = max(retry, outcome.retry)
    return "Retry-After", str(retry)


def _draft(judged: Judged) -> Headers:
    policies, states = [], []
    for claim, outcome in judged:
        if (rule := claim.limit.rule) is None:
            continue
        name = _string(claim.limit.label)
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
