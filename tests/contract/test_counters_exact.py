"""Exact under concurrency: processes and clients at once, one Redis, and each window admits its limit and no more."""

import asyncio
import json
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from grpc import aio

from tests.components.processes import Mixer
from tests.loop import on_loop

PROCESSES, CLIENTS, LIMITS, CALLS, LIMIT = 2, 4, 20, 625, 1000  # 625 calls of each client in each window
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
    chosen = {
        "redis": {
            "url": redis_url,
            "key_prefix": f"{uuid.uuid4()}:",
            "timeout": "20s",
            "connect_timeout": "20s",
        }
    }
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
    assert admitted(redis_url, 5) == [LIMIT] * 5


@pytest.mark.parametrize("algorithm", ["sliding_window", "token_bucket"])
def test_each_counter_admits_exactly_its_limit_at_once(redis_url: str, algorithm: str) -> None:
    assert admitted(redis_url, 3, algorithm=algorithm, counts_over=False) == [LIMIT] * 3


def test_lots_taken_ahead_never_admit_more_and_keep_back_no_more_than_they_hold(redis_url: str) -> None:
    lot = 20
    kept_back = (PROCESSES * CLIENTS - 1) * (lot - 1)
    found = admitted(redis_url, 5, lot=lot)
    assert all(LIMIT - kept_back <= each <= LIMIT for each in found), found


def test_processes_that_serve_admit_exactly_each_limit(
    redis_url: str, start_mixer: Callable[..., Mixer], tmp_path: Path
) -> None:
    """100,000 hits by 10,000 calls over gRPC, each on ten limits; the local cache answers what is over."""
    (tmp_path / "limits.yaml").write_text(
        f"domain: exact\ndescriptors: [{{key: k, rate_limit: {{unit: year, requests_per_unit: {LIMIT}}}}}]\n"
    )
    settings = {
        "listeners": {"check": {"address": "127.0.0.1:0"}, "admin": {"address": "127.0.0.1:0"}},
        "rate_limits": {
            "paths": [tmp_path / "limits.yaml"],
            "counters": "redis",
            "redis": {
                "url": redis_url,
                "key_prefix": f"{uuid.uuid4()}:",
                "timeout": "20s",
                "connect_timeout": "20s",
            },
        },
    }
    servers = [start_mixer(settings, "--role", "check") for _ in range(PROCESSES)]
    groups = [range(start, start + 10) for start in range(0, LIMITS, 10)]
    passed: Counter[str] = Counter()

    async def client(server: Mixer) -> None:
        async with aio.insecure_channel(server.check, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = channel.unary_unary(
                "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
                RateLimitRequest.SerializeToString,
                RateLimitResponse.FromString,
            )
            free = asyncio.Semaphore(100)

            async def ask(request: RateLimitRequest) -> None:
                async with free:
                    answer = await call(request, timeout=60)
                for descriptor, status in zip(request.descriptors, answer.statuses, strict=True):
                    assert status.current_limit.requests_per_unit == LIMIT
                    passed[descriptor.entries[0].value] += status.code == RateLimitResponse.OK

            await asyncio.gather(*(ask(asked(group)) for group in groups for _ in range(CALLS)))

    @on_loop
    async def ask_all() -> None:
        await asyncio.gather(*(client(server) for server in servers for _ in range(CLIENTS)))

    ask_all()
    assert passed == {str(name): LIMIT for name in range(LIMITS)}


def asked(names: range) -> RateLimitRequest:
    request = RateLimitRequest(domain="exact")
    for name in names:
        request.descriptors.add().entries.add(key="k", value=str(name))
    return request
