"""`strings.render_template` in the embedded engine and in a real OPA."""

import json
from collections.abc import Iterator

import pytest

from mixer.errors import DecisionError
from mixer.policy.program import Program
from mixer.policy.sources import Module, Sources
from tests.components import processes
from tests.components.processes import Opa

MODULE = "package p\n\nx := strings.render_template(input.template, input.data)\n"
DATA = {
    "a": "xy",
    "n": 5,
    "n0": 0,
    "f": 1.5,
    "t": True,
    "z": None,
    "l": [1, "b", None, True],
    "o": {"b": 1, "c": {"d": "e"}, "z": None},
    "e": [],
    "l2": [[1, 2], [{"a": 1}]],
    "A1_b": 7,
    "big": 123456789012,
}
TEMPLATES = [
    "{{.a}}",
    "{{.n}} {{.f}} {{.t}} {{.z}} {{.none}}",
    "{{.l}} {{.o}}",
    "{{.o.b}} {{.o.c.d}}",
    "{{.a.b}}",
    "{{.none.b}}",
    "{{if .n0}}y{{else}}n{{end}}",
    "{{if .e}}y{{else}}n{{end}}",
    "{{if .none}}y{{else if .t}}t{{end}}",
    "{{range .l}}<{{.}}>{{else}}none{{end}}",
    "{{range $k, $v := .o}}{{$k}}={{$v}};{{end}}",
    "{{range $v := .l}}{{$v}},{{end}}",
    "{{range .e}}x{{else}}none{{end}}",
    "{{with .o}}{{.b}}{{$.a}}{{end}}",
    "a {{- .a -}} b",
    "a{{/* c */}}b",
    "{{len .l}} {{len .a}} {{len .o}}",
    '{{index .l 1}} {{index .o "b"}}',
    '{{eq .a "x"}} {{ne .a "x"}} {{eq .n 5}}',
    '{{eq .n "5"}}',
    "{{and .a .n}} {{or .e .a}} {{not .e}}",
    "{{$x := .a}}{{$x}}",
    "{{.a",
    "{{end}}",
    "{{if .a}}",
    "{{}}",
    "{{range $i, $x := .l}}{{if $i}},{{end}}{{$x}}{{end}}",
    "{{range .a}}{{end}}",
    "{{range .n}}x{{end}}",
    "{{$y}}",
    '{{"q"}} {{`r`}} {{1}} {{true}}',
    "{{.}}",
    "{{.o}} {{.l2}}",
    "{{range .l2}}{{range .}}{{.}}{{end}};{{end}}",
    '{{if eq .a "xy"}}1{{end}}',
    "{{if and .a .e}}1{{else}}2{{end}}",
    "{{len .none}}",
    "{{index .l 9}}",
    "{{.a.}}",
    "{{ .a }}",
    "{{.A1_b}}",
    "{{range .none}}{{else}}E{{end}}",
    "{{eq .t true}}",
    "{{.big}}",
    "{{.z.b}}",
    "{{.z}}",
    "{{if .none.b}}1{{else}}2{{end}}",
    "{{with .z}}{{else}}E{{end}}",
]


@pytest.fixture(scope="module")
def opa() -> Iterator[Opa]:
    with processes.opa() as server:
        assert server.call("PUT", "/v1/policies/p", MODULE)[0] == 200
        yield server


@pytest.fixture(scope="module")
def program() -> Program:
    return Program(Sources((Module("p.rego", MODULE),), {}, ""), "p/x")


@pytest.mark.parametrize("template", TEMPLATES)
def test_text_is_opas(opa: Opa, program: Program, template: str) -> None:
    document = {"template": template, "data": DATA}
    expected = opa.call("POST", "/v1/data/p/x", {"input": document})[1].get("result")
    answer = program.evaluate(json.dumps(document).encode())
    assert (None if answer is None else json.loads(answer)) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{.a | len}}",
        '{{printf "%v" .a}}',
        "{{len (index .l 0)}}",
        '{{define "t"}}{{end}}',
        "{{range .l}}{{break}}{{end}}",
    ],
)
def test_what_is_not_followed_fails_the_evaluation(program: Program, template: str) -> None:
    with pytest.raises(DecisionError, match="template"):
        program.evaluate(json.dumps({"template": template, "data": DATA}).encode())
