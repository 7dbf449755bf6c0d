"""What a real Envoy does with each detail of a decision. Here the request itself says what the policy answers."""

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from tests.authz import test_messages as shop
from tests.e2e.fleet import Edit, Fleet, fail_open, filter_configs, fleet

POLICY = """package envoy.authz

allow := json.unmarshal(input.attributes.request.http.headers["x-decision"])
"""

ACTIONS = ("APPEND_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS_OR_ADD", "OVERWRITE_IF_EXISTS")


class Mirror(BaseHTTPRequestHandler):
    """Answers with the headers it got, each one of its own lines, and the path as if it were one (`:path`); with a
    header `x-there: upstream`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        lines = [(":path", self.path), *((name.lower(), value) for name, value in self.headers.items())]
        body = json.dumps(lines).encode()
        self.send_response(200)
        self.send_header("x-there", "upstream")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@dataclass(frozen=True)
class Seen:
    """An answer, with every line of its headers and, where the upstream was reached, those of the request."""

    status: int
    headers: list[tuple[str, str]]
    body: str

    def of(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def upstream(self, name: str) -> list[str]:
        return [value for key, value in json.loads(self.body) if key == name]


def ask(running: Fleet, decision: object, path: str = "/", **headers: str) -> Seen:
    connection = http.client.HTTPConnection(running.http, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"x-decision": json.dumps(decision), **headers})
        response = connection.getresponse()
        received = [(name.lower(), value) for name, value in response.getheaders()]
        return Seen(response.status, received, response.read().decode())


@contextlib.contextmanager
def told(
    *edits: Edit, policy: str = POLICY, decision_log: Mapping[str, Any] | None = None, **settings: Any
) -> Iterator[Fleet]:
    """A fleet whose policy does as the request says, with these settings of the section `policy`."""

    def prepare(policies: Path) -> None:
        (policies / "authz.rego").write_text(policy)

    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            upstream = f"127.0.0.1:{server.server_address[1]}"
            sections = {"policy": settings} | ({} if decision_log is None else {"decision_log": decision_log})
            with fleet(prepare=prepare, edits=edits, upstream=upstream, **sections) as it:
                yield it
        finally:
            server.shutdown()


@pytest.fixture(scope="module")
def running() -> Iterator[Fleet]:
    with told() as it:
        yield it


def header(action: str | None, value: str = "policy", keep: bool = False) -> Any:
    """A header's value with an append action, or the plain text that the plugin knows too."""
    return value if action is None else {"value": value, "append_action": action, "keep_empty_value": keep}


@pytest.mark.parametrize(
    ("action", "there", "new"),
    [
        (None, ["upstream", "policy"], ["policy"]),
        ("APPEND_IF_EXISTS_OR_ADD", ["upstream", "policy"], ["policy"]),
        ("ADD_IF_ABSENT", ["upstream"], ["policy"]),
        ("OVERWRITE_IF_EXISTS_OR_ADD", ["policy"], ["policy"]),
        ("OVERWRITE_IF_EXISTS", ["policy"], []),
    ],
)
def test_headers_to_the_client_are_set_as_their_append_action_says(
    running: Fleet, action: str | None, there: list[str], new: list[str]
) -> None:
    added = {"x-there": header(action), "x-new": header(action)}
    seen = ask(running, {"allowed": True, "response_headers_to_add": added})
    assert (seen.status, seen.of("x-there"), seen.of("x-new")) == (200, there, new)


@pytest.mark.parametrize("action", [None, *ACTIONS])
def test_headers_to_the_upstream_replace_the_clients_whatever_their_append_action(
    running: Fleet, action: str | None
) -> None:
    """Envoy 1.40 looks at no append action here. A later one that does makes this test fail, and README wrong."""
    decision = {"allowed": True, "headers": {"x-there": header(action), "x-new": header(action)}}
    seen = ask(running, decision, **{"x-there": "client"})
    assert (seen.upstream("x-there"), seen.upstream("x-new")) == (["policy"], ["policy"])


