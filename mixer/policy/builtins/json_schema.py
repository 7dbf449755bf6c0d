"""`json.match_schema` and `json.verify_schema`: JSON Schema (drafts 4, 6, 7) as OPA's copy of gojsonschema reads it.

No library gives its errors, which a policy sees: their texts, types and fields. Where several are found, their order is
that of the schema here; in OPA it is chance. References to other documents are not followed: the evaluation fails.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from functools import cmp_to_key, lru_cache
from typing import Any

from mixer.policy.builtins.formats import compare
from mixer.policy.builtins.gojson import dumps
from mixer.policy.builtins.operands import BuiltinError, UnsupportedError
from mixer.policy.builtins.schema_formats import shown, valid_pattern

_TYPES = ["array", "boolean", "integer", "number", "null", "object", "string"]
_DRAFTS = {f"http://json-schema.org/draft-0{number}/schema#": number for number in (4, 6, 7)}
_HYBRID = 99  # the draft of a schema that names none: what all of them have
_SCHEMA, _OR_STRINGS = "Valid Schema", "Schema Or Array Of Strings"


class SchemaError(Exception):
    """A schema that cannot be compiled, in gojsonschema's words."""


@dataclass(slots=True, eq=False)
class Schema:
    """A compiled schema. `passes`: of one that is true or false."""

    passes: bool | None = None
    reference: "Schema | None" = None
    types: list[str] = field(default_factory=list)
    properties: "dict[str, Schema]" = field(default_factory=dict)
    patterns: "dict[str, Schema]" = field(default_factory=dict)
    dependencies: "dict[str, Schema | list[str]]" = field(default_factory=dict)
    items: "Schema | list[Schema]" = field(default_factory=list)
    additional_properties: "Schema | bool | None" = None
    additional_items: "Schema | bool | None" = None
    parts: "dict[str, Schema]" = field(default_factory=dict)  # not, if, then, else, contains, propertyNames
    several: "dict[str, list[Schema]]" = field(default_factory=dict)  # anyOf, oneOf, allOf
    numbers: dict[str, Fraction] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    required: list[str] = field(default_factory=list)
    unique: bool = False
    constant: str | None = None
    choices: list[str] | None = None
    format: str = ""
    pattern: str | None = None


def plain(value: Any) -> Any:
    """A value of Rego as JSON has it: a set is a list in its order."""
    if isinstance(value, set | frozenset):
        return [plain(item) for item in sorted(value, key=cmp_to_key(compare))]
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key if isinstance(key, str) else dumps(key): plain(item) for key, item in value.items()}
    return value


def loaded(operand: object) -> Any:
    """The document that an operand is, or has as text. Raises `SchemaError`."""
    if isinstance(operand, str):
        try:
            return json.loads(operand, parse_float=Decimal, parse_constant=_none)
        except (ValueError, RecursionError):
            raise SchemaError("invalid JSON string") from None
    if not isinstance(operand, dict | list):
        raise SchemaError("wrong type, expected string or object")
    return plain(operand)


def _none(constant: str) -> None:
    raise ValueError(constant)


def is_number(value: object) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def ratio(value: Any) -> Fraction:
    return Fraction(repr(value) if isinstance(value, float) else value)


def canonical(value: Any) -> str:
    """Text that is equal for equal values."""
    if is_number(value):
        return shown(float(value))
    if isinstance(value, list):
        return f"[{','.join(map(canonical, value))}]"
    if isinstance(value, dict):
        return "{%s}" % ",".join(f"{dumps(key)}:{canonical(value[key])}" for key in sorted(value))  # noqa: UP031
    return dumps(value)


