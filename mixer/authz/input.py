"""A CheckRequest as the input document of OPA's Envoy plugin, built only as far as the policy can read it.

Source of the shape: opa-envoy-plugin, `envoyauth/request.go` and `protomap.go`.
"""

import math
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from mixer.authz.body import Bodies
from mixer.authz.url import BadRequestError, parse_path, parse_query
from mixer.policy.engine import WHOLE_INPUT, Path

BODIES = Bodies()
VERSION = {"ext_authz": "v3", "encoding": "protojson"}

Tree = dict[str, Any]  # a name to the tree below it; {} is everything
Converter = Callable[[Any], Any]


class InputBuilder:
    """Builds the part of the input that `paths` name; without `bodies`, no body is looked at."""

    def __init__(self, paths: Iterable[Path], bodies: Bodies | None = BODIES) -> None:
        paths = tuple(paths)
        tree = _tree(paths)
        self._whole = () in paths
        self._attributes = (
            _message(AttributeContext.DESCRIPTOR, tree.get("attributes", {}))
            if self._wants(tree, "attributes")
            else None
        )
        self._header_names = () if self._whole else _header_names(tree)
        for name in (
            "version",
            "parsed_path",
            "parsed_query",
            "parsed_body",
            "truncated_body",
            "source_principal",
        ):
            setattr(self, f"_{name}", self._wants(tree, name))
        self._bodies = bodies if bodies is None or self._parsed_body else bodies.unshown()

    _version: bool
    _parsed_path: bool
    _parsed_query: bool
    _parsed_body: bool
    _truncated_body: bool
    _source_principal: bool

    def _wants(self, tree: Tree, name: str) -> bool:
        return self._whole or name in tree

    def build(self, request: CheckRequest) -> dict[str, Any]:
        """The input document. Raises `BadRequestError` for a path, query or body that cannot be parsed, also where
        the policy would not read it: the plugin does, and a policy's author counts on it."""
        document: dict[str, Any] = {}
        attributes = request.attributes
        http = attributes.request.http
        if self._attributes is not None and request.HasField("attributes"):
            document["attributes"] = converted = self._attributes(attributes)
            if self._header_names is not None and http.HasField("header_map") and not http.headers:
                headers = headers_of(http)
                wanted = {name: headers[name] for name in self._header_names or headers if name in headers}
                converted.setdefault("request", {}).setdefault("http", {})["headers"] = wanted
        path, _, query = http.path.partition("?")
        if self._parsed_path or "%" in path:
            parsed_path = parse_path(path)
            if self._parsed_path:
                document["parsed_path"] = parsed_path
        if self._parsed_query or query:
            parsed_query = parse_query(query) if query else {}
            if self._parsed_query:
                document["parsed_query"] = parsed_query
        if (bodies := self._bodies) is not None and (
            self._parsed_body or self._truncated_body or http.body or http.raw_body
        ):
            body, truncated = bodies.parse(headers_of(http), http.body, http.raw_body, path)
            if self._parsed_body:
                document["parsed_body"] = body
            if self._truncated_body:
                document["truncated_body"] = truncated
        if self._version:
            document["version"] = VERSION
        if self._source_principal and attributes.source.principal:
            document["source_principal"] = attributes.source.principal
        return document


class WholeInput:
    """Builds the whole input of requests that were decided before, by whatever an engine read of them."""

    def __init__(self, bodies: Bodies | None = BODIES) -> None:
        self._whole = InputBuilder(WHOLE_INPUT, bodies)
        self._bodiless = InputBuilder(WHOLE_INPUT, None)

    def build(self, request: CheckRequest) -> dict[str, Any]:
        """The input document. Without `parsed_body` where that cannot be shown here; as text the body is in it."""
        try:
            return self._whole.build(request)
        except BadRequestError:
            return self._bodiless.build(request)


def _tree(paths: Iterable[Path]) -> Tree:
    """Paths as a tree; an empty tree below a name means all of it."""
    tree: Tree = {}
    for path in sorted(paths, key=len, reverse=True):
        at = tree
        for part in path:
            at = at.setdefault(part, {})
        at.clear()  # shorter paths come last and cover the longer
    return tree


