"""What is given the bytes. A target raises what is a finding, and nothing else: what ours refuse by an error of ours is
right. Each is made once and takes input after input; it may keep no more than a service keeps."""

import asyncio
import contextlib
import gzip
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import structlog
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry

from mixer import config
from mixer.authz.body import Bodies
from mixer.authz.messages import Messages
from mixer.authz.service import CheckService
from mixer.authz.url import BadRequestError
from mixer.backends import series_of
from mixer.errors import MixerError
from mixer.metrics import Metrics
from mixer.policy import bundle
from mixer.policy.budget import Budget, CutOffError
from mixer.policy.builtins import BuiltinError, UnsupportedError, supplied
from mixer.policy.builtins.catalog import MODULES
from mixer.policy.cache import DecisionCache
from mixer.policy.documents import Documents, Module
from mixer.policy.jwt import Jwt
from mixer.policy.program import Program
from mixer.policy.regorus import EmbeddedEngine
from mixer.policy.sources import Sources
from mixer.ratelimit import limits
from mixer.ratelimit.memory import MemoryCounters
from mixer.ratelimit.service import QuotaService
from mixer.server.front import Unary
from mixer.server.http2.connection import Connection
from mixer.server.http2.frames import PREFACE, ConnectionFault
from mixer.server.http2.front import AsyncioFront
from mixer.server.http2.header_blocks import Decoder
from mixer.telemetry import otlp_json
from mixer.telemetry.export import ExportService
from mixer.telemetry.intake_pb2 import StreamAccessLogsMessage
from mixer.telemetry.record import AccessRecord
from mixer.telemetry.redaction import Redaction
from mixer.telemetry.service import ReportService
from tests.fuzz import corpus
from tests.telemetry.entries import streamed

Target = Callable[[bytes], object]

_LOOP = asyncio.new_event_loop()  # of all targets, as long as the process
EXPECTED = (MixerError, DecodeError)
BUDGET = Budget(0.5, 256 * 1024 * 1024)
POLICY = """package p

default allow := false

http := input.attributes.request.http
claims := io.jwt.decode(trim_prefix(http.headers.authorization, "Bearer "))[1]

allow := {"allowed": true, "headers": {"x-user": claims.sub}, "query_parameters_to_set": input.parsed_query} if {
	input.parsed_path[0] == "api"
	http.method in {"GET", "POST"}
	not input.truncated_body
}

allow := {"allowed": false, "body": input.parsed_body, "http_status": to_number(http.headers["x-status"])} if {
	http.method == "PUT"
}
"""
LIMITS = """domain: edge
descriptors:
- {key: path, value: /a*, rate_limit: {unit: second, requests_per_unit: 3}}
- key: user
  rate_limit: {unit: hour, requests_per_unit: 5, name: per-user}
  descriptors: [{key: plan, value: free, rate_limit: {unlimited: true}}]
- {key: slots, rate_limit: {algorithm: concurrency, requests_per_unit: 2, lease: 5s}}
"""


def new_metrics() -> Metrics:
    return Metrics(CollectorRegistry(support_collectors_without_names=True))


class Kept:
    """A sink that writes records in every form, and keeps none."""

    name = "kept"

    def write(self, records: Sequence[AccessRecord], receipt: Any = None) -> None:
        for record in records:
            record.to_json()
            record.to_protobuf()
        if receipt is not None:
            receipt.durable(len(records))

    async def room(self) -> None: ...

    async def accepted(self) -> None: ...


def check() -> Target:
    folder = Path(tempfile.mkdtemp())
    (folder / "p.rego").write_text(POLICY)
    settings = config.Policy(paths=(folder,), decision="p/allow")
    engine = EmbeddedEngine(settings)
    _LOOP.run_until_complete(engine.start())
    metrics = new_metrics()
    service = CheckService(engine, DecisionCache(100, 60.0, metrics), metrics)
    return lambda data: service.check(CheckRequest.FromString(data), None)


def quota() -> Target:
    metrics = new_metrics()
    service = QuotaService(
        limits.made([("limits.yaml", LIMITS.encode())]),
        MemoryCounters(metrics),
        config.RateLimits(),
        metrics,
        local=MemoryCounters(metrics),
    )
    return lambda data: service.should_rate_limit(data, None)


def report() -> Target:
    metrics = new_metrics()
    settings = config.Config(telemetry=config.Telemetry(max_series=200))
    sinks: list[Any] = [series_of(settings, metrics), Kept()]
    service = ReportService(sinks, metrics, metadata=["envoy.filters.http.ext_authz"])

    def take(data: bytes) -> None:
        """By itself, and beside another."""
        for count in (1, 2):
            messages = [StreamAccessLogsMessage.FromString(data) for _ in range(count)]
            _LOOP.run_until_complete(service.stream(streamed(messages, together=True)))

    return take


def otlp() -> Target:
    metrics = new_metrics()
    service = ExportService([Kept()], metrics, Redaction(), 10.0)  # type: ignore[list-item]
    return lambda data: _LOOP.run_until_complete(service.export(data, None))


def otlp_as_json() -> Target:
    export = otlp()
    return lambda data: export(otlp_json.request(data))


def _file(name: str) -> Path:
    return Path(tempfile.mkdtemp()) / name


def settings() -> Target:
    file = _file("mixer.yaml")

    def load(data: bytes) -> None:
        file.write_bytes(data)
        config.load(file, {"SET": "value"})

    return load


def limits_file() -> Target:
    return lambda data: limits.made([("limits.yaml", data)])


