"""What attributes of OpenTelemetry's log records tell a record: their names, and the form of their values.

An attribute is named as the record's field in JSON (proto/mixer/telemetry/v1/access_record.proto). Envoy's logger can
send text alone, so numbers are read from it as well; empty text and `-`, which it sends for what there is not, are
absent.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError

from mixer.telemetry import otlp_pb2 as otlp
from mixer.telemetry.flags import METHODS
from mixer.telemetry.record import MAPS, PLAIN, SCHEMA_FIELDS, Fields
from mixer.telemetry.v1.access_record_pb2 import AccessRecord as Schema

MAX_ATTRIBUTES = 1000  # of one record, or of its resource
# What tells of slots of concurrency limits, and is in no record: whether the decision's id holds some, and who else.
HOLDS, HOLDERS = "mixer.holds", "mixer.holders"
# Maps of headers, in the order in which they are taken: the last one counts.
HEADERS = ("http_response_header", "http_response_trailer", "http_request_header")

_MAX_KNOWN = 16_384  # attributes of less than 256 bytes, about 8 MB
_VALUES = 256  # of one name
_ANEW = 1_000_000  # attributes that found no room under their name, until all is learnt anew

Value = str | bool | int | float | None
"""None: absent."""

_SPAN = re.compile(r"(\d{1,18})(?:\.(\d{1,9}))?(ns|us|ms|s)", re.ASCII)
_NO_SPAN = re.compile(r"-?(ns|us|ms|s)?")
_NANOS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_DIGITS = re.compile(r"\d{1,20}", re.ASCII)
_MAX_SPAN = 315_576_000_000  # seconds, protobuf's
_METHODS = frozenset(METHODS.values())
_ABSENT = ("", "-")
_KEY = 0x0A  # tag of a KeyValue's name
_TYPES = frozenset(Schema.AccessLogType.keys())


class MalformedError(ValueError):
    """A record's attribute is not what its name says. The message shows no value: it may be a secret."""


class Attribute(NamedTuple):
    """`field` of the schema, or of a map there (`key` is its entry), with its value."""

    field: str
    value: Any
    key: str = ""


def pairs(encoded: Any) -> list[tuple[str, Any]]:
    """Names and values of KeyValue messages: text, bool, int, float, or bytes for what is none of these."""
    if len(encoded) > MAX_ATTRIBUTES:
        raise MalformedError(f"expected at most {MAX_ATTRIBUTES} attributes, got {len(encoded)}")
    return list(map(pair, encoded))


def pair(data: bytes) -> tuple[str, Any]:
    try:
        parsed = otlp.KeyValue.FromString(data)
    except DecodeError:
        raise MalformedError("an attribute is no valid protobuf message") from None
    return parsed.key.decode("utf-8", "replace"), value(parsed.value)


def value(any_value: Any) -> Any:
    kind = any_value.WhichOneof("value")
    if kind is None:
        return None
    found = getattr(any_value, kind)
    if kind == "string_value":
        found = found.decode("utf-8", "replace")
        return None if found in _ABSENT else found
    return found


