"""The little of protobuf's wire format that is written and looked at by hand.

https://protobuf.dev/programming-guides/encoding/
"""

from google.protobuf.message import DecodeError

from mixer.telemetry.intake_pb2 import Header
from mixer.telemetry.v1.access_record_pb2 import AccessRecord

SHORT = 128  # a length below it is one byte


def tag(field: str) -> bytes:
    """What stands before the length of a record's field whose value is text or a message."""
    number = AccessRecord.DESCRIPTOR.fields_by_name[field].number << 3 | 2
    return bytes((number & 127 | 128, number >> 7))


def length(size: int) -> bytes:
    """A length as a varint."""
    out = bytearray()
    while size >= SHORT:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out)


_LENGTHS = tuple(length(size) for size in range(512))


def prefixed(size: int) -> bytes:
    """A length as a varint, looked up where it is short."""
    return _LENGTHS[size] if size < 512 else length(size)


def header(entry: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Of an entry of a map from text to text: its name in lower case, its value, and the entry made sound.

    None for one that protobuf would refuse.
    """
    # Nearly all are as Envoy writes them: a name and a value, both short and in ASCII, and nothing else.
    size = len(entry)
    if size > 3 and entry[0] == 0x0A and entry[1] < SHORT and (end := entry[1] + 2) + 1 < size:
        value_size = entry[end + 1]
        if entry[end] == 0x12 and value_size < SHORT and end + 2 + value_size == size and entry.isascii():
            return entry[2:end].lower(), entry[end + 2 :], entry
    try:
        parsed = Header.FromString(entry)
    except DecodeError:
        return None
    return (
        parsed.key.lower().encode(),
        parsed.value.encode(),
        Header(key=parsed.key, value=parsed.value).SerializeToString(),
    )
