"""Decisions as CheckResponses: every field, every wrong type."""

import json
from typing import Any

import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from google.protobuf.json_format import MessageToDict

from mixer.authz.response import Answers
from mixer.errors import DecisionError

ID = "3f1c8a52-7d0e-4c1b-9a63-000000000001"


def respond(decision: object, cache: str = "miss") -> CheckResponse:
    answer = Answers("envoy/authz/allow", "abc").of(json.dumps(decision), cache)
    return CheckResponse.FromString(answer.with_id(ID))


def metadata(response: CheckResponse) -> dict[str, Any]:
    return MessageToDict(response.dynamic_metadata)


OURS = {"policy": "envoy/authz/allow", "revision": "abc", "cache": "miss"}


@pytest.mark.parametrize(("decision", "code"), [(True, 0), (False, 7)])
def test_boolean_is_a_status_without_http_response(decision: bool, code: int) -> None:
    response = respond(decision)
    assert response.status.code == code
    assert response.WhichOneof("http_response") is None
    assert metadata(response) == {"decision_id": ID, "mixer": OURS}


def test_allowed_object_carries_all_that_envoy_applies() -> None:
    response = respond(
        {
            "allowed": True,
            "headers": {"x-user": "alice", "x-role": ["a", "b"]},
            "response_headers_to_add": [{"x-one": "1"}, {"x-two": "2"}],
            "request_headers_to_remove": ["authorization"],
            "query_parameters_to_set": {"a": "1", "b": ["2", "3"]},
            "query_parameters_to_remove": ["c"],
            "dynamic_metadata": {"reason": "ok", "n": 1, "deep": {"list": [True, None]}},
            "body": 5,  # only a denial's is looked at
            "http_status": "no",
        }
    )
    ok = response.ok_response
    assert response.status.code == 0
    assert [(h.header.key, h.header.value) for h in ok.headers] == [
        ("x-user", "alice"),
        ("x-role", "a"),
        ("x-role", "b"),
    ]
    assert [(h.header.key, h.header.value) for h in ok.response_headers_to_add] == [
        ("x-one", "1"),
        ("x-two", "2"),
    ]
    assert list(ok.headers_to_remove) == ["authorization"]
    assert [(q.key, q.value) for q in ok.query_parameters_to_set] == [("a", "1"), ("b", "2"), ("b", "3")]
    assert list(ok.query_parameters_to_remove) == ["c"]
    assert metadata(response) == {
        "reason": "ok",
        "n": 1,
        "deep": {"list": [True, None]},
        "decision_id": ID,
        "mixer": OURS,
    }


def test_denied_object_carries_status_headers_and_body() -> None:
    response = respond(
        {"allowed": False, "http_status": 401, "headers": {"www-authenticate": "Bearer"}, "body": "no"}
    )
    denied = response.denied_response
    assert response.status.code == 7
    assert denied.status.code == 401
    assert [(h.header.key, h.header.value) for h in denied.headers] == [("www-authenticate", "Bearer")]
    assert denied.body == "no"


def test_header_may_say_how_it_is_set() -> None:
    once = {"value": "1", "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    response = respond({
        "allowed": True,
        "headers": {"x-a": once, "x-b": ["2", {"value": "", "keep_empty_value": True}]},
        "response_headers_to_add": [{"x-c": {"value": "3", "append_action": "ADD_IF_ABSENT"}}],
    })  # fmt: skip
    shown = [
        (h.header.key, h.header.value, h.append_action, h.keep_empty_value, h.HasField("append"))
        for h in (*response.ok_response.headers, *response.ok_response.response_headers_to_add)
    ]
    assert shown == [
        ("x-a", "1", 2, False, False), ("x-b", "2", 0, False, False), ("x-b", "", 0, True, False),
        ("x-c", "3", 1, False, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "text"),
    [({"b": [1, 2.5], "a": None}, '{"b":[1,2.5],"a":null}'), (["ü"], '["ü"]'), (1, "1"), (False, "false"),
     (None, "null"), ({}, "{}")],
)  # fmt: skip
def test_body_that_is_no_text_is_json(body: object, text: str) -> None:
    denied = respond({"allowed": False, "body": body}).denied_response
    assert denied.body == text
    assert [(h.header.key, h.header.value) for h in denied.headers] == [("content-type", "application/json")]


