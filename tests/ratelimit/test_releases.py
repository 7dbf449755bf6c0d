"""Slots given back in the background. Counters are in memory, or fail as the test says."""

import asyncio
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from mixer.errors import CounterError
from mixer.metrics import Metrics
from mixer.ratelimit import releases
from mixer.ratelimit.counters import SECOND
from mixer.ratelimit.memory import MemoryCounters
from mixer.ratelimit.releases import Releases
from tests.ratelimit.counting import NOW, one, outcome
from tests.ratelimit.loop import run

SLOT: dict[str, Any] = {"algorithm": "concurrency", "limit": 1, "counts_over": False}


class Away(MemoryCounters):
    """Fails so many times first."""

    failures = 2
    reason = "unavailable"

    async def release(self, holders: Sequence[str], now: int, timeout: float | None = None) -> int:
        if self.failures:
            self.failures -= 1
            raise CounterError(self.reason, "away")
        return await super().release(holders, now, timeout)


class Given:
    def __init__(self, kind: type[MemoryCounters] = MemoryCounters) -> None:
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        self.counters = kind(metrics, lambda: NOW / SECOND)
        self.releases = Releases(self.counters, metrics, lambda: NOW / SECOND)

    def count(self, outcome: str) -> float:
        return self.registry.get_sample_value("mixer_slot_releases_total", {"outcome": outcome}) or 0.0

    async def takes(self, holder: str) -> bool:
        return not (await outcome(self.counters, one("busy", holder=holder, **SLOT))).over


def test_slot_is_free_again() -> None:
    given = Given()

    async def main() -> None:
        assert await given.takes("a")
        assert not await given.takes("b")
        given.releases(["a", "nobody"])
        await given.releases.close(5)
        assert await given.takes("b")

    run(main())
    assert (given.count("released"), given.count("dropped")) == (1, 0)


def test_counters_that_are_away_are_told_again() -> None:
    given = Given(Away)

    async def main() -> None:
        assert await given.takes("a")
        with capture_logs() as logs:
            given.releases(["a"])
            await given.releases.close(5)
        assert [each["event"] for each in logs] == ["release_failed"]
        assert await given.takes("b")

    run(main())
    assert (given.count("released"), given.count("dropped")) == (1, 0)


def test_what_cannot_be_told_until_the_end_is_counted() -> None:
    given = Given(Away)
    given.counters.failures = 1000  # type: ignore[attr-defined]

    async def main() -> None:
        given.releases(["a", "b"])
        given.releases(["b"])
        await given.releases.close(0.05)

    run(main())
    assert given.count("dropped") == 2


def test_what_waits_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(releases, "MAX_WAITING", 3)
    given = Given()

    async def main() -> None:
        given.releases(list("abcde"))
        await given.releases.close(5)
        given.releases(["f"])  # there is room again
        await given.releases.close(5)

    run(main())
    assert given.count("dropped") == 2


def test_what_the_store_refuses_does_not_hold_up_the_others() -> None:
    given = Given(Away)
    given.counters.failures, given.counters.reason = 1, "script"  # type: ignore[attr-defined]

    async def main() -> None:
        assert await given.takes("b")
        given.releases(["a"])
        await asyncio.sleep(0)
        given.releases(["b"])
        await given.releases.close(5)

    run(main())
    assert (given.count("released"), given.count("dropped")) == (1, 1)
