"""Exact under concurrency: processes and clients at once, one Redis, and each window admits its limit and no more."""

import json
import subprocess
import sys
import uuid
from collections import Counter
from typing import Any

import pytest

PROCESSES, CLIENTS, WINDOWS, CALLS, LIMIT = 2, 4, 20, 625, 1000  # 625 calls of each client in each window
CHILD = """\
import asyncio, json, sys, uvloop
from prometheus_client import CollectorRegistry
from mixer import config
from mixer.metrics import Metrics
from mixer.ratelimit.counters import SECOND, Hit, Rule
from mixer.ratelimit.redis import RedisCounters
from tests.ratelimit.counting import NOW

clients, windows, calls = map(int, sys.argv[1:4])
settings = config.RateLimits.model_validate(json.loads(sys.argv[4]))
rule = Rule(**json.loads(sys.argv[5]))

async def admitted(client, name, now):
    hit = [Hit(name, rule)]
    async def one():
        (outcome,) = await answer if not isinstance(answer := client.hit(hit, now), list) else answer
        return not outcome.over
    return sum(await asyncio.gather(*(one() for _ in range(calls))))

async def main():
    stores = [RedisCounters(settings, Metrics(CollectorRegistry())) for _ in range(clients)]
    for store in stores:
        await store.start()
    print("started", flush=True)
    sys.stdin.readline()
    found = []
    for window in range(windows):
        # A bucket does not go back in time, so one that waits for nobody would lend another window's hits.
        name, now = ("a", NOW + window * 60 * SECOND) if rule.is_plain or rule.lot > 1 else (f"a{window}", NOW)
        found.append(sum(await asyncio.gather(*(admitted(store, name, now) for store in stores))))
    print(json.dumps(found), flush=True)
    for store in stores:
        await store.close()

uvloop.run(main())
"""


def admitted(redis_url: str, windows: int, **rule: Any) -> list[int]:
    """How many hits of all processes passed, by window."""
    chosen = {"redis": {"url": redis_url, "key_prefix": f"{uuid.uuid4()}:", "timeout": "20s"}}
    rule = {"limit": LIMIT, "window": 60_000_000, **rule}
    arguments = (str(CLIENTS), str(windows), str(CALLS), json.dumps(chosen), json.dumps(rule))
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "started\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        total: Counter[int] = Counter()
        for child in children:
            output, _ = child.communicate(timeout=100)
            total.update(dict(enumerate(json.loads(output))))
    finally:
        for child in children:
            child.kill()
            child.communicate()
    return [total[window] for window in range(windows)]


def test_each_window_admits_exactly_its_limit(redis_url: str) -> None:
    """100,000 calls."""
    assert admitted(redis_url, WINDOWS) == [LIMIT] * WINDOWS


@pytest.mark.parametrize("algorithm", ["sliding_window", "token_bucket"])
def test_each_counter_admits_exactly_its_limit_at_once(redis_url: str, algorithm: str) -> None:
    assert admitted(redis_url, 3, algorithm=algorithm, counts_over=False) == [LIMIT] * 3


def test_lots_taken_ahead_never_admit_more_and_keep_back_no_more_than_they_hold(redis_url: str) -> None:
    lot = 20
    kept_back = (PROCESSES * CLIENTS - 1) * (lot - 1)
    found = admitted(redis_url, 5, lot=lot)
    assert all(LIMIT - kept_back <= each <= LIMIT for each in found), found
