"""The record of each request, joined with what Check and Quota said about it, and the series."""

import uuid

from mixer.demo.traffic import USER_LIMIT
from tests.components.processes import wait_until
from tests.e2e.fleet import Fleet
from tests.e2e.test_http import in_one_window

POLICY = "envoy/authz/allow"


def test_allowed_request_is_recorded_with_its_decision_and_its_limit(any_fleet: Fleet) -> None:
    user = any_fleet.user()
    record = any_fleet.record(any_fleet.call("GET", "/api/orders?secret=1", user=user).request_id)
    assert str(uuid.UUID(record["mixer.decision_id"])) == record["mixer.decision_id"]
    assert record["mixer.policy"] == POLICY
    assert record["mixer.decision.reason"] == "ok"
    assert record["mixer.limit"] == "per-user"
    assert record["mixer.limit.code"] == "OK"
    assert record["http.response.status_code"] == 200
    assert record["url.path"] == "/api/orders"
    assert record["http.request.header"]["x-user"] == user
    assert record["istio.destination_workload"] == "orders"


def test_denied_request_is_recorded_with_its_reason(any_fleet: Fleet) -> None:
    record = any_fleet.record(any_fleet.call("GET", "/api/orders").request_id)
    assert record["mixer.decision_id"]
    assert record["mixer.decision.reason"] == "token_missing"
    assert record["http.response.status_code"] == 401
    assert record["envoy.response_code_details"] == "ext_authz_denied"
    assert "mixer.limit" not in record


def test_limited_request_is_recorded_with_the_limit_that_fired(any_fleet: Fleet) -> None:
    last = in_one_window(any_fleet, USER_LIMIT + 1)[-1]
    record = any_fleet.record(last.request_id)
    assert record["http.response.status_code"] == 429
    assert record["mixer.limit"] == "per-user"
    assert record["mixer.limit.code"] == "OVER_LIMIT"
    assert record["mixer.decision.reason"] == "ok"


def test_no_two_requests_share_a_decision_id_even_if_the_decision_is_cached(any_fleet: Fleet) -> None:
    records = [any_fleet.record(any_fleet.call("GET", "/api").request_id) for _ in range(3)]
    assert len({record["mixer.decision_id"] for record in records}) == 3


def test_connections_are_recorded_with_their_decisions(any_fleet: Fleet) -> None:
    for source, reason in (("127.0.0.1", "ok"), ("127.0.0.2", "source_unknown")):
        record = any_fleet.record(any_fleet.connect(source)[1])
        assert record["mixer.decision_id"]
        assert record["mixer.policy"] == POLICY
        assert record["mixer.decision.reason"] == reason
        assert record["network.protocol.name"] == "tcp"


def test_no_token_is_in_a_record_or_in_the_log(any_fleet: Fleet) -> None:
    token = any_fleet.issuer.token(any_fleet.user())
    record = any_fleet.record(any_fleet.call("GET", "/api", token=token).request_id)
    assert token not in str(record)
    assert token not in any_fleet.mixer.log.read_text()


def test_requests_are_counted_in_istios_series(any_fleet: Fleet) -> None:
    def count(code: str) -> float:
        return any_fleet.series().total("istio_requests_total", response_code=code, reporter="destination")

    before = {code: count(code) for code in ("200", "401", "403")}
    user = any_fleet.user()
    for path, code in (("/api", "200"), ("/api", "200"), ("/admin", "403")):
        assert any_fleet.call("GET", path, user=user).status == int(code)
    any_fleet.call("GET", "/api")
    wait_until(lambda: count("401") == before["401"] + 1, what="the series of 401")
    assert count("200") == before["200"] + 2
    assert count("403") == before["403"] + 1


def test_calls_are_counted_in_mixers_series(any_fleet: Fleet) -> None:
    def count(method: str) -> float:
        return any_fleet.series().total("mixer_calls_total", method=method, code="OK")

    checks, quotas = count("Check"), count("ShouldRateLimit")
    any_fleet.call("GET", "/api", user=any_fleet.user())
    any_fleet.call("GET", "/api")
    assert count("Check") == checks + 2
    assert count("ShouldRateLimit") == quotas + 1
