"""Bodies of gRPC calls. What is expected here is what OPA's Envoy plugin showed for the same bytes, but where a
comment says otherwise."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import any_pb2, duration_pb2, field_mask_pb2, struct_pb2, text_format, timestamp_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from hypothesis import given
from hypothesis import strategies as st

from mixer.authz.body import Bodies
from mixer.authz.input import InputBuilder
from mixer.authz.messages import Messages
from mixer.authz.url import BadRequestError
from mixer.errors import LoadError
from mixer.policy.engine import WHOLE_INPUT
from tests.authz.test_input import http

ITEMS = """
name: "shop.proto" package: "shop" syntax: "proto3"
dependency: "google/protobuf/timestamp.proto" dependency: "google/protobuf/duration.proto"
dependency: "google/protobuf/struct.proto" dependency: "google/protobuf/any.proto" dependency: "old.proto"
enum_type { name: "Color" value { name: "NONE" number: 0 } value { name: "RED" number: 1 } }
message_type {
  name: "Order"
  field { name: "item_name" json_name: "itemName" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "big" json_name: "big" number: 2 type: TYPE_INT64 label: LABEL_OPTIONAL }
  field { name: "count" json_name: "count" number: 3 type: TYPE_UINT32 label: LABEL_OPTIONAL }
  field { name: "price" json_name: "price" number: 4 type: TYPE_DOUBLE label: LABEL_REPEATED }
  field { name: "color" json_name: "color" number: 5 type: TYPE_ENUM type_name: ".shop.Color" label: LABEL_REPEATED }
  field { name: "raw" json_name: "raw" number: 6 type: TYPE_BYTES label: LABEL_OPTIONAL }
  field { name: "parts" json_name: "parts" number: 7 type: TYPE_MESSAGE type_name: ".shop.Order" label: LABEL_REPEATED }
  field { name: "at" json_name: "at" number: 8 type: TYPE_MESSAGE type_name: ".google.protobuf.Timestamp"
          label: LABEL_OPTIONAL }
  field { name: "lasts" json_name: "lasts" number: 9 type: TYPE_MESSAGE type_name: ".google.protobuf.Duration"
          label: LABEL_OPTIONAL }
  field { name: "free" json_name: "free" number: 10 type: TYPE_MESSAGE type_name: ".google.protobuf.Value"
          label: LABEL_OPTIONAL }
  field { name: "any" json_name: "any" number: 11 type: TYPE_MESSAGE type_name: ".google.protobuf.Any"
          label: LABEL_OPTIONAL }
  field { name: "custom" json_name: "myName" number: 12 type: TYPE_STRING label: LABEL_OPTIONAL }
}
service {
  name: "Orders"
  method { name: "Put" input_type: ".shop.Order" output_type: ".shop.Order" }
  method { name: "Upload" input_type: ".shop.Order" output_type: ".shop.Order" client_streaming: true }
  method { name: "Watch" input_type: ".shop.Order" output_type: ".shop.Order" server_streaming: true }
  method { name: "Free" input_type: ".google.protobuf.Struct" output_type: ".shop.Order" }
  method { name: "Old" input_type: ".old.Order" output_type: ".shop.Order" }
}
"""
OLD = """
name: "old.proto" package: "old" syntax: "proto2"
enum_type { name: "Kind" value { name: "A" number: 5 } }
enum_type { name: "Way" value { name: "DOWN" number: 0 } value { name: "UP" number: 1 } value { name: "OVER" number: 1 }
            options { allow_alias: true } }
