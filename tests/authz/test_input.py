"""The input document: what OPA's Envoy plugin would build, and only as far as the policy reads it."""

from typing import Any

import orjson
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from mixer.authz.input import InputBuilder, WholeInput
from mixer.authz.url import BadRequestError
from mixer.policy.engine import WHOLE_INPUT

WHOLE = InputBuilder(WHOLE_INPUT)


def request(text: str) -> CheckRequest:
    return text_format.Parse(text, CheckRequest())


def http(path: str = "/", body: str = "", **headers: str) -> CheckRequest:
    message = CheckRequest()
    message.attributes.request.http.path = path
    message.attributes.request.http.body = body
    for name, value in headers.items():
        message.attributes.request.http.headers[name.replace("_", "-")] = value
    return message


RICH = request(
    r"""
attributes {
  source {
    address { socket_address { address: "10.1.2.3" port_value: 0 } }
    principal: "spiffe://cluster.local/ns/shop/sa/web"
    labels { key: "app" value: "web" }
    certificate: "pem"
  }
  destination {
    address { socket_address { address: "10.0.0.2" port_value: 8443 protocol: UDP } }
    service: "orders"
  }
  request {
    time { seconds: 1790000000 nanos: 5 }
    http {
      id: "9876543210123456789"
      method: "POST"
      headers { key: "content-type" value: "application/json" }
      headers { key: "x-a" value: "1" }
      path: "/a%2Fb/c?q=1&q=2&e=&p=x+y%20z"
      host: "shop"
      scheme: "https"
      protocol: "HTTP/2"
      size: 12
      raw_body: "{\"k\": [1, 2.5, null]}"
    }
  }
  context_extensions { key: "tier" value: "gold" }
  metadata_context {
    filter_metadata {
      key: "envoy.filters.http.jwt_authn"
      value { fields { key: "exp" value { number_value: 1790000000 } }
              fields { key: "half" value { number_value: 0.5 } }
              fields { key: "deep" value { struct_value { fields { key: "on" value { bool_value: false } } } } }
              fields { key: "list" value { list_value {
                values { null_value: NULL_VALUE } values { string_value: "" } } } } }
    }
    typed_filter_metadata { key: "t" value { type_url: "type.googleapis.com/x" value: "\001\002" } }
  }
  tls_session { sni: "shop.example" }
}
"""
)

RICH_DOCUMENT: dict[str, Any] = {
    "attributes": {
        "source": {
            # portValue is set, in a oneof, though it is 0: the plugin shows it
            "address": {"socketAddress": {"address": "10.1.2.3", "portValue": 0}},
            "principal": "spiffe://cluster.local/ns/shop/sa/web",
            "labels": {"app": "web"},
            "certificate": "pem",
        },
        "destination": {
            "address": {"socketAddress": {"address": "10.0.0.2", "portValue": 8443, "protocol": 1}},
            "service": "orders",
        },
        "request": {
            "time": {"seconds": 1790000000, "nanos": 5},
            "http": {
                "id": "9876543210123456789",
                "method": "POST",
                "headers": {"content-type": "application/json", "x-a": "1"},
                "path": "/a%2Fb/c?q=1&q=2&e=&p=x+y%20z",
                "host": "shop",
                "scheme": "https",
                "protocol": "HTTP/2",
                "size": 12,
                "rawBody": "eyJrIjogWzEsIDIuNSwgbnVsbF19",
            },
        },
        "contextExtensions": {"tier": "gold"},
        "metadataContext": {
            "filterMetadata": {
                "envoy.filters.http.jwt_authn": {
                    "exp": 1790000000,
                    "half": 0.5,
                    "deep": {"on": False},
                    "list": [None, ""],
                }
            },
            "typedFilterMetadata": {"t": {"typeUrl": "type.googleapis.com/x", "value": "AQI="}},
        },
        "tlsSession": {"sni": "shop.example"},
    },
    "version": {"ext_authz": "v3", "encoding": "protojson"},
    "parsed_path": ["a", "b", "c"],
    "parsed_query": {"q": ["1", "2"], "e": [""], "p": ["x y z"]},
    "parsed_body": {"k": [1, 2.5, None]},
    "truncated_body": False,
    "source_principal": "spiffe://cluster.local/ns/shop/sa/web",
}


def test_whole_document_is_the_plugins() -> None:
    assert WHOLE.build(RICH) == RICH_DOCUMENT


