"""Route templates: which one a path follows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer.telemetry.templates import OTHER, Templates

ROUTES = (
    "/", "/users", "/users/{id}", "/users/me", "/users/{id}/orders/{order}", "/users/me/orders/{order}",
    "/static/**", "/static/{file}/raw", "/a/{b}/c", "/a/b/{c}",
)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/", "/"),
        ("/users", "/users"),
        ("/users/", OTHER),
        ("/users/7", "/users/{id}"),
        ("/users/me", "/users/me"),
        ("/users/7/orders/9", "/users/{id}/orders/{order}"),
        ("/users/me/orders/9", "/users/me/orders/{order}"),
        ("/users/me/other", OTHER),
        ("/users/7/orders", OTHER),
        ("/users/7/orders/9/", OTHER),
        ("/static", "/static/**"),
        ("/static/", "/static/**"),
        ("/static/a/b/c/d/e/f/g", "/static/**"),
        ("/static/a/raw", "/static/{file}/raw"),
        ("/static/a/other", "/static/**"),
        ("/a/b/c", "/a/b/{c}"),
        ("/a/x/c", "/a/{b}/c"),
        ("/a/{}/c", "/a/{b}/c"),
        ("/static/**", "/static/**"),
        ("/**", OTHER),
        ("*", OTHER),
        ("", "/"),
    ],
)
def test_path_follows_the_most_specific(path: str, template: str) -> None:
    assert Templates(ROUTES)(path) == template


@given(st.text(st.sampled_from("/abusers{}*me7"), max_size=40))
def test_values_are_the_templates_and_no_others(path: str) -> None:
    assert Templates(ROUTES)(path) in {*ROUTES, OTHER}


def test_two_that_are_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match=r'"/a/\{y\}" is the same as "/a/\{x\}"'):
        Templates(["/a/{x}", "/a/{y}"])
