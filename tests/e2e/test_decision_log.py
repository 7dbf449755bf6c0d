"""The decision log of requests through a real Envoy, in a file and in a real Kafka."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from tests.components.processes import wait_until
from tests.e2e.fleet import fleet

MASK = """package system.log

mask contains "/input/attributes/request/http/headers/x-private"

mask contains {"op": "upsert", "path": "/input/who", "value": "someone"} if input.custom.outcome == "allowed"

drop if input.input.attributes.request.http.path == "/healthz"
"""


def add_mask(policies: Path) -> None:
    (policies / "log.rego").write_text(MASK)


@pytest.mark.parametrize("engine", ["embedded", "opa"])
def test_decisions_are_in_the_file_and_in_kafka(
    engine: str, kafka_bootstrap: str, kafka_topic: str, tmp_path: Path
) -> None:
    file = tmp_path / "decisions.jsonl"
    sinks = [
        {
            "type": "kafka",
            "bootstrap_servers": [kafka_bootstrap],
            "topic": kafka_topic,
            "key": "input.attributes.request.http.method",
        },
        {"type": "file", "path": file},
    ]
    decision_log = {"sinks": sinks, "labels": {"region": "north"}}
    with fleet(engine=engine, prepare=add_mask, decision_log=decision_log) as running:
        user = running.user()
        token = running.issuer.token(user)
        allowed = running.call("GET", "/api", token=token, headers={"x-private": "p1", "cookie": "c1"})
        denied = running.call("POST", "/api", headers={"x-private": "p2"})
        running.call("GET", "/healthz", user=user)
        malformed = running.call("GET", "/%zz")
        running.connect()
        records = {request.request_id: running.record(request.request_id) for request in (allowed, denied)}
        series = running.series()
        assert running.mixer.stop() == 0, "what waits is flushed at the drain"

    text = file.read_text()
    events = [json.loads(line) for line in text.splitlines()]
    messages = asyncio.run(consume(kafka_bootstrap, kafka_topic, len(events)))
    by_id = {event["decision_id"]: event for event in events}
    assert len(by_id) == len(events) == 4
    assert {
        json.loads(message.value)["decision_id"]: json.loads(message.value) for message in messages
    } == by_id
    for message in messages:
        event = json.loads(message.value)
        headers = dict(message.headers)
        assert headers["schema"] == b"openpolicyagent.org/decision_logs"
        assert headers["content-type"] == b"application/json"
        assert headers["event_id"] == event["decision_id"].encode()
        method = event.get("input", {}).get("attributes", {}).get("request", {}).get("http", {}).get("method")
        assert message.key == (method.encode() if method else None)

    event = by_id[records[allowed.request_id]["mixer.decision_id"]]
    assert (event["path"], event["labels"]["region"]) == ("envoy/authz/allow", "north")
    assert event["custom"]["outcome"] == "allowed"
    assert event["result"]["allowed"] is True
    http = event["input"]["attributes"]["request"]["http"]
    assert (http["method"], http["path"]) == ("GET", "/api")
    assert event["input"]["who"] == "someone"
    assert event["masked"] == ["/input/who"]
    at = "/input/attributes/request/http/headers"
    assert event["erased"][0] == f"{at}/x-private"
    assert {f"{at}/authorization", f"{at}/cookie"} <= set(event["erased"])

    event = by_id[records[denied.request_id]["mixer.decision_id"]]
    assert event["custom"]["outcome"] == "denied"
    assert event["result"]["allowed"] is False
    assert "who" not in event["input"]

    (event,) = [event for event in events if event["custom"]["outcome"] == "error"]
    assert malformed.status == 400
    assert event["error"]["code"] == "request_malformed"
    (connection,) = [event for event in events if event.get("input", {}).get("parsed_path") == [""]]
    assert "http" not in connection["input"]["attributes"].get("request", {})

    assert token not in text
    assert not {"p1", "p2", "c1"} & set(strings(events))
    assert series.total("mixer_decision_log_dropped_total", reason="policy") == 1


def test_shadow_is_told_beside_the_decision(tmp_path: Path) -> None:
    file = tmp_path / "decisions.jsonl"
    file.touch()

    def prepare(policies: Path) -> None:
        (policies / "next.rego").write_text(
            'package next\n\nallow := {"allowed": true, "headers": {"cookie": "c"}}\n'
        )

    log = {"sinks": [{"type": "file", "path": file}], "sample": {"allowed": 0, "denied": 0}}
    with fleet(prepare=prepare, policy={"shadow": {"decision": "next/allow"}}, decision_log=log) as running:
        assert running.call("GET", "/api", running.user()).status == 200
        assert running.call("GET", "/api").status == 401
        wait_until(lambda: file.read_bytes().endswith(b"\n"), what="the event")
    (event,) = map(json.loads, file.read_text().splitlines())
    assert event["custom"]["outcome"] == "denied"
    shadow = event["custom"]["shadow"]
    assert (shadow["path"], shadow["outcome"]) == ("next/allow", "would_allow")
    assert (shadow["result"], shadow["erased"]) == (
        {"allowed": True, "headers": {}},
        ["/result/headers/cookie"],
    )


def strings(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        return [
            text for item in (value.values() if isinstance(value, dict) else value) for text in strings(item)
        ]
    return [value] if isinstance(value, str) else []


async def consume(bootstrap: str, topic: str, count: int) -> list[ConsumerRecord]:
    """The first `count` messages, or those that came within 30 s."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        messages: list[ConsumerRecord] = []
        deadline = time.monotonic() + 30
        while len(messages) < count and time.monotonic() < deadline:
            batches = await consumer.getmany(timeout_ms=500)
            messages += [message for batch in batches.values() for message in batch]
        return messages
    finally:
        await consumer.stop()
