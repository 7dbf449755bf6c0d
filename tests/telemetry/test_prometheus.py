"""Istio's standard metrics, as a scrape reads them."""

import math
from typing import Any

import pytest
from envoy.extensions.filters.http.grpc_stats.v3.config_pb2 import FilterObject
from google.protobuf.struct_pb2 import Struct
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from mixer import config
from mixer.telemetry.connections import Connections
from mixer.telemetry.series import BUCKETS
from tests.telemetry.entries import (
    ALL_TYPES,
    RATINGS,
    http_entry,
    identifier,
    record,
    tcp_entry,
    value,
)
from tests.telemetry.scrape import Scrape

# https://istio.io/latest/docs/reference/config/metrics/
METRICS = {
    "istio_requests_total": "counter",
    "istio_request_duration_milliseconds": "histogram",
    "istio_request_bytes": "histogram",
    "istio_response_bytes": "histogram",
    "istio_request_messages_total": "counter",
    "istio_response_messages_total": "counter",
    "istio_tcp_sent_bytes_total": "counter",
    "istio_tcp_received_bytes_total": "counter",
    "istio_tcp_connections_opened_total": "counter",
    "istio_tcp_connections_closed_total": "counter",
}
WORKLOAD = ("workload", "workload_namespace", "principal", "app", "version", "canonical_service",
            "canonical_revision", "cluster")  # fmt: skip
LABELS = {
    "reporter",
    *(f"{side}_{name}" for side in ("source", "destination") for name in WORKLOAD),
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
}


def test_metrics_and_their_types_are_istios() -> None:
    page = Scrape().page()
    types = dict(line.split()[2:] for line in page.splitlines() if line.startswith("# TYPE istio_"))
    assert types == METRICS


def test_labels_of_a_request_are_istios_and_unknown_where_nothing_is_known() -> None:
    labels, count = Scrape().write([http_entry(cluster="")]).one("istio_requests_total")
    assert count == 1
    assert set(labels) == LABELS
    known = {name: value for name, value in labels.items() if value != "unknown"}
    assert known == {
        "reporter": "destination",
        "request_protocol": "http",
        "response_code": "200",
        "grpc_response_status": "",
        "response_flags": "-",
        "connection_security_policy": "none",
    }


def test_labels_of_a_workload_come_from_the_nodes_metadata() -> None:
    labels, _ = (
        Scrape().write([http_entry()], identifier("sidecar~1~a~b", RATINGS)).one("istio_requests_total")
    )
    told = {
        name.removeprefix("destination_"): labels[name] for name in labels if name.startswith("destination_")
    }
    assert told == {
        "workload": "ratings-v1",
        "workload_namespace": "shop",
        "principal": "unknown",
        "app": "ratings",
        "version": "v1",
        "canonical_service": "ratings",
        "canonical_revision": "v1",
        "cluster": "Kubernetes",
        "service": "shop.example",
        "service_name": "shop.example",
        "service_namespace": "shop",
    }


@pytest.mark.parametrize(
    ("cluster", "host", "service", "name", "namespace"),
    [
        ("outbound|9080|v1|reviews.shop.svc.cluster.local", "x", "reviews.shop.svc.cluster.local", "reviews", "shop"),
        ("outbound|443||api.example.com", "x", "api.example.com", "api.example.com", "unknown"),
        ("inbound|9080||", "ratings.shop.svc.cluster.local:9080", "ratings.shop.svc.cluster.local", "ratings", "shop"),
        ("orders", "shop.example:8443", "shop.example", "shop.example", "shop"),
        ("PassthroughCluster", "api.example.com", "api.example.com", "PassthroughCluster", "unknown"),
        ("InboundPassthroughCluster", "10.0.0.1", "10.0.0.1", "InboundPassthroughCluster", "shop"),
        ("", "made-up.example", "ratings", "ratings", "shop"),
        ("orders", "", "ratings", "ratings", "shop"),
    ],
)  # fmt: skip
def test_destination_service(cluster: str, host: str, service: str, name: str, namespace: str) -> None:
    scrape = Scrape().write([http_entry(cluster=cluster, host=host)], identifier("sidecar~1~a~b", RATINGS))
    labels, _ = scrape.one("istio_requests_total")
    assert labels["destination_service"] == service
    assert labels["destination_service_name"] == name
    assert labels["destination_service_namespace"] == namespace


