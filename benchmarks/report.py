"""Report: access-log streams to Prometheus and Kafka (acks=all), beside a server that only parses them.

What counts is what Kafka has acknowledged. Both sides get the same streams, over `grpc.aio` on uvloop. The entries
are as Envoy sends them: all timings and addresses, a logged header, the metadata of ext_authz, in messages of 30.

`python -m benchmarks.report` is the server that only parses: it prints its address, and serves until terminated.
"""

import asyncio
import os
import random
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from aiokafka import AIOKafkaConsumer, TopicPartition
from envoy.config.core.v3.base_pb2 import RequestMethod
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType, HTTPAccessLogEntry
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc
from google.protobuf.text_format import Parse

from benchmarks.harness import LOAD_CPU, SERVER_CPU, BenchmarkError, Row, baseline, in_turns
from tests.components import processes
from tests.components.processes import Kafka, Mixer

METHOD = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
STREAMS = 4  # as of an Envoy with four worker threads
ENTRIES = 30  # a message; Envoy flushes at 16 KiB
MESSAGES = 5_000  # a run, over all streams
WARM_UP = 500
WITHIN = 120  # seconds for one run, or something is wrong

ENTRY = """
protocol_version: HTTP2
common_properties {
  downstream_local_address { socket_address { address: "10.0.0.5" port_value: 8443 } }
  upstream_remote_address { socket_address { address: "10.2.3.4" port_value: 8080 } }
  upstream_cluster: "orders"
  upstream_request_attempt_count: 1
  metadata { filter_metadata { key: "envoy.filters.http.ext_authz" value {
    fields { key: "decision_id" value { string_value: "" } }
    fields { key: "reason" value { string_value: "ok" } }
    fields { key: "mixer" value { struct_value {
      fields { key: "policy" value { string_value: "envoy/authz/allow" } }
      fields { key: "revision" value { string_value: "5f0c2b7a9d41" } }
      fields { key: "cache" value { string_value: "miss" } }
    } } }
  } } }
}
request { scheme: "https" authority: "shop.example" user_agent: "Mozilla/5.0 (X11; Linux x86_64)" }
response { response_code_details: "via_upstream" response_headers_bytes: 180 }
"""
TIMINGS = (
    "time_to_last_rx_byte",
    "time_to_first_upstream_tx_byte",
    "time_to_last_upstream_tx_byte",
    "time_to_first_upstream_rx_byte",
    "time_to_last_upstream_rx_byte",
    "time_to_first_downstream_tx_byte",
    "time_to_last_downstream_tx_byte",
    "duration",
)


def entry(chance: random.Random) -> HTTPAccessLogEntry:
    """A request of one of 1,000 users to one of 1,000 paths, with one of four codes."""
    made = Parse(ENTRY, HTTPAccessLogEntry())
    common, request, response = made.common_properties, made.request, made.response
    client = common.downstream_remote_address.socket_address
    client.address, client.port_value = f"10.1.{chance.randrange(250)}.{chance.randrange(250)}", 40_000
    client.port_value += chance.randrange(20_000)
    common.downstream_direct_remote_address.CopyFrom(common.downstream_remote_address)
    common.upstream_local_address.socket_address.address = "10.0.0.5"
    common.upstream_local_address.socket_address.port_value = 40_000 + chance.randrange(200)
    common.start_time.FromNanoseconds(1_790_000_000_000_000_000 + chance.randrange(10**15))
    for number, name in enumerate(TIMINGS, 1):
        getattr(common, name).nanos = number * 400_000 + chance.randrange(400_000)
    common.route_name = f"route-{chance.randrange(5)}"
    common.access_log_type = AccessLogType.DownstreamEnd
    common.downstream_wire_bytes_received = 200 + chance.randrange(800)
    common.downstream_wire_bytes_sent = 300 + chance.randrange(9_000)
    common.upstream_wire_bytes_sent = 250 + chance.randrange(800)
    common.upstream_wire_bytes_received = 300 + chance.randrange(9_000)
    decision = common.metadata.filter_metadata["envoy.filters.http.ext_authz"].fields["decision_id"]
    decision.string_value = str(uuid.UUID(int=chance.getrandbits(128)))
    common.stream_id = request.request_id = str(uuid.UUID(int=chance.getrandbits(128)))
    request.request_method = chance.choice((RequestMethod.GET, RequestMethod.GET, RequestMethod.POST))
    request.path = f"/api/orders/{chance.randrange(1000)}?page={chance.randrange(20)}"
    request.request_headers_bytes = 300 + chance.randrange(200)
    request.request_headers["x-user"] = f"user{chance.randrange(1000)}"
    response.response_code.value = chance.choice((200, 200, 200, 201, 404, 503))
    response.response_body_bytes = chance.randrange(8_000)
    return made


