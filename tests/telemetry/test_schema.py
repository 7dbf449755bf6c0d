"""The schemas: what is committed is what they say, and what they promise of Envoy's messages holds."""

import importlib.util
import re
import tempfile
from operator import attrgetter
from pathlib import Path
from types import ModuleType

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from mixer.telemetry import decode, flags, intake_pb2
from mixer.telemetry.v1.access_record_pb2 import AccessRecord

ROOT = Path(__file__).parents[2]
FIELDS = AccessRecord.DESCRIPTOR.fields
COMMON = accesslog_pb2.AccessLogCommon.DESCRIPTOR.fields_by_number


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "proto" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_modules_are_those_of_the_schemas(generate: ModuleType) -> None:
    for name in generate.PROTOS:
        with tempfile.TemporaryDirectory() as folder:
            for made in generate.generate(name, Path(folder)):
                committed = ROOT / made.relative_to(folder)
                assert made.read_text() == committed.read_text(), f"run proto/generate.py: {committed} is old"


def test_every_field_has_its_attributes_name() -> None:
    for field in FIELDS:
        assert field.json_name.replace(".", "_") == field.name


def test_every_field_is_explained() -> None:
    lines = (ROOT / "proto/mixer/telemetry/v1/access_record.proto").read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"  \S.* = \d+(;| \[|$)", line):
            assert lines[number - 1].startswith("  // "), line


def test_fields_below_1000_are_envoys_and_all_others_are_not() -> None:
    passed = [field for field in FIELDS if field.number < 1000]
    assert passed
    for field in passed:
        envoys = COMMON[field.number]
        assert field.name.removeprefix("envoy_") == envoys.name
        assert wire(field) == wire(envoys), field.name
    assert min(field.number for field in FIELDS if field.number >= 1000) > max(COMMON) + 900


def test_access_log_types_are_envoys() -> None:
    ours = AccessRecord.DESCRIPTOR.enum_types_by_name["AccessLogType"]
    assert {v.name: v.number for v in ours.values} == dict(accesslog_pb2.AccessLogType.items())


def test_every_response_flag_has_its_letters() -> None:
    assert set(flags.LETTERS) == {field.name for field in accesslog_pb2.ResponseFlags.DESCRIPTOR.fields}


# Ours, and Envoy's that it stands for.
INTAKE = {
    "StreamAccessLogsMessage": als_pb2.StreamAccessLogsMessage,
    "HTTPColumns.Entry": accesslog_pb2.HTTPAccessLogEntry,
    "TCPColumns.Entry": accesslog_pb2.TCPAccessLogEntry,
    "ConnectionColumns": accesslog_pb2.ConnectionProperties,
    "RequestColumns": accesslog_pb2.HTTPRequestProperties,
    "ResponseColumns": accesslog_pb2.HTTPResponseProperties,
    "CommonColumns": accesslog_pb2.AccessLogCommon,
    "Passed.Common": accesslog_pb2.AccessLogCommon,
}


@pytest.mark.parametrize("name", INTAKE)
def test_entries_are_read_as_envoy_wrote_them(name: str) -> None:
    ours: Descriptor = attrgetter(name)(intake_pb2).DESCRIPTOR
    envoys = INTAKE[name].DESCRIPTOR
    for field in ours.fields:
        if name == "Passed.Common" and field.name == "network_protocol_name":
            continue  # the record's
        theirs = envoys.fields_by_number[field.number]
        assert field.name == theirs.name
        assert wire_type(field) == wire_type(theirs), field.name


def test_columns_are_lists_where_envoy_has_one_value() -> None:
    """A field of an entry that is no list would have the last entry's value alone. Messages are merged; those that are
    not read are only checked."""
    for name in INTAKE:
        if "Columns" in name:
            for field in attrgetter(name)(intake_pb2).DESCRIPTOR.fields:
                assert (
                    field.is_repeated != (field.type == FieldDescriptor.TYPE_MESSAGE)
                    or field.name == "custom_tags"
                )


def test_what_is_passed_on_is_what_a_record_has() -> None:
    """A field that Envoy adds needs a decision: pass it on, use it, or leave it out."""
    never_set = {"sample_rate"}
    checked = {field.number for field in intake_pb2.CommonColumns.DESCRIPTOR.fields}
    kept_back = {field.number for field in intake_pb2.Passed.Common.DESCRIPTOR.fields}
    assert {field.name for number, field in COMMON.items() if number not in checked} == never_set
    assert checked - kept_back == {field.number for field in FIELDS if field.number < 1000}


def test_what_is_passed_on_is_checked_as_a_record_has_it() -> None:
    """Types that are read otherwise: as text that is checked, or as a number that is any."""
    columns = intake_pb2.CommonColumns.DESCRIPTOR.fields_by_number
    for field in FIELDS:
        if field.number < 1000 and field.type == FieldDescriptor.TYPE_STRING:
            assert columns[field.number].type == FieldDescriptor.TYPE_STRING


def test_parts_keep_a_bound() -> None:
    parts = decode.Parts(lambda data: data, b"")
    for number in range(2 * decode.MAX_PARTS):
        assert parts[str(number).encode()] == str(number).encode()
    assert len(parts) <= decode.MAX_PARTS
    parts[b"x" * (decode.MAX_PART + 1)]
    assert b"x" * (decode.MAX_PART + 1) not in parts


def wire(field: FieldDescriptor) -> tuple[int, bool, str]:
    """Type, repetition, and the name of the message type (of a map, its entry's types)."""
    message = field.message_type
    if message is None:
        return field.type, field.is_repeated, ""
    if message.GetOptions().map_entry:
        return field.type, True, ",".join(str(wire(part)) for part in message.fields)
    return field.type, field.is_repeated, message.full_name


def wire_type(field: FieldDescriptor) -> int:
    """Of the types on the wire (https://protobuf.dev/programming-guides/encoding/#structure), those in use here."""
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FIXED64):
        return 1
    lengthy = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_MESSAGE)
    return 2 if field.type in lengthy else 0