def test_labels_of_a_peer_come_from_exchanged_metadata() -> None:
    entry, peer = http_entry(cluster="outbound|80||reviews.shop.svc.cluster.local"), Struct()
    peer.update({"workload": "reviews-v2", "namespace": "shop"})
    entry.common_properties.filter_state_objects["upstream_peer"].Pack(peer)
    labels, _ = Scrape().write([entry], identifier("sidecar~1~a~b", RATINGS)).one("istio_requests_total")
    assert labels["reporter"] == "source"
    assert (labels["source_workload"], labels["destination_workload"]) == ("ratings-v1", "reviews-v2")
    assert labels["connection_security_policy"] == "unknown"


def test_peers_have_series_of_their_own() -> None:
    entries = []
    for name in ("a", "b", "a"):
        entry, peer = http_entry(), Struct()
        peer.update({"workload": name})
        entry.common_properties.filter_state_objects["downstream_peer"].Pack(peer)
        entries.append(entry)
    samples = Scrape().write(entries).samples("istio_requests_total")
    assert {(labels["source_workload"], count) for labels, count in samples} == {("a", 2), ("b", 1)}


def test_mutual_tls_is_told() -> None:
    names = {"subjectAltName": [{"uri": "spiffe://mesh/ns/web/sa/front"}]}
    tls = {"peerCertificateProperties": names, "localCertificateProperties": names}
    labels, _ = Scrape().write([http_entry(tlsProperties=tls)]).one("istio_requests_total")
    assert labels["connection_security_policy"] == "mutual_tls"
    assert labels["source_principal"] == "spiffe://mesh/ns/web/sa/front"


def test_claimed_and_proven_identities_that_are_the_same_have_series_of_their_own() -> None:
    called, uri = "spiffe://mesh/ns/shop/sa/ratings", "spiffe://mesh/ns/web/sa/front"
    entries = []
    for proven in (True, False):
        entry, peer = http_entry(), Struct()
        peer.update({"identity": uri, "namespace": "web"})
        entry.common_properties.filter_state_objects["downstream_peer"].Pack(peer)
        tls = entry.common_properties.tls_properties
        tls.peer_certificate_properties.subject_alt_name.add().uri = uri
        if proven:
            tls.local_certificate_properties.subject_alt_name.add().uri = called
        entries.append(entry)
    samples = Scrape().write(entries).samples("istio_requests_total")
    assert {labels["connection_security_policy"] for labels, _ in samples} == {"mutual_tls", "none"}


def test_codes_flags_and_grpc_have_series_of_their_own() -> None:
    call = http_entry()
    call.request.request_headers["content-type"] = "application/grpc"
    call.response.response_trailers["grpc-status"] = "5"
    flagged = http_entry(status=503, responseFlags={"noHealthyUpstream": True})
    samples = (
        Scrape()
        .write([http_entry(), http_entry(status=0), http_entry(status=503), call, flagged])
        .samples("istio_requests_total")
    )
    told = {
        (
            label["request_protocol"],
            label["response_code"],
            label["grpc_response_status"],
            label["response_flags"],
        )
        for label, _ in samples
    }
    assert told == {
        ("http", "200", "", "-"),
        ("http", "0", "", "-"),
        ("grpc", "200", "5", "-"),
        ("http", "503", "", "-"),
        ("http", "503", "", "UH"),
    }


@pytest.mark.parametrize("kind", ALL_TYPES)
def test_request_is_counted_at_its_end_only(kind: str) -> None:
    scrape = Scrape().write([http_entry(kind=kind)])
    counted = sum(count for _, count in scrape.samples("istio_requests_total"))
    assert counted == (kind in ("NotSet", "DownstreamEnd"))