@pytest.mark.parametrize("action", [None, *ACTIONS])
def test_headers_of_a_denial_are_all_added_whatever_their_append_action(
    running: Fleet, action: str | None
) -> None:
    """As above: Envoy 1.40."""
    seen = ask(running, {"allowed": False, "headers": [{"x-twice": "first"}, {"x-twice": header(action)}]})
    assert (seen.status, seen.of("x-twice")) == (403, ["first", "policy"])


@pytest.mark.parametrize("keep", [False, True])
def test_empty_values_are_kept_by_envoy_whether_asked_to_or_not(running: Fleet, keep: bool) -> None:
    empty = {"x-new": header("OVERWRITE_IF_EXISTS_OR_ADD", "", keep)}
    allowed = ask(running, {"allowed": True, "headers": empty, "response_headers_to_add": empty})
    assert (allowed.upstream("x-new"), allowed.of("x-new")) == ([""], [""])
    assert ask(running, {"allowed": False, "headers": empty}).of("x-new") == [""]


@pytest.mark.parametrize(
    ("action", "there", "new"),
    [
        ("APPEND_IF_EXISTS_OR_ADD", ["upstream", "1", "2"], ["1", "2"]),
        ("ADD_IF_ABSENT", ["upstream"], ["1"]),
        ("OVERWRITE_IF_EXISTS_OR_ADD", ["2"], ["2"]),
        ("OVERWRITE_IF_EXISTS", ["2"], []),
    ],
)
def test_of_several_values_to_the_client_each_is_set_as_the_action_says(
    running: Fleet, action: str, there: list[str], new: list[str]
) -> None:
    both = [header(action, "1"), header(action, "2")]
    seen = ask(running, {"allowed": True, "response_headers_to_add": {"x-there": both, "x-new": both}})
    assert (seen.of("x-there"), seen.of("x-new")) == (there, new)


def test_several_values_all_reach_a_client_and_the_last_the_upstream(running: Fleet) -> None:
    two = {"x-new": ["1", "2"]}
    seen = ask(
        running, {"allowed": True, "headers": two, "response_headers_to_add": two}, **{"x-new": "client"}
    )
    assert (seen.upstream("x-new"), seen.of("x-new")) == (["2"], ["1", "2"])
    assert ask(running, {"allowed": False, "headers": two}).of("x-new") == ["1", "2"]


def test_headers_of_the_request_are_removed_but_not_those_that_it_stands_on(running: Fleet) -> None:
    decision = {"allowed": True, "request_headers_to_remove": ["x-there", "X-Upper", ":path", "host"]}
    seen = ask(running, decision, **{"x-there": "1", "x-upper": "2", "x-stays": "3"})
    shown = [seen.upstream(name) for name in ("x-there", "x-upper", "x-stays", ":path")]
    assert shown == [[], [], ["3"], ["/"]]
    assert len(seen.upstream("host")) == 1


def test_query_parameters_are_set_and_removed(running: Fleet) -> None:
    decision = {
        "allowed": True,
        "query_parameters_to_set": {"b": "9", "d": ["x", "y"]},
        "query_parameters_to_remove": ["c", "absent"],
    }
    seen = ask(running, decision, "/p?a=1&b=2&c=3&b=4")
    [path] = seen.upstream(":path")
    plain, _, query = path.partition("?")
    assert (plain, parse_qs(query)) == ("/p", {"a": ["1"], "b": ["9"], "d": ["y"]})


