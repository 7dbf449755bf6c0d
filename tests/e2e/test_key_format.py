"""`key_format: ratelimit`: Mixer and envoyproxy/ratelimit on one Redis count into the same counters."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse

from tests.components import processes
from tests.components.processes import Redis

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
LIMITS = """\
domain: shop
descriptors:
- {key: user, rate_limit: {unit: day, requests_per_unit: 6}}
- key: plan
  value: gold
  descriptors:
  - {key: path, value: 'or*', share_threshold: true, rate_limit: {unit: year, requests_per_unit: 4}}
  - {key: path, rate_limit: {unit: hour, requests_per_unit: 4}}
"""
DESCRIPTORS = {
    "one entry": ({"user": "al ice|%ü"}, 6),
    "a wildcard that is shared": ({"plan": "gold", "path": "orders"}, 4),
    "a key alone": ({"plan": "gold", "path": "x_y"}, 4),
}


@pytest.fixture(scope="module")
def addresses(redis_server: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Mixer, and the server whose place it takes."""
    limits = Path(tmp_path_factory.mktemp("limits")) / "shop.yaml"
    limits.write_text(LIMITS)
    settings = {
        "listeners": {name: {"address": "127.0.0.1:0"} for name in ("check", "report", "admin")},
        "rate_limits": {
            "paths": [limits],
            "counters": "redis",
            "redis": {"url": redis_server.url, "key_prefix": "", "timeout": "10s", "connect_timeout": "10s"},
            "key_format": "ratelimit",
        },
    }
    with (
        processes.mixer(settings) as mixer,
        processes.ratelimit(limits, redis_server.address) as ratelimit,
    ):
        yield mixer.check, ratelimit.address


def left(address: str, entries: dict[str, str]) -> tuple[int, int]:
    """The overall code, and what is left after one more hit."""
    request = RateLimitRequest(domain="shop")
    descriptor = request.descriptors.add()
    for key, value in entries.items():
        descriptor.entries.add(key=key, value=value)
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary(METHOD, RateLimitRequest.SerializeToString, RateLimitResponse.FromString)
        response = ask(request, timeout=10, wait_for_ready=True)
    return response.overall_code, response.statuses[0].limit_remaining


@pytest.mark.parametrize(("entries", "limit"), DESCRIPTORS.values(), ids=DESCRIPTORS)
def test_both_count_into_one_key(
    redis_server: Redis, addresses: tuple[str, str], entries: dict[str, str], limit: int
) -> None:
    keys_before = int(redis_server.call("DBSIZE").strip(b":\r\n"))
    answers = [left(addresses[number % 2], entries) for number in range(limit + 2)]
    assert answers == [(1, limit - number) for number in range(1, limit + 1)] + [(2, 0), (2, 0)]
    assert int(redis_server.call("DBSIZE").strip(b":\r\n")) == keys_before + 1
