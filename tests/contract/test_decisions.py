"""Several decisions of one deployment, on every engine: each by its own rule, none by another's."""

import asyncio
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from google.protobuf.json_format import MessageToDict
from prometheus_client import CollectorRegistry

from mixer import config
from mixer.authz.routing import KEY
from mixer.errors import RequestError
from mixer.runtime import Runtime
from mixer.server.front import Unary
from tests.components.processes import Opa

POLICY = """package p

default allow := {"allowed": false, "body": "default"}

read if input.attributes.request.http.method == "GET"

allow if read

default write := false

write if input.attributes.request.http.method != "GET"

clock := {"allowed": true, "body": "clock"} if time.now_ns() > 0

parts.allowed := true

parts.headers["x-user"] := data.users[input.attributes.request.http.headers["x-user"]]
"""
DECISIONS = {"writers": "p/write", "clock": "p/clock", "parts": "p/parts"}


@pytest.fixture(params=["embedded", "opa"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> config.Config:
    data = {"users": {"a": "alice"}}
    chosen: dict[str, Any] = {"decision": "p/allow", "decisions": DECISIONS}
    if request.param == "embedded":
        (tmp_path / "p.rego").write_text(POLICY)
        (tmp_path / "data.json").write_text(json.dumps(data))
        chosen["paths"] = (tmp_path,)
    else:
        server: Opa = request.getfixturevalue("opa_server")
        assert server.call("PUT", "/v1/policies/p", POLICY)[0] == 200
        assert server.call("PUT", "/v1/data", data)[0] == 204
        chosen |= {"engine": "opa", "opa": config.Opa(url=server.url, timeout="10s")}  # type: ignore[arg-type]
    return config.Config(policy=config.Policy(**chosen))


def request(name: str | None = None, method: str = "GET", **headers: str) -> CheckRequest:
    message = CheckRequest()
    message.attributes.request.http.method = method
    message.attributes.request.http.path = "/"
    for header, value in headers.items():
        message.attributes.request.http.headers[header.replace("_", "-")] = value
    if name is not None:
        message.attributes.context_extensions[KEY] = name
    return message


def checked(settings: config.Config, *requests: CheckRequest) -> tuple[list[Any], CollectorRegistry]:
    """The answers to requests that come all at once, errors among them, and what was counted."""

    async def run() -> tuple[list[Any], CollectorRegistry]:
        runtime = Runtime.build(settings, "check", "")
        try:
            [method] = await runtime._check_methods()
            assert isinstance(method, Unary)
            assert method.together is not None
            begun = method.together([(message, None) for message in requests])
            waiting = iter(await asyncio.gather(*filter(inspect.isawaitable, begun)))
            answers = [next(waiting) if inspect.isawaitable(answer) else answer for answer in begun]
            return [
                answer if isinstance(answer, Exception) else CheckResponse.FromString(answer)
                for answer in answers
            ], runtime.registry
        finally:
            await runtime.close(1.0)

    return asyncio.run(run())


def policy(answer: CheckResponse) -> Any:
    return MessageToDict(answer.dynamic_metadata)["mixer"]["policy"]


def test_route_is_decided_by_the_rule_that_it_names(settings: config.Config) -> None:
    requests = [request(name, method) for method in ("GET", "PUT") for name in (None, "writers", "clock")]
    # many at once, so that none may be answered by the rule of its neighbour
    answers, _ = checked(settings, *requests * 8)
    seen = [(policy(answer), answer.status.code) for answer in answers]
    assert (
        seen
        == [
            ("p/allow", 0),
            ("p/write", 7),
            ("p/clock", 0),
            ("p/allow", 7),
            ("p/write", 0),
            ("p/clock", 0),
        ]
        * 8
    )


def test_decision_may_be_made_of_several_rules(settings: config.Config) -> None:
    [answer], _ = checked(settings, request("parts", x_user="a"))
    assert policy(answer) == "p/parts"
    assert [option.header.value for option in answer.ok_response.headers] == ["alice"]


@pytest.mark.parametrize("name", ["admin", "", "p/allow", 100 * "x"])
def test_unknown_decision_is_an_error_that_names_it_and_what_there_is(
    settings: config.Config, name: str
) -> None:
    answers, registry = checked(settings, request(name), request("clock"))
    assert isinstance(answers[0], RequestError)
    assert str(answers[0]) == (
        f'the context extension mixer_decision names the decision "{name if len(name) < 80 else 80 * "x" + "…"}", '
        "which policy.decisions has not; it has: clock, parts, writers"
    )
    assert policy(answers[1]) == "p/clock"
    assert registry.get_sample_value("mixer_unknown_decisions_total") == 1
    assert (
        registry.get_sample_value("mixer_decisions_total", {"decision": "p/allow", "outcome": "denied"}) == 0
    )


def test_each_decision_has_its_own_references_and_cache(tmp_path: Path) -> None:
    (tmp_path / "p.rego").write_text(POLICY)
    chosen = config.Policy(paths=(tmp_path,), decision="p/allow", decisions=DECISIONS)
    requests = [
        request(name, "PUT", x_user=user)
        for user in ("a", "b")
        for name in (None, "writers", "clock", "parts")
    ]
    answers, registry = checked(config.Config(policy=chosen), *requests)
    seen = [(policy(answer), MessageToDict(answer.dynamic_metadata)["mixer"]["cache"]) for answer in answers]
    assert seen == [
        ("p/allow", "miss"),
        ("p/write", "miss"),
        ("p/clock", "off"),  # it alone reads the clock
        ("p/parts", "miss"),
        ("p/allow", "hit"),
        ("p/write", "hit"),
        ("p/clock", "off"),
        ("p/parts", "miss"),  # it alone reads the user
    ]
    assert registry.get_sample_value("mixer_decision_cache_entries") == 4