def test_connection_without_http_has_the_parsed_fields_of_an_empty_path() -> None:
    document = WHOLE.build(
        request('attributes { source { address { socket_address { address: "10.0.0.1" port_value: 5 } } } }')
    )
    assert document == {
        "attributes": {"source": {"address": {"socketAddress": {"address": "10.0.0.1", "portValue": 5}}}},
        "version": {"ext_authz": "v3", "encoding": "protojson"},
        "parsed_path": [""],
        "parsed_query": {},
        "parsed_body": None,
        "truncated_body": False,
    }


def test_numbers_that_are_none_are_text() -> None:
    values = "".join(
        f'fields {{ key: "{name}" value {{ number_value: {text} }} }}'
        for name, text in (("a", "nan"), ("b", "inf"), ("c", "-inf"), ("d", "2.0"), ("e", "9007199254740994"))
    )
    message = request(
        f'attributes {{ metadata_context {{ filter_metadata {{ key: "f" value {{ {values} }} }} }} }}'
    )
    document = WHOLE.build(message)
    assert document["attributes"]["metadataContext"]["filterMetadata"]["f"] == {
        "a": "NaN", "b": "Infinity", "c": "-Infinity", "d": 2, "e": 9007199254740994.0,
    }  # fmt: skip


def test_raw_headers_are_shown_as_headers_too() -> None:
    message = request(
        """attributes { request { http { path: "/" header_map {
             headers { key: "x-a" raw_value: "1" } headers { key: "x-b" value: "2" }
             headers { key: "x-a" raw_value: "3" } } } } }"""
    )
    headers = {"x-a": "1,3", "x-b": "2"}
    assert WHOLE.build(message)["attributes"]["request"]["http"]["headers"] == headers
    only = InputBuilder([("attributes", "request", "http", "headers", "x-a")])
    assert only.build(message) == {"attributes": {"request": {"http": {"headers": {"x-a": "1,3"}}}}}


def test_headers_that_came_as_text_are_not_replaced_by_raw_ones() -> None:
    message = request(
        """attributes { request { http { path: "/" headers { key: "x-a" value: "text" }
             header_map { headers { key: "x-a" raw_value: "raw" } } } } }"""
    )
    only = InputBuilder([("attributes", "request", "http", "headers")])
    assert only.build(message) == {"attributes": {"request": {"http": {"headers": {"x-a": "text"}}}}}


def restricted(document: Any, paths: set[tuple[str, ...]]) -> Any:
    """What is left of a document under these paths. A map or message without any of its parts is absent."""
    if () in paths or not isinstance(document, dict):
        return document
    result = {}
    for key, value in document.items():
        below = {path[1:] for path in paths if path[0] == key}
        if below and (kept := restricted(value, below)) != {}:
            result[key] = kept
    return result