@pytest.mark.parametrize("name", ["content-type", "Content-Type"])
def test_json_body_keeps_the_policys_content_type(name: str) -> None:
    denied = respond(
        {"allowed": False, "body": [], "headers": {name: "application/problem+json"}}
    ).denied_response
    assert [(h.header.key, h.header.value) for h in denied.headers] == [(name, "application/problem+json")]


def test_text_body_gets_no_content_type() -> None:
    assert not respond({"allowed": False, "body": "no"}).denied_response.headers


def test_error_response_is_neither_allowed_nor_denied() -> None:
    error = {"http_status": 502, "headers": {"retry-after": "3"}, "body": {"why": 1}}
    decision = {"allowed": False, "error_response": error, "dynamic_metadata": {"reason": "no_data"}}
    assert Answers("p", "r").of(json.dumps(decision), "miss").allowed is None
    response = respond(decision)
    assert response.status.code == 14  # UNAVAILABLE
    assert response.WhichOneof("http_response") == "error_response"
    assert response.error_response.status.code == 502
    assert response.error_response.body == '{"why":1}'
    assert [(h.header.key, h.header.value) for h in response.error_response.headers] == [
        ("retry-after", "3"),
        ("content-type", "application/json"),
    ]
    assert metadata(response)["reason"] == "no_data"


def test_error_response_leaves_the_status_to_envoy_unless_it_names_one() -> None:
    response = respond({"allowed": False, "error_response": {}})
    assert response.WhichOneof("http_response") == "error_response"
    assert not response.error_response.HasField("status")


def test_error_response_of_an_allowed_request_is_not_looked_at() -> None:
    assert respond({"allowed": True, "error_response": 1}).WhichOneof("http_response") == "ok_response"


def test_denied_object_is_403_unless_it_says_otherwise() -> None:
    assert respond({"allowed": False}).denied_response.status.code == 403


@pytest.mark.parametrize("status", [100, 200, 404, 429, 511])
def test_status_that_envoy_knows_passes(status: int) -> None:
    assert respond({"allowed": False, "http_status": status}).denied_response.status.code == status


def test_decision_id_of_the_policy_is_overwritten() -> None:
    assert (
        metadata(respond({"allowed": True, "dynamic_metadata": {"decision_id": "mine"}}))["decision_id"] == ID
    )


def test_type_of_what_is_not_used_is_not_checked() -> None:
    assert (
        respond({"allowed": False, "response_headers_to_add": 1, "request_headers_to_remove": 2}).status.code
        == 7
    )


@pytest.mark.parametrize("decision", ["text", 1, None, [True], [], "<undefined>"])
def test_decision_of_another_type_is_illegal(decision: object) -> None:
    with pytest.raises(
        DecisionError, match="illegal decision: decision must be a boolean or an object"
    ) as caught:
        respond(decision)
    assert caught.value.reason == "illegal"


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        *((field, value, allowed) for allowed in (True, False) for field, value in (
            ("headers", "x"), ("headers", None), ("headers", ["x"]), ("headers", {"a": 1}), ("headers", {"a": [1]}),
            ("headers", [{"a": None}]), ("dynamic_metadata", None), ("dynamic_metadata", []), ("dynamic_metadata", "x"),
        )),
        ("response_headers_to_add", 1, True),
        ("request_headers_to_remove", "x", True),
        ("request_headers_to_remove", [1], True),
        ("query_parameters_to_set", [], True),
        ("query_parameters_to_set", {"a": 1}, True),
        ("query_parameters_to_remove", None, True),
        *(("headers", {"a": value}, allowed) for allowed in (True, False) for value in (
            {}, {"value": 1}, {"value": ["x"]}, {"value": "x", "append_action": 0},
            {"value": "x", "append_action": "ADD"}, {"value": "x", "keep_empty_value": 1},
            {"value": "x", "append": True}, [{"value": None}], [["x"]],
        )),
        ("response_headers_to_add", {"a": {"value": "x", "append_action": None}}, True),
        *(("error_response", value, False) for value in (
            None, "x", [], {"http_status": 418}, {"http_status": None}, {"headers": 1}, {"headers": {"a": 1}},
        )),
        *(("http_status", value, False) for value in ("401", 401.0, 418, 451, 99, 0, True, None)),
    ],
)  # fmt: skip
def test_wrong_type_is_illegal_and_named(field: str, value: object, allowed: bool) -> None:
    with pytest.raises(DecisionError, match=f"illegal decision: {field}") as caught:
        respond({"allowed": allowed, field: value})
    assert caught.value.reason == "illegal"