class _Compiler:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._references: dict[str, Schema] = {}
        draft = root.get("$schema") if isinstance(root, dict) else None
        if draft is not None and not isinstance(draft, str):
            raise SchemaError("$schema must be of type string")
        if draft is not None and draft not in _DRAFTS:
            raise UnsupportedError("a JSON schema of another draft than 4, 6 and 7")
        self._draft = _HYBRID if draft is None else _DRAFTS[draft]

    def compile(self) -> Schema:
        if not isinstance(self._root, bool | dict):
            raise SchemaError("schema is invalid")
        return self._schema(self._root)

    def _schema(self, node: Any) -> Schema:
        schema = Schema()
        self._fill(schema, node)
        return schema

    def _fill(self, schema: Schema, node: Any) -> None:
        if isinstance(node, bool) and self._draft >= 6:
            schema.passes = node
            return
        if not isinstance(node, dict):
            raise SchemaError(f"Expected: {_SCHEMA}, given: Invalid JSON")
        for name in ("id", "$id"):
            if isinstance(node.get(name), str) and node is not self._root:
                raise UnsupportedError("a JSON schema with an id within it")
        self._definitions(node)
        for name in ("title", "description"):
            _text(node, name)
        if (reference := _text(node, "$ref")) is not None:
            schema.reference = self._referred(reference)
            return
        self._types(schema, node)
        self._objects(schema, node)
        self._arrays(schema, node)
        self._numbers(schema, node)
        self._texts(schema, node)
        self._sizes(schema, node, "Properties")
        self._required(schema, node)
        self._sizes(schema, node, "Items")
        self._rest(schema, node)
        self._combined(schema, node)

    def _definitions(self, node: dict[str, Any]) -> None:
        given = node.get("definitions", {})
        if not isinstance(given, dict) or not all(isinstance(each, bool | dict) for each in given.values()):
            raise _invalid("Array Of Schemas", "definitions")
        for each in given.values():
            self._schema(each)

    def _referred(self, reference: str) -> Schema:
        if reference not in self._references:
            if reference != "#" and not reference.startswith("#/"):
                raise UnsupportedError("a JSON schema with a reference to another document")
            schema = self._references[reference] = Schema()
            node = self._pointed(reference)
            if not isinstance(node, bool | dict):
                raise SchemaError(f"{_SCHEMA} must be of type object")
            self._fill(schema, node)
        return self._references[reference]

    def _pointed(self, reference: str) -> Any:
        if "%" in reference:
            raise UnsupportedError("a JSON schema with escapes in a reference")
        node = self._root
        for part in reference[2:].split("/") if reference != "#" else ():
            name = part.replace("~1", "/").replace("~0", "~")
            try:
                node = node[int(name)] if isinstance(node, list) else node[name]
            except (KeyError, ValueError, IndexError, TypeError):
                raise UnsupportedError("a JSON schema with a reference to what is not there") from None
        return node

    def _types(self, schema: Schema, node: dict[str, Any]) -> None:
        if "type" not in node:
            return
        given = node["type"] if isinstance(node["type"], list) else [node["type"]]
        for each in given:
            if not isinstance(each, str):
                raise _invalid("type", "string/Array Of Strings")
            if each not in _TYPES:
                valid = f"[{' '.join(_TYPES)}]"
                what = f"has a primitive type that is NOT VALID -- given: /{each}/ Expected valid values are:{valid}"
                raise SchemaError(what)
            if each in schema.types:
                raise SchemaError(f"{each} type is duplicated")
            schema.types.append(each)

    def _objects(self, schema: Schema, node: dict[str, Any]) -> None:
        if "properties" in node:
            if not isinstance(node["properties"], dict):
                raise SchemaError("Properties must be of type object")
            schema.properties = {name: self._schema(each) for name, each in node["properties"].items()}
        schema.additional_properties = self._additional(node, "additionalProperties")
        patterns = node.get("patternProperties", {})
        if not isinstance(patterns, dict):
            raise _invalid(_SCHEMA, "patternProperties")
        for pattern, each in patterns.items():
            if not valid_pattern(pattern):
                raise SchemaError(f"Invalid regex pattern '{pattern}'")
            schema.patterns[pattern] = self._schema(each)
        if "propertyNames" in node and self._draft >= 6:
            if not isinstance(node["propertyNames"], bool | dict):
                raise _invalid(_SCHEMA, "patternProperties")
            schema.parts["propertyNames"] = self._schema(node["propertyNames"])
        self._dependencies(schema, node)

    def _additional(self, node: dict[str, Any], name: str) -> Schema | bool | None:
        given = node.get(name, True)
        if isinstance(given, bool):
            return given if name in node else None
        if not isinstance(given, dict):
            raise _invalid(f"boolean/{_SCHEMA}", name)
        return self._schema(given)

    def _dependencies(self, schema: Schema, node: dict[str, Any]) -> None:
        given = node.get("dependencies", {})
        if not isinstance(given, dict):
            raise SchemaError("dependencies must be of type object")
        for name, each in given.items():
            if isinstance(each, list) and all(isinstance(item, str) for item in each):
                if each:
                    schema.dependencies[name] = each
            elif isinstance(each, bool | dict):
                schema.dependencies[name] = self._schema(each)
            else:
                raise SchemaError(f"Dependency must be of type {_OR_STRINGS}")

    def _arrays(self, schema: Schema, node: dict[str, Any]) -> None:
        items = node.get("items", [])
        if isinstance(items, list):
            if not all(isinstance(each, bool | dict) for each in items):
                raise _invalid(f"{_SCHEMA}/Array Of Schemas", "items")
            schema.items = [self._schema(each) for each in items]
        elif isinstance(items, bool | dict):
            schema.items = self._schema(items)
        else:
            raise _invalid(f"{_SCHEMA}/Array Of Schemas", "items")
        schema.additional_items = self._additional(node, "additionalItems")

    def _numbers(self, schema: Schema, node: dict[str, Any]) -> None:
        if "multipleOf" in node:
            if not is_number(node["multipleOf"]):
                raise _invalid("Number", "multipleOf")
            schema.numbers["multipleOf"] = ratio(node["multipleOf"])
            if schema.numbers["multipleOf"] <= 0:
                raise SchemaError("multipleOf must be strictly greater than 0")
        for name, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
            if name in node:
                if not is_number(node[name]):
                    raise SchemaError(f"{name} must be of a Number")
                schema.numbers[name] = ratio(node[name])
            if exclusive in node:
                self._exclusive(schema.numbers, name, exclusive, node[exclusive])

    def _exclusive(self, numbers: dict[str, Fraction], name: str, exclusive: str, given: Any) -> None:
        takes_booleans, takes_numbers = self._draft in (4, _HYBRID), self._draft != 4
        if isinstance(given, bool) and takes_booleans:
            if name not in numbers:
                raise SchemaError(f"{exclusive} cannot be used without {name}")
            if given:
                numbers[exclusive] = numbers.pop(name)
        elif is_number(given) and takes_numbers:
            numbers[exclusive] = ratio(given)
        else:
            kinds = ["boolean"] * takes_booleans + ["number"] * takes_numbers
            raise _invalid("/".join(kinds), exclusive)

    def _texts(self, schema: Schema, node: dict[str, Any]) -> None:
        self._sizes(schema, node, "Length")
        schema.pattern = _text(node, "pattern")
        if schema.pattern is not None and not valid_pattern(schema.pattern):
            raise SchemaError("pattern must be a valid regex")
        schema.format = _text(node, "format") or ""

    @staticmethod
    def _sizes(schema: Schema, node: dict[str, Any], of: str) -> None:
        least, most = f"min{of}", f"max{of}"
        for name in (least, most):
            if name in node:
                value = node[name]
                if not isinstance(value, int) or isinstance(value, bool):
                    raise SchemaError(f"{name} must be of an integer")
                if value < 0:
                    raise SchemaError(f"{name} must be greater than or equal to 0")
                schema.sizes[name] = value
        if of != "Items" and schema.sizes.get(least, 0) > schema.sizes.get(most, 2**63):
            raise SchemaError(f"{least} cannot be greater than {most}")

    @staticmethod
    def _required(schema: Schema, node: dict[str, Any]) -> None:
        for name in _list(node, "required"):
            if not isinstance(name, str):
                raise _invalid("string", "required")
            if name in schema.required:
                raise SchemaError("required items must be unique")
            schema.required.append(name)

    def _rest(self, schema: Schema, node: dict[str, Any]) -> None:
        unique = node.get("uniqueItems", False)
        if not isinstance(unique, bool):
            raise SchemaError("uniqueItems must be of a boolean")
        schema.unique = unique
        if "contains" in node and self._draft >= 6:
            schema.parts["contains"] = self._schema(node["contains"])
        if "const" in node and self._draft >= 6:
            schema.constant = canonical(node["const"])
        if "enum" in node:
            schema.choices = []
            for each in map(canonical, _list(node, "enum")):
                if each in schema.choices:
                    raise SchemaError("enum items must be unique")
                schema.choices.append(each)

    def _combined(self, schema: Schema, node: dict[str, Any]) -> None:
        for name in ("oneOf", "anyOf", "allOf"):
            schema.several[name] = [self._schema(each) for each in _list(node, name)]
        for name in ("not", "if", "then", "else") if self._draft >= 7 else ("not",):
            if name in node:
                if not isinstance(node[name], bool | dict):
                    raise SchemaError(f"{name} must be of an object")
                schema.parts[name] = self._schema(node[name])


