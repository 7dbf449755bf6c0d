"""Report: entries to Prometheus alone, and to Kafka (acks=all) too, beside a server that only parses the same streams.

What counts is what Kafka has acknowledged, or of Prometheus alone what was counted when the streams had ended. As much
is sent as is taken: a buffer that is full blocks, so that nothing is dropped. The server that parses is one of
`grpc.aio` on uvloop. The entries are as Envoy sends them: all timings and addresses, a
logged header, the metadata of ext_authz, in messages of 30. OTLP's have the same, by the names of
`deploy/envoy/otlp.yaml`, in calls of 30 that are answered when Kafka has them.

`python -m benchmarks.report` is the server that only parses: it prints its address, and serves until terminated.
"""

import asyncio
import itertools
import os
import random
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from envoy.config.core.v3.address_pb2 import Address
from envoy.config.core.v3.base_pb2 import RequestMethod
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType, HTTPAccessLogEntry
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc
from google.protobuf.text_format import Parse

from benchmarks.harness import LOAD_CPU, SERVER_CPU, BenchmarkError, Row, baseline, in_turns
from mixer.telemetry import otlp_pb2 as otlp
from tests.components import processes
from tests.components.processes import Kafka, Mixer

EXPORT = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
METHOD = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
STREAMS = 4  # as of an Envoy with four worker threads
ENTRIES = 30  # a message; Envoy flushes at 16 KiB
MESSAGES = 5_000  # a run, over all streams
WARM_UP = 500
IN_FLIGHT = 16  # calls of OTLP, a connection
MARK = b"@mark@mark@mark@"  # tells two calls apart that are alike else
RESOURCE = {
    "log_name": "edge",
    "node_name": "edge-1",
    "cluster_name": "edge",
    "WORKLOAD_NAME": "orders",
    "NAMESPACE": "shop",
}
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


def export_messages() -> list[bytes]:
    """200 calls of OpenTelemetry's logs service, as `deploy/envoy/otlp.yaml` has them of such requests.

    Each has `MARK` once.
    """
    chance = random.Random(7)
    resource = otlp.Resource(attributes=[_pair(name, value) for name, value in RESOURCE.items()])
    calls = []
    for _ in range(200):
        entries = [entry(chance) for _ in range(ENTRIES)]
        entries[0].request.request_id = MARK.decode()
        logs = [_log_record(each) for each in entries]
        scope = otlp.ScopeLogs(log_records=[log.SerializeToString() for log in logs])
        one = otlp.ResourceLogs(resource=resource.SerializeToString(), scope_logs=[scope.SerializeToString()])
        calls.append(
            otlp.ExportLogsServiceRequest(resource_logs=[one.SerializeToString()]).SerializeToString()
        )
    return calls


def _log_record(of: HTTPAccessLogEntry) -> otlp.LogRecord:
    common, request, response = of.common_properties, of.request, of.response
    fields = common.metadata.filter_metadata["envoy.filters.http.ext_authz"].fields
    ours = fields["mixer"].struct_value.fields
    client, local = common.downstream_remote_address, common.downstream_local_address
    upstream, ours_there = common.upstream_remote_address, common.upstream_local_address
    attributes: dict[str, object] = {
        "envoy.stream_id": common.stream_id,
        "envoy.access_log_type": "DownstreamEnd",
        "duration": f"{common.duration.nanos // 1_000_000}ms",
        **{f"envoy.{name}": f"{getattr(common, name).nanos}ns" for name in TIMINGS if name != "duration"},
        "http.request.method": RequestMethod.Name(request.request_method),
        "url.scheme": request.scheme,
        "url.path": request.path,
        "server.address": request.authority,
        "user_agent.original": request.user_agent,
        "network.protocol.version": "HTTP/2",
        "envoy.request_id": request.request_id,
        "http.request.header.size": request.request_headers_bytes,
        "http.response.status_code": response.response_code.value,
        "http.response.header.size": response.response_headers_bytes,
        "http.response.body.size": response.response_body_bytes,
        "http.request.header.x-user": request.request_headers["x-user"],
        **_end("client", client),
        **_end("network.peer", client),
        **_end("network.local", local),
        "envoy.route_name": common.route_name,
        "envoy.upstream_cluster": common.upstream_cluster,
        "envoy.upstream_host": _joined(upstream),
        "envoy.upstream_local_address": _joined(ours_there),
        "envoy.upstream_request_attempt_count": common.upstream_request_attempt_count,
        "envoy.response_code_details": response.response_code_details,
        "envoy.downstream_wire_bytes_received": common.downstream_wire_bytes_received,
        "envoy.downstream_wire_bytes_sent": common.downstream_wire_bytes_sent,
        "envoy.upstream_wire_bytes_received": common.upstream_wire_bytes_received,
        "envoy.upstream_wire_bytes_sent": common.upstream_wire_bytes_sent,
        "mixer.decision_id": fields["decision_id"].string_value,
        "mixer.decision.reason": fields["reason"].string_value,
        **{f"mixer.{name}": ours[name].string_value for name in ("policy", "cache")},
        "mixer.policy.revision": ours["revision"].string_value,
    }
    return otlp.LogRecord(
        time_unix_nano=common.start_time.ToNanoseconds(),
        attributes=[_pair(name, str(value)) for name, value in attributes.items()],
    )