def test_duration_is_in_milliseconds_and_in_envoys_buckets() -> None:
    # With seconds and nanoseconds; one on a bound, one above all.
    entries = [http_entry(milliseconds=ms) for ms in (0.4, 1, 75_000.5, 4_000_000)]
    scrape = Scrape().write([*entries, http_entry(milliseconds=None)])
    name = "istio_request_duration_milliseconds"
    buckets = {labels["le"]: count for labels, count in scrape.samples(f"{name}_bucket")}
    assert list(map(float, buckets)) == [*BUCKETS, math.inf]
    assert (buckets["0.5"], buckets["1"], buckets["60000"], buckets["300000"]) == (1, 2, 2, 3)
    assert (buckets["3600000"], buckets["+Inf"]) == (3, 4)
    assert scrape.one(f"{name}_count")[1] == 4
    assert scrape.one(f"{name}_sum")[1] == pytest.approx(0.4 + 1 + 75_000.5 + 4_000_000)
    assert scrape.one("istio_requests_total")[1] == 5


def test_bytes_are_those_on_the_wire_or_else_headers_and_body() -> None:
    told = http_entry()
    older = http_entry(downstreamWireBytesReceived=0, downstreamWireBytesSent=0)
    older.request.request_headers_bytes, older.request.request_body_bytes = 100, 7
    older.response.response_headers_bytes, older.response.response_body_bytes = 200, 3
    scrape = Scrape().write([told, older])
    assert scrape.one("istio_request_bytes_sum")[1] == 321 + 107
    assert scrape.one("istio_response_bytes_sum")[1] == 4321 + 203


def test_grpc_messages_are_counted() -> None:
    entry = http_entry()
    state = entry.common_properties.filter_state_objects["envoy.filters.http.grpc_stats"]
    state.Pack(FilterObject(request_message_count=3, response_message_count=5))
    scrape = Scrape().write([entry, entry])
    assert scrape.one("istio_request_messages_total")[1] == 6
    assert scrape.one("istio_response_messages_total")[1] == 10


TCP = {
    "opened": "istio_tcp_connections_opened_total",
    "closed": "istio_tcp_connections_closed_total",
    "received": "istio_tcp_received_bytes_total",
    "sent": "istio_tcp_sent_bytes_total",
}


def tcp_counts(scrape: Scrape) -> dict[str, float]:
    return {name: sum(count for _, count in scrape.samples(metric)) for name, metric in TCP.items()}


def test_connection_is_counted_at_its_end() -> None:
    scrape = Scrape().write([tcp_entry(10, 20), tcp_entry(1, 2, kind="NotSet")])
    assert tcp_counts(scrape) == {"opened": 2, "closed": 2, "received": 11, "sent": 22}
    labels, _ = scrape.one("istio_tcp_connections_opened_total")
    assert set(labels) == LABELS - {"response_code", "grpc_response_status"}
    assert labels["request_protocol"] == "tcp"


def test_connection_that_tells_of_itself_meanwhile_is_counted_once() -> None:
    scrape = Scrape()
    scrape.write([tcp_entry(0, 0, kind="TcpUpstreamConnected")])
    assert tcp_counts(scrape) == {"opened": 1, "closed": 0, "received": 0, "sent": 0}
    scrape.write([tcp_entry(10, 20, kind="TcpPeriodic"), tcp_entry(5, 5, kind="TcpPeriodic", port=41001)])
    assert tcp_counts(scrape) == {"opened": 2, "closed": 0, "received": 15, "sent": 25}
    scrape.write([tcp_entry(30, 50), tcp_entry(7, 8, port=41001), tcp_entry(1, 1, port=41002)])
    assert tcp_counts(scrape) == {"opened": 3, "closed": 3, "received": 38, "sent": 59}


def test_connections_of_two_envoys_are_two() -> None:
    scrape = Scrape()
    for node in ("edge-1", "edge-2"):
        scrape.write([tcp_entry(10, 20, kind="TcpPeriodic")], identifier(node))
    assert tcp_counts(scrape)["opened"] == 2


def test_memory_for_connections_is_bounded() -> None:
    connections = Connections(limit=10)
    for port in range(100):
        connections.advance(record(tcp_entry(kind="TcpPeriodic", port=port)), 1, 1)
    assert len(connections._counted) == 10