def _header_names(tree: Tree) -> tuple[str, ...] | None:
    """Header names that the policy reads; () is all of them, None is none."""
    at = tree
    for part in ("attributes", "request", "http", "headers"):
        if part not in at:
            return None
        at = at[part]
        if not at:
            return ()
    return tuple(at)


def headers_of(http: AttributeContext.HttpRequest) -> Mapping[str, str]:
    """The request's headers, raw ones as text; Envoy sends these or those."""
    return http.headers or (_from_header_map(http) if http.HasField("header_map") else {})


def _from_header_map(http: AttributeContext.HttpRequest) -> dict[str, str]:
    """`headers` out of `header_map` (Envoy's `encode_raw_headers`); values of one name joined with a comma."""
    headers: dict[str, str] = {}
    for header in http.header_map.headers:
        value = header.value or header.raw_value.decode("utf-8", "replace")
        headers[header.key] = f"{headers[header.key]},{value}" if header.key in headers else value
    return headers


def _message(descriptor: Descriptor, tree: Tree) -> Converter:
    """A converter for one message type: its fields by JSON name, those at their default left out."""
    if descriptor is Struct.DESCRIPTOR:
        return _struct
    if not tree:
        return _whole
    fields = {field.json_name: field for field in descriptor.fields}
    steps = [_step(fields[name], below) for name, below in tree.items() if name in fields]

    def convert(message: Any) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, read in steps:
            if (value := read(message)) is not None:
                result[name] = value
        return result

    return convert


def _step(field: FieldDescriptor, tree: Tree) -> tuple[str, Converter]:  # noqa: PLR0911 (a case each)
    """How one field is read: None where it is unset or at its default."""
    name = field.name
    if field.is_repeated and not _is_map(field):
        element = _element(field)
        return field.json_name, lambda message: [element(item) for item in getattr(message, name)] or None
    if _is_map(field):
        element = _map_element(field)
        if not tree:
            return (
                field.json_name,
                lambda message: {key: element(item) for key, item in getattr(message, name).items()} or None,
            )
        wanted = tuple(tree)

        def read_map(message: Any) -> dict[str, Any] | None:
            found = getattr(message, name)
            # Empty where none of its names is wanted, but there: a policy may ask for the map itself.
            return {key: element(found[key]) for key in wanted if key in found} if found else None

        return field.json_name, read_map
    if field.message_type is not None:
        convert = _message(field.message_type, tree)
        return (
            field.json_name,
            lambda message: convert(getattr(message, name)) if message.HasField(name) else None,
        )
    if field.has_presence:
        scalar = _element(field)
        return (
            field.json_name,
            lambda message: scalar(getattr(message, name)) if message.HasField(name) else None,
        )
    if field.type == FieldDescriptor.TYPE_BYTES:
        return field.json_name, lambda message: _bytes(value) if (value := getattr(message, name)) else None
    return field.json_name, lambda message: getattr(message, name) or None


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _map_element(field: FieldDescriptor) -> Converter:
    assert field.message_type is not None  # noqa: S101 (for the type checker; a map has one)
    return _element(field.message_type.fields_by_name["value"])


def _element(field: FieldDescriptor) -> Converter:
    if field.message_type is not None:
        return _message(field.message_type, {})
    return _bytes if field.type == FieldDescriptor.TYPE_BYTES else _same


def _same(value: Any) -> Any:
    return value


def _bytes(value: bytes) -> str:
    return b64encode(value).decode()


def _whole(message: Message) -> dict[str, Any]:
    """All fields that are set, enums as numbers and well-known types as the plain messages they are."""
    result: dict[str, Any] = {}
    for field, value in message.ListFields():
        if _is_map(field):
            element = _map_element(field)
            result[field.json_name] = {str(key): element(item) for key, item in value.items()}
        elif field.is_repeated:
            element = _element(field)
            result[field.json_name] = [element(item) for item in value]
        else:
            result[field.json_name] = _element(field)(value)
    return result


def _struct(message: Struct) -> dict[str, Any]:
    return {key: _value(value) for key, value in message.fields.items()}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _struct(value.struct_value)
    if kind == "list_value":
        return [_value(item) for item in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        if not math.isfinite(number):  # as protobuf's JSON has it
            return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    return None if kind in (None, "null_value") else getattr(value, kind)