class Attributes:
    """What attributes tell, by their bytes. What is found out by a name alone is found once, and the first values that
    come under a name are remembered: of Envoy's 43 attributes of a request 25 come again and again."""

    def __init__(self) -> None:
        self._tell: dict[bytes, Tell] = {}
        self._known: dict[bytes, tuple[Attribute, ...]] = {}
        self._room: dict[bytes, int] = {}  # values that may still be remembered under a name
        self._missed = 0  # times that there was none

    def __call__(self, data: bytes) -> tuple[Attribute, ...]:
        """What one KeyValue tells. Raises `MalformedError`."""
        if (known := self._known.get(data)) is not None:
            return known
        # As Envoy writes them: a name, and a text, each of less than 128 bytes. This way takes a fifth of the time.
        if len(data) > 4 and data[0] == _KEY and (end := data[1] + 2) < min(len(data) - 3, 130):
            size = len(data) - end - 4
            if data[end : end + 4] == b"\x12%c\x0a%c" % (size + 2 & 0xFF, size & 0xFF) and size < 126:
                name, text = data[2:end], data[end + 4 :].decode("utf-8", "replace")
                if text in _ABSENT:
                    return ()
                if (tell := self._tell.get(name)) is None:
                    tell = self._know(name)
                attributes = tell(text)
                if self._room.get(name, 1) > 0:
                    self._remember(name, data, attributes)
                else:
                    self._missed += 1
                    if self._missed >= _ANEW:
                        self._forget()
                return attributes
        return told(*pair(data))

    def _remember(self, name: bytes, data: bytes, attributes: tuple[Attribute, ...]) -> None:
        if len(self._known) >= _MAX_KNOWN:
            self._forget()
        self._room[name] = self._room.get(name, _VALUES) - 1
        self._known[data] = attributes

    def _forget(self) -> None:
        """Others may come again and again now."""
        self._known.clear()
        self._room.clear()
        self._missed = 0

    def _know(self, name: bytes) -> "Tell":
        if len(self._tell) >= MAX_ATTRIBUTES:
            self._tell.clear()
        tell = self._tell[name] = teller(name.decode("utf-8", "replace"))
        return tell


Tell = Callable[[Value], tuple[Attribute, ...]]


def told(name: str, found: Any) -> tuple[Attribute, ...]:
    """What a name and a value tell."""
    if found is None:
        return ()
    if isinstance(found, bytes):
        raise MalformedError(f'attribute "{_shown(name)}": expected text, a number or a boolean')
    return teller(name)(found)


def teller(name: str) -> Tell:
    """What a value tells under this name; one that is none of the record's is that of a custom tag. Raises
    `MalformedError` for no name at all."""
    if not name:
        raise MalformedError("an attribute has no name")
    if (special := SPECIAL.get(name)) is not None:
        return lambda found: special(text_of(found))
    field, key = placed(name)
    if key:
        return partial(_entry, field, key)
    if name in _SPANS:
        return lambda found: () if (time := span_of(name, found)) is None else (Attribute(field, time),)
    convert = _CONVERT[SCHEMA_FIELDS[field].cpp_type]
    return lambda found: _present(field, convert(name, found))


def placed(name: str) -> tuple[str, str]:
    """Where a value is under a name that is none of `SPECIAL`: its field, and where that is a map its key there."""
    if (field := PLAIN.get(name, _SPANS.get(name))) is not None and name not in _OURS:
        return field, ""
    for prefix, field in MAPS.items():
        if name.startswith(f"{prefix}.") and (key := name[len(prefix) + 1 :]):
            return field, key.lower() if prefix.startswith("http.") else key
    return "envoy_custom_tags", name


def _entry(field: str, key: str, found: Value) -> tuple[Attribute, ...]:
    return (Attribute(field, text_of(found), key),)


def _present(field: str, value: Any) -> tuple[Attribute, ...]:
    """Zero and empty text are what they are where a field is `optional`, else they are absent."""
    return (Attribute(field, value),) if value or SCHEMA_FIELDS[field].has_presence else ()


def text_of(found: Value) -> str:
    return str(found).lower() if isinstance(found, bool) else str(found)


def _shown(name: str) -> str:
    """A name as an error shows it."""
    return name if len(name) <= 80 else f"{name[:79]}…"


def _string(_: str, found: Value) -> str:
    return text_of(found)


def _number(bits: int) -> Callable[[str, Value], int]:
    def convert(name: str, found: Value) -> int:
        if isinstance(found, str) and _DIGITS.fullmatch(found):
            found = int(found)
        if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 1 << bits:
            raise MalformedError(f'attribute "{name}": expected a whole number of {bits} bits from 0 up')
        return found

    return convert


def _bool(name: str, found: Value) -> bool:
    if isinstance(found, bool):
        return found
    if found in ("true", "false"):
        return found == "true"
    raise MalformedError(f'attribute "{name}": expected true or false')


def _enum(name: str, found: Value) -> int:
    if isinstance(found, str) and found in _TYPES:
        return int(Schema.AccessLogType.Value(found))
    raise MalformedError(
        f'attribute "{name}": expected the name of an access log type, such as DownstreamEnd'
    )