def _end(name: str, address: Address) -> dict[str, object]:
    return {
        f"{name}.address": address.socket_address.address,
        f"{name}.port": address.socket_address.port_value,
    }


def _joined(address: Address) -> str:
    return f"{address.socket_address.address}:{address.socket_address.port_value}"


def _pair(name: str, value: str) -> bytes:
    made = otlp.KeyValue(key=name.encode())
    made.value.string_value = value.encode()
    return made.SerializeToString()


def send(
    address: str,
    first: bytes,
    others: Sequence[bytes],
    count: int | None,
    due: Callable[[int, float], bool] | None = None,
) -> None:
    """Stream `count` messages over `STREAMS` streams, and return when the server has ended them all.

    `due` is asked before each, with its number and when the stream began: it may wait, and answers whether to go on.
    """

    def one(channel: grpc.Channel, number: int) -> None:
        def messages() -> Iterator[bytes]:
            start = time.perf_counter()
            yield first
            for index in itertools.count() if count is None else range(count // STREAMS - 1):
                if due is not None and not due(STREAMS * index + number, start):
                    return
                yield others[(index + 50 * number) % len(others)]

        channel.stream_unary(METHOD, bytes, bytes)(messages(), timeout=WITHIN, wait_for_ready=True)

    _on_channels(address, one)


def send_exports(address: str, exports: Sequence[bytes], first: int, count: int) -> None:
    """Make `count` calls, no two alike, some at a time on each of `STREAMS` connections; returns when all are answered.

    `first`: the number of the first of them, among all that were ever made.
    """

    def one(channel: grpc.Channel, number: int) -> None:
        call = channel.unary_unary(EXPORT, bytes, bytes)
        waiting: deque[grpc.Future] = deque()
        for index in range(first + number, first + count, STREAMS):
            if len(waiting) == IN_FLIGHT:
                waiting.popleft().result()
            data = exports[index % len(exports)].replace(MARK, b"%0*d" % (len(MARK), index))
            waiting.append(call.future(data, timeout=WITHIN, wait_for_ready=True))
        for each in waiting:
            if answer := each.result():
                raise BenchmarkError(f"records were rejected: {answer!r}")

    _on_channels(address, one)


def _on_channels(address: str, work: Callable[[grpc.Channel, int], None]) -> None:
    """Work on a channel each, as the connections of Envoy's worker threads."""
    with ThreadPoolExecutor(STREAMS) as threads:
        channels = [
            grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
            for _ in range(STREAMS)
        ]
        try:
            for done in [threads.submit(work, channel, number) for number, channel in enumerate(channels)]:
                done.result()
        except grpc.RpcError as error:
            raise BenchmarkError(f"a call to {address} ended with {error}") from error
        finally:
            for channel in channels:
                channel.close()


class Delivery:
    """Entries per second, from the first byte sent until all are counted and, with a topic, acknowledged.

    When that is, Mixer's own account tells; that the records are in the topic is looked up afterwards. Who asked the
    broker all the time would load the core that it has in part, and would depend on each of thousands of answers.
    """

    def __init__(
        self, mixer: Mixer, send: Callable[[int, int], None], kafka: Kafka | None = None, topic: str = ""
    ) -> None:
        """`send`: messages of `ENTRIES`, from a number on, so many; returns when the server has taken them."""
        self._mixer, self._send, self._kafka, self._topic = mixer, send, kafka, topic
        self._sent = 0

    def run(self, count: int) -> float:
        start = time.perf_counter()
        self._send(self._sent, count)
        self._sent += count
        expected = self._sent * ENTRIES
        counted = self._counted("prometheus", expected)
        if self._kafka is not None:
            counted = self._counted("kafka", expected)
            if (found := asyncio.run(end_offset(self._kafka, self._topic))) < expected:
                raise BenchmarkError(f"of {expected} records that count as delivered, Kafka has {found}")
        return count * ENTRIES / (counted - start)

    def _counted(self, sink: str, expected: int) -> float:
        """When that many records are delivered."""
        end = time.perf_counter() + WITHIN
        while (now := time.perf_counter()) < end:
            found = sample(self._mixer, f'mixer_sink_records_total{{sink="{sink}"}}')
            if found == expected:
                return now
            if found > expected:
                break
            time.sleep(0.02)
        raise BenchmarkError(f"of {expected} records, {sink} has {found:.0f} after {WITHIN} s")


async def end_offset(kafka: Kafka, topic: str) -> int:
    """How many records the first partition of a topic has. Asked anew where a broker does not answer soon."""
    partition = TopicPartition(topic, 0)
    end = time.perf_counter() + WITHIN
    while True:
        consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, request_timeout_ms=5_000)
        try:
            await consumer.start()
            return int((await consumer.end_offsets([partition]))[partition])
        except KafkaError as error:
            if time.perf_counter() > end:
                raise BenchmarkError(f"{error}; the broker's log:\n{kafka.tail()}") from error
        finally:
            await consumer.stop()


