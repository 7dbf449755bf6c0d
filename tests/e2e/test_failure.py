"""What Envoy does when it gets no answer: the operator's choice, never a guess of ours."""

from pathlib import Path

from mixer.demo.tokens import Issuer
from tests.components.processes import free_port, mixer, wait_until
from tests.components.server import scratch
from tests.e2e.fleet import fail_open, fleet, policy_folders, proxy, settings


def nowhere() -> str:
    return f"127.0.0.1:{free_port()}"


def test_without_mixer_requests_are_refused() -> None:
    with proxy(Issuer(), nowhere(), nowhere()) as envoy:
        assert envoy.call("GET", "/api", user="root").status == 503  # status_on_error
        assert envoy.connect()[0] == b""
        assert envoy.stat("http.http.ext_authz.mixer.error") == 1


def test_without_mixer_requests_pass_if_envoy_is_told_to_fail_open() -> None:
    with proxy(Issuer(), nowhere(), nowhere(), fail_open) as envoy:
        answer = envoy.call("GET", "/api", user="root")
        assert answer.status == 200
        assert "x-user" not in answer.json()["headers"]
        assert envoy.connect()[0] == b"ping"
        assert envoy.stat("http.http.ext_authz.mixer.failure_mode_allowed") == 1


def test_requests_pass_again_once_mixer_is_back() -> None:
    issuer = Issuer()
    with scratch("restart") as folder:
        listeners = {name: {"address": nowhere()} for name in ("check", "report", "admin")}
        chosen = settings(folder, policy_folders(folder, issuer), listeners)
        addresses = (listeners["check"]["address"], listeners["report"]["address"])
        with mixer(chosen) as server, proxy(issuer, *addresses) as envoy:
            assert envoy.call("GET", "/api", user="root").status == 200
            server.kill()
            assert envoy.call("GET", "/api", user="root").status == 503
            server.start()
            wait_until(lambda: envoy.call("GET", "/api", user="root").status == 200, within=20)


def test_policy_that_does_not_end_is_an_error_and_the_next_request_is_answered() -> None:
    def endless_for_some(policies: Path) -> None:
        (policies / "authz.rego").write_text(
            """package envoy.authz

headers := input.attributes.request.http.headers

characters := split(headers["x-many"], "")

default allow := true

allow := count([1 | some a in characters; some b in characters; some c in characters; a != b; b != c]) == 0 if {
	headers["x-many"]
}
"""
        )

    with fleet(prepare=endless_for_some) as running:
        assert running.call("GET", "/api").status == 200
        refused = running.call("GET", "/api", headers={"x-many": "a" * 4000})
        assert refused.status == 503
        assert "Traceback" not in refused.body
        assert "max_evaluation" not in refused.body
        assert running.call("GET", "/api").status == 200
        assert running.record(refused.request_id)["envoy.response_code_details"] == "ext_authz_error"
        assert running.series().total("mixer_engine_errors_total", reason="limit") == 1


def test_undefined_decision_is_no_denial() -> None:
    def undefined_for_some(policies: Path) -> None:
        (policies / "authz.rego").write_text(
            'package envoy.authz\n\nallow if input.attributes.request.http.method == "GET"\n'
        )

    with fleet(prepare=undefined_for_some) as running:
        assert running.call("GET", "/api").status == 200
        refused = running.call("POST", "/api")
        assert refused.status == 503
        assert running.record(refused.request_id)["envoy.response_code_details"] == "ext_authz_error"
        assert running.series().total("mixer_engine_errors_total", reason="undefined") == 1
