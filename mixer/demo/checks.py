"""Is what came out right? Every expectation of the sample traffic against answers, records and series."""

from collections import Counter
from collections.abc import Iterable, Sequence

from mixer.demo.findings import Record, Series, decision, key
from mixer.demo.traffic import Expected, HttpRequest, Outcome

POLICY = "envoy/authz/allow"


def differences(outcomes: Sequence[Outcome], records: Sequence[Record], series: Series) -> list[str]:
    """What differs from what was expected, a line each; empty if all is right."""
    found: list[str] = []
    by_key: dict[str, list[Record]] = {}
    for record in records:
        by_key.setdefault(key(record), []).append(record)
    for number, outcome in enumerate(outcomes, 1):
        where = f"{number}. {outcome.request.what} as {outcome.request.caller}"
        mine = by_key.pop(outcome.key, [])
        found += [f"{where}: {line}" for line in _answer(outcome)]
        if len(mine) == 1:
            found += [f"{where}: record: {line}" for line in _record(outcome, mine[0])]
        else:
            found.append(f"{where}: expected one record, got {len(mine)}")
    found += [f"a record of no request of ours: {name or 'without an id'}" for name in by_key]
    ids = Counter(record.get("mixer.decision_id") for record in records)
    found += [
        f"decision id {name} is in {count} records" for name, count in ids.items() if name and count > 1
    ]
    return found + _series([outcome.request.expected for outcome in outcomes], series)


def _differ(pairs: Iterable[tuple[str, object, object]]) -> list[str]:
    return [f"{what}: expected {expected}, got {got}" for what, expected, got in pairs if expected != got]


def _answer(outcome: Outcome) -> list[str]:
    """The client's view, and the upstream's."""
    expected = outcome.request.expected
    pairs: list[tuple[str, object, object]] = [
        ("status", expected.status, outcome.status),
        ("limit left", expected.left, outcome.left),
    ]
    if isinstance(outcome.request, HttpRequest):
        headers = outcome.upstream_headers
        pairs.append(("reached the upstream", expected.status == "200", headers is not None))
        if headers is not None:
            pairs.append(("user that the upstream saw", outcome.request.caller, headers.get("x-user")))
            pairs.append(
                ("token that the upstream saw", None, "a token" if "authorization" in headers else None)
            )
    return _differ(pairs)


def _record(outcome: Outcome, record: Record) -> list[str]:
    expected = outcome.request.expected
    pairs: list[tuple[str, object, object]] = [
        ("decision", expected.decision, decision(record)),
        ("reason", expected.reason, record.get("mixer.decision.reason")),
        ("policy", POLICY, record.get("mixer.policy")),
        ("decision id", True, bool(record.get("mixer.decision_id"))),
    ]
    if isinstance(outcome.request, HttpRequest):
        code = None if expected.limit is None else "OVER_LIMIT" if expected.over else "OK"
        pairs += [
            ("status", expected.status, str(record.get("http.response.status_code"))),
            ("limit", expected.limit, record.get("mixer.limit")),
            ("limit's answer", code, record.get("mixer.limit.code")),
        ]
    return _differ(pairs)


def expected_counts(expected: Sequence[Expected]) -> list[tuple[str, dict[str, str], int]]:
    """Metric, labels, and the value that the traffic must bring it to."""
    statuses = Counter(item.status for item in expected)
    connections = statuses.pop("open", 0) + statuses.pop("closed", 0)
    counted = [item for item in expected if item.left is not None]
    decisions = Counter(item.decision for item in expected)
    return [
        *(("istio_requests_total", {"response_code": code}, count) for code, count in statuses.items()),
        ("istio_requests_total", {}, statuses.total()),
        ("istio_request_duration_milliseconds_count", {}, statuses.total()),
        ("istio_tcp_connections_closed_total", {}, connections),
        *(("mixer_decisions_total", {"outcome": outcome}, count) for outcome, count in decisions.items()),
        ("mixer_calls_total", {"method": "Check", "code": "OK"}, len(expected)),
        ("mixer_calls_total", {"method": "ShouldRateLimit", "code": "OK"}, len(counted)),
        ("mixer_quota_descriptors_total", {"outcome": "over_limit"}, sum(item.over for item in expected)),
        ("mixer_report_entries_total", {"kind": "http"}, statuses.total()),
        ("mixer_report_entries_total", {"kind": "tcp"}, connections),
        ("mixer_sink_records_total", {"sink": "file"}, len(expected)),
        ("mixer_sink_dropped_total", {}, 0),
    ]


def _series(expected: Sequence[Expected], series: Series) -> list[str]:
    return _differ(
        (f"series {name}{labels or ''}", float(count), float(series.total(name, **labels)))
        for name, labels, count in expected_counts(expected)
    )
