"""Numbers of JSON bodies with an OPA server, which takes them as they are written, and in the decision log of it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from google.protobuf.json_format import MessageToDict

from tests.authz.test_input import http
from tests.components import processes
from tests.components.processes import Opa, wait_until

POLICY = """package p

n := input.parsed_body.n

allow := {"allowed": true, "dynamic_metadata": {"text": json.marshal(n), "large": n > 18446744073709551616}}
"""

Ask = Callable[[str], dict[str, object]]


@pytest.fixture(params=["all", "read"])
def ask(opa_server: Opa, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ask]:
    """The metadata of the answer to a request with this body, by `mixer serve`."""
    assert opa_server.call("PUT", "/v1/policies/p", POLICY)[0] == 200
    settings = {
        "listeners": {name: {"address": "127.0.0.1:0"} for name in ("check", "report", "admin")},
        "policy": {"engine": "opa", "decision": "p/allow", "opa": {"url": opa_server.url, "timeout": "10s"}},
        "decision_log": {"sinks": [{"type": "file", "path": tmp_path / "log"}], "input": request.param},
    }
    with processes.mixer(settings) as mixer, grpc.insecure_channel(mixer.check) as channel:
        call = channel.unary_unary(
            "/envoy.service.auth.v3.Authorization/Check",
            CheckRequest.SerializeToString,
            CheckResponse.FromString,
        )

        def ask(body: str) -> dict[str, object]:
            answer = call(http(body=body, content_type="application/json"), timeout=30)
            return MessageToDict(answer.dynamic_metadata)

        yield ask


def test_numbers_reach_the_server_as_they_are_written(
    ask: Ask, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for text, large in (
        ("18446744073709551617", True),
        ("18446744073709551616", False),
        ("1E400", True),
        ("2.50", False),
    ):
        found = ask(f'{{"n": {text}}}')
        assert (found["text"], found["large"]) == (text, large)
    log = tmp_path / "log"
    wait_until(lambda: log.exists() and log.read_text().count("\n") == 4)
    inputs = [json.loads(line)["input"] for line in log.read_text().splitlines()]
    shown: list[object] = [{"n": 2**64}, {"n": 2**64}, None, {"n": 2.5}]  # as doubles have them
    if request.node.callspec.params["ask"] == "all":
        bodies = [document["attributes"]["request"]["http"]["body"] for document in inputs]
        assert bodies[2] == '{"n": 1E400}', "what neither 64 bits nor a double can hold is in the log as text"
        shown[:2] = [None, None]
    assert [document.get("parsed_body") for document in inputs] == shown
