"""Protobuf messages of any type, as a hypothesis strategy: any field may be there, with what hostile clients write."""

from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            *(
                "",
                "GET",
                "/",
                "/a/%zz?x=%&&=;",
                "//..//",
                "a" * 5000,
                "\0",
                "ä\u2028\U0001d4b3",
                "Bearer a.b.c",
                "true",
                "-1",
            ),
            *("application/json", "multipart/form-data; boundary=b", "application/x-www-form-urlencoded"),
            *("path", "user", "edge", "slots", "authorization", "content-type", "x-envoy-auth-partial-body"),
            *(
                '{"a": [1e400]}',
                "a=1&b=%c3",
                "--b\r\n\r\n--b--",
                "[" * 500,
                "spiffe://a/b",
                "::1",
                "10.0.0.1",
            ),
        ]
    ),
)
_BITS = {"INT32": 32, "INT64": 64, "UINT32": 32, "UINT64": 64}
_BITS |= {"SINT32": 32, "SINT64": 64, "FIXED32": 32, "FIXED64": 64, "SFIXED32": 32, "SFIXED64": 64}
_KINDS = {
    getattr(FieldDescriptor, f"TYPE_{name}"): name for name in (*_BITS, "FLOAT", "DOUBLE", "BOOL", "BYTES")
}


def _scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_STRING:
        return TEXTS
    if field.type == FieldDescriptor.TYPE_ENUM:
        return st.integers(-1, 20)
    kind = _KINDS[field.type]
    if kind in _BITS:
        signed = not kind.startswith(("U", "FIXED"))
        bits = _BITS[kind] - signed
        lowest, highest = -(2**bits) if signed else 0, 2**bits - 1
        return st.sampled_from([lowest, highest, 0, 1]) | st.integers(lowest, highest)
    return {
        "FLOAT": st.floats(width=32),
        "DOUBLE": st.floats(),
        "BOOL": st.booleans(),
        "BYTES": st.binary(max_size=50),
    }[kind]


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, depth: int = 5) -> Message:
    made = message_factory.GetMessageClass(descriptor)()
    fields = [field for field in descriptor.fields if depth or field.message_type is None]
    if descriptor.full_name == "google.protobuf.Any":  # its type is for the reader to know
        return made
    chosen = (
        draw(st.lists(st.sampled_from(fields), max_size=8, unique_by=lambda each: each.number))
        if fields
        else []
    )
    for field in chosen:
        _fill(draw, made, field, depth)
    return made


def _fill(draw: st.DrawFn, made: Message, field: FieldDescriptor, depth: int) -> None:
    def value(of: FieldDescriptor) -> Any:
        return draw(_scalars(of) if of.message_type is None else messages(of.message_type, depth - 1))

    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        names = field.message_type.fields_by_name
        for _ in range(draw(st.integers(0, 3))):
            key, found = value(names["key"]), value(names["value"])
            if names["value"].message_type is None:
                getattr(made, field.name)[key] = found
            else:
                getattr(made, field.name)[key].CopyFrom(found)
    elif field.is_repeated:
        getattr(made, field.name).extend([value(field) for _ in range(draw(st.integers(0, 3)))])
    elif field.message_type is not None:
        getattr(made, field.name).CopyFrom(value(field))
    else:
        setattr(made, field.name, value(field))
