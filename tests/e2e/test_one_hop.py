"""Limits from Rego behind a real Envoy that asks Mixer once a request: policies/ratelimit.rego.

The rate limit filter is taken out of Envoy's configuration: what is limited here is limited by Check.
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mixer.demo.tokens import Issuer
from tests.components import processes
from tests.components.processes import Redis, wait_until
from tests.components.server import scratch
from tests.e2e.fleet import Answer, Edit, Fleet, Proxy, filter_configs, fleet, policy_folders, proxy, settings
from tests.e2e.test_cost import Upstream
from tests.e2e.test_otlp import exporting

DECISION = "mixer/ratelimit/limits"
PER_MINUTE, AT_ONCE = 4, 2
PLANS = {
    "default": {"requests_per_minute": PER_MINUTE, "at_once": 1000},
    "admin": {"requests_per_minute": 100_000, "at_once": AT_ONCE},
}
CONNECTIONS = """package mixer.ratelimit

limits contains {
	"name": "connections",
	"key": ["connections", input.attributes.source.address.socketAddress.address],
	"algorithm": "concurrency",
	"requests_per_unit": 1,
	"lease": "5m",
} if not input.attributes.request.http.method
"""


def plans(policies: Path) -> None:
    (policies / "plans" / "data.json").write_text(json.dumps(PLANS))
    (policies / "connections.rego").write_text(CONNECTIONS)


def without_quota(document: dict[str, Any]) -> None:
    for config in filter_configs(document):
        if "http_filters" in config:
            config["http_filters"] = [
                each for each in config["http_filters"] if each["name"] != "envoy.filters.http.ratelimit"
            ]


@contextlib.contextmanager
def slow_upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    serving = threading.Thread(target=upstream.server.serve_forever, kwargs={"poll_interval": 0.05})
    serving.start()
    try:
        yield upstream
    finally:
        upstream.go.set()
        upstream.server.shutdown()
        serving.join()
        upstream.server.server_close()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with slow_upstream() as running:
        yield running


@pytest.fixture(scope="module", params=["embedded", "opa"])
def limited(request: pytest.FixtureRequest, upstream: Upstream) -> Iterator[Fleet]:
    rate_limits = {"decision": DECISION, "response_headers": {"enabled": True, "draft": True}}
    with fleet(
        request.param,
        prepare=plans,
        edits=[without_quota],
        upstream=upstream.address,
        rate_limits=rate_limits,
    ) as running:
        yield running


def spent(limited: Fleet) -> tuple[str, list[Answer]]:
    """A user's requests beyond its plan, all in one minute: again with another user where the minute ended."""
    while True:
        user, minute = limited.user(), time.time() // 60
        answers = [limited.call("GET", "/api", user=user) for _ in range(PER_MINUTE + 1)]
        if time.time() // 60 == minute:
            return user, answers


def test_over_its_plan_a_user_is_told_when_to_come_back(limited: Fleet) -> None:
    _, answers = spent(limited)
    assert [answer.status for answer in answers] == [200] * PER_MINUTE + [429]
    assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["3", "2", "1", "0", "0"]
    refused = answers[-1]
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["ratelimit-limit"] == str(PER_MINUTE)
    assert f'"plan";q={PER_MINUTE};w=60' in refused.headers["ratelimit-policy"]
    assert '"plan";r=0;t=' in refused.headers["ratelimit"]
    assert refused.headers["content-type"] == "application/json"
    assert refused.json()["error"] == "plan_exhausted"


def test_record_names_the_decision_and_the_limit_that_fired(limited: Fleet) -> None:
    _, answers = spent(limited)
    passed, refused = (limited.record(answer.request_id) for answer in (answers[0], answers[-1]))
    assert (passed["mixer.limit"], passed["mixer.limit.code"]) == ("plan", "OK")
    assert (refused["mixer.limit"], refused["mixer.limit.code"]) == ("plan", "OVER_LIMIT")
    assert refused["http.response.status_code"] == 429
    assert refused["mixer.policy"] == "envoy/authz/allow"
    assert refused["mixer.decision.reason"] == "ok"
    assert refused["mixer.decision_id"] != passed["mixer.decision_id"]


