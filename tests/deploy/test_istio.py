"""A real Prometheus answers what Istio's dashboards ask, from Mixer's page.

What they select, by which labels, and how they aggregate: Mesh, Service and Workload of Istio's
manifests/addons/dashboards. Control planes are not Mixer's to tell of.
"""

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from envoy.extensions.filters.http.grpc_stats.v3.config_pb2 import FilterObject
from google.protobuf.struct_pb2 import Struct

from mixer.admin.server import AdminServer
from tests.components import processes
from tests.components.processes import Prometheus
from tests.deploy.promql import grouped
from tests.deploy.test_dashboards import DASHBOARDS, PANELS, expressions
from tests.telemetry.entries import RATINGS, http_entry, identifier, tcp_entry
from tests.telemetry.scrape import Scrape

SERVICE = "ratings.shop.svc.cluster.local"
CALLED = 'destination_service=~"ratings.*", destination_workload=~"ratings-v1", destination_workload_namespace=~"shop"'
CALLER = 'source_workload=~"web-v2", source_workload_namespace=~"front"'
BOTH = 'reporter=~"source|waypoint"'
BY_CALLED = "destination_workload, destination_workload_namespace"
BY_CALLER = "source_workload, source_workload_namespace"
JOINED = '"destination_workload_var", ".", "destination_workload", "destination_workload_namespace"'
MILLISECONDS = "istio_request_duration_milliseconds"
TLS = ('connection_security_policy="mutual_tls"', 'connection_security_policy!="mutual_tls"')


def rate(metric: str, matchers: str, by: str = "", function: str = "rate") -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum({function}({metric}{{{matchers}}}[1m])){grouped}"


def quantile(share: float, metric: str, matchers: str, by: str = "", function: str = "rate") -> str:
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', matchers, f'le, {by}'.strip(', '), function)})"


def mesh() -> Iterator[str]:
    total = "istio_requests_total"
    good, all_of_it = rate(total, BOTH + ', response_code!~"5.."'), rate(total, BOTH)
    yield f"round({all_of_it}, 0.01)"
    yield f"{good} / {all_of_it}"
    for codes in ("4..", "5.."):
        matchers = BOTH + f', response_code=~"{codes}"'
        yield f"round({rate(total, matchers)}, 0.01) or vector(0)"
    for metric in (total, "istio_tcp_received_bytes_total", "istio_tcp_sent_bytes_total"):
        by = f"{BY_CALLED}, destination_service"
        yield f"label_join({rate(metric, BOTH, by)}, {JOINED})"
    for share in (0.5, 0.9, 0.99):
        yield f"label_join({quantile(share, MILLISECONDS, BOTH, BY_CALLED)}, {JOINED})"


def services_and_workloads() -> Iterator[str]:
    inbound = f'reporter="destination", {CALLED}'
    for security in TLS:
        told = f"{security}, {inbound}, {CALLER}"
        for by in (BY_CALLER, BY_CALLED):
            codes = f"{by}, response_code"
            yield f"round({rate('istio_requests_total', told, codes, 'irate')}, 0.001)"
        good = rate("istio_requests_total", told + ', response_code!~"5.*"', BY_CALLER, "irate")
        yield f"{good} / {rate('istio_requests_total', told, BY_CALLER, 'irate')}"
        for metric in (MILLISECONDS, "istio_request_bytes", "istio_response_bytes"):
            yield quantile(0.95, metric, told, BY_CALLER, "irate")
        seconds = quantile(0.5, "istio_request_duration_seconds", told, BY_CALLER, "irate")
        yield f"({quantile(0.5, MILLISECONDS, told, BY_CALLER, 'irate')} / 1000) or {seconds}"
        for metric in ("istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"):
            yield f"round({rate(metric, told, BY_CALLER, 'irate')}, 0.001)"
    for metric in (
        "istio_tcp_connections_opened_total",
        "istio_tcp_connections_closed_total",
        "istio_request_messages_total",
        "istio_response_messages_total",
    ):
        yield rate(metric, f'reporter="destination", {CALLER}')
    # What the variables offer.
    for metric in ("istio_requests_total", "istio_tcp_sent_bytes_total"):
        yield f"count by (destination_service, destination_service_name, destination_service_namespace) ({metric})"
        yield f"count by (source_canonical_service, destination_canonical_service, destination_cluster) ({metric})"


