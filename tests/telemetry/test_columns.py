"""Entries that are read column by column say what each of them says for itself."""

from typing import Any

import pytest
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer.errors import RequestError
from mixer.telemetry.decode import Decoder
from mixer.telemetry.entry import EntryReader
from mixer.telemetry.v1.access_record_pb2 import AccessRecord as Schema
from mixer.telemetry.wire import prefixed, tag
from tests.telemetry.entries import http_entry, identifier, record, tcp_entry, with_metadata

HEADERS = st.dictionaries(
    st.sampled_from(["x-a", "traceparent", "grpc-status", "content-type"]), st.text(max_size=5)
)
NUMBERS = st.sampled_from([0, 1, 200, 2**32, 2**64 - 1])
TEXTS = st.sampled_from(["", "/a", "/a?b=c", "ä", "x" * 3000])


@st.composite
def http_entries(draw: st.DrawFn) -> HTTPAccessLogEntry:
    """Any part may be absent."""
    entry = HTTPAccessLogEntry()
    common, request, response = entry.common_properties, entry.request, entry.response
    for name in (
        "path",
        "original_path",
        "authority",
        "user_agent",
        "referer",
        "forwarded_for",
        "request_id",
    ):
        setattr(request, name, draw(TEXTS))
    request.request_body_bytes, response.response_body_bytes = draw(NUMBERS), draw(NUMBERS)
    common.downstream_wire_bytes_sent = draw(NUMBERS)
    common.upstream_cluster, common.route_name = draw(TEXTS), draw(TEXTS)
    request.request_headers.update(draw(HEADERS))
    response.response_headers.update(draw(HEADERS))
    if draw(st.booleans()):
        common.duration.nanos = draw(st.sampled_from([0, 5]))
        common.duration.SetInParent()
    if draw(st.booleans()):
        common.downstream_remote_address.socket_address.address = draw(st.sampled_from(["::1", "10.0.0.1"]))
    if draw(st.booleans()):
        common.response_flags.no_route_found = True
    if draw(st.booleans()):
        response.response_code.value = draw(st.sampled_from([0, 200, 503]))
    if draw(st.booleans()):
        with_metadata(entry, "envoy.filters.http.ext_authz", {"reason": draw(TEXTS)})
    for part in ("common_properties", "request", "response"):
        if draw(st.integers(0, 9)) == 0:
            entry.ClearField(part)  # type: ignore[arg-type]
    return entry


def told(of: Any) -> tuple[Any, ...]:
    message = Schema.FromString(of.to_protobuf())
    message.ClearField("event_id")
    return message, of.cluster, of.duration, of.received, of.sent, of.peers, of.type, of.ends, of.shape.host


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(http_entries(), min_size=1, max_size=5), max_size=3))
def test_entries_together_are_what_each_is_alone(messages: list[list[HTTPAccessLogEntry]]) -> None:
    reader = EntryReader(identifier(), Decoder())
    for entries in messages:
        together = reader.http([entry.SerializeToString() for entry in entries])
        assert [told(made) for made in together] == [told(record(entry)) for entry in entries]


def test_connections_that_differ_are_told_apart() -> None:
    entries = [tcp_entry(0, 5), tcp_entry(7, 0), tcp_entry(kind="NotSet", intermediateLogEntry=True)]
    made = EntryReader(identifier(), Decoder()).tcp([entry.SerializeToString() for entry in entries])
    assert [told(each) for each in made] == [told(record(entry)) for entry in entries]


def test_records_of_batches_that_are_encoded_later_stay_themselves() -> None:
    """The first batch is encoded when the reader has learnt more of its stream."""
    reader = EntryReader(identifier(), Decoder())
    plain, rich = http_entry(path="/a"), http_entry(path="/b", routeName="r")
    rich.request.request_headers["x-a"] = "1"
    rich.request.request_body_bytes = 5
    first = reader.http([plain.SerializeToString()] * 2)
    second = reader.http([plain.SerializeToString(), rich.SerializeToString()])
    assert [told(each) for each in second] == [told(record(plain)), told(record(rich))]
    assert [told(each) for each in first] == [told(record(plain))] * 2


@pytest.mark.parametrize("value", [b"\x01\xff", b"\x03tcp"])
def test_entry_that_has_a_field_of_our_own_is_refused(value: bytes) -> None:
    """It would be in the record as it is: one that nobody can parse, or that says what Envoy has not said."""
    common = tag("mixer_decision_reason") + value
    entry = http_entry().SerializeToString() + b"\x0a" + prefixed(len(common)) + common
    with pytest.raises(RequestError, match="none that Envoy writes"):
        EntryReader(identifier(), Decoder()).http([http_entry().SerializeToString(), entry])


@pytest.mark.parametrize("size", [1, 30, 250])
def test_event_ids_count_on(size: int) -> None:
    reader = EntryReader(identifier(), Decoder())
    data = [http_entry().SerializeToString()] * size
    ids = [each.event_id for _ in range(3) for each in reader.http(data)]
    assert len(set(ids)) == 3 * size
    assert [int(each.rpartition(b"-")[2]) for each in ids] == list(range(1, 3 * size + 1))
