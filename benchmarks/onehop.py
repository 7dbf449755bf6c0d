"""One hop: a Check that counts two limits from Rego, beside a Check and a rate limit call one after the other.

All are this server's, on the same Redis, by the same policy: a token is verified, its user looked up, the path matched;
the decision cache is on. Each user is counted, and all together by the area of the path. Clients make their calls one
after the other. One client tells what a request waits for; 64 what the server can do in all, of which the counting on
Redis is the greater part either way.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import quota
from benchmarks.chain import Step, rate
from benchmarks.check import JWT_POLICY, METHOD, Traffic, write_policy
from benchmarks.harness import LOAD_CPU, SERVER_CPU, Row, in_turns
from tests.components import processes
from tests.components.processes import Mixer, Redis

LIMITS = """[
	{"key": ["user", claims.sub], "requests_per_unit": 100000000, "unit": "hour", "name": "per-user"},
	{"key": ["area", split(http.path, "/")[1]], "requests_per_unit": 1000000000, "unit": "hour", "name": "area"},
]"""
POLICY = JWT_POLICY.replace('{"allowed": true, ', f'{{"allowed": true, "rate_limits": {LIMITS}, ')
PEER = "Check, then ShouldRateLimit"
LOADS = ((1, 4000, 1.5), (64, 20_000, None))  # clients, requests, target


def run(runs: int) -> list[Row]:
    with processes.redis(cpu=LOAD_CPU) as redis:
        return _rows(runs, redis)


def _rows(runs: int, redis: Redis) -> list[Row]:
    traffic = Traffic()
    check: Step = (METHOD, traffic.skewed())
    count: Step = (quota.METHOD, quota.requests())
    found = []
    with _serving(JWT_POLICY, traffic, redis) as apart, _serving(POLICY, traffic, redis) as together:
        for clients, requests, at_least in LOADS:

            def ours(clients: int = clients, requests: int = requests) -> float:
                return rate(together.check, [check], requests=requests, clients=clients)

            def peer(clients: int = clients, requests: int = requests) -> float:
                return rate(apart.check, [check, count], requests=requests, clients=clients)

            one_hop, two_hops = in_turns(runs, ours, peer)
            work = f"One hop, two limits from Rego on Redis, {clients} client{'s' * (clients > 1)}"
            found.append(Row(work, "requests/s", one_hop, PEER, two_hops, at_least=at_least))
    return found


@contextmanager
def _serving(policy: str, traffic: Traffic, redis: Redis) -> Iterator[Mixer]:
    with tempfile.TemporaryDirectory() as folder:
        policies = Path(folder) / "policies"
        policies.mkdir()
        write_policy(policies, policy, traffic.data)
        limits = Path(folder) / "limits.yaml"
        limits.write_text(quota.FAR)
        settings: dict[str, Any] = {
            "listeners": {name: {"address": "127.0.0.1:0"} for name in ("check", "report", "admin")},
            "policy": {"paths": [str(policies)]},
            "rate_limits": {
                "paths": [str(limits)],
                "counters": "redis",
                "redis": {"url": redis.url, "timeout": "5s"},
            },
        }
        with processes.mixer(settings, cpu=SERVER_CPU) as mixer:
            yield mixer
