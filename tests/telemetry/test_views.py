"""Labels that operators add, drop and rewrite, metrics of their own, and the messages of mistakes in them."""

from pathlib import Path
from typing import Any

import pytest

from mixer import cli, config
from mixer.telemetry.series import BUCKETS
from tests.telemetry.entries import RATINGS, http_entry, identifier, tcp_entry
from tests.telemetry.scrape import Scrape

ISTIO_HTTP = (
    "istio_requests_total",
    "istio_request_duration_milliseconds_count",
    "istio_request_bytes_count",
)


def changed(*overrides: dict[str, Any], metrics: tuple[dict[str, Any], ...] = (), **more: Any) -> Scrape:
    made = {"overrides": overrides, "metrics": metrics, **more}
    return Scrape(config.Config.model_validate({"telemetry": made}))


def own(**metric: Any) -> Scrape:
    return changed(metrics=(metric,))


def with_header(name: str, value: str, **more: Any) -> Any:
    entry = http_entry(**more)
    entry.request.request_headers[name] = value
    return entry


def values(scrape: Scrape, label: str, name: str = "istio_requests_total") -> dict[str, float]:
    """Counts by a label's value."""
    return {labels[label]: count for labels, count in scrape.samples(name)}


def test_label_is_added_to_all_metrics_or_to_those_named() -> None:
    scrape = changed(
        {"labels": {"tenant": "http.request.header.x-tenant"}},
        {"metrics": ["istio_requests_total"], "labels": {"method": "http.request.method"}},
    ).write([with_header("x-tenant", "a"), with_header("x-tenant", "b"), http_entry(), tcp_entry()])
    for name in ISTIO_HTTP:
        assert values(scrape, "tenant", name) == {"a": 1, "b": 1, "unknown": 1}
    assert values(scrape, "tenant", "istio_tcp_connections_opened_total") == {"unknown": 1}
    assert {labels["method"] for labels, _ in scrape.samples("istio_requests_total")} == {"GET"}
    assert all("method" not in labels for labels, _ in scrape.samples("istio_request_bytes_count"))


def test_label_is_dropped_and_its_series_become_one() -> None:
    scrape = changed({"labels": {"response_code": "off", "request_host": "server.address"}})
    scrape.write([http_entry(status=200), http_entry(status=404), tcp_entry()])
    labels, count = scrape.one("istio_requests_total")
    assert count == 2
    assert "response_code" not in labels
    assert labels["request_host"] == "shop.example"


def test_label_that_an_earlier_override_added_is_dropped_of_one_metric() -> None:
    scrape = changed(
        {"labels": {"tenant": "http.request.header.x-tenant"}},
        {"metrics": ["istio_request_bytes"], "labels": {"tenant": "off"}},
    ).write([http_entry()])
    assert "tenant" in scrape.one("istio_requests_total")[0]
    assert "tenant" not in scrape.one("istio_request_bytes_count")[0]


def test_label_is_rewritten() -> None:
    scrape = changed({"labels": {"response_code": {"regex": "(.)..", "replacement": "${1}xx"}}})
    scrape.write([http_entry(status=status) for status in (200, 204, 404, 0)])
    assert values(scrape, "response_code") == {"2xx": 2, "4xx": 1, "0": 1}


@pytest.mark.parametrize(
    ("label", "entry", "value"),
    [
        ({"field": "url.path", "templates": ["/orders/{id}"]}, http_entry(path="/orders/1?q=2"), "/orders/{id}"),
        ({"field": "url.path", "templates": ["/users/{id}"]}, http_entry(path="/orders/1"), "other"),
        ({"field": "url.path", "default": "none"}, http_entry(path=""), "none"),
        ({"field": ["http.request.header.x-a", "server.address"]}, http_entry(), "shop.example"),
        ({"field": ["http.request.header.x-a", "server.address"]}, with_header("x-a", "1"), "1"),
        ({"field": ["source_workload", "envoy.node.cluster"]}, http_entry(), "edge"),
        ({"field": ["destination_service", "server.address"]}, http_entry(host="x.example"), "x.example"),
        ({"field": "destination_app", "regex": "(r)(.*)", "replacement": "$2/$1/$$"}, http_entry(), "atings/r/$"),
        ({"field": "destination_workload", "regex": "v", "replacement": "none"}, http_entry(), "ratings-v1"),
        ("envoy.upstream_cluster", http_entry(cluster="orders"), "orders"),
        ("http.response.status_code", http_entry(status=503), "503"),
        ("envoy.route_name", http_entry(routeName="r-1"), "r-1"),
        ("envoy.custom_tags.tier", http_entry(customTags={"tier": "gold"}), "gold"),
        ("network.protocol.version", http_entry(), "2"),
        ("source_principal", http_entry(), "unknown"),
    ],
)  # fmt: skip
def test_value_of_a_label(label: Any, entry: Any, value: str) -> None:
    scrape = changed({"labels": {"added": label}}).write([entry], identifier("sidecar~1~a~b", RATINGS))
    assert values(scrape, "added") == {value: 1}


