"""What HTTP clients and upstreams see."""

import pytest

from mixer.demo.tokens import Issuer
from mixer.demo.traffic import REPORTS_LIMIT, USER_LIMIT
from tests.e2e.fleet import Answer, Fleet


def test_request_without_a_token_is_answered_with_the_policys_status_headers_and_body(
    any_fleet: Fleet,
) -> None:
    answer = any_fleet.call("GET", "/api/orders")
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="mixer-demo"'
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"] == "token_missing"


@pytest.mark.parametrize("kind", ["forged", "expired", "garbage"])
def test_bad_token_is_answered_401(any_fleet: Fleet, kind: str) -> None:
    tokens = {
        "forged": Issuer().token("root"),
        "expired": any_fleet.issuer.token("root", lifetime=-60),
        "garbage": "garbage",
    }
    answer = any_fleet.call("GET", "/api/orders", token=tokens[kind])
    assert answer.status == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert answer.json()["error"] == "token_invalid"


def test_forbidden_path_is_answered_403_and_says_why(any_fleet: Fleet) -> None:
    answer = any_fleet.call("GET", "/admin/users", user=any_fleet.user())
    assert answer.status == 403
    assert answer.json()["error"] == "role_lacks_path"


@pytest.mark.parametrize("path", ["/api/../admin", "/api/%2e%2e/admin", "//admin", "/api/..%2fadmin"])
def test_forbidden_path_has_no_other_spelling(any_fleet: Fleet, path: str) -> None:
    assert any_fleet.call("GET", path, user=any_fleet.user()).status in (400, 403)


def test_upstream_is_asked_for_the_path_that_was_judged(any_fleet: Fleet) -> None:
    answer = any_fleet.call("GET", "/api/.././/admin", user=any_fleet.user("admin"))
    assert answer.json()["upstream"] == "GET /admin"
    assert any_fleet.call("GET", "/api%2fadmin", user=any_fleet.user("admin")).status == 400


def test_allowed_request_reaches_the_upstream_with_the_policys_headers_and_without_the_token(
    any_fleet: Fleet,
) -> None:
    user = any_fleet.user()
    answer = any_fleet.call("POST", "/api/orders?from=here", user=user)
    assert answer.status == 200
    assert answer.json() == {
        "upstream": "POST /api/orders?from=here",
        "headers": {"x-user": user, "x-role": "user"},
    }


def test_client_cannot_name_itself(any_fleet: Fleet) -> None:
    user = any_fleet.user()
    answer = any_fleet.call("GET", "/api", user=user, headers={"x-user": "root", "x-role": "admin"})
    assert answer.json()["headers"] == {"x-user": user, "x-role": "user"}


def test_request_over_the_limit_is_answered_429(any_fleet: Fleet) -> None:
    answers = in_one_window(any_fleet, USER_LIMIT + 2)
    assert [answer.status for answer in answers] == [200] * USER_LIMIT + [429] * 2
    left = [int(answer.headers["x-ratelimit-remaining"]) for answer in answers]
    assert left == [*reversed(range(USER_LIMIT)), 0, 0]
    assert answers[-1].headers["x-envoy-ratelimited"] == "true"


def test_limits_are_counted_by_user(any_fleet: Fleet) -> None:
    in_one_window(any_fleet, USER_LIMIT + 1)
    other = any_fleet.call("GET", "/api", user=any_fleet.user())
    assert other.status == 200
    assert other.headers["x-ratelimit-remaining"] == str(USER_LIMIT - 1)


def test_denied_requests_are_not_counted(any_fleet: Fleet) -> None:
    user = any_fleet.user()
    for _ in range(USER_LIMIT + 1):
        any_fleet.call("GET", "/admin", user=user)
    assert any_fleet.call("GET", "/api", user=user).headers["x-ratelimit-remaining"] == str(USER_LIMIT - 1)


def test_limit_on_paths_is_shared_by_all_who_ask_for_them(any_fleet: Fleet) -> None:
    for count in range(2 * REPORTS_LIMIT + 1):  # twice, if the minute ends meanwhile
        user = any_fleet.user("admin")
        answer = any_fleet.call("GET", f"/reports/{count}?by={user}", user=user)
        if answer.status == 429:
            break
        assert answer.status == 200
    assert answer.status == 429
    assert any_fleet.record(answer.request_id)["mixer.limit"] == "reports"


def in_one_window(fleet: Fleet, count: int) -> list[Answer]:
    """The answers to one user's requests, all in one minute: again with another user where the minute ended."""
    while True:
        user = fleet.user()
        answers = [fleet.call("GET", "/api", user=user) for _ in range(count)]
        resets = [int(answer.headers["x-ratelimit-reset"]) for answer in answers]
        if resets == sorted(resets, reverse=True):
            return answers
