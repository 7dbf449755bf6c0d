"""Where expressions stand in a module's source, and what stands there after the rewriting."""

# ruff: noqa: E501 (tables: a case a line)

import json
from typing import Any

import pytest
import regorus

from mixer.policy.guard import guarded_modules
from mixer.policy.rewrite import AsOpa
from mixer.policy.syntax import Node, extent, is_expression


def parsed(source: str) -> Node:
    engine = regorus.Engine()
    engine.add_policy("p.rego", source)
    [module] = json.loads(engine.get_ast_as_json())
    return module  # type: ignore[no-any-return]


def rewritten(body: str) -> str:
    return AsOpa(parsed(f"package p\n{body}")).rewritten().removeprefix("package p\n")


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ('x if not startswith(input.a, "b")', 'x if 1 in [1 | mixer_1 := input.a; not startswith(mixer_1, "b")]'),
        ('x if not startswith("a", "b")', 'x if not startswith("a", "b")'),
        ("x if not input.a", "x if not input.a"),
        ('x if not input.a == "b"', 'x if not input.a == "b"'),
        ("x if not input.a[input.b]", "x if 1 in [1 | mixer_1 := input.b; not input.a[mixer_1]]"),
        ('x if not "a" in input.b', 'x if 1 in [1 | mixer_1 := input.b; not ("a" in mixer_1)]'),
        ('x if not input.a != "é"', 'x if 1 in [1 | mixer_1 := input.a; not mixer_1 != "é"]'),
        ('x if not (input.a < "b")', 'x if 1 in [1 | mixer_1 := input.a; not mixer_1 < "b"]'),
        (
            "x if not f(input.a) with input.a as 1\nf(_) := 1",
            "x if 1 in [1 | mixer_1 := input.a; not f(mixer_1)] with input.a as 1\nf(_) := 1",
        ),
        (
            "x if not f(g, h)\nf(_, _) := 1\ng := 1",
            "x if 1 in [1 | mixer_1 := g; not f(mixer_1, h)]\nf(_, _) := 1\ng := 1",
        ),
        ('x if "a" in input.b', 'x if "a" in input.b'),
        ('x := "a" in ["a"]', 'x := "a" in ["a"]'),
        (
            'x := "a" in input.b',
            'x := [mixer_2 | mixer_1 := input.b; mixer_2 := ("a" in mixer_1)][0]',
        ),
        (
            'x if not "k", input.v in input.m',
            'x if 1 in [1 | mixer_1 := input.v; mixer_2 := input.m; not (data.mixer_lib.member_("k", mixer_1, mixer_2))]',
        ),
        (
            'x := ("k", input.v in input.m)',
            'x := (data.mixer_lib.member_("k", input.v, input.m))',
        ),
        ("x := [v | [_, v] := walk(input)]", "x := [v | [_, v] := [mixer_1 | walk(input, mixer_1)][_]]"),
        ("x if { walk(input, [_, 1]) }", "x if { walk(input, [_, 1]) }"),
        (r'x if regex.match("a.b", input.a)', r'x if regex.match("a.b", input.a)'),
        (r"x if regex.match(`^\d`, input.a)", r'x if regex.match("^[0-9]", input.a)'),
        (r"x if regex.match(input.p, input.a)", r"x if regex.match(mixer.pattern(input.p), input.a)"),
        (r"x := regex.replace(input.a, `\s`, input.b)", r'x := regex.replace(input.a, "[\\t\\n\\f\\r ]", input.b)'),
        ("x := n if count(input.a, n)", "x := n if n = data.mixer_lib.count_(input.a)"),
        (
            'x if not startswith(trim(input.a, `b`), "c")  # not startswith(input.a)',
            'x if 1 in [1 | mixer_1 := trim(input.a, `b`); not startswith(mixer_1, "c")]  # not startswith(input.a)',
        ),
        (
            "x if not f([y | y := 1; not f(input.a)])\nf(_) := 1",
            "x if not f([y | y := 1; 1 in [1 | mixer_1 := input.a; not f(mixer_1)]])\nf(_) := 1",
        ),
        (
            "x if not f([y | not f(input.a); y := 1], input.b)\nf(_, _) := 1",
            "x if 1 in [1 | mixer_1 := input.b; "
            "not f([y | 1 in [1 | mixer_2 := input.a; not f(mixer_2)]; y := 1], mixer_1)]\nf(_, _) := 1",
        ),
    ],
)  # fmt: skip
def test_rewritten(body: str, after: str) -> None:
    assert rewritten(body) == after


