"""JSON schemas in the embedded engine and in a real OPA: the same errors, whose order is chance in OPA."""

# ruff: noqa: E501 (lists)

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixer.errors import DecisionError
from mixer.policy.program import Program
from mixer.policy.sources import Module, Sources
from tests.components import processes
from tests.components.processes import Opa

RULES = """package p

x.match := [r[0], {e | some e in r[1]}] if r := json.match_schema(input.document, input.schema)
x.verify := json.verify_schema(input.schema)
"""
NAMES = st.sampled_from(["a", "b", "ab"])
TEXTS = st.sampled_from(["", "a", "ab", "héß", "2024-01-02", "10.0.0.1", "::1", "a@b.c", "https://a.test/{x}", "/a~0b", "1#", "[", "12:00:01Z", "2024-02-30T1:00:00.5+01:00", "a.b-c"])  # fmt: skip
NUMBERS = st.one_of(st.integers(-3, 12), st.sampled_from([0.5, 1.5, 2.0, 0.1, 1e6, 1e21, 123456.75]))
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)
TYPES = st.sampled_from(["array", "boolean", "integer", "number", "null", "object", "string"])
FORMATS = "date time date-time hostname ipv4 ipv6 uri uri-reference uri-template uuid regex json-pointer relative-json-pointer other email"
SIZES = ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"]
BOUNDS = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]


def schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    named = st.dictionaries(NAMES, inner, max_size=2)
    several = st.lists(inner, min_size=1, max_size=3)
    keywords: dict[str, st.SearchStrategy[Any]] = {
        "type": TYPES | st.lists(TYPES, min_size=1, max_size=2),
        "properties": named,
        "patternProperties": st.dictionaries(st.sampled_from(["^a", "b$", "[", ""]), inner, max_size=2),
        "additionalProperties": st.booleans() | inner,
        "propertyNames": inner,
        "dependencies": st.dictionaries(NAMES, inner | st.lists(NAMES, max_size=2), max_size=2),
        "required": st.lists(NAMES, max_size=2),
        "items": inner | several,
        "additionalItems": st.booleans() | inner,
        "contains": inner,
        "uniqueItems": st.booleans(),
        "enum": st.lists(DOCUMENTS, max_size=3),
        "const": DOCUMENTS,
        "pattern": st.sampled_from(["^a", "b$", "[", r"\d"]),
        "format": st.sampled_from(FORMATS.split()),
        **dict.fromkeys(("anyOf", "oneOf", "allOf"), several),
        **dict.fromkeys(("not", "if", "then", "else"), inner),
        **dict.fromkeys(SIZES, st.integers(-1, 3)),
        **dict.fromkeys(BOUNDS, NUMBERS | st.booleans()),
        "$ref": st.sampled_from(["#/definitions/a", "#"]),
    }
    pairs = [value.map(lambda given, name=name: (name, given)) for name, value in keywords.items()]
    wrong = st.tuples(st.sampled_from(sorted(keywords)), DOCUMENTS)
    return st.lists(st.one_of(*pairs, *pairs, wrong), min_size=1, max_size=4).map(dict)


SCHEMAS = st.recursive(st.builds(dict, type=TYPES) | st.just({}) | st.booleans(), schemas, max_leaves=6)
DRAFTS = st.sampled_from(
    [{}, *({"$schema": f"http://json-schema.org/draft-0{number}/schema#"} for number in (4, 6, 7))]
)


@pytest.fixture(scope="module")
def opa() -> Iterator[Opa]:
    with processes.opa() as server:
        assert server.call("PUT", "/v1/policies/p", RULES)[0] == 200
        yield server


@pytest.fixture(scope="module")
def program() -> Program:
    return Program(Sources((Module("p.rego", RULES),), {}, ""), "p/x")


def is_circle(schema: Any) -> bool:
    """OPA itself does not come to an end with a schema that is only a reference to itself."""
    return '"$ref"' in json.dumps(schema)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    schema=SCHEMAS.filter(lambda schema: not is_circle(schema)),
    definition=st.builds(dict, type=TYPES),
    draft=DRAFTS,
    document=DOCUMENTS.filter(lambda document: isinstance(document, dict | list)),
)
def test_errors_are_opas(
    opa: Opa, program: Program, schema: Any, definition: Any, draft: dict[str, Any], document: Any
) -> None:
    if isinstance(schema, dict):
        schema = {**draft, "definitions": {"a": definition}, **schema}
    given_ = {"schema": schema, "document": document}
    expected = opa.call("POST", "/v1/data/p/x", {"input": given_})[1].get("result")
    try:
        answer = program.evaluate(json.dumps(given_).encode())
    except DecisionError:
        return  # what cannot be answered as OPA does
    assert (None if answer is None else json.loads(answer)) == expected


REFERENCES: list[tuple[Any, Any]] = [
    ({"definitions": {"n": {"type": "integer"}}, "items": {"$ref": "#/definitions/n"}}, [1, "a"]),
    ({"properties": {"a": {"$ref": "#"}}, "additionalProperties": False}, {"a": {"a": {"b": 1}}}),
    ({"definitions": {"a/b~c": {"type": "null"}}, "items": [{"$ref": "#/definitions/a~1b~0c"}]}, [1]),
    ({"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1, "exclusiveMinimum": True}, [1]),
    ({"items": {"minimum": 1, "exclusiveMinimum": True}}, [1, 2]),
    ('{"items": {"type": "integer", "maximum": 1e400}}', [1]),
    ("{", [1]),
    ("1", [1]),
    ([], {}),
    ({"type": "object"}, '{"a": 1}'),
    ({"type": "object"}, "[1"),
    ({"type": "string"}, '"a"'),
    ({"properties": {"a": {"multipleOf": 0.1}}}, {"a": 0.35}),
    ({"properties": {"a": {"maximum": 1e6}}}, {"a": 12345678}),
]


@pytest.mark.parametrize(("schema", "document"), REFERENCES)
def test_schema_with_references_and_as_text(opa: Opa, program: Program, schema: Any, document: Any) -> None:
    given_ = {"schema": schema, "document": document}
    expected = opa.call("POST", "/v1/data/p/x", {"input": given_})[1].get("result")
    answer = program.evaluate(json.dumps(given_).encode())
    assert (None if answer is None else json.loads(answer)) == expected


@pytest.mark.parametrize(
    "schema", [{"$ref": "http://a.test/b"}, {"items": {"$id": "b"}}, {"$schema": "other"}]
)
def test_what_is_not_followed_fails_the_evaluation(program: Program, schema: Any) -> None:
    with pytest.raises(DecisionError, match="JSON schema"):
        program.evaluate(json.dumps({"schema": schema, "document": []}).encode())