@pytest.mark.parametrize(
    "decision",
    [
        {"allowed": True, "headers": {"x-bad": "a\nb"}},
        {"allowed": True, "headers": {"bad name": "a"}},
        {"allowed": True, "response_headers_to_add": {"x-bad": "a\r\nb"}},
        {"allowed": True, "query_parameters_to_set": {"a": "b&c=d"}},
        {"allowed": False, "headers": {"x-bad": "a\r\nb"}},
    ],
)
def test_what_http_does_not_allow_fails_the_request(running: Fleet, decision: dict[str, Any]) -> None:
    """By `validate_mutations`: what a client may have written is no header or parameter of its own."""
    before = running.stat("http.http.ext_authz.mixer.invalid")
    assert ask(running, decision).status == 500
    assert running.stat("http.http.ext_authz.mixer.invalid") == before + 1


@pytest.mark.parametrize("status", [302, 401, 404, 429, 500, 511])
def test_denial_has_the_status_and_the_headers_of_the_policy(running: Fleet, status: int) -> None:
    decision = {"allowed": False, "http_status": status, "headers": {"location": "/login"}, "body": "b"}
    seen = ask(running, decision)
    assert (seen.status, seen.of("location"), seen.body) == (status, ["/login"], "b")


@pytest.mark.parametrize("status", [451, 401.5, "401", None])
def test_status_that_envoy_does_not_know_is_an_error_and_no_denial(running: Fleet, status: object) -> None:
    before = running.stat("http.http.ext_authz.mixer.error")
    assert ask(running, {"allowed": False, "http_status": status}).status == 503  # status_on_error
    assert running.stat("http.http.ext_authz.mixer.error") == before + 1


def test_boolean_is_a_decision(running: Fleet) -> None:
    assert ask(running, True).status == 200
    denied = ask(running, False)
    assert (denied.status, denied.body) == (403, "")


@pytest.mark.parametrize("body", [{"error": ["no", 1]}, {}, [1, "é"], 3, 2.5, True, None])
def test_body_of_a_denial_that_is_no_text_goes_out_as_json(running: Fleet, body: object) -> None:
    seen = ask(running, {"allowed": False, "http_status": 401, "body": body})
    assert (seen.status, json.loads(seen.body)) == (401, body)
    assert seen.of("content-type") == ["application/json"]


def test_body_of_a_denial_that_is_text_is_plain_unless_the_policy_says_otherwise(running: Fleet) -> None:
    """It is Envoy that says so, and where there is no body leaves the policy's type out."""
    seen = ask(running, {"allowed": False, "body": '{"a":1}'})
    assert (seen.body, seen.of("content-type")) == ('{"a":1}', ["text/plain"])
    for body, types in (('{"a":1}', ["application/json"]), ("", [])):
        seen = ask(running, {"allowed": False, "body": body, "headers": {"content-type": "application/json"}})
        assert (seen.body, seen.of("content-type")) == (body, types)


def test_content_type_of_the_policy_stays(running: Fleet) -> None:
    headers = {"Content-Type": "application/problem+json"}
    seen = ask(running, {"allowed": False, "headers": headers, "body": {"title": "no"}})
    assert (seen.of("content-type"), seen.body) == (["application/problem+json"], '{"title":"no"}')


@pytest.mark.parametrize(("status", "when"), [(429, "7"), (503, "Fri, 31 Dec 2027 23:59:59 GMT"), (302, "0")])
def test_denial_says_when_to_come_back(running: Fleet, status: int, when: str) -> None:
    for value in (when, header("OVERWRITE_IF_EXISTS_OR_ADD", when)):
        seen = ask(running, {"allowed": False, "http_status": status, "headers": {"Retry-After": value}})
        assert (seen.status, seen.of("retry-after")) == (status, [when])


def test_error_response_is_envoys_error_and_no_denial(running: Fleet) -> None:
    before = [running.stat(f"http.http.ext_authz.mixer.{name}") for name in ("error", "denied")]
    assert ask(running, {"allowed": False, "error_response": {}}).status == 503  # status_on_error
    error = {"http_status": 502, "headers": {"retry-after": "3"}, "body": {"why": "no data"}}
    seen = ask(running, {"allowed": False, "error_response": error})
    assert (seen.status, seen.of("retry-after"), seen.body) == (502, ["3"], '{"why":"no data"}')
    after = [running.stat(f"http.http.ext_authz.mixer.{name}") for name in ("error", "denied")]
    assert after == [before[0] + 2, before[1]]
    assert running.series().total("mixer_decisions_total", outcome="error") == 2