def test_denied_requests_are_not_counted_by_check(limited: Fleet) -> None:
    user = limited.user()
    for _ in range(PER_MINUTE + 1):
        assert limited.call("GET", "/admin", user=user).status == 403
    assert limited.call("GET", "/api", user=user).headers["ratelimit-remaining"] == str(PER_MINUTE - 1)


def test_requests_over_a_limit_are_told_apart_in_the_metrics(limited: Fleet) -> None:
    before = limited.series().total("mixer_decisions_total", outcome="over_limit")
    spent(limited)
    assert limited.series().total("mixer_decisions_total", outcome="over_limit") >= before + 1
    assert limited.series().total("mixer_limit_hits_total", limit="plan", outcome="over") >= 1


def test_limit_of_a_file_is_asked_for_by_its_descriptors(limited: Fleet) -> None:
    for count in range(20):  # two a minute, for all who ask
        answer = limited.call("GET", f"/reports/{count}", user=limited.user("admin"))
        if answer.status == 429:
            break
    assert answer.status == 429
    assert limited.record(answer.request_id)["mixer.limit"] == "reports"


class Running(contextlib.ExitStack):
    """Requests of a user that the upstream does not answer yet."""

    def __init__(self, proxy: Proxy, upstream: Upstream, user: str) -> None:
        super().__init__()
        self._proxy, self._upstream, self.user = proxy, upstream, user
        self.connections: list[socket.socket] = []

    def begin(self, within: float = 20) -> bool:
        """Whether one more reached the upstream."""
        host, _, port = self._proxy.http.rpartition(":")
        connection = self.enter_context(socket.create_connection((host, int(port)), 30))
        token = self._proxy.issuer.token(self.user)
        connection.sendall(
            f"GET /api/wait HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n".encode()
        )
        self.connections.append(connection)
        return self._upstream.waiting.acquire(timeout=within)

    def passes(self) -> bool:
        return self._proxy.call("GET", "/api", user=self.user).status == 200


def passes_again(running: Running) -> None:
    wait_until(running.passes, within=20, what="a slot that comes back")


def test_slot_comes_back_when_the_client_disconnects(limited: Fleet, upstream: Upstream) -> None:
    upstream.go.clear()
    with Running(limited, upstream, limited.user("admin")) as running:
        assert all(running.begin() for _ in range(AT_ONCE))
        refused = limited.call("GET", "/api", user=running.user)
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert f'"at-once";q={AT_ONCE};qu="concurrent-requests"' in refused.headers["ratelimit-policy"]
        assert limited.record(refused.request_id)["mixer.limit"] == "at-once"
        assert not running.passes()
        for connection in running.connections:
            connection.close()
            passes_again(running)
    upstream.go.set()


def test_slot_comes_back_when_the_request_is_answered(limited: Fleet, upstream: Upstream) -> None:
    upstream.go.clear()
    with Running(limited, upstream, limited.user("admin")) as running:
        assert all(running.begin() for _ in range(AT_ONCE))
        assert not running.passes()
        upstream.go.set()
        for connection in running.connections:
            assert connection.recv(12) == b"HTTP/1.1 200"
            connection.close()
        passes_again(running)
        upstream.go.clear()
        for _ in range(AT_ONCE):
            wait_until(lambda: running.begin(within=1), within=20, what="all slots, not one")
    upstream.go.set()


