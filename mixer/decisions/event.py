"""A decision as an event of OPA's decision log (OPA, `v1/plugins/logs/plugin.go`, EventV1).

What OPA has no field for stands under `custom`, where OPA's own extensions put theirs.
"""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from mixer.authz.decided import Decided, Shadowed
from mixer.authz.input import headers_of
from mixer.decisions.mask import Event
from mixer.telemetry.sink import Kind

SCHEMA = "openpolicyagent.org/decision_logs"

# W3C Trace Context, version 00; ids of zeros are none.
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")

_FIELDS = frozenset((
    "bundles", "custom", "decision_id", "error", "input", "labels", "metrics", "path", "result", "revision",
    "span_id", "timestamp", "trace_id", "type",
))  # fmt: skip


class DecisionRecord:
    """An event that is ready to be written; see `mixer.telemetry.sink.Record`."""

    __slots__ = ("event", "event_id")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.event_id: bytes = event["decision_id"].encode()

    def to_json(self) -> bytes:
        return orjson.dumps(self.event)


def accessor(name: str) -> Callable[[DecisionRecord], object]:
    """A function that answers an event's value for a path with dots, `input.attributes.request.http.host`: a string, a
    number or a boolean; None for all else. Raises `KeyError` for one that begins with no field of an event."""
    parts = name.split(".")
    if parts[0] not in _FIELDS:
        raise KeyError(name)

    def value(record: DecisionRecord) -> object:
        node: Any = record.event
        for part in parts:
            node = node.get(part) if isinstance(node, Mapping) else None
        return node if isinstance(node, str | int | float) else None

    return value


DECISIONS = Kind(
    SCHEMA,
    {"json": lambda records: [record.to_json() for record in records]},
    accessor,
    example='"path" or "input.attributes.request.http.host"',
)


def event_of(
    decided: Decided, document: Any, labels: Mapping[str, str], share: float, bundles: Mapping[str, str]
) -> Event:
    """The event of a decision over `document` (None: there is no input), as the policy `system.log` reads it.

    `share`: of the decisions with this outcome that are logged. `bundles`: revisions of those that decided, by name.
    """
    event: Event = {"labels": dict(labels), "decision_id": decided.decision_id}
    traced = _TRACEPARENT.fullmatch(
        headers_of(decided.request.attributes.request.http).get("traceparent", "")
    )
    if traced is not None:
        event["trace_id"], event["span_id"] = traced.groups()
    if decided.revision:
        event["revision"] = decided.revision
    if bundles:
        event["bundles"] = {name: {"revision": revision} for name, revision in bundles.items()}
    event["path"] = decided.path
    if document is not None:
        event["input"] = document
    if decided.result is not None:
        event["result"] = orjson.loads(decided.result)
    if decided.error is not None:
        event["error"] = {"code": decided.reason, "message": decided.error}
    event["timestamp"] = rfc3339(decided.timestamp)
    if decided.seconds is not None:
        event["metrics"] = {"timer_rego_query_eval_ns": round(decided.seconds * 1e9)}
    custom: Event = {"outcome": outcome_of(decided), "cache": decided.cache}
    if share < 1:
        custom["sample"] = share
    if decided.limit is not None:
        custom["limit"] = {"name": decided.limit, "code": "OVER_LIMIT" if decided.over_limit else "OK"}
    if decided.shadow is not None:
        custom["shadow"] = _shadow(decided.shadow)
    event["custom"] = custom
    return event


def outcome_of(decided: Decided) -> str:
    if decided.reason is not None:
        return "error"
    return "allowed" if decided.allowed and not decided.over_limit else "denied"


def _shadow(shadow: Shadowed) -> Event:
    shown: Event = {"path": shadow.path, "revision": shadow.revision, "outcome": shadow.outcome}
    if shadow.result is not None:
        shown["result"] = orjson.loads(shadow.result)
    if shadow.error is not None:
        shown["error"] = {"message": shadow.error}
    return shown


def rfc3339(timestamp: float) -> str:
    """Unix seconds in UTC, with nanoseconds."""
    seconds = int(timestamp)
    nanos = min(round((timestamp - seconds) * 1e9), 999_999_999)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanos:09d}Z"
