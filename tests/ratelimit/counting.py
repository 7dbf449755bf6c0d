"""Hits as tests write them, and their outcomes."""

from collections.abc import Sequence

from mixer.ratelimit.counters import SECOND, Counters, Hit, Outcome, Outcomes, Rule

START = 1_800_000_000  # where a minute, an hour and a day begin
NOW = START * SECOND
PER_MINUTE = Rule(1_000_000, 60 * SECOND)


def one(name: str, hits: int = 1, seconds: int = 60, holder: str = "", **rule: object) -> Hit:
    """A hit on a fixed window, unless the rule says otherwise."""
    terms: dict[str, object] = {"limit": 1_000_000, "window": seconds * SECOND, **rule}
    return Hit(name, Rule(**terms), hits, holder)  # type: ignore[arg-type]


async def outcomes(
    client: Counters, hits: Sequence[Hit], now: int = NOW, timeout: float | None = None
) -> Outcomes:
    """Whether the store answers at once or not."""
    found = client.hit(hits, now, timeout)
    return found if isinstance(found, list) else await found


async def outcome(client: Counters, hit: Hit, now: int = NOW) -> Outcome:
    (found,) = await outcomes(client, [hit], now)
    return found


async def counts(
    client: Counters, hits: Sequence[Hit], now: int = NOW, timeout: float | None = None
) -> list[int]:
    """What the counters are at after the hits."""
    return [outcome.used for outcome in await outcomes(client, hits, now, timeout)]