def test_slot_of_a_connection_comes_back_at_its_end(limited: Fleet) -> None:
    host, _, port = limited.tcp.rpartition(":")

    def echoes(connection: socket.socket) -> bool:
        connection.sendall(b"ping")
        with contextlib.suppress(ConnectionResetError):
            return connection.recv(64) == b"ping"
        return False

    with socket.create_connection((host, int(port)), 30) as first:
        assert echoes(first)
        with socket.create_connection((host, int(port)), 30) as second:
            assert not echoes(second)
        assert echoes(first)
    wait_until(lambda: limited.connect()[0] == b"ping", within=20, what="the connection's slot")


QUOTA = """package quota

limits contains {
	"name": "busy",
	"key": ["busy", entry.value],
	"algorithm": "concurrency",
	"requests_per_unit": 1,
	"lease": "5m",
	"over_limit": {"headers": {"x-why": "busy"}, "body": "one at a time"},
} if {
	some descriptor in input.descriptors
	some entry in descriptor
	entry.key == "user"
}
"""


@pytest.mark.parametrize("edits", [(), (exporting(),)], ids=["als", "otlp"])
def test_slot_that_the_rate_limit_filter_took_comes_back_too(
    upstream: Upstream, edits: Sequence[Edit]
) -> None:
    def with_quota(policies: Path) -> None:
        (policies / "quota.rego").write_text(QUOTA)

    upstream.go.clear()
    rate_limits = {"decision": "quota/limits", "paths": [], "response_headers": {"enabled": True}}
    with (
        fleet(prepare=with_quota, edits=edits, upstream=upstream.address, rate_limits=rate_limits) as running,
        Running(running, upstream, running.user()) as requests,
    ):
        assert requests.begin()
        refused = running.call("GET", "/api", user=requests.user)
        assert (refused.status, refused.body) == (429, "one at a time")
        assert refused.headers["x-why"] == "busy"
        assert refused.headers["retry-after"] == "1"
        assert running.record(refused.request_id)["mixer.limit"] == "busy"
        assert not requests.passes()
        requests.connections[0].close()
        passes_again(requests)
    upstream.go.set()


def test_slots_of_a_decision_come_back_over_otlp_too(upstream: Upstream) -> None:
    upstream.go.clear()
    with (
        fleet(
            prepare=plans,
            edits=[without_quota, exporting()],
            upstream=upstream.address,
            rate_limits={"decision": DECISION},
        ) as running,
        Running(running, upstream, running.user("admin")) as requests,
    ):
        assert all(requests.begin() for _ in range(AT_ONCE))
        assert not requests.passes()
        requests.connections[0].close()
        passes_again(requests)
        test_slot_of_a_connection_comes_back_at_its_end(running)
    upstream.go.set()


def test_report_in_a_process_of_its_own_gives_slots_back(redis_server: Redis) -> None:
    issuer = Issuer()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch("roles"))
        folders = policy_folders(folder, issuer)
        plans(folders[0])
        upstream = stack.enter_context(slow_upstream())
        listeners = {name: {"address": "127.0.0.1:0"} for name in ("check", "report", "admin")}
        chosen = settings(folder, folders, listeners)
        chosen["rate_limits"] |= {
            "decision": DECISION,
            "counters": "redis",
            "redis": {"url": redis_server.url, "timeout": "10s", "connect_timeout": "10s"},
        }
        check, report = (
            stack.enter_context(processes.mixer(chosen, "--role", role)) for role in ("check", "report")
        )

        def slow(document: dict[str, Any]) -> None:
            for cluster in document["static_resources"]["clusters"]:
                if cluster["name"] == "upstream-http":
                    [endpoint] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
                    address, _, port = upstream.address.rpartition(":")
                    endpoint["endpoint"]["address"] = {
                        "socket_address": {"address": address, "port_value": int(port)}
                    }

        envoy = stack.enter_context(proxy(issuer, check.check, report.report, without_quota, slow))
        running = stack.enter_context(Running(envoy, upstream, "admin-0"))
        assert all(running.begin() for _ in range(AT_ONCE))
        assert not running.passes()
        running.connections[0].close()
        passes_again(running)
