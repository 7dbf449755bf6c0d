"""Constructs that the embedded engine would read otherwise than OPA, or never end with: refused at load."""

import asyncio
from pathlib import Path

import pytest

from mixer import config
from mixer.errors import PolicyError
from mixer.policy.regorus import EmbeddedEngine

MORE_KEYS = (
    "also matches objects with more keys in the embedded engine; "
    "take the fields by name (object.field); engine: opa runs it"
)


def load(folder: Path, *modules: str) -> list[str]:
    """What is said against the modules; `p.rego` is the first of them."""
    for name, module in zip(("p", "q", "r"), modules, strict=False):
        (folder / f"{name}.rego").write_text(module)
    engine = EmbeddedEngine(config.Policy(paths=(folder,), decision="p/allow"))
    try:
        asyncio.run(engine.start())
    except PolicyError as error:
        return [line.removeprefix(f"{folder}/") for line in str(error).splitlines()]
    return []


@pytest.mark.parametrize(
    ("snippet", "refusal"),
    [
        ('allow := v if { k := "a"; {k: v} := input.x }', f"an object as a pattern {MORE_KEYS}"),
        ('allow := v if { y = input.x; {"a": v} = y }', f"an object as a pattern {MORE_KEYS}"),
        ('allow := [v | k := "a"; some {k: v} in input.x]', f"an object as a pattern {MORE_KEYS}"),
        ('allow := f(input)\nf({"a": v}) := v', f"an object as an operand of a function {MORE_KEYS}"),
        (
            'allow := f(input)\nf({"a": v}) := 1 if { v } else := 2',
            f"an object as an operand of a function {MORE_KEYS}",
        ),
        (
            "allow := yaml.marshal(input.x)",
            "the embedded engine has no yaml.marshal (it lays text out otherwise); engine: opa runs it",
        ),
        ("allow := -input.n", "the embedded engine negates numbers only; write 0 - x; engine: opa runs it"),
        (
            "allow if now > 5\nnow := v if { v := uri.parse(`a`) with uri.parse as {} }",
            "the embedded engine cannot replace the builtin uri.parse by `with`; engine: opa runs it",
        ),
        (
            'allow := sprintf("%f", [1e2])',
            "the embedded engine does not keep that a number is written 1e2; write 100, or engine: opa runs it",
        ),
        (
            "allow := json.marshal({v})\nv := -1.50",
            "the embedded engine does not keep that a number is written -1.50; write -1.5, or engine: opa runs it",
        ),
        (
            "allow := [1, 2, 3][v]\nv := 2e0",
            "the embedded engine does not keep that a number is written 2e0; write 2, or engine: opa runs it",
        ),
        (
            "allow := f(1)\ndefault p.f(x) := 5\nf(x) := x",
            "the embedded engine has no function that is only a default; engine: opa runs it",
        ),
        (
            'allow := f(1)\nf($"{x} a") := x if x = 1',
            "the embedded engine compares no operand with what is computed; engine: opa runs it",
        ),
        (
            "allow := v if { v := f(1) with data.p.f as g }\nf(_) := 1\ng(_) := 2",
            "the embedded engine replaces data.p.f by its own name only, f; engine: opa runs it",
        ),
        ("allow := count(input.x, 2, 3)", "expected 1 operands of count, got 3"),
        ("allow := count()", "expected 1 operands of count, got 0"),
        ("allow := f(1)\nf(x) := f(x)", "a rule that needs itself: data.p.f → data.p.f"),
        ("allow if not allow", "a rule that needs itself: data.p.allow → data.p.allow"),
        (
            "allow := f(1)\nf(x) := g(x)\ng(x) := f(x) if x > 0",
            "a rule that needs itself: data.p.f → data.p.g → data.p.f",
        ),
        (
            "allow := y\ny contains 1 if z\nz if 1 in y",
            "a rule that needs itself: data.p.y → data.p.z → data.p.y",
        ),
        ("allow := data.p", "a rule that needs itself: data.p.allow → data.p.allow"),
        ("allow := data[input.x]", "a rule that needs itself: data.p.allow → data.p.allow"),
        ("allow := x if x := [1 | allow]", "a rule that needs itself: data.p.allow → data.p.allow"),
    ],
)
def test_construct_is_refused_with_its_line(tmp_path: Path, snippet: str, refusal: str) -> None:
    at = (
        4
        if snippet.startswith(
            (
                'allow := f(input)\nf({"',
                "allow if now",
                "allow := f(1)",
                "allow := y\n",
                "allow := json",
                "allow := [1",
            )
        )
        else 3
    )
    assert load(tmp_path, f"package p\n\n{snippet}\n") == [f"p.rego: line {at}: {refusal}"]


def test_name_that_is_used_before_it_is_bound(tmp_path: Path) -> None:
    assert load(tmp_path, "package p\n\nallow if { y == 1; y := input.x }\n") == [
        "p.rego: line 3, column 12: var `y` used before definition below."
    ]


def test_default_that_is_no_constant(tmp_path: Path) -> None:
    [refusal] = load(tmp_path, "package p\n\ndefault allow := input.x\n")
    assert refusal.startswith("p.rego: line 3")
    assert "in default value" in refusal


def test_circle_over_modules_is_named_once(tmp_path: Path) -> None:
    assert load(
        tmp_path,
        "package p\n\nimport data.q\n\nallow if q.ready\n",
        "package q\n\nimport data.r as other\n\nready if other.ready\n",
        "package r\n\nready if data.p.allow\n",
    ) == [
        "p.rego: line 5: a rule that needs itself: data.p.allow → data.q.ready → data.r.ready → data.p.allow"
    ]


@pytest.mark.parametrize(
    "snippet",
    [
        # names that only look like the rule's own
        "allow := x if { x := input.allow }",
        "allow if { allow := input.x; allow }",
        "allow := f(1)\nf(allow) := allow",
        "allow if { some allow; input.xs[allow] }",
        "allow if { every allow in input.xs { allow } }",
        "allow if { every i, allow in input.xs { i; allow } }",
        'allow := {"allow": true}',
        "allow := data.users.allow",
        "allow := data[input.k].roles.x.y",
        "allow := v if { v := inner with data.p.allow as 5 }\ninner := 1",
        # an object that takes nothing apart
        'allow if input.x == {"a": input.y}',
        'allow if { y := 1; z := {"a": y}; z == input.x }',
        'allow := x if x := {"a": input.y}',
        'allow if {"a": "b"} = input.x',
        "allow := -5",
        # one operand more takes the value
        "allow := n if count(input.x, n)",
    ],
)
def test_what_only_looks_like_it_is_not_refused(tmp_path: Path, snippet: str) -> None:
    assert load(tmp_path, f"package p\n\n{snippet}\n") == []


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ('{"p": {"allow": 1}}', "data.p.allow"),
        ('{"p": {"allow": {"x": 1}}}', "data.p.allow"),
        ('{"p": 5}', "data.p"),
    ],
)
def test_data_where_a_rule_is(tmp_path: Path, data: str, place: str) -> None:
    (tmp_path / "data.json").write_text(data)
    assert load(tmp_path, "package p\n\nallow := 1 if input.x\n\nallow := 2 if input.y\n") == [
        f"p.rego: line 3: {place} is given by data too"
    ]


def test_data_beside_the_rules_is_fine(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('{"p": {"other": 1}, "q": 1}')
    assert load(tmp_path, "package p\n\nallow := data.p.other\n") == []