def traffic(scrape: Scrape) -> None:
    """Requests and connections, with and without mutual TLS, that both ends tell of."""
    peer, far = Struct(), Struct()
    peer.update({"workload": "web-v2", "namespace": "front", "service": "web"})
    far.update({"workload": "reviews-v1", "namespace": "shop"})
    names = {"subjectAltName": [{"uri": "spiffe://mesh/ns/front/sa/web"}]}
    tls = {"peerCertificateProperties": names, "localCertificateProperties": names}
    inbound: list[Any] = []
    for secured in ({}, {"tlsProperties": tls}):
        for status in (200, 404, 503):
            entry = http_entry(status, host=SERVICE, cluster="inbound|9080||", milliseconds=7, **secured)
            entry.request.request_headers["traceparent"] = f"00-{7:032x}-{7:016x}-01"
            stats = FilterObject(request_message_count=1, response_message_count=2)
            entry.common_properties.filter_state_objects["envoy.filters.http.grpc_stats"].Pack(stats)
            inbound.append(entry)
        inbound.append(tcp_entry(10, 20, **secured))
        inbound[-1].common_properties.upstream_cluster = f"inbound|9080||{SERVICE}"
    outbound = [
        http_entry(status, cluster="outbound|9080||reviews.shop.svc.cluster.local")
        for status in (200, 404, 503)
    ]
    outbound.append(tcp_entry(10, 20))
    outbound[-1].common_properties.upstream_cluster = "outbound|9000||db.shop.svc.cluster.local"
    for entry in inbound:
        entry.common_properties.filter_state_objects["downstream_peer"].Pack(peer)
    for entry in outbound:
        entry.common_properties.filter_state_objects["upstream_peer"].Pack(far)
    scrape.write(inbound, identifier("sidecar~1~a~b", RATINGS)).write(
        outbound, identifier("sidecar~1~a~b", RATINGS)
    )


@pytest.fixture(scope="module")
def asked() -> Iterator[Prometheus]:
    """A Prometheus that sees Mixer count: more at each scrape, since `irate` is of the last two."""
    scrape = Scrape()
    traffic(scrape)
    ended = threading.Event()

    def flow() -> None:
        while not ended.wait(0.1):
            traffic(scrape)

    flowing = threading.Thread(target=flow)

    async def ready() -> list[str]:
        return []

    server = AdminServer("127.0.0.1:0", scrape.metrics.registry, ready, list)
    with looping() as run:
        run(server.start())
        with processes.prometheus(server.address) as prometheus:
            seen = "min(count_over_time(istio_requests_total[1m]))"
            prometheus.wait_until(lambda: bool(prometheus.query(seen)), 30, "scrape")
            flowing.start()
            try:
                grown = "min(irate(istio_requests_total[1m])) > 0"
                prometheus.wait_until(lambda: bool(prometheus.query(grown)), 30, "scrape again")
                yield prometheus
            finally:
                ended.set()
                flowing.join()
        run(server.close())


@contextlib.contextmanager
def looping() -> Iterator[Callable[[Coroutine[Any, Any, None]], None]]:
    """A loop in a thread, and how a coroutine is run to its end there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.parametrize("expression", [*mesh(), *services_and_workloads()])
def test_istios_dashboards_have_an_answer(asked: Prometheus, expression: str) -> None:
    vector = asked.query(expression)
    assert vector
    assert all(math.isfinite(float(each["value"][1])) for each in vector)
    assert all(each["metric"].keys() >= grouped(expression) - {"le"} for each in vector)


def test_each_expression_of_our_dashboards_is_understood(asked: Prometheus) -> None:
    variables = {each["name"] for board in DASHBOARDS.values() for each in board["templating"]["list"]}
    for panel in PANELS.values():
        for expression in expressions(panel):
            for name in variables:
                expression = expression.replace(f"${name}", ".*")  # noqa: PLW2901
            asked.query(expression)


def test_exemplars_lead_to_traces(asked: Prometheus) -> None:
    found = asked.exemplars('istio_request_duration_milliseconds_bucket{reporter="destination"}')
    assert {each["labels"]["trace_id"] for series in found for each in series["exemplars"]} == {f"{7:032x}"}