def test_series_are_bounded_and_the_rest_is_counted_in_one() -> None:
    scrape = Scrape(config.Config(telemetry=config.Telemetry(max_series=3)))
    scrape.write([http_entry(status=200 + n) for n in range(5)])
    scrape.write([http_entry(status=200 + n) for n in range(5)])
    samples = scrape.samples("istio_requests_total")
    assert [count for labels, count in samples if labels["response_code"] != "overflow"] == [2, 2, 2]
    ((labels, count),) = [sample for sample in samples if sample[0]["response_code"] == "overflow"]
    assert count == 4
    assert set(labels.values()) == {"overflow"}
    assert value(scrape.metrics, "mixer_series_overflow_total", metric="istio_requests_total") == 4
    assert len(scrape.samples("istio_request_duration_milliseconds_count")) == 4


def test_hosts_that_clients_make_up_do_not_fill_what_is_remembered() -> None:
    scrape = Scrape(config.Config(telemetry=config.Telemetry(max_series=3)))
    scrape.write([http_entry(host=f"{n}.example") for n in range(200)])
    assert len(scrape.sink._views.requests[0]._table.known) <= 12
    assert len(scrape.samples("istio_requests_total")) == 4


def test_hosts_that_no_route_knows_make_no_series() -> None:
    scrape = Scrape().write([http_entry(status=404, cluster="", host=f"{n}.example") for n in range(9)])
    assert scrape.one("istio_requests_total")[1] == 9


def test_openmetrics_is_right_too() -> None:
    scrape = Scrape().write([http_entry(), tcp_entry()])
    page = scrape.page("application/openmetrics-text; version=1.0.0")
    families = {family.name: family.type for family in parse_openmetrics(page)}
    assert families["istio_requests"] == "counter"
    assert families["istio_request_duration_milliseconds"] == "histogram"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def idle_after(seconds: float) -> tuple[Scrape, Clock]:
    clock = Clock()
    telemetry = config.Telemetry(series_ttl=f"{seconds}s")  # type: ignore[arg-type] (parsed)
    return Scrape(config.Config(telemetry=telemetry), clock), clock


def test_series_that_nothing_is_counted_in_goes() -> None:
    scrape, clock = idle_after(60)
    scrape.write([http_entry(status=200), http_entry(status=404), tcp_entry()])
    clock.now += 59
    scrape.write([http_entry(status=200)])
    assert len(scrape.samples("istio_requests_total")) == 2
    clock.now += 2
    ((labels, count),) = scrape.samples("istio_requests_total")
    assert (labels["response_code"], count) == ("200", 2)
    assert scrape.samples("istio_tcp_connections_opened_total") == []


def test_series_that_comes_back_begins_anew_and_takes_the_room_of_what_went() -> None:
    telemetry = config.Telemetry(series_ttl="60s", max_series=2)  # type: ignore[arg-type] (parsed)
    scrape = Scrape(config.Config(telemetry=telemetry), clock := Clock())
    scrape.write([http_entry(status=200), http_entry(status=201), http_entry(status=202)])
    clock.now += 61
    scrape.write([http_entry(status=202), http_entry(status=203)])
    told = {labels["response_code"]: count for labels, count in scrape.samples("istio_requests_total")}
    assert told == {"202": 1, "203": 1, "overflow": 1}


def test_series_stay_where_no_ttl_is_set() -> None:
    scrape = Scrape(clock=(clock := Clock())).write([http_entry()])
    clock.now += 1e6
    assert len(scrape.write([http_entry(status=404)]).samples("istio_requests_total")) == 2


def traced(number: int, milliseconds: float) -> Any:
    entry = http_entry(milliseconds=milliseconds)
    entry.request.request_headers["traceparent"] = f"00-{number:032x}-{number:016x}-01"
    return entry


def exemplars(scrape: Scrape, name: str) -> dict[str, tuple[str, float]]:
    """Trace and value by `le`."""
    page = scrape.page("application/openmetrics-text; version=1.0.0")
    return {
        sample.labels.get("le", ""): (sample.exemplar.labels["trace_id"], sample.exemplar.value)
        for family in parse_openmetrics(page)
        for sample in family.samples
        if sample.name == name and sample.exemplar
    }