@pytest.mark.parametrize(
    ("body", "all_guarded", "one_guarded"),
    [
        ("x := to_number(input.a)", "x := mixer.to_number_1(input.a)[0]", "x := mixer.to_number_1(input.a)[0]"),
        ("x := lower(upper(input.a))", "x := mixer.lower_1(mixer.upper_1(input.a)[0])[0]", "x := lower(upper(input.a))"),
        ('x if not startswith("a", "b")', 'x if not mixer.startswith_2("a", "b")[0]', 'x if not startswith("a", "b")'),
        ("x := f(1)\nf(y) := y", "x := f(1)\nf(y) := y", "x := f(1)\nf(y) := y"),
        ("x := 1 + (2 * input.a)", "x := data.mixer_guard.plus(1, data.mixer_guard.times(2, input.a))", "x := 1 + (2 * input.a)"),
        ("x if { some y in input.a; y }", "x if { some y in data.mixer_guard.collection(input.a); y }", "x if { some y in input.a; y }"),
        ("x := json.unmarshal(input.a).b[0]", "x := mixer.json_unmarshal_1(input.a)[0].b[0]", "x := json.unmarshal(input.a).b[0]"),
        ("x := time.now_ns()", "x := time.now_ns()", "x := time.now_ns()"),
    ],
)  # fmt: skip
def test_guarded(body: str, all_guarded: str, one_guarded: str) -> None:
    module = parsed(f"package p\n{body}")
    [everything, _], _ = guarded_modules([module])
    [one], guards = guarded_modules([module], only={"to_number"})
    assert everything.source == f"package p\n{all_guarded}"
    assert one.source == f"package p\n{one_guarded}"
    assert guards == ({("to_number", 1)} if "to_number" in body else set())


def test_lines_stay_where_they_are() -> None:
    body = 'x if {\n  not startswith(\n    input.a,\n    "b",\n  )\n  y := (input.b\n    in input.c)\n  z := 1\n}\n'
    after = rewritten(body)
    assert after.count("\n") == body.count("\n")
    assert after.splitlines()[7] == "  z := 1"
    [guarded, _], _ = guarded_modules([parsed(f"package p\n{after}")])
    assert guarded.source.splitlines()[8] == "  z := 1"


@pytest.mark.parametrize(
    "expression",
    [
        "1", '"a"', "`a`", "true", "null", "[]", "{}", "set()", '["a"]', '{"a"}', '{"a": "b"}', '{"a": 1, "b": 2}',
        "{\n # {\n  `a`: 1,\n  `b`: 2\n}", '{ ("a"): 1}', "[x | x := 1]", '{"a" | true}', '{"a": 1 | true}',
        "input", "input.a", 'input["a"]', "input[_].b", 'f("a").b', '{"a": 1}.a', "[1][0]", 'f("a", `b`)', "a.b.f()",
        '"a" == "b"', '("a") == ("b")', '1 + (2 * 3)', '(1 + 2) * 3', '{1} | {"a"}', '"a" in {"b"}',
        "-1", '"é" == input["é"]',
    ],
)  # fmt: skip
def test_extent_is_the_whole_expression_and_no_more(expression: str) -> None:
    """Its text, alone, is read as the same expression."""
    source = f"package p\nx := [  {expression}  , 7]"
    array = parsed(source)["ast"]["rules"][0]["Spec"]["head"]["Compr"]["assign"]["value"]
    found = array["Array"]["items"][0]
    start, end = extent(found, source.encode())
    text = source.encode()[start:end].decode()
    assert text == expression or f"({text})" == expression or text in expression
    again = parsed(f"package p\nx := {text}")["ast"]["rules"][0]["Spec"]["head"]["Compr"]["assign"]["value"]
    assert without_places(again) == without_places(found)
    assert is_expression(found)


def without_places(node: Any) -> Any:
    if isinstance(node, dict):
        places = ("span", "eidx", "sidx", "qidx", "line", "col", "start", "end")
        return {name: without_places(item) for name, item in node.items() if name not in places}
    return [without_places(item) for item in node] if isinstance(node, list) else node
