"""Cost that is known after the fact, and slots: Envoy's `apply_on_stream_done` against Mixer's counters.

Envoy sends the entries of a route's `rate_limits` that have it in a second ShouldRateLimit when the stream ends, with
what `hits_addend` says then; the answer to that is not looked at.
"""

import http.client
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import grpc
import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse

from tests.components import processes
from tests.components.processes import Envoy, Mixer, wait_until

BUDGET, RESERVED, SLOTS = 100, 10, 2
LIMITS = f"""\
domain: llm
descriptors:
- {{key: tokens, rate_limit: {{unit: hour, requests_per_unit: {BUDGET}}}}}
- key: bucket
  rate_limit: {{algorithm: token_bucket, window: 1h, requests_per_unit: {BUDGET}, count_over_limit: true}}
- key: busy
  descriptors:
  - {{key: request, rate_limit: {{algorithm: concurrency, requests_per_unit: {SLOTS}, lease: 10m}}}}
"""


class Upstream:
    """A model server: a request to /?tokens=N has used N tokens, one to …/wait is answered once `go` is set."""

    def __init__(self) -> None:
        upstream = self
        self.go = threading.Event()
        self.waiting = threading.Semaphore(0)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                if url.path.endswith("/wait"):
                    upstream.waiting.release()
                    upstream.go.wait(30)
                self.send_response(200)
                self.send_header("x-tokens", parse_qs(url.query).get("tokens", ["1"])[0])
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_address[1]}"