def span_of(name: str, found: Value) -> Duration | None:
    """`12ms`, `3764860ns`, `0.003764860s`."""
    text = text_of(found)
    if match := _SPAN.fullmatch(text):
        whole, part, unit = match.groups()
        scale = _NANOS[unit]
        nanos = int(whole) * scale + int((part or "").ljust(9, "0")) * scale // 1_000_000_000
        if nanos // 1_000_000_000 <= _MAX_SPAN:
            return Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)
    elif _NO_SPAN.fullmatch(text):
        return None
    raise MalformedError(f'attribute "{name}": expected a span with its unit (ns, us, ms, s), such as 12ms')


# By protobuf's descriptor.CPPTYPE_…
_CONVERT: Mapping[int, Callable[[str, Value], Any]] = {
    3: _number(32),
    4: _number(64),
    7: _bool,
    8: _enum,
    9: _string,
}
_SPANS = {
    field.json_name: name
    for name, field in SCHEMA_FIELDS.items()
    if field.message_type is not None and field.message_type.full_name == Duration.DESCRIPTOR.full_name
}
_OURS = frozenset({"event_id"})  # is given here, and is what it tells by


# What Envoy or OpenTelemetry has in another form than the record


def _method(text: str) -> tuple[Attribute, ...]:
    return (Attribute("http_request_method", text if text in _METHODS else "_OTHER"),)


def _path(text: str) -> tuple[Attribute, ...]:
    """Also with its query, as Envoy's :path is."""
    path, _, query = text.partition("?")
    return (*_present("url_path", path), *_present("url_query", query))


def _full(text: str) -> tuple[Attribute, ...]:
    try:
        url = urlsplit(text)
    except ValueError:
        raise MalformedError('attribute "url.full": expected a URL') from None
    query = url.query or url.fragment
    return (*_present("url_scheme", url.scheme), *_address(url.netloc), *_path(f"{url.path}?{query}"))


def _address(text: str) -> tuple[Attribute, ...]:
    """Also with its port, as Envoy's :authority is; without the user that a URL may name before it."""
    return tuple(Attribute(name, value) for name, value in authority(text).items() if value)


def _version(text: str) -> tuple[Attribute, ...]:
    """`HTTP/1.1` is 1.1."""
    return _present("network_protocol_version", text.removeprefix("HTTP/"))


def _tls_version(text: str) -> tuple[Attribute, ...]:
    return _present("tls_protocol_version", text.removeprefix("TLSv"))


def _principal(side: str) -> Callable[[str], tuple[Attribute, ...]]:
    def first(text: str) -> tuple[Attribute, ...]:
        """Of a certificate's names, the first."""
        return _present(f"istio_{side}_principal", text.partition(",")[0])

    return first


def authority(text: str) -> Fields:
    """Host and port that the client asked for."""
    text = text.rpartition("@")[2]
    host, colon, port = text.rpartition(":")
    if not colon:
        return {"server_address": text}
    if port.isdecimal() and len(port) <= 5 and (":" not in host or host.startswith("[")):
        return {"server_address": host.strip("[]"), "server_port": int(port)}
    return {"server_address": text.strip("[]")}


def _holds(text: str) -> tuple[Attribute, ...]:
    return (Attribute(HOLDS, True),) if _bool(HOLDS, text) else ()


def _holders(text: str) -> tuple[Attribute, ...]:
    """A list in JSON, as Envoy writes one of dynamic metadata."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, list) or not all(isinstance(holder, str) for holder in found):
        raise MalformedError(f'attribute "{HOLDERS}": expected a list of text, as JSON')
    return (Attribute(HOLDERS, tuple(filter(None, found))),)


SPECIAL: Mapping[str, Callable[[str], tuple[Attribute, ...]]] = {
    "http.request.method": _method,
    "url.path": _path,
    "url.full": _full,
    "server.address": _address,
    "network.protocol.version": _version,
    "tls.protocol.version": _tls_version,
    "istio.source_principal": _principal("source"),
    "istio.destination_principal": _principal("destination"),
    HOLDS: _holds,
    HOLDERS: _holders,
}
