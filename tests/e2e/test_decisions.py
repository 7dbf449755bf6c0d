"""Routes of one Envoy that ask for different decisions of one Mixer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.components.processes import wait_until
from tests.e2e.fleet import Fleet, filter_configs, fleet

PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
ROUTES = {"/office": "office", "/typo": "ofice"}
OFFICE = """package office

open := {
	"allowed": input.attributes.request.http.headers["x-day"] != "sunday",
	"http_status": 423,
	"body": "closed",
	"dynamic_metadata": {"reason": "hours"},
}
"""


def routes_ask_for_decisions(document: dict[str, Any]) -> None:
    """What deploy/envoy/envoy.yaml shows in a comment: `context_extensions` of a route's own."""
    for config in filter_configs(document):
        for host in config.get("route_config", {}).get("virtual_hosts", ()):
            [everything] = host["routes"]
            host["routes"] = [
                *(
                    {
                        "match": {"prefix": prefix},
                        "route": everything["route"],
                        "typed_per_filter_config": {
                            "envoy.filters.http.ext_authz": {
                                "@type": PER_ROUTE,
                                "check_settings": {"context_extensions": {"mixer_decision": name}},
                            }
                        },
                    }
                    for prefix, name in ROUTES.items()
                ),
                everything,
            ]


@pytest.fixture(scope="module", params=["embedded", "opa"])
def routed(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    def with_office(policies: Path) -> None:
        (policies / "office.rego").write_text(OFFICE)

    with fleet(
        request.param,
        prepare=with_office,
        edits=[routes_ask_for_decisions],
        policy={"decisions": {"office": "office/open"}},
    ) as running:
        yield running


def test_route_is_decided_by_the_decision_that_it_names(routed: Fleet) -> None:
    closed = routed.call("GET", "/office", headers={"x-day": "sunday"})
    assert (closed.status, closed.body) == (423, "closed")
    assert routed.call("GET", "/office", headers={"x-day": "monday"}).status == 200
    record = routed.record(closed.request_id)
    assert (record["mixer.policy"], record["mixer.decision.reason"]) == ("office/open", "hours")


def test_other_routes_are_decided_by_the_default(routed: Fleet) -> None:
    answer = routed.call("GET", "/api/orders", headers={"x-day": "monday"})
    assert answer.status == 401
    assert routed.record(answer.request_id)["mixer.policy"] == "envoy/authz/allow"


def test_route_that_names_no_decision_of_ours_is_refused_as_an_error(routed: Fleet) -> None:
    errors = routed.stat("http.http.ext_authz.mixer.error")
    answer = routed.call("GET", "/typo", headers={"x-day": "monday"})
    assert answer.status == 503  # status_on_error
    assert routed.record(answer.request_id)["envoy.response_code_details"] == "ext_authz_error"
    wait_until(lambda: routed.stat("http.http.ext_authz.mixer.error") == errors + 1)
    assert routed.series().total("mixer_unknown_decisions_total") == 1
    assert routed.series().total("mixer_calls_total", method="Check", code="INVALID_ARGUMENT") == 1