def cluster(name: str, address: str, http2: bool = False) -> dict[str, Any]:
    host, port = address.split(":")
    endpoint = {"address": {"socket_address": {"address": host, "port_value": int(port)}}}
    found: dict[str, Any] = {
        "name": name,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
        },
    }
    if http2:
        options = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        found["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    return found


def rate_limits(key: str) -> list[dict[str, Any]]:
    """Reserve on the request; at its end settle with the true cost, and give back what was reserved."""
    actions = [{"request_headers": {"header_name": "x-user", "descriptor_key": key}}]
    return [
        {"actions": actions, "hits_addend": {"number": RESERVED}},
        {
            "actions": actions,
            "apply_on_stream_done": True,
            "hits_addend": {"format": "%RESPONSE_HEADER(x-tokens)%"},
        },
        {
            "actions": actions,
            "apply_on_stream_done": True,
            "hits_addend": {"number": RESERVED, "is_negative_hits": True},
        },
    ]


def slots() -> list[dict[str, Any]]:
    actions = [
        {"request_headers": {"header_name": "x-user", "descriptor_key": "busy"}},
        {"request_headers": {"header_name": "x-request-id", "descriptor_key": "request"}},
    ]
    back = {"number": 1, "is_negative_hits": True}
    return [{"actions": actions}, {"actions": actions, "apply_on_stream_done": True, "hits_addend": back}]


def bootstrap(upstream: str, mixer: str) -> dict[str, Any]:
    def route(path: str, limits: list[dict[str, Any]]) -> dict[str, Any]:
        # Not in the route's own `rate_limits`: there Envoy 1.40 looks at no `hits_addend`.
        per_route = "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute"
        return {
            "match": {"prefix": path},
            "route": {"cluster": "upstream", "prefix_rewrite": "/"},
            "typed_per_filter_config": {
                "envoy.filters.http.ratelimit": {"@type": per_route, "rate_limits": limits}
            },
        }

    ratelimit = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit",
        "domain": "llm",
        "timeout": "10s",
        "failure_mode_deny": True,
        "rate_limit_service": {
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": "mixer"}},
        },
    }
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "http",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        route("/tokens/", rate_limits("tokens")),
                        route("/bucket/", rate_limits("bucket")),
                        route("/slots/", slots()),
                    ],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.ratelimit", "typed_config": ratelimit},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    }
    listener = {
        "name": "http",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    clusters = [cluster("upstream", upstream), cluster("mixer", mixer, http2=True)]
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


class Gateway:
    """Envoy before the model server, and what is left at Mixer."""

    def __init__(self, envoy: Envoy, mixer: Mixer, upstream: Upstream) -> None:
        self.mixer = mixer
        self.upstream = upstream
        self._http = envoy.listener("http")

    def call(self, path: str, user: str) -> int:
        connection = http.client.HTTPConnection(self._http, timeout=30)
        try:
            connection.request("GET", path, headers={"x-user": user})
            return connection.getresponse().status
        finally:
            connection.close()

    def left(self, **entries: str) -> int:
        """A look at what is left for a descriptor."""
        request = RateLimitRequest(domain="llm")
        descriptor = request.descriptors.add()
        for key, value in entries.items():
            descriptor.entries.add(key=key, value=value)
        descriptor.hits_addend.value = 0
        with grpc.insecure_channel(self.mixer.check) as channel:
            ask = channel.unary_unary(
                "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
                RateLimitRequest.SerializeToString,
                RateLimitResponse.FromString,
            )
            (status,) = ask(request, timeout=10).statuses
        return int(status.limit_remaining)

    def becomes(self, left: int, **entries: str) -> None:
        """Wait until that is left."""
        wait_until(lambda: self.left(**entries) == left, within=10, what=f"{left} left for {entries}")


@pytest.fixture(scope="module", params=["memory", "redis"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    limits = Path(tmp_path_factory.mktemp("limits")) / "llm.yaml"
    limits.write_text(LIMITS)
    rate_limits: dict[str, Any] = {"paths": [limits], "counters": request.param}
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
        rate_limits["redis"] = {"url": url, "timeout": "10s", "connect_timeout": "10s"}
    listeners = {name: {"address": "127.0.0.1:0"} for name in ("check", "report", "admin")}
    upstream = Upstream()
    serving = threading.Thread(target=upstream.server.serve_forever, args=(0.02,))
    serving.start()
    try:
        with (
            processes.mixer({"listeners": listeners, "rate_limits": rate_limits}) as mixer,
            processes.envoy(bootstrap(upstream.address, mixer.check)) as envoy,
        ):
            yield Gateway(envoy, mixer, upstream)
    finally:
        upstream.go.set()
        upstream.server.shutdown()
        serving.join()
        upstream.server.server_close()


@pytest.mark.parametrize("key", ["tokens", "bucket"])
def test_a_request_reserves_and_settles_with_its_true_cost(gateway: Gateway, key: str) -> None:
    assert gateway.call(f"/{key}/?tokens=35", "alice") == 200
    gateway.becomes(BUDGET - 35, **{key: "alice"})
    assert gateway.call(f"/{key}/?tokens=0", "alice") == 200
    gateway.becomes(BUDGET - 35, **{key: "alice"})


@pytest.mark.parametrize("key", ["tokens", "bucket"])
def test_what_is_reserved_is_taken_while_the_request_runs(gateway: Gateway, key: str) -> None:
    gateway.upstream.go.clear()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(gateway.call, f"/{key}/wait?tokens=3", "bob")
        assert gateway.upstream.waiting.acquire(timeout=10)
        assert gateway.left(**{key: "bob"}) == BUDGET - RESERVED
        gateway.upstream.go.set()
        assert running.result() == 200
    gateway.becomes(BUDGET - 3, **{key: "bob"})


@pytest.mark.parametrize("key", ["tokens", "bucket"])
def test_a_cost_beyond_the_budget_is_owed_and_the_next_request_refused(gateway: Gateway, key: str) -> None:
    assert gateway.call(f"/{key}/?tokens=250", "carol") == 200
    gateway.becomes(0, **{key: "carol"})
    assert gateway.call(f"/{key}/?tokens=1", "carol") == 429


def test_slots_are_taken_by_requests_and_given_back_when_they_end(gateway: Gateway) -> None:
    gateway.upstream.go.clear()
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(gateway.call, "/slots/wait", "dora") for _ in range(SLOTS)]
        for _ in running:
            assert gateway.upstream.waiting.acquire(timeout=10)
        assert gateway.call("/slots/", "dora") == 429
        assert gateway.call("/slots/", "emil") == 200
        gateway.upstream.go.set()
        assert [each.result() for each in running] == [200] * SLOTS
    gateway.becomes(SLOTS, busy="dora", request="look")
    assert gateway.call("/slots/", "dora") == 200
