"""One process of Mixer as operators, probes and Envoy see it: `mixer serve` as a child process."""

import http.client
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.components import processes
from tests.components.processes import Mixer, Opa, Redis, free_port, wait_until
from tests.components.server import scratch

ALLOW = "package envoy.authz\n\nallow := true\n"
LIMITS = "domain: test\ndescriptors: [{key: user, rate_limit: {unit: hour, requests_per_unit: 1000}}]\n"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl-_x"

StartMixer = Callable[..., Mixer]
StartOpa = Callable[..., Opa]
StartRedis = Callable[..., Redis]


def settings(**sections: Any) -> dict[str, Any]:
    """Settings with every listener on a port of its own."""
    listeners = {name: {"address": "127.0.0.1:0"} for name in ("check", "report", "admin")}
    return {"listeners": listeners, **sections}


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def by_opa(url: str, **more: Any) -> dict[str, Any]:
    return {"engine": "opa", "opa": {"url": url, "timeout": "10s", **more}}


def with_counters(folder: Path, url: str) -> dict[str, Any]:
    paths = [written(folder, "limits.yaml", LIMITS)]
    return {"paths": paths, "counters": "redis", "redis": {"url": url}}


def check_request(path: str = "/", **headers: str) -> CheckRequest:
    request = CheckRequest()
    http = request.attributes.request.http
    http.method, http.path = "GET", path
    http.headers.update(headers)
    return request