def paths_of(document: Any, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [at]
    if isinstance(document, dict):
        for key, value in document.items():
            found += paths_of(value, (*at, key))
    return found


@given(
    st.sets(
        st.sampled_from(
            [
                *paths_of(RICH_DOCUMENT),
                ("attributes", "nope"),
                ("nope",),
                ("attributes", "request", "http", "headers", "absent"),
            ]
        ),
        max_size=8,
    )
)
def test_only_what_is_read_is_built(paths: set[tuple[str, ...]]) -> None:
    built = InputBuilder(paths).build(RICH)
    # a map's value (one filter's metadata) is built whole, and so is each parsed field
    depth = {"filterMetadata": 4, "typedFilterMetadata": 4, "parsed_query": 1, "parsed_body": 1, "version": 1}
    cut = {path[: min((depth[name] for name in path if name in depth), default=None)] for path in paths}
    expected = restricted(RICH_DOCUMENT, cut)

    def without_empty(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: v for k, item in value.items() if (v := without_empty(item)) != {}}

    assert without_empty(built) == without_empty(expected)


@pytest.mark.parametrize(
    ("path", "parsed"),
    [
        ("/", [""]),
        ("", [""]),
        ("//a//b/", ["a", "", "b", ""]),
        ("/a%20b+c", ["a b+c"]),
        ("/%e4", ["\ufffd"]),
        ("/a;b", ["a;b"]),
    ],
)
def test_parsed_path(path: str, parsed: list[str]) -> None:
    assert WHOLE.build(http(path))["parsed_path"] == parsed


@pytest.mark.parametrize(
    ("query", "parsed"),
    [
        ("", {}),
        ("a", {"a": [""]}),
        ("a=1&&b=2", {"a": ["1"], "b": ["2"]}),
        ("a=1=2", {"a": ["1=2"]}),
        ("=v", {"": ["v"]}),
        ("%61+b=%2B", {"a b": ["+"]}),
    ],
)
def test_parsed_query(query: str, parsed: dict[str, list[str]]) -> None:
    assert WHOLE.build(http(f"/?{query}"))["parsed_query"] == parsed


@pytest.mark.parametrize("path", ["/%zz", "/%", "/a?x=%2", "/a?x;y", "/a?a=1;b=2&c"])
@pytest.mark.parametrize("builder", [WHOLE, InputBuilder([])], ids=["whole", "nothing read"])
def test_path_or_query_that_cannot_be_parsed_is_a_bad_request(path: str, builder: InputBuilder) -> None:
    with pytest.raises(BadRequestError):
        builder.build(http(path))


@pytest.mark.parametrize("body", ['{"a": 1E400}', "[" * 500 + "]" * 500])
def test_body_that_the_engine_could_not_take_matters_only_to_a_policy_that_reads_it(body: str) -> None:
    message = http(body=body, content_type="application/json")
    assert InputBuilder([("parsed_path",)]).build(message) == {"parsed_path": [""]}
    with pytest.raises(BadRequestError):
        InputBuilder([("parsed_body", "a")]).build(message)
    document = WholeInput().build(message)
    assert document["attributes"]["request"]["http"]["body"] == body
    assert (document["parsed_path"], "parsed_body" in document) == ([""], False)


@pytest.mark.parametrize("body", ["1E", "[" * 500, "NaN"])
def test_body_that_is_no_json_is_a_bad_request_whoever_reads_it(body: str) -> None:
    with pytest.raises(BadRequestError):
        InputBuilder([("parsed_path",)]).build(http(body=body, content_type="application/json"))


MULTIPART = (
    '--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    '--b\r\nContent-Disposition: form-data; name="j"\r\nContent-Type: application/json\r\n\r\n{"x": 1}\r\n'
    '--b\r\nContent-Disposition: form-data; name="a"; filename="f"\r\n\r\nü\r\n'
    "--b\r\nContent-Disposition: form-data\r\n\r\nno name\r\n--b--\r\n"
)


@pytest.mark.parametrize(
    ("content_type", "body", "parsed"),
    [
        ("application/json", '{"a": 1}', {"a": 1}),
        ("application/json; charset=utf-8", "[]", []),
        ("application/json-patch+json", "[1]", [1]),
        ("Application/JSON", "[1]", None),
        ("application/json", "", None),
        ("application/x-www-form-urlencoded", "a=1&a=2&b=x+y", {"a": ["1", "2"], "b": ["x y"]}),
        ("multipart/form-data; boundary=b", MULTIPART, {"a": ["1", "ü"], "j": [{"x": 1}]}),
        ("multipart/form-data", MULTIPART, None),
        ("application/grpc", "\0\0\0\0\0", None),
        ("text/plain", "x", None),
    ],
)
def test_parsed_body(content_type: str, body: str, parsed: object) -> None:
    document = WHOLE.build(http(body=body, content_type=content_type))
    assert document["parsed_body"] == parsed
    assert document["truncated_body"] is False


@pytest.mark.parametrize(
    "message",
    [
        http(body='{"a"', content_type="application/json", content_length="100"),
        http(body="a=1", content_type="application/x-www-form-urlencoded", content_length="4"),
        http(body='{"a": 1}', content_type="application/json", x_envoy_auth_partial_body="true"),
        http(x_envoy_auth_partial_body="true"),
    ],
)
def test_truncated_body_is_not_parsed(message: CheckRequest) -> None:
    document = WHOLE.build(message)
    assert (document["parsed_body"], document["truncated_body"]) == (None, True)


@pytest.mark.parametrize(
    "message",
    [
        http(body="{", content_type="application/json"),
        http(body="{} {}", content_type="application/json"),
        http(body="a;b", content_type="application/x-www-form-urlencoded"),
        http(body="no boundary here", content_type="multipart/form-data; boundary=b"),
        http(body="--b\r\n\r\ncut off", content_type="multipart/form-data; boundary=b"),
        http(body="{}", content_type="application/json", content_length="two"),
        http(body="{}", content_type="application/json", content_length="9" * 30),
    ],
)
def test_body_that_is_not_what_its_type_says_is_a_bad_request(message: CheckRequest) -> None:
    with pytest.raises(BadRequestError):
        WHOLE.build(message)


@given(
    st.binary(max_size=200),
    st.sampled_from(
        ["application/json", "multipart/form-data; boundary=b", "application/x-www-form-urlencoded"]
    ),
)
def test_any_body_is_parsed_or_refused(body: bytes, content_type: str) -> None:
    message = http(content_type=content_type)
    message.attributes.request.http.raw_body = body
    try:
        document = WHOLE.build(message)
    except BadRequestError:
        return
    assert orjson.loads(orjson.dumps(document)) == document