def test_exemplars_name_a_trace_for_each_bucket() -> None:
    scrape = Scrape().write([traced(1, 3), traced(2, 700), http_entry(milliseconds=20)])
    name = "istio_request_duration_milliseconds_bucket"
    assert exemplars(scrape, name) == {"5": (f"{1:032x}", 3), "1000": (f"{2:032x}", 700)}
    (counted,) = exemplars(scrape, "istio_requests_total").values()
    assert counted[0] in (f"{1:032x}", f"{2:032x}")
    scrape.write([traced(3, 4)])
    assert exemplars(scrape, name) == {"5": (f"{3:032x}", 4), "1000": (f"{2:032x}", 700)}
    assert "trace_id" not in scrape.page()


def comparable(family: Any) -> set[tuple[object, ...]]:
    return {
        (
            name,
            tuple(sorted(labels.items())),
            float(value),
            exemplar and (*exemplar.labels.values(), exemplar.value),
        )
        for name, labels, value, _, exemplar, _ in family.samples
    }


def test_page_says_what_prometheus_client_says_of_the_same_series() -> None:
    scrape = Scrape().write([traced(1, 3), http_entry(status=404, cluster='o"\\\n'), tcp_entry()])
    accepted = {"": generate_latest, "application/openmetrics-text; version=1.0.0": generate_openmetrics}
    for accept, theirs in accepted.items():
        parse = parse_openmetrics if accept else text_string_to_metric_families
        said = {family.name: comparable(family) for family in parse(scrape.page(accept))}
        for family in parse(theirs(scrape.metrics.registry).decode()):
            if family.name.startswith("istio"):
                assert said[family.name] == comparable(family)
        for name, text in (
            ("istio_requests_total", "Requests."),
            ("istio_request_bytes", "Bytes of requests"),
        ):
            assert f"# HELP {name.removesuffix('_total' if accept else '')} {text}" in scrape.page(accept)


PEER = {"workload": "web-v2", "namespace": "front", "app": "web", "identity": "spiffe://mesh/ns/claimed/sa/x"}


def seen_by_the_called(tls: bool, **label: Any) -> dict[str, str]:
    """What of the caller is in the labels, with all sources there are."""
    entry = http_entry()
    peer = Struct()
    peer.update(PEER)
    entry.common_properties.filter_state_objects["downstream_peer"].Pack(peer)
    if tls:
        names = entry.common_properties.tls_properties
        names.peer_certificate_properties.subject_alt_name.add().uri = "spiffe://mesh/ns/proven/sa/web"
        names.local_certificate_properties.subject_alt_name.add().uri = "spiffe://mesh/ns/shop/sa/ratings"
    override = {"labels": {"source_version": {"field": "source_version", "default": "v0", **label}}}
    telemetry = config.Telemetry.model_validate({"overrides": [override]})
    scrape = Scrape(config.Config(telemetry=telemetry)).write([entry], identifier("sidecar~1~a~b", RATINGS))
    labels, _ = scrape.one("istio_requests_total")
    return {name.removeprefix("source_"): labels[name] for name in labels if name.startswith("source_")} | {
        "called": labels["destination_workload"]
    }


def test_peer_comes_from_the_node_then_filter_state_then_certificates_then_the_settings() -> None:
    told = seen_by_the_called(tls=False)
    assert told["called"] == "ratings-v1"  # the node's
    assert (told["workload"], told["workload_namespace"], told["app"]) == ("web-v2", "front", "web")
    assert told["principal"] == "spiffe://mesh/ns/claimed/sa/x"
    assert told["version"] == "v0"  # nobody's but the settings'
    assert told["cluster"] == "unknown"
    proven = seen_by_the_called(tls=True)
    assert proven["principal"] == "spiffe://mesh/ns/proven/sa/web"
    assert (proven["workload"], proven["workload_namespace"]) == ("web-v2", "proven")
    assert proven["called"] == "ratings-v1"
