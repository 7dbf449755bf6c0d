"""Quota, beside envoyproxy/ratelimit on the same Redis.

Each call counts a user among 1,000, who take turns, and a path that all share, far below their limits or (`over`)
above them. Mixer and the peer have one core each in turn; Redis and the load share the other. 64 calls are in flight,
unless a row says one.

Two loads, since they answer different questions. `distinct` sends another user with each call, so that a round
trip to Redis carries about as many counters as calls; its rows have the targets. h2load sends one body, so that all
calls hit the same two counters: the load of one busy key.
"""

import itertools
import tempfile
from pathlib import Path
from typing import Any

from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest

from benchmarks.harness import LOAD_CPU, SERVER_CPU, Row, h2load, in_turns
from benchmarks.load import distinct
from tests.components import processes
from tests.components.processes import Redis

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
USERS, CALLS = 1000, 40_000
PEER = "envoyproxy/ratelimit"

LIMITS = """\
domain: benchmark
descriptors:
  - key: user
    rate_limit: {{unit: hour, requests_per_unit: {user}}}
  - key: path
    value: /orders*
    rate_limit: {{unit: hour, requests_per_unit: {path}}}
"""
FAR, OVER = LIMITS.format(user=100_000_000, path=1_000_000_000), LIMITS.format(user=1, path=1)
DEPTH, WIDTHS = (
    4,
    {10: (1, 1, 1, 10), 10_000: (10, 10, 10, 10)},
)  # descriptors on each level, by the number of limits
LOCAL_CACHE = {"LOCAL_CACHE_SIZE_IN_BYTES": "10000000"}


def requests() -> list[bytes]:
    """Serialised RateLimitRequests of two descriptors, one for each user."""
    return [_request({"user": f"user{n}"}, {"path": "/orders/open"}) for n in range(USERS)]


def deep_limits(widths: tuple[int, ...], level: int = 0) -> str:
    """Limits at the end of each path of a tree."""
    indent = "  " * level
    lines = [f"{indent}descriptors:"]
    for number in range(widths[0]):
        lines.append(f"{indent}- key: key{level}\n{indent}  value: value{number}")
        if len(widths) > 1:
            lines.append(deep_limits(widths[1:], level + 1))
        else:
            lines.append(f"{indent}  rate_limit: {{unit: hour, requests_per_unit: 1000000000}}")
    return "\n".join(lines)


def deep_requests(widths: tuple[int, ...]) -> list[bytes]:
    """A request for each of 1,000 of the limits, with a value more that nobody has sent before, so that none is
    remembered: each is matched."""
    values = list(itertools.islice(itertools.product(*map(range, widths)), 1000))
    return [
        _request({f"key{level}": f"value{value}" for level, value in enumerate(path)}, {"other": f"{n}"})
        for n, path in zip(range(CALLS + CALLS // 10), itertools.cycle(values), strict=False)
    ]


def _request(*descriptors: dict[str, str]) -> bytes:
    request = RateLimitRequest(domain="benchmark")
    for entries in descriptors:
        descriptor = request.descriptors.add()
        for key, value in entries.items():
            descriptor.entries.add(key=key, value=value)
    return request.SerializeToString()


def settings(limits: Path, redis: Redis | None) -> dict[str, Any]:
    counters: dict[str, Any] = {"counters": "memory"}
    if redis is not None:  # which shares its core with the load, and may have to wait for it
        counters = {"counters": "redis", "redis": {"url": redis.url, "timeout": "5s"}}
    return {
        "listeners": {name: {"address": "127.0.0.1:0"} for name in ("check", "report", "admin")},
        "rate_limits": {"paths": [str(limits)], **counters},
    }


def run(runs: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder, processes.redis(cpu=LOAD_CPU) as redis:
        limits = Path(folder) / "limits.yaml"
        limits.write_text(FAR)
        rows = _below(runs, limits, redis)
        limits.write_text(OVER)
        rows.append(_over(runs, limits, redis))
        rows.append(_deep(runs, Path(folder)))
    return rows


def _below(runs: int, limits: Path, redis: Redis) -> list[Row]:
    messages = requests()
    with (
        processes.mixer(settings(limits, redis), cpu=SERVER_CPU) as mixer,
        processes.mixer(settings(limits, None), cpu=SERVER_CPU) as in_memory,
        processes.ratelimit(limits, redis.address, cpu=SERVER_CPU) as peer,
    ):

        def by_user(address: str, calls: int, in_flight: int = 64) -> float:
            return distinct(address, METHOD, messages, calls=calls, in_flight=in_flight)

        at_once = in_turns(
            runs, lambda: by_user(mixer.check, CALLS), lambda: by_user(peer.address, CALLS // 2)
        )
        alone = in_turns(
            runs,
            lambda: 1e6 / by_user(mixer.check, CALLS // 20, 1),
            lambda: 1e6 / by_user(peer.address, CALLS // 20, 1),
        )
        memory = in_turns(
            runs, lambda: by_user(in_memory.check, CALLS), lambda: by_user(peer.address, CALLS // 2)
        )
        one_body = in_turns(
            runs,
            lambda: h2load(mixer.check, METHOD, messages[0], calls=CALLS),
            lambda: h2load(peer.address, METHOD, messages[0], calls=CALLS // 2),
        )
    return [
        Row("Quota, Redis, two descriptors, exact, 1,000 users", "calls/s", *_sides(at_once), at_least=2.5),
        Row("the same, one call in flight", "µs", *_sides(alone), at_most_ratio=1.0),
        Row("Quota, memory, two descriptors, 1,000 users", "calls/s", *_sides(memory), at_least=3.0),
        Row("Quota, Redis, two descriptors, exact, every call the same", "calls/s", *_sides(one_body)),
    ]


def _over(runs: int, limits: Path, redis: Redis) -> Row:
    """Both with their cache of what is over."""
    messages = requests()
    with (
        processes.mixer(settings(limits, redis), cpu=SERVER_CPU) as mixer,
        processes.ratelimit(limits, redis.address, cpu=SERVER_CPU, env=LOCAL_CACHE) as peer,
    ):
        found = in_turns(
            runs,
            lambda: distinct(mixer.check, METHOD, messages, calls=CALLS),
            lambda: distinct(peer.address, METHOD, messages, calls=CALLS // 2),
        )
    work = "Quota, Redis, two descriptors over their limit, local caches on"
    return Row(work, "calls/s", *_sides(found), at_least=3.0)


def _deep(runs: int, folder: Path) -> Row:
    """Many limits beside few, both in memory."""
    files = {}
    for count, widths in WIDTHS.items():
        files[count] = folder / f"{count}.yaml"
        files[count].write_text(f"domain: benchmark\n{deep_limits(widths)}\n")
    few, many = WIDTHS
    with (
        processes.mixer(settings(files[many], None), cpu=SERVER_CPU) as with_many,
        processes.mixer(settings(files[few], None), cpu=SERVER_CPU) as with_few,
    ):
        found = in_turns(
            runs,
            lambda: distinct(with_many.check, METHOD, deep_requests(WIDTHS[many]), calls=CALLS),
            lambda: distinct(with_few.check, METHOD, deep_requests(WIDTHS[few]), calls=CALLS),
        )
    work = f"Quota, memory, {many:,} limits, {DEPTH} levels deep, each request another"
    return Row(work, "calls/s", found[0], f"{few} limits", found[1], at_least=1 / 1.2)


def _sides(
    figures: tuple[tuple[float, ...], tuple[float, ...]],
) -> tuple[tuple[float, ...], str, tuple[float, ...]]:
    ours, peers = figures
    return ours, PEER, peers
