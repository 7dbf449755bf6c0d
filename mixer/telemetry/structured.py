"""Filter state and dynamic metadata, whose shape is their filter's business, as text of a record."""

import base64
from collections.abc import Collection
from typing import Any

import orjson
from google.protobuf import descriptor_pool, json_format, message_factory, wrappers_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct

from mixer.telemetry import intake_pb2 as intake
from mixer.telemetry.wire import length

_TEXT = wrappers_pb2.StringValue.DESCRIPTOR.full_name
_BYTES = wrappers_pb2.BytesValue.DESCRIPTOR.full_name


def state_text(data: bytes) -> str:
    """A google.protobuf.Any as text: a string as it is, bytes that are UTF-8 likewise, what is of a type that is known
    here as its JSON, all else as JSON with its type and its bytes in base64. Raises protobuf's `DecodeError`."""
    packed = AnyMessage.FromString(data)
    name = packed.TypeName()
    try:
        value = _parsed(name, packed.value)
        if name == _TEXT:
            return str(value.value)
        if name == _BYTES:
            return bytes(value.value).decode()
        return orjson.dumps(json_format.MessageToDict(value, preserving_proto_field_name=True)).decode()
    except (
        KeyError,
        DecodeError,
        UnicodeDecodeError,
        json_format.Error,
        TypeError,
        ValueError,
        RecursionError,
    ):
        encoded = base64.b64encode(packed.value).decode()
        return orjson.dumps({"@type": packed.type_url, "value": encoded}).decode()


def _parsed(name: str, data: bytes) -> Any:
    """Raises `KeyError` for a type that is not known here."""
    found = descriptor_pool.Default().FindMessageTypeByName(name)
    return message_factory.GetMessageClass(found).FromString(data)


def metadata_texts(metadata: bytes, names: Collection[str]) -> dict[str, str]:
    """Of dynamic metadata, what these filters left, by their names: JSON objects. What cannot be read is left out."""
    found: dict[str, str] = {}
    try:
        namespaces = intake.Metadata.FromString(metadata).filter_metadata
    except DecodeError:
        return found
    for namespace in namespaces:
        if namespace.key in names:
            try:
                found[namespace.key] = _object(namespace.value.fields)
            except (DecodeError, json_format.Error, ValueError, RecursionError):
                continue
    return found


def _object(entries: Collection[bytes]) -> str:
    struct = Struct.FromString(b"".join(b"\x0a" + length(len(entry)) + entry for entry in entries))
    return orjson.dumps(json_format.MessageToDict(struct)).decode()
