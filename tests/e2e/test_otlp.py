"""Envoy's OpenTelemetry access logger, as deploy/envoy/otlp.yaml sets it up: what it reports is acknowledged."""

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from mixer.demo import assets
from tests.components import processes
from tests.components.processes import Kafka, wait_until
from tests.e2e.fleet import Edit, Fleet, filter_configs, fleet
from tests.e2e.test_kafka import consume
from tests.telemetry.entries import ALL_TYPES

WRITTEN = "access_logs.open_telemetry_access_log.logs_written"
DROPPED = "access_logs.open_telemetry_access_log.logs_dropped"


def over_http(address: str) -> Edit:
    """Envoy exports over HTTP, to a cluster of its own, as deploy/envoy/otlp.yaml says."""

    def edit(document: dict[str, Any]) -> None:
        loggers = yaml.safe_load((assets.envoy_configuration().parent / "otlp.yaml").read_text("utf-8"))
        exporting()(document)
        for config in filter_configs(document):
            for log in config.get("access_log", ()):
                del log["typed_config"]["grpc_service"]
                log["typed_config"]["http_service"] = loggers["http_service"]
        cluster = loggers["http_cluster"]
        host, _, port = address.rpartition(":")
        [endpoint] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        endpoint["endpoint"]["address"] = {"socket_address": {"address": host, "port_value": int(port)}}
        [options] = cluster["typed_extension_protocol_options"].values()
        options["retry_policy"]["retry_back_off"] = {"base_interval": "0.1s", "max_interval": "2s"}
        document["static_resources"]["clusters"].append(cluster)

    return edit


def exporting() -> Edit:
    """Envoy exports soon, and tries again soon."""

    def edit(document: dict[str, Any]) -> None:
        loggers = yaml.safe_load((assets.envoy_configuration().parent / "otlp.yaml").read_text("utf-8"))
        for config in filter_configs(document):
            if "access_log" not in config:
                continue
            logs = config["access_log"] = loggers["http" if "route_config" in config else "tcp"]
            for log in logs:
                log["typed_config"]["buffer_flush_interval"] = "0.1s"
                policy = log["typed_config"]["grpc_service"]["retry_policy"]
                policy["retry_back_off"] = {"base_interval": "0.1s", "max_interval": "2s"}
        (cluster,) = (
            each for each in document["static_resources"]["clusters"] if each["name"] == "mixer-report"
        )
        cluster["circuit_breakers"] = loggers["circuit_breakers"]

    return edit


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Fleet, Fleet]]:
    """One whose Envoy streams its access log, and one whose Envoy exports it."""
    with fleet() as streaming, fleet(edits=[exporting()]) as running:
        yield streaming, running


def test_request_is_recorded_as_by_the_access_log_service(both: tuple[Fleet, Fleet]) -> None:
    expected, found = (
        each.record(
            each.call(
                "GET",
                "/api/orders?token=hush&page=1",
                user=each.user(),
                headers={"traceparent": f"00-{'4b' * 16}-{'a1' * 8}-01", "user-agent": "test"},
            ).request_id
        )
        for each in both
    )
    assert expected.keys() - found.keys() == set()
    # What is never the same twice, or is the machine's business, is there; the rest is alike.
    differs = {name for name in expected if expected[name] != found[name]}
    assert {name for name in differs if not name.startswith(("envoy.time_to", "envoy.upstream_"))} <= {
        "start_time", "duration", "event_id", "envoy.request_id", "envoy.stream_id", "mixer.decision_id",
        "server.port", "client.port", "network.local.port", "mixer.policy.revision",
    }  # fmt: skip
    assert uuid.UUID(found["mixer.decision_id"])
    assert found["url.query"] == "token=REDACTED&page=1"
    assert found["envoy.access_log_type"] in ALL_TYPES


def test_request_is_recorded_over_http_too() -> None:
    address = f"127.0.0.1:{processes.free_port()}"
    listeners = {"otlp_http": {"address": address}}
    with fleet() as streaming, fleet(edits=[over_http(address)], listeners=listeners) as running:
        expected, found = (
            each.record(each.call("GET", "/api/orders?token=hush", user=each.user()).request_id)
            for each in (streaming, running)
        )
        assert expected.keys() - found.keys() == set()
        assert found["url.query"] == "token=REDACTED"
        wait_until(lambda: running.stat(WRITTEN) == 1, within=20, what="Envoy's own count")
        assert count(running, "mixer_calls_total", method="ExportHttp", code="OK") == 1


def test_connection_is_recorded_as_by_the_access_log_service(both: tuple[Fleet, Fleet]) -> None:
    expected, found = (each.record(each.connect()[1]) for each in both)
    assert expected.keys() - found.keys() == set()
    assert found["mixer.decision.reason"] == "ok"
    assert count(both[1], "istio_tcp_connections_closed_total") == 1


@pytest.mark.parametrize("door", ["grpc", "http"])
def test_nothing_is_acknowledged_that_the_broker_has_not_and_nothing_is_lost(
    door: str, own_kafka: Kafka, kafka_topic: str
) -> None:
    address = f"127.0.0.1:{processes.free_port()}"
    edit, cluster = (
        (exporting(), "mixer-report") if door == "grpc" else (over_http(address), "mixer-otlp-http")
    )
    sink = {"type": "kafka", "bootstrap_servers": [own_kafka.bootstrap], "topic": kafka_topic}
    listeners = {"otlp_http": {"address": address}}
    telemetry = {"sinks": [sink], "export_timeout": "1s"}
    with fleet(telemetry=telemetry, listeners=listeners, edits=[edit]) as running:
        before = [running.call("GET", "/api") for _ in range(5)]
        wait_until(lambda: exported(running, "acknowledged") == 5, within=20, what="acknowledgements")
        own_kafka.kill()
        try:
            during = [running.call("GET", "/api") for _ in range(20)]
            wait_until(
                lambda: exported(running, "unacknowledged") > 0, within=20, what="an Export that fails"
            )
            retries = f"cluster.{cluster}.upstream_rq_retry"
            wait_until(lambda: running.stat(retries) > 1, within=20, what="another try")
            assert exported(running, "acknowledged") == 5
        finally:
            own_kafka.start()
        wait_until(lambda: exported(running, "acknowledged") == 25, within=60, what="acknowledgements")
        assert running.stat(DROPPED) == 0
        # Tried again and again, and yet counted once.
        assert count(running, "istio_requests_total") == 25
        records = asyncio.run(consume(own_kafka.bootstrap, kafka_topic, 25))
    assert {record.envoy_request_id for record in records} == {
        answer.request_id for answer in (*before, *during)
    }
    assert len({record.event_id for record in records}) == 25


def exported(running: Fleet, answer: str) -> float:
    return count(running, "mixer_report_exported_total", answer=answer)


def count(running: Fleet, name: str, **labels: str) -> float:
    return running.series().total(name, **labels)