def policy() -> Target:
    def load(data: bytes) -> None:
        try:
            source = "package p\n" + data.decode()
        except UnicodeDecodeError:
            return
        program = Program(Sources((Module("p.rego", source),), {}, ""), "p/x", budget=BUDGET)
        program.evaluate(b'{"a": [1, {"b": "c"}], "s": "text"}')
        program.take_prints()

    return load


def data() -> Target:
    def load(data: bytes) -> None:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return
        for name in ("data.json", "data.yaml"):
            Documents().add((), name, text)

    return load


def tarball() -> Target:
    def read(data: bytes) -> None:
        packed = data if data[:1] == b"\x1f" else gzip.compress(data, 1)
        bundle.read("bundle", packed, 1 << 20, None)

    return read


class Transport(asyncio.Transport):
    """Nobody is on its other side."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: Any) -> None: ...

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def http2() -> Target:
    """The first byte says in how many pieces the rest comes, and whether it begins as it has to."""
    metrics = new_metrics()
    echo = Unary("test.Service", "Unary", None, lambda message, _: bytes(message))
    listener = config.Listener(server="asyncio", address=f"unix:{_file('front.sock')}")
    front = AsyncioFront(listener, [echo], metrics)
    _LOOP.run_until_complete(front.start())

    async def converse(data: bytes) -> None:
        connection, transport = Connection(front), Transport()
        connection.connection_made(transport)
        how, rest = data[0], data[1:]
        if how & 1:
            rest = PREFACE + bytes.fromhex("000000040000000000") + rest
        size = max(1, len(rest) // (1 + (how >> 1) % 8))
        for at in range(0, len(rest), size):
            if transport.closed:
                break
            connection.data_received(rest[at : at + size])
            await asyncio.sleep(0)
        connection.connection_lost(None)
        await asyncio.sleep(0)

    return lambda data: _LOOP.run_until_complete(converse(data)) if data else None


def hpack() -> Target:
    def read(data: bytes) -> None:
        decoder = Decoder(list)
        half = len(data) // 2
        try:
            for block in (data[:half], data[half:], data[:half]):
                decoder.read(block)
        except ConnectionFault:
            return

    return read


def token() -> Target:
    jwt = Jwt(lambda: 1e9)
    key = {"secret": "s", "aud": "a", "iss": "i"}

    def read(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        calls: list[Callable[[], object]] = [
            lambda: jwt.decode(text),
            lambda: jwt.decode_verify(text, key),
            lambda: jwt.verify("HS256", text, "s"),
            lambda: jwt.verify("RS256", text, text),
        ]
        for call in calls:
            jwt.reset()
            _tolerated(call)

    return read


def _tolerated(call: Callable[[], object]) -> None:
    try:
        call()
    except (BuiltinError, UnsupportedError, CutOffError):
        return


_TYPES = (
    *("application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"),
    *("application/grpc", "multipart/form-data", "text/plain"),
)


def body() -> Target:
    """The first byte is the type's number, and says whether numbers are kept as they are written."""
    files = FileDescriptorSet()
    waiting, seen = [CheckRequest.DESCRIPTOR.file], set[str]()
    while waiting:
        file = waiting.pop()
        if file.name not in seen:
            seen.add(file.name)
            waiting += file.dependencies
            file.CopyToProto(files.file.add())
    messages = Messages(files)
    parsers = [Bodies(messages), Bodies(messages, exact=True)]
    path = "/envoy.service.auth.v3.Authorization/Check"

    def parse(data: bytes) -> None:
        if not data:
            return
        kind = _TYPES[data[0] % len(_TYPES)]
        try:
            parsed, _ = parsers[data[0] >> 7].parse({"content-type": kind}, "", data[1:], path)
        except BadRequestError:
            return
        orjson.dumps(parsed)

    return parse


_NAMES = sorted(name for name in MODULES if not name.startswith(("mixer.", "crypto.x509", "providers.")))


def builtin() -> Target:
    """The first byte is a builtin's number; the rest, its operands as a JSON array, or one text."""

    functions = [supplied(name) for name in _NAMES]

    def call(data: bytes) -> None:
        if not data or (found := functions[data[0] % len(functions)]) is None:
            return
        arity, function = found
        rest = data[1:].decode("utf-8", "replace")
        try:
            operands = orjson.loads(rest)
        except ValueError:
            operands = [rest] * arity
        if isinstance(operands, list) and len(operands) == arity:
            _tolerated(lambda: function(*operands))

    return call


TARGETS: dict[str, Callable[[], Target]] = {
    "check": check,
    "quota": quota,
    "report": report,
    "otlp": otlp,
    "otlp_json": otlp_as_json,
    "settings": settings,
    "limits": limits_file,
    "policy": policy,
    "data": data,
    "bundle": tarball,
    "http2": http2,
    "hpack": hpack,
    "token": token,
    "body": body,
    "builtin": builtin,
}


def every() -> Target:
    """All targets in one: the first byte is one's number."""
    made = [make() for make in TARGETS.values()]
    return lambda data: made[data[0] % len(made)](data[1:]) if data else None


def every_input() -> dict[str, bytes]:
    return {
        f"{name}-{file}": bytes([number]) + data
        for number, name in enumerate(TARGETS)
        for file, data in corpus(name).items()
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What is logged of an input is of no use here."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        yield
    finally:
        structlog.configure(**before)


def judged(target: Target, data: bytes) -> None:
    """Raises what is a finding."""
    try:
        target(data)
    except EXPECTED:
        return