def sample(mixer: Mixer, name: str) -> float:
    _, page = mixer.call(f"/metrics?name[]={name.partition('{')[0]}")
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


# Work, its settings of a Kafka sink's buffer (None: no Kafka), and the share of the parsing server's rate.
WORKS: tuple[tuple[str, dict[str, object] | None, float], ...] = (
    ("Prometheus alone", None, 0.5),
    ("Prometheus and Kafka acks=all", {"when_full": "block"}, 0.3),
    ("the same, through a spool on disk", {"type": "disk", "path": "kafka.spool", "when_full": "block"}, 0.2),
)


@contextmanager
def serving(buffer: dict[str, object] | None, kafka: Kafka, topic: str, *args: str) -> Iterator[Mixer]:
    """Mixer on the server's core. `buffer`: of the Kafka sink; None: there is none."""
    with tempfile.TemporaryDirectory() as folder:
        if buffer is not None and "path" in buffer:
            buffer = {**buffer, "path": f"{folder}/{buffer['path']}"}
        sink = {"type": "kafka", "bootstrap_servers": [kafka.bootstrap], "topic": topic, "buffer": buffer}
        settings = {
            "listeners": {name: {"address": "127.0.0.1:0"} for name in ("check", "report", "admin")},
            "telemetry": {"sinks": [] if buffer is None else [sink]},
        }
        with processes.mixer(settings, *(args or ("--role", "report")), cpu=SERVER_CPU) as mixer:
            yield mixer


def run(runs: int) -> list[Row]:
    first, others = stream_messages()
    size = sum(map(len, others)) // (ENTRIES * len(others))
    rows: list[Row] = []
    with (
        processes.kafka(cpu=LOAD_CPU) as kafka,
        baseline("benchmarks.report") as parsing,
        on_the_load_cpu(),
    ):

        def parsed() -> float:
            start = time.perf_counter()
            send(parsing, first, others, MESSAGES)
            return MESSAGES * ENTRIES / (time.perf_counter() - start)

        def compare(work: str, delivery: Delivery, at_least: float) -> None:
            delivery.run(WARM_UP)
            send(parsing, first, others, WARM_UP)
            ours, peers = in_turns(runs, lambda: delivery.run(MESSAGES), parsed)
            peer = "grpc.aio, parses the stream of entries only"
            rows.append(Row(f"Report, {work}", "entries/s", ours, peer, peers, at_least=at_least))

        for number, (work, buffer, at_least) in enumerate(WORKS):
            topic = f"mixer.access-{number}"
            kafka.create_topic(topic)
            with serving(buffer, kafka, topic) as mixer:
                address = mixer.report

                def stream(_: int, count: int, address: str = address) -> None:
                    send(address, first, others, count)

                to = (kafka, topic) if buffer is not None else ()
                compare(f"{work}, entries of {size} bytes", Delivery(mixer, stream, *to), at_least)
        exports, topic = export_messages(), "mixer.access-otlp"
        kafka.create_topic(topic)
        with serving({"when_full": "block"}, kafka, topic) as mixer:
            address = mixer.report
            delivery = Delivery(
                mixer, lambda first, count: send_exports(address, exports, first, count), kafka, topic
            )
            size = sum(map(len, exports)) // (ENTRIES * len(exports))
            compare(
                f"OTLP, answered when Kafka has acknowledged, log records of {size} bytes", delivery, 0.12
            )
    return rows


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