def _invalid(expected: str, given: str) -> SchemaError:
    return SchemaError(f"Invalid type. Expected: {expected}, given: {given}")


def _text(node: dict[str, Any], name: str) -> str | None:
    value = node.get(name)
    if name in node and not isinstance(value, str):
        raise _invalid("string", name)
    return value


def _list(node: dict[str, Any], name: str) -> list[Any]:
    value = node.get(name, [])
    if not isinstance(value, list):
        raise SchemaError(f"{name} must be of an array")
    return value


def compiled(operand: object) -> Schema:
    """Raises `SchemaError`."""
    return _compiled(operand) if isinstance(operand, str) else _Compiler(loaded(operand)).compile()


@lru_cache(100)
def _compiled(text: str) -> Schema:
    return _Compiler(loaded(text)).compile()


def _verify(operand: object) -> list[Any]:
    try:
        compiled(operand)
    except SchemaError as error:
        return [False, f"jsonschema: {error}"]
    except RecursionError:
        raise UnsupportedError("a JSON schema that is nested too deeply") from None
    return [True, None]


def _match(document: object, schema: object) -> list[Any]:
    from mixer.policy.builtins.schema_matching import errors

    try:
        found = errors(compiled(schema), loaded(document))
    except SchemaError:
        raise BuiltinError("json.match_schema failed") from None
    except RecursionError:
        raise UnsupportedError("a JSON schema or a document that is nested too deeply") from None
    return [not found, found]


BUILTINS: dict[str, Callable[..., Any]] = {"json.match_schema": _match, "json.verify_schema": _verify}
