"""More than Mixer can take, from one Envoy: others are served, memory is bounded, what was accepted is in Kafka."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from envoy.service.accesslog.v3 import als_pb2

from mixer.demo.findings import Series
from tests.components import processes
from tests.components.processes import Kafka, Mixer
from tests.e2e.test_kafka_kill import consume, counted, settings
from tests.telemetry.entries import http_entry, identifier

METHOD = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
FLOODS, FLOOD, MODEST = 3, 500, 5  # streams that flood; entries of their messages, and of others
CALLS = 10
MOST_MEMORY = 300 * 1024  # KiB; idle it has some 100 MiB, and Python does not give all back


def message(prefix: str, entries: int) -> bytes:
    made = als_pb2.StreamAccessLogsMessage()
    made.identifier.CopyFrom(identifier(prefix))
    made.http_logs.log_entry.extend(http_entry(path=f"/{prefix}-{number}") for number in range(entries))
    return made.SerializeToString()


def test_one_that_floods_does_not_starve_the_others_and_memory_is_bounded(
    own_kafka: Kafka, tmp_path: Path
) -> None:
    topic = f"overload-{uuid.uuid4()}"
    own_kafka.create_topic(topic, 2)
    chosen = settings(own_kafka, topic, tmp_path, max_records=2000)

    async def test(mixer: Mixer) -> tuple[list[float], list[float], float]:
        async with channel(mixer) as mine, channel(mixer) as theirs:
            data = message("flood", FLOOD)
            floods = [theirs.stream_unary(METHOD)(endless(data)) for _ in range(FLOODS)]
            blocked = "mixer_sink_blocked_seconds_total"
            await asyncio.to_thread(
                mixer.wait_until, lambda: counted(mixer, blocked) > 0.5, 60, "let them wait"
            )
            during = [await modest(mine, f"during-{number}") for number in range(CALLS)]
            most = memory(mixer)
            for flood in floods:
                flood.cancel()
            await asyncio.to_thread(
                mixer.wait_until, lambda: counted(mixer, "mixer_sink_buffered") == 0, 60, "deliver what waits"
            )
            after = [await modest(mine, f"after-{number}") for number in range(CALLS)]
            return during, after, most

    with processes.mixer(chosen, "--role", "report") as mixer:
        during, after, most = asyncio.run(test(mixer))
        received = Series(mixer.call("/metrics")[1]).total("mixer_report_entries_total")
        mixer.wait_until(lambda: counted(mixer, "mixer_sink_buffered") == 0, 30, "deliver the last ones")
        given, delivered = (counted(mixer, f"mixer_sink_{name}_total") for name in ("received", "records"))
        assert given == delivered >= received
        assert counted(mixer, "mixer_sink_dropped_total") == 0
    assert max(during) < 10
    assert max(after) < 2
    assert most < MOST_MEMORY
    assert received > 5 * 2000  # as many buffers of it went by
    found = asyncio.run(consume(own_kafka.bootstrap, topic))
    expected = {
        f"/{when}-{n}-{e}" for when in ("during", "after") for n in range(CALLS) for e in range(MODEST)
    }
    assert expected <= found.keys()
    assert all(len(found[path]) == 1 for path in expected)


async def modest(through: grpc.aio.Channel, name: str) -> float:
    """Seconds until a stream of a few entries is answered, which says that they are on disk."""
    begun = time.monotonic()
    await through.stream_unary(METHOD)(once(message(name, MODEST)), timeout=60)
    return time.monotonic() - begun


def channel(mixer: Mixer) -> Any:
    return grpc.aio.insecure_channel(mixer.report, [("grpc.use_local_subchannel_pool", 1)])


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def endless(data: bytes) -> AsyncIterator[bytes]:
    while True:
        yield data


def memory(mixer: Mixer) -> float:
    """The most that it ever had resident, in KiB."""
    status = Path(f"/proc/{mixer.pid}/status").read_text()
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
