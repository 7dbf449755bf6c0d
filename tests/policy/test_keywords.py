"""Rules whose name begins with a keyword, in a module of their own."""

import pytest

from mixer.policy.keywords import split


def test_rule_is_taken_out_with_what_it_needs_and_lines_stay() -> None:
    source = """package a.b
import input.h

roles := 1
if.ok := roles if { h.x }
y := if.ok
"""
    assert [[line.rstrip() for line in text.rstrip().splitlines()] for text in split(source)] == [
        [
            "package a.b",
            "import input.h",
            "",
            "roles := 1",
            "",
            'y := data.a.b["if"].ok',
        ],
        [
            'package a.b["if"]',
            "import input.h",
            "",
            "",
            "ok := data.a.b.roles if { h.x }",
        ],
    ]


@pytest.mark.parametrize(
    "rules",
    [
        "x := input.if.y",  # regorus knows it
        'x := "if.y" # if.y',
        "if.ok := 1; y := 2",
        "if.ok := y if { some y in input.ys }\ny := 1",  # a name of its own, or the rule's
        "if.ok := 1\nif.no := ok if { ok := input.ok }",
        "if.in.ok := 1",
    ],
)
def test_module_is_left_as_it_is(rules: str) -> None:
    source = f"package p\n{rules}\n"
    assert split(source) == [source]
