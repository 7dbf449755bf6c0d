"""Log records that are read together are the records that each would be by itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mixer.telemetry import keyvalues, labels, loglayout
from mixer.telemetry import otlp_pb2 as otlp
from mixer.telemetry.attributes import MAX_ATTRIBUTES, SPECIAL, MalformedError, placed
from mixer.telemetry.export import MAX_BATCH
from mixer.telemetry.logbatch import Log
from mixer.telemetry.logrecord import LogReader, event_id
from mixer.telemetry.record import PLAIN, SCHEMA_FIELDS, TCP, AccessRecord
from mixer.telemetry.redaction import Redaction
from mixer.telemetry.v1.access_record_pb2 import AccessRecord as Schema
from tests.telemetry.logs import REQUEST, SECRETS, log, pair, resource

STRICT = Redaction(["X-Session", "traceparent"], ["token", "page"])
RESOURCES = [
    b"",
    resource({"node_name": "sidecar~10.1.2.3~a.b~c", "WORKLOAD_NAME": "orders", "NAMESPACE": "shop"}),
    resource({"node_name": "waypoint~10.1.2.3~a.b~c", "log_name": "edge"}),
]
LOGGERS = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "envoy" / "otlp.yaml").read_text("utf-8"))
HTTP, TCP_ = (
    [each["key"] for each in LOGGERS[kind][0]["typed_config"]["attributes"]["values"]]
    for kind in ("http", "tcp")
)
OTHERS = [
    *("envoy.filter_state.a", "envoy.metadata.b", "http.response.header.Content-Type", "envoy.custom_tags.x"),
    *("http.request.header.x-session", "http.request.header.referer", "http.response.header.location"),
    *("http.response.trailer.grpc-status", "http.response.header.grpc-status", "http.request.header.cookie"),
    *(
        "http.response.header.traceparent",
        "HTTP.Request.Header.X",
        "http.request.header.",
        "event_id",
        "body",
    ),
    *("region", "x" * 127, "y" * 128, "x/y", "ключ", "start_time", "url.full", ""),
]
NAMES = sorted({*HTTP, *TCP_, *PLAIN, *SPECIAL, *OTHERS} - {"event_id"})

ABSENT = ["", "-"]
TEXTS = [
    *("a", "shop.example:8443", "root:hush@shop", "[::1]:80", "grpc-go/1.60", "grpc-", "UF,URX", "NR", "tcp"),
    *(
        "/a",
        "/a?token=hush&b=1",
        "?q",
        "/",
        "?",
        "http://root:hush@shop/x?TOKEN=hush#page=2",
        "//x@",
        "x@",
        "5",
    ),
    *("application/grpc+proto", "text/html", f"00-{'4b' * 16}-{'a1' * 8}-01", "HTTP/1.1", "HTTP/", "TLSv1.3"),
    *("GET", "BREW", "spiffe://a/ns/shop/sa/web", "spiffe://a/ns/bank/sa/pay,x", ",x", "x" * 125, "x" * 126),
    *(
        "/" + "x" * 200,
        "y" * 1000,
        "é" * 40,
        "outbound|9080|v1|reviews.default.svc.cluster.local",
        "a\x00b\n",
    ),
]
NUMBERS = ["0", "7", "007", "127", "128", "200", "503", "16383", "16384", "65535", "99999999", "999999999"]
LARGE = ["268435455", "4294967296", "268435456", "9" * 19, "18446744073709551615"]
SPANS = [
    *(
        "0ms",
        "12ms",
        "0ns",
        "1ns",
        "16383ns",
        "16384ns",
        "2097151ns",
        "2097152ns",
        "268435455ns",
        "268435456ns",
    ),
    *(
        "999999999ns",
        "1000000000ns",
        "999999999999ns",
        "9999999999999ns",
        "1.5s",
        "5us",
        "-ms",
        "ns",
        "-",
        "",
    ),
]
VALID: dict[str, list[Any]] = {
    "number": [*NUMBERS, *ABSENT, 5, 0],
    "span": SPANS,
    "bool": ["true", "false", True, *ABSENT],
    "type": ["DownstreamEnd", "TcpConnectionEnd", "TcpPeriodic", "NotSet", *ABSENT],
    "holders": ["[]", '["a","b",""]', *ABSENT],
    "text": [*TEXTS, *ABSENT, b"\xff\xfe", b"a\xe9b", 7, 1.5, False, None],
}
# As Envoy writes them, so that a column of them is read at once.
USUAL: dict[str, list[Any]] = {
    **VALID,
    "number": NUMBERS,
    "span": [span for span in SPANS if len(span) > 2 and span.endswith("ns")],
    "text": [text for text in TEXTS if 1 < len(text) < 126 and text.isascii()],
}
JSON = [
    "-1",
    "true",
    "null",
    "1.5",
    "1e5",
    "[1]",
    "5,6",
    "1ns,2",
    "1ns,2ns",
    "-1ns",
    "1.5ns",
    "ns,ns",
    "7s",
    "7us",
]
WILD = [
    *JSON,
    *(each for values in VALID.values() for each in values),
    *(
        *LARGE,
        "1_0",
        "+5",
        " 5",
        "5 ",
        "-1",
        "\uff11\uff12",
        "teapot",
        "9" * 21,
        "maybe",
        "77",
        "9" * 18 + "s",
        "5ns6ns",
    ),
    *("Lunch", "[1]", "http://[", -1, 2**40, {"a": "b"}, b"12\xff", b"12ms\xff", "12ns\n", "12\n"),
]


def kind(name: str) -> str:
    if name.startswith("mixer.hold"):
        return "holders" if name == "mixer.holders" else "bool"
    field, key = placed(name)
    if key or name in SPECIAL:
        return "text"
    descriptor = SCHEMA_FIELDS[field]
    if descriptor.message_type is not None:
        return "span"
    if descriptor.enum_type is not None:
        return "type"
    return {9: "text", 7: "bool"}.get(descriptor.cpp_type, "number")


@st.composite
def column(draw: st.DrawFn, name: str, count: int, wild: bool) -> list[Any]:
    """Values of one attribute: of all forms, or nearly all in the usual one."""
    form = draw(st.integers(0, 9))
    if wild and not form:
        return draw(st.lists(ODD, min_size=count, max_size=count))
    values = draw(
        st.lists(st.sampled_from((VALID if form < 4 else USUAL)[kind(name)]), min_size=count, max_size=count)
    )
    if form == 9:
        values[draw(st.integers(0, count - 1))] = draw(st.sampled_from(WILD if wild else VALID[kind(name)]))
    return values


@st.composite
def calls(draw: st.DrawFn) -> tuple[list[tuple[bytes, bytes]], ...]:
    """Log records of a few layouts, mixed, in two calls, each with its resource."""
    logs: list[tuple[bytes, bytes]] = []
    wild = draw(st.booleans())
    for _ in range(draw(st.integers(1, 3))):
        names = draw(
            st.sampled_from([HTTP, TCP_])
            | st.lists(st.sampled_from(NAMES), min_size=1, max_size=12, unique=True)
        )
        if draw(st.integers(0, 9)) == 0:
            names = [*names, draw(st.sampled_from(names))]
        count = draw(st.integers(1, 10))
        columns = [draw(column(name, count, wild)) for name in names]
        for values in zip(*columns, strict=True):
            pairs = [pair(*item) for item in zip(names, values, strict=True)]
            if wild and draw(st.integers(0, 9)) == 0:
                pairs = draw(st.permutations(pairs))[: draw(st.integers(1, len(pairs)))]
            if wild and draw(st.integers(0, 19)) == 0:
                pairs[-1] = draw(st.binary(max_size=8) | st.just(pairs[-1] + pair("region", "north")))
            more = draw(st.sampled_from(MORE if wild else MORE[:4]))
            made = otlp.LogRecord(attributes=pairs, **more).SerializeToString()
            logs.append((draw(st.sampled_from(RESOURCES)), made))
    return logs, draw(st.permutations(logs))


ODD = (
    st.sampled_from(WILD) | st.text(max_size=140) | st.binary(max_size=140) | st.integers(-5, 2**40).map(str)
)
MORE: list[dict[str, Any]] = [
    {},
    {"time_unix_nano": 1_700_000_000_000_000_001},
    {"time_unix_nano": 1_700_000_000_000_000_000, "trace_id": b"\x01" * 16},
    {"time_unix_nano": 2**64 - 1, "trace_id": b"\x01" * 15},
    {"body": otlp.AnyValue(string_value=b"hello")},
]


def told(record: AccessRecord) -> dict[str, Any]:
    """All that anyone sees of a record."""
    counted = set(labels.PEER_FIELDS) | {
        *("istio_connection_security_policy", "envoy_response_flags", "rpc_system", "rpc_grpc_status_code"),
        *("rpc_request_message_count", "rpc_response_message_count", "trace_id", "parent_span_id"),
    }
    if not (record.received and record.sent):
        counted |= {
            *("http_request_header_size", "http_request_body_size", "envoy_bytes_received"),
            *("http_response_header_size", "http_response_body_size", "envoy_bytes_sent"),
        }
    return {
        "protobuf": Schema.FromString(record.to_protobuf()),
        "json": orjson.loads(record.to_json()),
        "fields": {name: record.get(name) for name in PLAIN.values()},
        "counted": {name: record.fields.get(name) for name in counted},
        "labels": labels.either(record),
        "shape": (record.shape is TCP, record.shape.host, record.shape.status, record.shape.grpc),
        **{
            name: getattr(record, name)
            for name in ("origin", "peers", "type", "cluster", "duration", "received", "sent")
        },
        **{name: getattr(record, name) for name in ("event_id", "ends", "holders")},
    }


def given_(reader: LogReader, logs: Sequence[tuple[bytes, bytes]]) -> list[Log]:
    seen: dict[bytes, int] = {}
    return [(data, reader.identity(of), event_id(of, data, seen)) for of, data in logs]


@pytest.mark.parametrize("redaction", [Redaction(), STRICT], ids=["default", "strict"])
@pytest.mark.parametrize("learnt", [256, 2])
@given(calls())
def test_log_records_read_together_are_what_each_is_by_itself(
    learnt: int, redaction: Redaction, mixed: tuple[list[tuple[bytes, bytes]], ...]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyvalues, "_VALUES", learnt)
        patch.setattr(keyvalues, "_FEW", 4 if learnt > 2 else 0)
        reader = LogReader(redaction)
        for logs in mixed:
            batch = given_(reader, logs)
            for each, made in zip(batch, reader.records(batch), strict=True):
                if made is not None:
                    assert told(made) == told(reader.record(*each))


@pytest.mark.parametrize(
    "name",
    [
        *("http.response.body.size", "envoy.upstream_request_attempt_count", "client.port", "duration"),
        *(
            "envoy.time_to_last_rx_byte",
            "envoy.request_id",
            "region",
            "http.request.header.x-user",
            "url.path",
        ),
        *("envoy.downstream_wire_bytes_sent", "envoy.referer", "http.request.header.referer"),
    ],
)
def test_one_of_another_form_among_usual_ones_is_what_it_is_by_itself(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyvalues, "_VALUES", 2)
    reader = LogReader(STRICT)
    usual = [log({**REQUEST, name: value}) for value in USUAL[kind(name)]]
    reader.records(given_(reader, [(b"", data) for data in usual]))
    for value in WILD:
        other = log({**REQUEST, name: value})
        batch = given_(reader, [(b"", data) for data in (*usual[:5], other, usual[5])])
        made = reader.records(batch)
        for place in (4, 5, 6):
            record = made[place]
            if record is None:
                with pytest.raises(MalformedError):
                    reader.record(*batch[place])
            else:
                assert told(record) == told(reader.record(*batch[place]))


def envoys(names: Sequence[str], count: int) -> list[tuple[bytes, bytes]]:
    """As a logger with these attributes sends them."""
    made = []
    for number in range(count):
        values = {
            name: VALID[of][number % 3] if (of := kind(name)) != "text" else f"text-{number}"
            for name in names
        }
        made.append((b"", log(values, time_unix_nano=1_700_000_000_000_000_000 + number)))
    return made


@pytest.mark.parametrize("names", [HTTP, TCP_], ids=["http", "tcp"])
def test_log_records_of_envoy_are_read_together(names: list[str]) -> None:
    reader = LogReader(Redaction())
    logs = given_(reader, envoys(names, 600))
    for start in range(0, len(logs), MAX_BATCH):
        batch = logs[start : start + MAX_BATCH]
        for each, record in zip(batch, reader.records(batch), strict=True):
            assert record is not None
            assert told(record) == told(reader.record(*each))


def test_malformed_one_among_others_is_read_by_itself_alone() -> None:
    reader = LogReader(Redaction())
    good = {**REQUEST, "envoy.time_to_last_rx_byte": "77ns"}
    bad = [{**good, "duration": "long"}, {**good, "http.response.status_code": "teapot"}]
    bodied = log(good, body="hello")
    logs = [log(good), log(bad[0]), *[log(good)] * 3, log(bad[1]), bodied, b"\xff", log(good)]
    made = reader.records(given_(reader, [(b"", data) for data in logs]))
    assert [place for place, record in enumerate(made) if record is None] == [1, 5, 6, 7]


def test_secrets_enter_no_record() -> None:
    reader = LogReader(STRICT)
    logs = [(b"", log({**REQUEST, **SECRETS, "number": str(number)})) for number in range(600)]
    for start in range(0, len(logs), MAX_BATCH):
        for record in reader.records(given_(reader, logs[start : start + MAX_BATCH])):
            assert record is not None
            assert b"hush" not in record.to_json()
            assert b"hush" not in record.to_protobuf()


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyvalues, "_MAX_KNOWN", 1000)
    monkeypatch.setattr(keyvalues, "_VALUES", 16)
    monkeypatch.setattr(keyvalues, "_ANEW", 10_000)
    monkeypatch.setattr(loglayout, "_MAX_JOINTS", 100)
    reader = LogReader(Redaction())
    batches = reader._batches
    for number in range(120):
        tags = {f"tag{number}-{each}": "x" for each in range(10)}
        logs = [
            (b"", log({**REQUEST, **tags, "server.address": f"{number}-{each}", "url.path": f"/{each}"}))
            for each in range(10)
        ]
        batch = given_(reader, logs)
        for each, record in zip(batch, reader.records(batch), strict=True):
            assert record is not None
            assert told(record) == told(reader.record(*each))
        assert len(batches._layouts) <= 64
        assert len(batches._joints) <= 100
        assert len(batches._columns) <= MAX_ATTRIBUTES
        assert sum(map(len, batches._columns.values())) <= 1000


def test_nothing_is_encoded_that_nobody_asks_for() -> None:
    reader = LogReader(Redaction())
    record = reader.records(given_(reader, envoys(HTTP, 2)))[0]
    assert record is not None
    labels.either(record)
    assert "encoded" not in vars(record.source)
    record.to_protobuf()
    assert "encoded" in vars(record.source)
