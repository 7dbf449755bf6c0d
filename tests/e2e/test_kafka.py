"""The record read back from the real Kafka, with counters in the real Redis."""

import asyncio
import time
import uuid

from aiokafka import AIOKafkaConsumer, TopicPartition

from mixer.demo.traffic import USER_LIMIT
from mixer.telemetry.v1.access_record_pb2 import AccessRecord
from tests.e2e.fleet import fleet


def test_joined_records_are_in_kafka(kafka_bootstrap: str, kafka_topic: str, redis_url: str) -> None:
    sink = {"type": "kafka", "bootstrap_servers": [kafka_bootstrap], "topic": kafka_topic}
    redis = {"url": redis_url, "timeout": "10s", "connect_timeout": "10s"}
    with fleet(telemetry={"sinks": [sink]}, rate_limits={"counters": "redis", "redis": redis}) as running:
        user = running.user()
        allowed = [running.call("GET", "/api", user=user) for _ in range(USER_LIMIT)]
        denied = running.call("GET", "/api")
        _, client = running.connect()
        records = asyncio.run(consume(kafka_bootstrap, kafka_topic, USER_LIMIT + 2))

    by_id = {record.envoy_request_id: record for record in records if record.envoy_request_id}
    for answer in allowed:
        record = by_id[answer.request_id]
        assert uuid.UUID(record.mixer_decision_id)
        assert (record.mixer_policy, record.mixer_decision_reason) == ("envoy/authz/allow", "ok")
        assert (record.mixer_limit, record.mixer_limit_code) == ("per-user", "OK")
        assert record.http_response_status_code == answer.status
    assert by_id[denied.request_id].mixer_decision_reason == "token_missing"
    (connection,) = [record for record in records if record.network_protocol_name == "tcp"]
    assert f"{connection.client_address}:{connection.client_port}" == client
    assert connection.mixer_decision_reason == "ok"
    assert (
        len({record.mixer_decision_id for record in records})
        == len({r.event_id for r in records})
        == len(records)
    )


async def consume(bootstrap: str, topic: str, count: int) -> list[AccessRecord]:
    """The first `count` records, or those that came within 30 s."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        records: list[AccessRecord] = []
        deadline = time.monotonic() + 30
        while len(records) < count and time.monotonic() < deadline:
            batches = await consumer.getmany(timeout_ms=500)
            records += [AccessRecord.FromString(m.value) for batch in batches.values() for m in batch]
        return records
    finally:
        await consumer.stop()