class Client:
    """Calls of a channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.health = HealthStub(channel)
        self.check = channel.unary_unary(
            "/envoy.service.auth.v3.Authorization/Check",
            CheckRequest.SerializeToString,
            CheckResponse.FromString,
        )
        self.quota = channel.unary_unary(
            "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit", RateLimitRequest.SerializeToString
        )
        self.report = channel.stream_unary(
            "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
            StreamAccessLogsMessage.SerializeToString,
        )


@pytest.fixture
def client() -> Iterator[Callable[[str], Client]]:
    """Clients of an address."""
    channels: list[grpc.Channel] = []

    def connect(address: str) -> Client:
        channels.append(grpc.insecure_channel(address))
        return Client(channels[-1])

    yield connect
    for channel in channels:
        channel.close()


Connect = Callable[[str], Client]


def serving(client: Client) -> bool:
    answer = client.health.Check(HealthCheckRequest(), timeout=10)
    return bool(answer.status == HealthCheckResponse.SERVING)


def get(address: str, path: str, headers: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Content type and text of a page that is there."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.headers["content-type"], answer.read().decode()
    finally:
        connection.close()


def in_flight(mixer: Mixer) -> bool:
    return 'mixer_calls_in_flight{method="Check"} 1.0' in mixer.call("/metrics")[1]


@pytest.fixture(scope="module")
def mixer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixer]:
    """A Mixer that allows everything, for tests that only look at it."""
    folder = tmp_path_factory.mktemp("mixer")
    with processes.mixer(settings(policy={"paths": [written(folder, "authz.rego", ALLOW)]})) as started:
        yield started


# The ready line


def assert_ready_line_is_true(mixer: Mixer, names: list[str], connect: Connect) -> None:
    """It names these listeners, and all of them answer."""
    assert list(mixer.addresses) == names
    assert mixer.output.read_text() == f"ready {' '.join(f'{n}={a}' for n, a in mixer.addresses.items())}\n"
    for name in names[:-1]:
        assert serving(connect(mixer.addresses[name]))
    assert mixer.call("/healthz") == (200, "ok\n")
    assert mixer.call("/readyz") == (200, "ready\n")


def test_ready_line_names_all_listeners(mixer: Mixer, client: Connect) -> None:
    assert_ready_line_is_true(mixer, ["check", "report", "admin"], client)


def test_ready_line_of_the_check_role_names_its_listener_a_unix_socket(
    start_mixer: StartMixer, client: Connect, tmp_path: Path
) -> None:
    with scratch("sockets") as folder:
        chosen = settings(policy={"paths": [written(tmp_path, "authz.rego", ALLOW)]})
        chosen["listeners"]["check"]["address"] = f"unix:{folder}/check.sock"
        mixer = start_mixer(chosen, "--role", "check")
        assert_ready_line_is_true(mixer, ["check", "admin"], client)
        assert mixer.check == f"unix:{folder}/check.sock"
        assert client(mixer.check).check(check_request(), timeout=10).status.code == 0
        assert mixer.stop() == 0


def test_ready_line_of_the_report_role_names_its_listener(start_mixer: StartMixer, client: Connect) -> None:
    mixer = start_mixer(settings(), "--role", "report")
    assert_ready_line_is_true(mixer, ["report", "admin"], client)


# The drain


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_call_in_flight_is_answered_before_the_process_ends(
    number: signal.Signals, start_mixer: StartMixer, start_opa: StartOpa, client: Connect, tmp_path: Path
) -> None:
    opa = start_opa(written(tmp_path, "authz.rego", ALLOW))
    mixer = start_mixer(settings(policy=by_opa(opa.url)), "--role", "check")
    calls = client(mixer.check)
    assert calls.check(check_request(), timeout=10).status.code == 0
    opa.pause()
    pending = calls.check.future(check_request(), timeout=30)
    wait_until(lambda: in_flight(mixer), what="the call in flight")
    start = time.monotonic()
    os.kill(mixer.pid, number)
    wait_until(lambda: "draining" in mixer.log.read_text(), what="the drain")
    wait_until(lambda: not serving(calls), what="NOT_SERVING")
    os.kill(mixer.pid, number)  # impatience changes nothing
    assert calls.check.future(check_request(), timeout=0.2).exception(10) is not None
    assert mixer.running
    opa.resume()
    assert pending.result(10).status.code == 0
    assert mixer.stop() == 0
    assert time.monotonic() - start < 10
    assert "Traceback" not in mixer.log.read_text()


def test_process_ends_within_the_drain_timeout_when_a_call_hangs(
    start_mixer: StartMixer, start_opa: StartOpa, client: Connect, tmp_path: Path
) -> None:
    opa = start_opa(written(tmp_path, "authz.rego", ALLOW))
    mixer = start_mixer(settings(policy=by_opa(opa.url), drain_timeout="1s"), "--role", "check")
    opa.pause()
    pending = client(mixer.check).check.future(check_request(), timeout=30)
    wait_until(lambda: in_flight(mixer), what="the call in flight")
    start = time.monotonic()
    assert mixer.stop() == 0
    assert time.monotonic() - start < 5  # OPA would be waited for twice as long
    assert pending.exception(10).code() is grpc.StatusCode.UNAVAILABLE
    assert "Traceback" not in mixer.log.read_text()


# What probes and Prometheus see


def test_metrics_show_what_runs_and_what_it_did(mixer: Mixer, client: Connect) -> None:
    calls = client(mixer.check)
    for _ in range(3):
        calls.check(check_request(), timeout=10)
    content_type, text = get(mixer.admin, "/metrics")
    assert content_type.startswith("text/plain")
    for line in (
        'mixer_calls_total{code="OK",method="Check"} 3.0',
        'mixer_call_duration_seconds_count{method="Check"} 3.0',
        'mixer_calls_in_flight{method="Check"} 0.0',
        'mixer_decisions_total{decision="envoy/authz/allow",outcome="allowed"} 3.0',
        'mixer_decision_cache_lookups_total{outcome="hit"} 2.0',
    ):
        assert f"{line}\n" in text
    for name in (
        "mixer_build_info{",
        "mixer_settings_info{",
        "mixer_policy_info{",
        "process_resident_memory_bytes ",
    ):
        assert f"\n{name}" in text
    content_type, text = get(
        mixer.admin, "/metrics", {"accept": "application/openmetrics-text; version=1.0.0"}
    )
    assert content_type.startswith("application/openmetrics-text")
    families = {family.name for family in text_string_to_metric_families(text)}
    assert {"mixer_calls", "mixer_call_duration_seconds", "mixer_build"} <= families


def test_without_opa_not_ready_and_unavailable_until_it_is_back(
    start_mixer: StartMixer, start_opa: StartOpa, client: Connect, tmp_path: Path
) -> None:
    opa = start_opa(written(tmp_path, "authz.rego", ALLOW))
    opa.stop()
    mixer = start_mixer(settings(policy=by_opa(opa.url)), "--role", "check")
    assert mixer.call("/readyz") == (503, f"not ready: OPA at {opa.url} is away\n")
    assert mixer.call("/healthz") == (200, "ok\n")
    check = client(mixer.check).check
    assert check.future(check_request(), timeout=10).exception().code() is grpc.StatusCode.UNAVAILABLE
    opa.start()
    assert mixer.call("/readyz") == (200, "ready\n")
    assert check(check_request(), timeout=10).status.code == 0


def test_not_ready_while_redis_is_away(
    start_mixer: StartMixer, start_redis: StartRedis, tmp_path: Path
) -> None:
    redis = start_redis()
    mixer = start_mixer(settings(rate_limits=with_counters(tmp_path, redis.url)), "--role", "check")
    wait_until(lambda: mixer.call("/readyz") == (200, "ready\n"), what="ready")
    redis.stop()
    wait_until(lambda: mixer.call("/readyz")[0] == 503, what="not ready")
    assert "redis" in mixer.call("/readyz")[1].lower()
    redis.start()
    wait_until(lambda: mixer.call("/readyz") == (200, "ready\n"), what="ready again")


def test_ready_and_degraded_while_redis_is_stood_in_for(
    start_mixer: StartMixer, start_redis: StartRedis, tmp_path: Path
) -> None:
    redis = start_redis()
    limits = {**with_counters(tmp_path, redis.url), "on_error": "allow"}
    mixer = start_mixer(settings(rate_limits=limits), "--role", "check")
    redis.stop()
    wait_until(lambda: "degraded: redis at " in mixer.call("/readyz")[1], what="degraded")
    assert mixer.call("/readyz")[0] == 200
    is_open = "mixer_counter_breakers_open 1.0\n"
    wait_until(lambda: is_open in get(mixer.admin, "/metrics")[1], what="an open breaker")
    redis.start()
    wait_until(lambda: mixer.call("/readyz") == (200, "ready\n"), what="ready again")


def test_ready_and_degraded_while_kafka_is_away(start_mixer: StartMixer) -> None:
    sink = {"type": "kafka", "bootstrap_servers": [f"127.0.0.1:{free_port()}"]}
    mixer = start_mixer(settings(telemetry={"sinks": [sink]}, drain_timeout="1s"), "--role", "report")
    wait_until(lambda: "degraded: kafka: " in mixer.call("/readyz")[1], what="degraded")
    status, text = mixer.call("/readyz")
    assert status == 200
    assert text.startswith("ready\n")


# Logs


FAILING = """package envoy.authz

