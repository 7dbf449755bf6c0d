"""What becomes of template strings, of `and` and `or`, and of bodies under `not`."""

import json

import pytest

from mixer.errors import PolicyError
from mixer.policy.dialect import known
from mixer.policy.program import Program
from mixer.policy.sources import Module, Sources


def decide(source: str, document: str = "{}") -> object:
    program = Program(Sources((Module("p.rego", source),), {}, ""), "p/x")
    answer = program.evaluate(document.encode())
    return None if answer is None else json.loads(answer)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ('$""', ""),
        ('$"no expression"', "no expression"),
        (r'$"a \{b} \"{1}\" \u0041"', 'a {b} "1" A'),
        ('$"{input.user} has {input.roles}"', 'é has ["a", "b"]'),
        ('$"no {input.nobody}"', "no <undefined>"),
        ('$"{1 + 2} {"}"} {{"a": {1}}["a"]}"', "3 } {1}"),
        ('$"{$"{$"{input.user}"}"}"', "é"),
        ('$"{"a" in input.roles} {input.user with input.user as "b"}"', "true b"),
        ("$`a\n\\{ {input.user}\n`", "a\n{ é\n"),
        ('{"a": $"{input.user}{1.5}"}["a"]', "é1.5"),
    ],
)
def test_template_string(template: str, text: str) -> None:
    assert decide(f"package p\nx := {template}", '{"user": "é", "roles": ["a", "b"]}') == text


def test_dollar_in_a_string_or_a_comment_is_no_template() -> None:
    source = 'package p\n# $"{\nx := ["$", `$"{a}`, "\\"$"] # $`\n'
    assert known(source) == source


def test_template_that_is_not_closed_is_refused_where_it_stands() -> None:
    with pytest.raises(PolicyError, match=r"p.rego: line 3, column 6: invalid character"):
        decide('package p\n\nx := $"{1')


@pytest.mark.parametrize(
    ("body", "holds"),
    [
        ("input.t and input.t", True),
        ("input.t and input.f", False),
        ("input.f or input.nobody or input.t", True),
        ("input.f or input.t and input.f", False),
        ("(input.f or input.t) and input.t", True),
        ("{ input.t; n := 1; n == 1 } and not input.f", True),
        ("input.f or { some n in input.list; n == 2 }", True),
        ("not (input.f or input.nobody)", True),
        ("not { some n in input.list; n == 2 }", False),
        ("not { some n in input.list; n == 9 }", True),
        ("not input.nobody == 1", True),
        ("not startswith(input.nobody, `a`)", True),
        ("input.t and input.t with input as {`t`: false}", False),
        ("(input.t with input.t as false) or input.f", False),
        ("[1 | input.t and input.t] == [1]", True),
        ("every n in input.list { n == 1 or n == 2 }", True),
        ("every n in {1, 3} { not (n == 1 or n == 2) }", False),
        ("(\n  # either\n  input.f\n  or\n  input.t\n)", True),
    ],
)
def test_and_or_and_not_with_bodies(body: str, holds: bool) -> None:
    document = '{"t": true, "f": false, "list": [1, 2]}'
    assert decide(f"package p\nimport rego.v2\nx if {body}", document) is (True if holds else None)
    assert decide(f"package p\nimport future.keywords\nx if {{\n{body}\n}}", document) is (
        True if holds else None
    )


def test_operators_are_names_where_they_are_not_imported() -> None:
    assert decide("package p\nx := and + or if { and := 1; or := 2 }") == 3


def test_each_operator_is_imported_by_itself() -> None:
    source = "package p\nimport future.keywords.or\nx := and if { and := 1; input.a or input.b }"
    assert decide(source, '{"b": 1}') == 1


def test_not_alone_keeps_its_old_meaning_without_the_import() -> None:
    """An operand that is undefined is outside of the negation."""
    assert decide("package p\nx if not startswith(input.nobody, `a`)") is None


def test_lines_stay_where_they_are() -> None:
    source = "package p\nimport rego.v2\nx if input.a or (\n  input.b\n  and $`{\n1}\n` == `a`\n)\ny := 1\n"
    assert known(source).split("\n")[-2] == "y := 1"