def test_error_response_without_a_status_has_envoys_and_the_rest_of_its_own(running: Fleet) -> None:
    error = {"headers": {"retry-after": "9"}, "body": [1]}
    seen = ask(running, {"allowed": False, "http_status": 401, "body": "denied", "error_response": error})
    assert (seen.status, seen.of("retry-after"), seen.body) == (503, ["9"], "[1]")
    assert seen.of("content-type") == ["application/json"]
    seen = ask(running, {"allowed": False, "error_response": {"body": "later"}})
    assert (seen.status, seen.body, seen.of("content-type")) == (503, "later", ["text/plain"])


@pytest.mark.parametrize("action", [None, *ACTIONS])
def test_headers_of_an_error_response_are_all_added_whatever_their_append_action(
    running: Fleet, action: str | None
) -> None:
    """As those of a denial: Envoy 1.40."""
    headers = {"x-twice": [header(action, "1"), header(action, "2")], "x-empty": header(action, "")}
    seen = ask(running, {"allowed": False, "error_response": {"headers": headers}})
    assert (seen.status, seen.of("x-twice"), seen.of("x-empty")) == (503, ["1", "2"], [""])


def test_error_response_that_http_does_not_allow_is_envoys_plain_error(running: Fleet) -> None:
    error = {"http_status": 502, "headers": {"x-good": "1", "x-bad": "a\r\nb"}, "body": "b"}
    seen = ask(running, {"allowed": False, "error_response": error})
    assert (seen.status, seen.of("x-good"), seen.of("x-bad"), seen.body) == (503, [], [], "")


def test_error_response_lets_the_request_pass_where_envoy_fails_open() -> None:
    with told(fail_open) as running:
        seen = ask(running, {"allowed": False, "error_response": {"http_status": 502}})
        assert seen.status == 200


def test_dry_run_lets_denials_pass_and_counts_them() -> None:
    with told(dry_run=True) as running:
        seen = ask(running, {"allowed": False, "headers": {"x-new": "1"}, "body": "no"})
        assert (seen.status, seen.upstream("x-new")) == (200, [])
        assert running.series().total("mixer_dry_run_passed_total") == 1
        assert running.series().total("mixer_decisions_total", outcome="denied") == 1


def test_policy_sees_the_message_of_a_grpc_call(tmp_path: Path) -> None:
    descriptors = tmp_path / "shop.binpb"
    descriptors.write_bytes(shop.descriptors(shop.ITEMS, shop.OLD).SerializeToString())

    def as_bytes(document: dict[str, Any]) -> None:
        for config in filter_configs(document):
            if "with_request_body" in config:
                config["with_request_body"]["pack_as_bytes"] = True

    policy = """package envoy.authz

allow := {"allowed": false, "body": [input.parsed_body, input.truncated_body]}
"""
    with told(as_bytes, policy=policy, proto_descriptor=str(descriptors)) as running:

        def call(body: bytes) -> Any:
            connection = http.client.HTTPConnection(running.http, timeout=30)
            with contextlib.closing(connection):
                connection.request(
                    "POST", "/shop.Orders/Put", body=body, headers={"content-type": "application/grpc+proto"}
                )
                # To a caller by gRPC, Envoy sends the body of a denial as the call's message.
                return connection.getresponse().getheader("grpc-message")

        assert call(shop.frame(b"\x18\x01")) == '[{"count":1},false]'
        assert call(shop.frame(b"\x18\x01" * 8000)) == "[null,true]"  # more than Envoy sends along