secret := input.attributes.request.http.headers.authorization
path := input.attributes.request.http.path

allow := secret if path == "/string"
allow := {"allowed": true, "headers": secret} if path == "/headers"
allow := {"allowed": true, "headers": {"x": [secret, 1]}} if path == "/items"
allow := {"allowed": false, "http_status": secret} if path == "/status"
allow := to_number(secret) if path == "/number"
allow := true if json.unmarshal(secret).x
allow := {"allowed": true} if path == "/conflict"
allow := {"allowed": true, "headers": {"x": secret}} if path == "/conflict"
allow := io.jwt.decode(secret)[1] if path == "/jwt"
"""
PATHS = ("string", "headers", "items", "status", "number", "conflict", "jwt", "undefined")
SECRETS = {
    "jwt": f"Bearer {JWT}",
    "bare jwt": JWT,
    "basic": "Basic YWxpY2U6c2VzYW1l",
    "opaque": "opaque-sesame-1234",
}


@pytest.mark.parametrize("engine", ["embedded", "opa"])
def test_no_token_is_logged_when_a_policy_fails_on_it(
    engine: str, start_mixer: StartMixer, client: Connect, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    policy: dict[str, Any] = {"paths": [written(tmp_path, "authz.rego", FAILING)]}
    if engine == "opa":
        policy = by_opa(request.getfixturevalue("start_opa")(policy["paths"][0]).url, token="opa-sesame-1234")
    mixer = start_mixer(settings(policy=policy, logging={"level": "debug"}), "--role", "check")
    check = client(mixer.check).check
    failed = 0
    for path in PATHS:
        for secret in SECRETS.values():
            headers = {"authorization": secret, "cookie": secret}
            failed += check.future(check_request(f"/{path}", **headers), timeout=20).exception() is not None
    assert failed > len(PATHS)
    assert mixer.stop() == 0
    logs = mixer.log.read_text() + mixer.output.read_text()
    assert "decision_failed" in logs
    assert_no_secret(logs, JWT, "YWxpY2U6c2VzYW1l", "sesame")


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What a Mixer wrote to standard output and standard error that has secrets and whose backends are all away, and
    what its pages said."""
    redis = f"redis://:redis-sesame@127.0.0.1:{free_port()}/0"
    chosen = settings(
        policy=by_opa(f"http://127.0.0.1:{free_port()}", token="opa-sesame"),
        rate_limits=with_counters(tmp_path_factory.mktemp("limits"), redis),
        logging={"level": "debug", "format": "json"},
    )
    quota = RateLimitRequest(domain="test")
    quota.descriptors.add().entries.add(key="user", value="alice")
    message = StreamAccessLogsMessage()
    message.identifier.log_name = "test"
    message.http_logs.log_entry.add().request.request_headers["authorization"] = f"Bearer {JWT}"
    with (
        processes.mixer(chosen) as mixer,
        grpc.insecure_channel(mixer.check) as to_check,
        grpc.insecure_channel(mixer.report) as to_report,
    ):
        calls = Client(to_check)
        bearer = check_request(authorization=f"Bearer {JWT}")
        assert calls.check.future(bearer, timeout=20).exception() is not None
        assert calls.quota.future(quota, timeout=20).exception() is not None
        Client(to_report).report(iter([message]), timeout=20)
        pages = "".join(mixer.call(page)[1] for page in ("/readyz", "/metrics"))
        assert mixer.stop() == 0
        return mixer.log.read_text(), mixer.output.read_text() + pages


def test_json_logs_are_one_object_a_line(troubled: tuple[str, str]) -> None:
    events = [json.loads(line) for line in troubled[0].splitlines()]
    assert {"decision_failed", "count_failed", "draining", "stopped"} <= {event["event"] for event in events}
    assert all({"level", "timestamp"} <= event.keys() for event in events)


def test_no_password_of_a_backend_is_logged_or_shown(troubled: tuple[str, str]) -> None:
    assert_no_secret("\n".join(troubled), JWT, "sesame")


def assert_no_secret(text: str, *secrets: str) -> None:
    for line in text.splitlines():
        for secret in secrets:
            assert secret not in line