@pytest.mark.parametrize("allowed", [None, 1, "true"])
def test_allowed_must_be_a_boolean(allowed: object) -> None:
    with pytest.raises(DecisionError, match="allowed must be a boolean"):
        respond({"allowed": allowed})
    with pytest.raises(DecisionError, match="allowed must be a boolean"):
        respond({})


def test_message_of_an_illegal_decision_does_not_show_its_values() -> None:
    with pytest.raises(DecisionError) as caught:
        respond({"allowed": True, "request_headers_to_remove": "eyJhbGciOi.secret"})
    assert "secret" not in str(caught.value)


def test_same_decision_gets_another_id_each_time() -> None:
    answers = Answers("p", "r")
    for decision in (
        {"allowed": True},
        {"allowed": False, "body": "x" * 10_000},
    ):  # remembered, and too long for it
        for number in ("1", "2"):
            identifier = ID[:-1] + number
            answer = answers.of(json.dumps(decision), "hit")
            assert metadata(CheckResponse.FromString(answer.with_id(identifier)))["decision_id"] == identifier


def test_bad_request_is_400_with_the_reason() -> None:
    response = CheckResponse.FromString(Answers("p", "r").bad_request("the body is not JSON").with_id(ID))
    assert response.status.code == 7
    assert response.denied_response.status.code == 400
    assert response.denied_response.body == "the body is not JSON"
    assert metadata(response)["reason"] == "request_malformed"


@pytest.mark.parametrize(
    ("decision", "allowed"),
    [
        (False, False),
        ({"allowed": False, "http_status": 401, "headers": {"a": "b"}, "body": "no"}, False),
        ({"allowed": False, "error_response": {"http_status": 502}}, None),
    ],
)
def test_dry_run_lets_pass_what_is_not_allowed(decision: object, allowed: object) -> None:
    answer = Answers("envoy/authz/allow", "abc", dry_run=True).of(json.dumps(decision), "miss")
    response = CheckResponse.FromString(answer.with_id(ID))
    assert answer.allowed is allowed  # what the policy says is counted and logged
    assert response.status.code == 0
    assert response.WhichOneof("http_response") == "ok_response"
    assert not response.ok_response.headers
    assert metadata(response)["decision_id"] == ID


def test_dry_run_keeps_the_metadata_of_a_denial_and_all_of_an_allow() -> None:
    answers = Answers("p", "r", dry_run=True)
    denied = answers.of('{"allowed": false, "dynamic_metadata": {"reason": "no"}}', "miss")
    assert metadata(CheckResponse.FromString(denied.with_id(ID)))["reason"] == "no"
    allowed = answers.of('{"allowed": true, "headers": {"x-user": "alice"}}', "miss")
    assert CheckResponse.FromString(allowed.with_id(ID)).ok_response.headers[0].header.value == "alice"


def test_dry_run_changes_nothing_for_illegal_decisions_and_bad_requests() -> None:
    answers = Answers("p", "r", dry_run=True)
    with pytest.raises(DecisionError):
        answers.of('{"allowed": false, "http_status": 418}', "miss")
    assert CheckResponse.FromString(answers.bad_request("no").with_id(ID)).denied_response.status.code == 400
