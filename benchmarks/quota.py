"""Quota: two descriptors on Redis, exact, beside envoyproxy/ratelimit on the same Redis.

Each call counts a user among 1,000, who take turns, and a path that all share, far below their limits. Mixer and
the peer have one core each in turn; Redis and the load share the other. 64 calls are in flight.

Two loads, since they answer different questions. `distinct` sends another user with each call, so that a round
trip to Redis carries about as many counters as calls; it is the row with the target. h2load sends one body, so
that all calls hit the same two counters: the load of one busy key.
"""

import tempfile
from pathlib import Path

from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest

from benchmarks.harness import LOAD_CPU, SERVER_CPU, Row, h2load, in_turns
from benchmarks.load import distinct
from tests.components import processes

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
USERS, CALLS = 1000, 40_000
PEER = "envoyproxy/ratelimit"

LIMITS = """\
domain: benchmark
descriptors:
  - key: user
    rate_limit: {unit: hour, requests_per_unit: 100000000}
  - key: path
    value: /orders*
    rate_limit: {unit: hour, requests_per_unit: 1000000000}
"""


def requests() -> list[bytes]:
    """Serialised RateLimitRequests of two descriptors, one for each user."""
    messages = []
    for n in range(USERS):
        request = RateLimitRequest(domain="benchmark")
        for key, value in (("user", f"user{n}"), ("path", "/orders/open")):
            request.descriptors.add().entries.add(key=key, value=value)
        messages.append(request.SerializeToString())
    return messages


def run(runs: int) -> list[Row]:
    messages = requests()
    with tempfile.TemporaryDirectory() as folder, processes.redis(cpu=LOAD_CPU) as redis:
        limits = Path(folder) / "limits.yaml"
        limits.write_text(LIMITS)
        settings = {
            "listeners": {name: {"address": "127.0.0.1:0"} for name in ("check", "report", "admin")},
            "rate_limits": {"paths": [str(limits)], "counters": "redis", "redis": {"url": redis.url}},
        }
        with (
            processes.mixer(settings, cpu=SERVER_CPU) as mixer,
            processes.ratelimit(limits, redis.address, cpu=SERVER_CPU) as peer,
        ):
            by_user = in_turns(
                runs,
                lambda: distinct(mixer.check, METHOD, messages, calls=CALLS),
                lambda: distinct(peer.address, METHOD, messages, calls=CALLS // 2),
            )
            one_body = in_turns(
                runs,
                lambda: h2load(mixer.check, METHOD, messages[0], calls=CALLS),
                lambda: h2load(peer.address, METHOD, messages[0], calls=CALLS // 2),
            )
    return [
        Row("Quota, Redis, two descriptors, exact, 1,000 users", "calls/s", *_sides(by_user), at_least=1.5),
        Row("Quota, Redis, two descriptors, exact, every call the same", "calls/s", *_sides(one_body)),
    ]


def _sides(
    figures: tuple[tuple[float, ...], tuple[float, ...]],
) -> tuple[tuple[float, ...], str, tuple[float, ...]]:
    ours, peers = figures
    return ours, PEER, peers