def test_what_no_peer_tells_comes_from_the_settings() -> None:
    label = {"field": ["source_workload", "http.request.header.x-caller"], "default": "internet"}
    scrape = changed({"labels": {"source_workload": label}}).write(
        [http_entry(), with_header("x-caller", "batch")]
    )
    assert values(scrape, "source_workload") == {"internet": 1, "batch": 1}


def test_metric_is_switched_off() -> None:
    scrape = changed({"metrics": ["istio_request_bytes", "istio_response_bytes"], "disabled": True})
    scrape.write([http_entry()])
    names = {
        line.split()[2] for line in scrape.page().splitlines() if line.startswith("# TYPE istio_request")
    }
    assert "istio_request_bytes" not in names
    assert {"istio_requests_total", "istio_request_duration_milliseconds"} <= names


def test_buckets_are_others() -> None:
    scrape = changed({"metrics": ["istio_request_duration_milliseconds"], "buckets": [1, 20.5]})
    scrape.write([http_entry(milliseconds=ms) for ms in (0.5, 20.5, 21)])
    assert values(scrape, "le", "istio_request_duration_milliseconds_bucket") == {
        "1": 1,
        "20.5": 2,
        "+Inf": 3,
    }
    assert len(values(scrape, "le", "istio_request_bytes_bucket")) == len(BUCKETS) + 1


def test_own_counter_counts_what_its_conditions_hold_for() -> None:
    scrape = own(
        name="orders_total",
        type="counter",
        when={"http.request.method": "POST", "url.path": "/orders(/.*)?"},
        unless={"response_code": "5.."},
        labels={"tenant": "http.request.header.x-tenant", "service": "destination_service_name"},
    )
    scrape.write(
        [
            http_entry(method="POST", path="/orders"),
            http_entry(method="POST", path="/orders/1"),
            http_entry(method="GET", path="/orders"),
            http_entry(method="POST", path="/other"),
            http_entry(method="POST", path="/orders", status=503),
            http_entry(method="POST", path="/orders", kind="DownstreamStart"),
        ]
    )
    assert scrape.samples("orders_total") == [({"tenant": "unknown", "service": "shop.example"}, 2.0)]


def test_own_counter_adds_up_a_field() -> None:
    entries = [http_entry(), http_entry()]
    entries[0].request.request_body_bytes, entries[1].request.request_body_bytes = 10, 5
    scrape = own(name="uploaded_bytes_total", type="counter", value="http.request.body.size").write(entries)
    assert scrape.samples("uploaded_bytes_total") == [({}, 15.0)]


@pytest.mark.parametrize(
    ("field", "entry", "total"),
    [
        ("duration", http_entry(milliseconds=1500), 1.5),
        ("envoy.time_to_last_rx_byte", http_entry(timeToLastRxByte="0.250s"), 0.25),
        ("envoy.upstream_request_attempt_count", http_entry(upstreamRequestAttemptCount=3), 3),
        ("http.request.header.x-cost", with_header("x-cost", "2.5"), 2.5),
        ("http.response.body.size", http_entry(), 0),
    ],
)
def test_own_histogram_observes_a_number_or_a_time_in_seconds(field: str, entry: Any, total: float) -> None:
    scrape = own(name="cost", type="histogram", value=field, buckets=[0.2, 1, 2]).write([entry])
    assert scrape.one("cost_sum")[1] == total
    assert scrape.one("cost_count")[1] == 1
    assert values(scrape, "le", "cost_bucket") == {str(b): float(total <= b) for b in (0.2, 1, 2)} | {
        "+Inf": 1
    }


@pytest.mark.parametrize("cost", ["", "none", "nan", "inf", "-1"])
def test_what_is_no_number_is_not_observed(cost: str) -> None:
    scrape = own(name="cost", type="histogram", value="http.request.header.x-cost")
    scrape.write([with_header("x-cost", cost), http_entry()])
    assert scrape.samples("cost_count") == []


def test_own_metric_counts_connections() -> None:
    scrape = own(name="connections_total", type="counter", when={"network.protocol.name": "tcp"}).write(
        [tcp_entry(kind="TcpPeriodic"), tcp_entry(), tcp_entry(port=41001), http_entry()]
    )
    assert scrape.one("connections_total") == ({}, 2.0)


def test_long_values_are_cut() -> None:
    scrape = changed({"labels": {"agent": "http.request.header.x-long"}}).write(
        [with_header("x-long", "x" * 9999)]
    )
    assert values(scrape, "agent") == {"x" * 256: 1}