def stream_messages() -> tuple[bytes, list[bytes]]:
    """The first message of a stream, and 200 others, serialised."""
    chance = random.Random(7)
    messages = []
    for _ in range(201):
        message = als_pb2.StreamAccessLogsMessage()
        message.http_logs.log_entry.extend(entry(chance) for _ in range(ENTRIES))
        messages.append(message)
    first = messages.pop()
    node = first.identifier.node
    first.identifier.log_name, node.id, node.cluster = "edge", "edge-1", "edge"
    node.metadata.update({"WORKLOAD_NAME": "orders", "NAMESPACE": "shop", "LABELS": {"app": "orders"}})
    return first.SerializeToString(), [message.SerializeToString() for message in messages]


def send(address: str, first: bytes, others: Sequence[bytes], count: int) -> None:
    """Stream `count` messages over `STREAMS` streams, and return when the server has ended them all."""

    def one(channel: grpc.Channel, number: int) -> None:
        def messages() -> Iterator[bytes]:
            yield first
            for index in range(count // STREAMS - 1):
                yield others[(index + 50 * number) % len(others)]

        channel.stream_unary(METHOD, bytes, bytes)(messages(), timeout=WITHIN, wait_for_ready=True)

    with ThreadPoolExecutor(STREAMS) as threads:
        # A channel each, as the connections of Envoy's worker threads.
        channels = [
            grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
            for _ in range(STREAMS)
        ]
        try:
            for done in [threads.submit(one, channel, number) for number, channel in enumerate(channels)]:
                done.result()
        except grpc.RpcError as error:
            raise BenchmarkError(f"the stream to {address} ended with {error}") from error
        finally:
            for channel in channels:
                channel.close()


class Delivery:
    """Entries per second from the first byte sent to the last record acknowledged."""

    def __init__(self, mixer: Mixer, kafka: Kafka, topic: str, first: bytes, others: Sequence[bytes]) -> None:
        self._mixer, self._kafka, self._topic = mixer, kafka, topic
        self._first, self._others = first, others
        self._before = 0

    def run(self, count: int) -> float:
        start = time.perf_counter()
        with ThreadPoolExecutor(1) as threads:
            sending = threads.submit(send, self._mixer.report, self._first, self._others, count)
            expected = self._before + count * ENTRIES
            seconds = asyncio.run(self._arrived(expected)) - start
            sending.result()
        self._before = expected
        delivered = self._sample('mixer_sink_records_total{sink="kafka"}')
        counted = self._sample('mixer_sink_records_total{sink="prometheus"}')
        if not expected == delivered == counted:
            raise BenchmarkError(
                f"of {expected} records, Kafka acknowledged {delivered}, Prometheus counted {counted}"
            )
        return count * ENTRIES / seconds

    async def _arrived(self, expected: int) -> float:
        """When the topic has that many records. What a consumer may read is what is acknowledged."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self._kafka.bootstrap)
        await consumer.start()
        try:
            partition = TopicPartition(self._topic, 0)
            end = time.perf_counter() + WITHIN
            while time.perf_counter() < end:
                if (await consumer.end_offsets([partition]))[partition] >= expected:
                    return time.perf_counter()
                await asyncio.sleep(0.02)
        finally:
            await consumer.stop()
        raise BenchmarkError(f"not all of {expected} records were acknowledged within {WITHIN} s")

    def _sample(self, name: str) -> float:
        _, page = self._mixer.call("/metrics")
        return sum(float(line.rpartition(" ")[2]) for line in str(page).splitlines() if line.startswith(name))


@contextmanager
def on_the_load_cpu() -> Iterator[None]:
    """This process is the load."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CPU})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run(runs: int) -> list[Row]:
    first, others = stream_messages()
    topic = "mixer.access"
    with processes.kafka(cpu=LOAD_CPU) as kafka, baseline("benchmarks.report") as parsing:
        kafka.create_topic(topic)
        sink = {"type": "kafka", "bootstrap_servers": [kafka.bootstrap], "topic": topic}
        settings = {
            "listeners": {name: {"address": "127.0.0.1:0"} for name in ("check", "report", "admin")},
            "telemetry": {"sinks": [sink]},
        }
        with processes.mixer(settings, "--role", "report", cpu=SERVER_CPU) as mixer, on_the_load_cpu():
            delivery = Delivery(mixer, kafka, topic, first, others)

            def parsed() -> float:
                start = time.perf_counter()
                send(parsing, first, others, MESSAGES)
                return MESSAGES * ENTRIES / (time.perf_counter() - start)

            delivery.run(WARM_UP)
            send(parsing, first, others, WARM_UP)
            ours, peers = in_turns(runs, lambda: delivery.run(MESSAGES), parsed)
    size = sum(map(len, others)) // (ENTRIES * len(others))
    return [
        Row(
            f"Report, Prometheus and Kafka acks=all, entries of {size} bytes",
            "entries/s", ours, "grpc.aio, parses the stream only", peers, at_least=0.12,
        ),
    ]  # fmt: skip


class _Parsing(als_pb2_grpc.AccessLogServiceServicer):
    async def StreamAccessLogs(self, request_iterator, context):  # type: ignore[no-untyped-def]  # noqa: N802
        async for _ in request_iterator:
            pass
        return als_pb2.StreamAccessLogsResponse()


async def _serve() -> None:
    server = grpc.aio.server()
    als_pb2_grpc.add_AccessLogServiceServicer_to_server(_Parsing(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve())