enum_type { name: "Turn" value { name: "LEFT" number: 1 } value { name: "NONE" number: 0 } }
message_type {
  name: "Order" extension_range { start: 100 end: 200 }
  field { name: "must" json_name: "must" number: 1 type: TYPE_STRING label: LABEL_REQUIRED }
  field { name: "kind" json_name: "kind" number: 2 type: TYPE_ENUM type_name: ".old.Kind" label: LABEL_OPTIONAL
          default_value: "A" }
  field { name: "kinds" json_name: "kinds" number: 3 type: TYPE_ENUM type_name: "Kind" label: LABEL_REPEATED }
  field { name: "ways" json_name: "ways" number: 4 type: TYPE_MESSAGE type_name: ".old.Order.WaysEntry"
          label: LABEL_REPEATED }
  field { name: "turn" json_name: "turn" number: 5 type: TYPE_ENUM type_name: ".old.Turn" label: LABEL_OPTIONAL }
  nested_type {
    name: "WaysEntry" options { map_entry: true }
    field { name: "key" json_name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
    field { name: "value" json_name: "value" number: 2 type: TYPE_ENUM type_name: ".old.Way" label: LABEL_OPTIONAL }
  }
}
extension { name: "extra" number: 100 type: TYPE_STRING label: LABEL_OPTIONAL extendee: ".old.Order" }
"""
WELL_KNOWN = (timestamp_pb2, duration_pb2, struct_pb2, any_pb2)


def descriptors(*texts: str, well_known: bool = True) -> FileDescriptorSet:
    files = [text_format.Parse(text, FileDescriptorProto()) for text in texts]
    for module in WELL_KNOWN if well_known else ():
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        files.append(file)
    return FileDescriptorSet(file=files)  # imports come last: order does not matter


MESSAGES = Messages(descriptors(ITEMS, OLD))
PUT = ["shop.Orders", "Put"]


def frame(message: bytes, flag: int = 0, length: int | None = None) -> bytes:
    return bytes([flag]) + (len(message) if length is None else length).to_bytes(4) + message


def field(number: int, content: bytes) -> bytes:
    """A field of a message, or of text, before its length. Numbers up to 15."""
    size, rest = [], len(content)
    while rest > 127:
        size.append(rest & 127 | 128)
        rest >>= 7
    return bytes([number << 3 | 2, *size, rest]) + content


def shown(message: bytes, method: str = "Put") -> Any:
    parsed, truncated = MESSAGES.parse(frame(message), ["shop.Orders", method])
    assert not truncated
    return parsed


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"", {}),
        (b"\x0a\x01x\x10\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x18\x05",
         {"itemName": "x", "big": "9223372036854775807", "count": 5}),
        (b"\x22\x10" + bytes.fromhex("000000000000f83f000000000000f07f"), {"price": [1.5, "Infinity"]}),
        (b"\x22\x08" + bytes.fromhex("9c7500883ce4377e"), {"price": [1e300]}),
        (b"\x2a\x03\x01\x00\x63", {"color": ["RED", "NONE", 99]}),
        (b"\x32\x02\x00\xff", {"raw": "AP8="}),
        (b"\x3a\x02\x18\x01\x3a\x00", {"parts": [{"count": 1}, {}]}),
        (b"\x42\x04\x08\x01\x10\x05", {"at": "1970-01-01T00:00:01.000000005Z"}),
        (b"\x4a\x05\x10\x80\xda\xc4\x09", {"lasts": "0.020s"}),
        (b"\x52\x02\x08\x00", {"free": None}),
        (b"\x52\x02\x20\x01", {"free": True}),
        (b"\x5a\x00", {"any": {}}),
        (b"\x62\x01y", {"myName": "y"}),
        (b"\xf8\x3f\x01", {}),  # a field that the set does not know
    ],
)  # fmt: skip
def test_message_is_shown_as_protobufs_json(message: bytes, expected: object) -> None:
    assert shown(message) == expected


def test_well_known_type_as_a_request_is_shown_as_its_own_json() -> None:
    message = struct_pb2.Struct()
    message.update({"a": [1, 2.5, None]})
    assert shown(message.SerializeToString(), "Free") == {"a": [1, 2.5, None]}


def test_extensions_are_not_shown() -> None:
    assert shown(b"\x0a\x01x\xa2\x06\x01y", "Old") == {"must": "x"}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"", {}),
        (b"\x10\x05", {"kind": "A"}),
        (b"\x10\x63", {"kind": 99}),
        (b"\x10\x63\x10\x05", {"kind": "A"}),
        (b"\x10\x05\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", {"kind": -1}),
        (b"\x10\x00", {"kind": 0}),
        (b"\x18\x05\x18\x63\x18\x05\x18\x00", {"kinds": ["A", 99, "A", 0]}),
        (b"\x1a\x02\x05\x63", {"kinds": ["A", 99]}),
        (b"\x22\x05\x0a\x01a\x10\x07\x22\x05\x0a\x01b\x10\x00", {"ways": {"a": 7, "b": "DOWN"}}),
        (b"\x22\x05\x0a\x01a\x10\x01", {"ways": {"a": "UP"}}),
        (b"\x28\x00", {"turn": "NONE"}),
        (b"\x28\x02", {"turn": 2}),
    ],
)  # fmt: skip
def test_value_that_a_closed_enum_does_not_know_is_shown_as_its_number(
    message: bytes, expected: dict[str, object]
) -> None:
    assert shown(b"\x0a\x01x" + message, "Old") == {"must": "x", **expected}


@pytest.mark.parametrize(
    ("message", "method"),
    [
        (b"\xff\xff", "Put"),
        (b"\x0a\x01\xff", "Put"),  # text that is no UTF-8
        (b"\x0a\x01\xff", "Old"),
        (b"", "Old"),  # a required field is missing
        (b"\x52\x00", "Put"),  # a Value of no kind
        (b"\x0a\x05\x0a\x01a\x12\x00", "Free"),
        (b"\x42\x0a\x08\x80\xa3\x8a\xd3\xda\xca\x01\x10\x00", "Put"),  # a time after the year 9999
        (b"\x5a\x04\x0a\x02/x", "Put"),  # an Any of an unknown type
        (b"\x52\x09\x11" + bytes.fromhex("000000000000f07f"), "Put"),  # infinity in a Value
    ],
)  # fmt: skip
def test_message_that_has_no_json_is_a_bad_request(message: bytes, method: str) -> None:
    with pytest.raises(BadRequestError):
        shown(message, method)


@pytest.mark.parametrize("levels", [60, 99, 150, 5000])
def test_message_nested_too_deeply_is_a_bad_request(levels: int) -> None:
    message = b""
    for _ in range(levels):
        message = field(7, message)
    with pytest.raises(BadRequestError):
        parse(frame(message))


@pytest.mark.parametrize(
    ("entries", "ways"),
    [
        ((b"\x0a\x01a\x10\x01\xb8\x3e\x05",), {"a": "UP"}),
        ((b"\xb8\x3e\x05\x0a\x01a", b"\x0a\x01b\xa2\x06\x01y"), {"a": "DOWN", "b": "DOWN"}),
        ((b"\x0a\x01a\x10\x01", b"\x0a\x01a\x10\x00\xb8\x3e\x05"), {"a": "DOWN"}),
        ((b"\x0a\x01a\x10\x00\xb8\x3e\x05", b"\x0a\x01a\x10\x01"), {"a": "UP"}),
    ],
)
def test_entry_of_a_map_is_shown_whatever_else_is_in_it(entries: tuple[bytes, ...], ways: object) -> None:
    """Who calls might else hide it from the policy alone."""
    sent = b"".join(field(4, entry) for entry in entries)
    assert shown(b"\x0a\x01x" + sent, "Old") == {"must": "x", "ways": ways}


def any_of(name: str, message: bytes) -> bytes:
    return field(1, b"/google.protobuf." + name.encode()) + field(2, message)


def test_what_is_in_an_any_is_shown_or_refused_as_alone() -> None:
    entry = field(1, b"a") + field(2, b"\x20\x01") + b"\xb8\x3e\x05"
    found = shown(field(11, any_of("Struct", field(1, entry))))
    assert found == {"any": {"@type": "/google.protobuf.Struct", "value": {"a": True}}}
    with pytest.raises(BadRequestError, match="a Value of no kind"):
        shown(field(11, any_of("Struct", field(1, field(1, b"a") + field(2, b"")))))


@pytest.mark.parametrize("levels", [100, 101, 2000])
def test_anys_in_anys_are_100_at_most(levels: int) -> None:
    message = any_of("Duration", b"")
    for _ in range(levels - 1):
        message = any_of("Any", message)
    if levels == 100:
        assert shown(field(11, message))["any"]["value"]["@type"] == "/google.protobuf.Any"
    else:
        with pytest.raises(BadRequestError, match="more than 100 levels of Any"):
            shown(field(11, message))


DELIMITED = """
name: "new.proto" package: "new" syntax: "editions" edition: EDITION_2023
dependency: "google/protobuf/field_mask.proto"
options { features { message_encoding: DELIMITED } }
message_type {
  name: "Order"
  field { name: "inner" json_name: "inner" number: 1 type: TYPE_MESSAGE type_name: ".new.Order" label: LABEL_OPTIONAL }
  field { name: "tags" json_name: "tags" number: 2 type: TYPE_MESSAGE type_name: ".new.Order.TagsEntry"
          label: LABEL_REPEATED }
  nested_type {
    name: "TagsEntry" options { map_entry: true }
    field { name: "key" json_name: "key" number: 1 type: TYPE_INT32 label: LABEL_OPTIONAL }
    field { name: "value" json_name: "value" number: 2 type: TYPE_INT32 label: LABEL_OPTIONAL }
  }
}
service {
  name: "Orders"
  method { name: "Put" input_type: ".new.Order" output_type: ".new.Order" }
  method { name: "Mask" input_type: ".google.protobuf.FieldMask" output_type: ".new.Order" }
}
"""


def shown_new(message: bytes, method: str) -> Any:
    files = descriptors(DELIMITED)
    field_mask_pb2.DESCRIPTOR.CopyToProto(files.file.add())
    return Messages(files).parse(frame(message), ["new.Orders", method])[0]


def test_maps_of_a_file_with_delimited_messages_are_shown() -> None:
    tags = b"\x12\x07\x08\x05\x10\x07\xb8\x3e\x05"
    assert shown_new(b"\x0b" + tags + b"\x0c" + tags, "Put") == {
        "inner": {"tags": {"5": 7}},
        "tags": {"5": 7},
    }


@pytest.mark.parametrize(
    ("paths", "mask"),
    [
        ((), ""), ((b"a_b", b"c.d_e", b"_f"), "aB,c.dE,F"),
        *((paths, None) for paths in (
            (b"",), (b"a", b"b c"), (b"a,b",), (b"a.",), (b"1a",), (b"a__b",), ("é".encode(),),
        )),
    ],
)  # fmt: skip
def test_mask_is_shown_where_it_names_fields(paths: tuple[bytes, ...], mask: str | None) -> None:
    message = b"".join(field(1, path) for path in paths)
    if mask is None:
        with pytest.raises(BadRequestError):
            shown_new(message, "Mask")
    else:
        assert shown_new(message, "Mask") == mask


def parse(body: bytes, path: str = "/shop.Orders/Put", **headers: str) -> tuple[Any, bool]:
    sent = {"content-type": "application/grpc"} | {
        key.replace("_", "-"): value for key, value in headers.items()
    }
    return Bodies(MESSAGES).parse(sent, "", body, path)


@pytest.mark.parametrize(
    ("body", "path", "expected"),
    [
        (frame(b"\x18\x01"), "/shop.Orders/Put", ({"count": 1}, False)),
        (frame(b"\x18\x01"), "//shop.Orders/Put", ({"count": 1}, False)),
        (frame(b"\x18\x01"), "/shop%2eOrders/Put", ({"count": 1}, False)),
        (frame(b"\x18\x01") + frame(b"\x18\x02"), "/shop.Orders/Watch", ({"count": 1}, False)),  # the first of two
        (frame(b"\x18\x01"), "/shop.Orders/Upload", (None, False)),  # a client's stream
        (frame(b"\x18\x01"), "/shop.Orders/Nope", (None, False)),
        (frame(b"\x18\x01"), "/shop.Nope/Put", (None, False)),
        (frame(b"\x18\x01"), "/shop.Order/Put", (None, False)),  # a message, no service
        (frame(b"\x18\x01", flag=1), "/shop.Orders/Put", (None, False)),  # compressed
        (frame(b"\x18\x01", flag=2), "/shop.Orders/Put", (None, False)),
        (b"", "/shop.Orders/Put", (None, False)),  # Envoy without pack_as_bytes
        (frame(b"\x18\x01", length=3), "/shop.Orders/Put", (None, True)),
        (frame(b"\x18\x01", length=3), "/shop.Nope/Put", (None, True)),
        (frame(b"\x18\x01", length=2**32 - 1), "/shop.Orders/Put", (None, True)),
    ],
)  # fmt: skip
def test_body_is_the_first_message_of_a_known_method(body: bytes, path: str, expected: object) -> None:
    assert parse(body, path) == expected
    assert parse(body, path, content_length="many") == expected  # is not looked at


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"\0\0\0\0", "/shop.Orders/Put"),
        (frame(b""), "/shop.Orders"),
        (frame(b""), "/shop.Orders/Put/"),
        (frame(b"", flag=1), "/"),
    ],
)
def test_body_that_is_no_call_is_a_bad_request(body: bytes, path: str) -> None:
    with pytest.raises(BadRequestError):
        parse(body, path)


def test_text_is_no_grpc_body() -> None:
    assert Bodies(MESSAGES).parse({"content-type": "application/grpc"}, "text", b"", "/a") == (None, False)


@given(st.binary(max_size=100))
def test_any_bytes_are_parsed_or_refused(message: bytes) -> None:
    try:
        shown(message)
    except BadRequestError:
        return


def test_document_shows_the_message() -> None:
    message = http("/shop.Orders/Put?a=1", content_type="application/grpc+proto")
    message.attributes.request.http.raw_body = frame(b"\x18\x01")
    document = InputBuilder(WHOLE_INPUT, Bodies(MESSAGES)).build(message)
    assert (document["parsed_body"], document["truncated_body"]) == ({"count": 1}, False)


@pytest.mark.parametrize("paths", [WHOLE_INPUT, [("parsed_body",), ("truncated_body",)]])
def test_without_bodies_none_is_parsed_or_refused(paths: Any) -> None:
    document = InputBuilder(paths, None).build(http(body="{", content_type="application/json"))
    assert "parsed_body" not in document
    assert "truncated_body" not in document


def test_file_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "shop.binpb"
    path.write_bytes(descriptors(ITEMS, OLD).SerializeToString())
    assert Messages.load(path).parse(frame(b"\x18\x01"), PUT) == ({"count": 1}, False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"\xff", "is no protobuf descriptor set"),
        (descriptors(ITEMS, well_known=True).SerializeToString(), "imports old.proto, which is not in it"),
        (descriptors('name: "a" dependency: "a"').SerializeToString(), "a imports itself"),
        (
            descriptors(
                'name: "a" message_type { name: "A" } message_type { name: "A" }'
            ).SerializeToString(),
            "a: ",
        ),
        (
            descriptors(
                'name: "a" message_type { name: "A" field { name: "f" number: 1 type: TYPE_MESSAGE type_name: ".No" '
                "label: LABEL_OPTIONAL } }"
            ).SerializeToString(),
            "a: ",
        ),
    ],
    ids=["absent", "garbage", "import", "circle", "twice", "unknown type"],
)
def test_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "shop.binpb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LoadError) as caught:
        Messages.load(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