MISTAKES = [
    ("overrides: [{labels: {a: nothing.like.it}}]",
     'telemetry.overrides[0].labels.a.field: expected a field of a record, such as "url.path" or '
     '"http.request.header.x-tenant", or one of Istio\'s labels, got "nothing.like.it"'),
    ("overrides: [{}, {labels: {a: off}}]",
     'telemetry.overrides[1].labels.a: expected one of Istio\'s labels to take away, got off'),
    ('overrides: [{labels: {response_code: {regex: "("}}}]',
     'telemetry.overrides[0].labels.response_code.regex: expected a regular expression of RE2 (missing ): (), got "("'),
    ('overrides: [{labels: {response_code: {regex: "(.)..", replacement: "$2"}}}]',
     "telemetry.overrides[0].labels.response_code.replacement: expected groups up to $1, as many as regex has, got $2"),
    ('overrides: [{labels: {response_code: {regex: "(.)..", replacement: "$1xx"}}}]',
     "telemetry.overrides[0].labels.response_code.replacement: expected text with groups as $1 or, where a letter or "
     'digit follows, ${1}; $$ is a dollar, got "$1xx"'),
    ("overrides: [{labels: {p: {field: url.path, templates: [users]}}}]",
     'telemetry.overrides[0].labels.p.templates[0]: expected a path such as "/users/{id}/orders", or "/static/**" for '
     'whatever follows, got "users"'),
    ('overrides: [{labels: {p: {field: url.path, templates: ["/u/{id}", "/u/{name}"]}}}]',
     'telemetry.overrides[0].labels.p.templates: "/u/{name}" is the same as "/u/{id}"; leave one out'),
    ('overrides: [{labels: {p: {field: url.path, templates: ["/u"], regex: "a"}}}]',
     "telemetry.overrides[0].labels.p.regex: either templates or regex"),
    ("overrides: [{metrics: [istio_request_total]}]",
     "telemetry.overrides[0].metrics[0]: expected istio_requests_total, istio_request_duration_milliseconds, "),
    ("overrides: [{labels: {a-b: url.path}}]",
     'telemetry.overrides[0].labels.a-b: expected a label\'s name such as "tenant", not "le" nor one that begins with '
     '"__", got "a-b"'),
    ("overrides: [{metrics: [istio_requests_total], buckets: [1]}]",
     "telemetry.overrides[0].buckets: needs a histogram among metrics"),
    ("overrides: [{buckets: [2, 1]}]",
     "telemetry.overrides[0].buckets: expected numbers that ascend, without the infinite one, got a list"),
    ("metrics: [{name: a, type: histogram}]",
     "telemetry.metrics[0].value: expected a field to observe, which a histogram needs, got nothing"),
    ("metrics: [{name: a, type: histogram, value: url.path}]",
     'telemetry.metrics[0].value: expected a field that is a number, such as "duration" or "http.response.body.size", '
     'got "url.path"'),
    ("metrics: [{name: a, type: counter}]",
     'telemetry.metrics[0].name: expected a counter\'s name, which ends in "_total", got "a"'),
    ("metrics: [{name: a_total, type: counter, buckets: [1]}]",
     "telemetry.metrics[0].buckets: a histogram has buckets, a counter has none"),
    ("metrics: [{name: istio_a_total, type: counter}]",
     "telemetry.metrics[0].name: expected a name without the prefix of Mixer's, Istio's or the process's own metrics, "
     'got "istio_a_total"'),
    ("metrics: [{name: a_total, type: counter, when: {nothing: x}}]",
     'telemetry.metrics[0].when.nothing: expected a field of a record, such as "url.path" or '),
    ("metrics: [{name: a_total, type: counter}, {name: a_total, type: counter}]",
     'telemetry.metrics[1].name: "a_total" is taken by telemetry.metrics[0]; give each its own'),
    ("metrics: [{name: a_total, type: gauge}]",
     'telemetry.metrics[0].type: expected counter or histogram, got "gauge"'),
    ("series_ttl: 5", 'telemetry.series_ttl: expected a duration such as "500ms", "10s", "5m" or "1h", got 5'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "mistake"), MISTAKES)
def test_validate_names_the_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, mistake: str
) -> None:
    file = tmp_path / "mixer.yaml"
    file.write_text(f"telemetry:\n  {text}\n")
    assert cli.main(["validate", "--config", str(file)]) == 2
    assert f"{file}: {mistake}" in capsys.readouterr().err


def test_validate_names_each_mistake_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mixer.yaml"
    file.write_text(
        "telemetry: {overrides: [{labels: {a: no, b: neither}}], metrics: [{name: x, type: counter}]}\n"
    )
    assert cli.main(["validate", "--config", str(file)]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if str(file) in line]
    assert len(told) == 2
