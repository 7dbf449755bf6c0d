"""Traces through a real Envoy: its spans and Mixer's, in one collector."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.components.processes import wait_until
from tests.e2e.fleet import Fleet, filter_configs, fleet
from tests.tracing.collector import Collector, attributes, collector

TRACER = "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig"


class Traced:
    """An edit of Envoy's configuration: it traces every request, and tells this collector."""

    def __init__(self, url: str) -> None:
        self._url = url
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._address = {"socket_address": {"address": host, "port_value": int(port)}}

    def __call__(self, document: dict[str, Any]) -> None:
        endpoint = {"endpoint": {"address": self._address}}
        document["static_resources"]["clusters"].append(
            {
                "name": "collector",
                "type": "STATIC",
                "load_assignment": {"cluster_name": "collector", "endpoints": [{"lb_endpoints": [endpoint]}]},
            }
        )
        soon = {"tracing": {"opentelemetry": {"min_flush_spans": 1}}}
        document["layered_runtime"] = {"layers": [{"name": "static", "static_layer": soon}]}
        uri = {"uri": f"{self._url}/v1/traces", "cluster": "collector", "timeout": "5s"}
        told = {"@type": TRACER, "http_service": {"http_uri": uri}, "service_name": "envoy"}
        provider = {"name": "envoy.tracers.opentelemetry", "typed_config": told}
        for manager in filter_configs(document):
            if "http_filters" in manager:
                manager["tracing"] = {"provider": provider, "random_sampling": {"value": 100}}


@pytest.fixture(scope="module", params=["asyncio", "grpcio"])
def traced(request: pytest.FixtureRequest) -> Iterator[tuple[Fleet, Collector]]:
    with collector() as found:
        check = {"address": "127.0.0.1:0", "server": request.param}
        tracing = {"endpoint": found.url}
        with fleet(edits=(Traced(found.url),), listeners={"check": check}, tracing=tracing) as running:
            yield running, found


def test_spans_of_check_and_quota_are_children_of_envoys(traced: tuple[Fleet, Collector]) -> None:
    running, found = traced
    answer = running.call("GET", "/api/orders", running.user())
    record = running.record(answer.request_id)

    def of_request() -> list[Any]:
        return [span for span in found.spans() if span.trace_id.hex() == record["trace_id"]]

    wait_until(lambda: len(of_request()) == 2, within=20, what="Mixer's spans")
    wait_until(lambda: {s.span_id for s in found.spans("envoy")} >= {s.parent_span_id for s in of_request()},
               within=20, what="Envoy's spans")  # fmt: skip
    told = {span.name.rpartition("/")[2]: attributes(span) for span in of_request()}
    assert told["Check"]["mixer.decision_id"] == record["mixer.decision_id"]
    assert told["Check"]["mixer.decision.outcome"] == "allowed"
    assert told["ShouldRateLimit"]["mixer.limit.code"] == "OK"
