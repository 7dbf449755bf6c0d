"""Numbers by how they are written, in the input and in data: as a real OPA shows them, or an error, never otherwise."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from mixer import config
from mixer.authz.body import Bodies
from mixer.errors import DecisionError, PolicyError
from mixer.policy import sources
from mixer.policy.program import Program
from mixer.policy.sources import Module, Sources
from tests.components import processes
from tests.components.processes import Opa
from tests.contract.test_rego import FAILED, UNDEFINED, exact

NUMBERS = "2 2.0 2.00 2e0 20e-1 0.5 0.50 5e-1 1E2 1e-5 0.00001 -0 -0.0 1e21 1.5e300".split()  # noqa: SIM905
DATA = {"list": [10, 20, 30], "names": {"2": "two", "0.5": "half"}}
SHOWN = [
    "json.marshal(input.n)",
    "json.marshal([input.n, {input.n: 1}])",
    "json.marshal(abs(input.n))",
    "json.marshal(input.n + 1)",
    "json.marshal_with_options(input.n, {})",
    'sprintf("%v %v", [input.n, [input.n]])',
    'sprintf("%d", [input.n])',
    'strings.render_template("{{.n}}", {"n": input.n})',
    '$"{input.n}"',
    "{input.n: 1}",
    "{k: 1 | some k in [input.n]}",
    "[10, 20, 30][input.n]",
    "data.list[input.n]",
    "data.names[input.n]",
    'substring("abcdef", input.n, 1)',
    "array.slice([1, 2, 3, 4], input.n, 3)",
    "format_int(5, input.n)",
    "[input.n == 2, input.n > 1, input.n in {2, 0.5}, input.n * 2, floor(input.n), to_number(input.n)]",
]


@pytest.fixture(scope="module")
def server() -> Iterator[Opa]:
    with processes.opa() as started:
        assert started.call("PUT", "/v1/data", DATA)[0] == 204
        yield started


def by_opa(server: Opa, text: str) -> Any:
    status, answer = server.call("POST", "/v1/data/p/x", f'{{"input": {text}}}')
    assert status == 200
    return answer.get("result", UNDEFINED)


def by_embedded(program: Program, text: str) -> Any:
    try:
        answer = program.evaluate(text.encode())
    except DecisionError:
        return FAILED
    return UNDEFINED if answer is None else json.loads(answer)


@pytest.mark.parametrize("expression", SHOWN)
def test_number_is_shown_as_it_is_written_or_not_at_all(server: Opa, expression: str) -> None:
    module = f"package p\n\nx := {expression}\n"
    assert server.call("PUT", "/v1/policies/p", module)[0] == 200
    program = Program(Sources((Module("p.rego", module),), DATA, ""), "p/x")
    answered = 0
    for number in NUMBERS:
        text = f'{{"n": {number}, "m": "1.0"}}'
        if (ours := by_embedded(program, text)) != FAILED:
            assert exact(ours) == exact(by_opa(server, text)), number
            answered += 1
    assert answered >= 2, "numbers that are written as usual have an answer"


def test_number_that_another_is_shown_beside_does_not_matter() -> None:
    module = "package p\n\nx := $`{input.a}`\n"
    program = Program(Sources((Module("p.rego", module),), {}, ""), "p/x")
    assert by_embedded(program, '{"a": 3, "b": 2.0}') == "3"
    assert by_embedded(program, '{"a": 2, "b": 2.0}') == FAILED, "which of the two it is cannot be told"
    assert by_embedded(program, '{"a": 2, "b": 3.0}') == "2"


@pytest.mark.parametrize(
    ("data", "refused"), [('{"n": 1.50}', True), ('{"n": 2.0}', True), ('{"n": [1.5, 2, "2.0"]}', False)]
)
def test_data_with_numbers_that_text_would_show(tmp_path: Path, data: str, refused: bool) -> None:
    (tmp_path / "data.json").write_text(data)
    (tmp_path / "p.rego").write_text("package p\n\nx := json.marshal(data.n)\n")
    loaded = sources.sources_of(config.Policy(paths=(tmp_path,), decision="p/x"))
    if not refused:
        assert Program(loaded, "p/x").evaluate(b"{}") is not None
        return
    with pytest.raises(PolicyError, match="does not keep how the number") as found:
        Program(loaded, "p/x")
    assert str(tmp_path / "data.json") in str(found.value)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('{"a": [1, 2.5, "1.0", "1e3", 10.01]}', False),
        ('{"a": 1.0}', True),
        ("[1e3]", True),
        ('{"a": 0.10}', True),
        ('{"a": -0}', True),
    ],
)
def test_body_is_given_as_it_is_where_a_number_is_not_written_as_usual(text: str, kept: bool) -> None:
    body, _ = Bodies(written=True).parse({"content-type": "application/json"}, text, b"", "/")
    assert isinstance(body, orjson.Fragment) == kept
    assert orjson.loads(orjson.dumps(body)) == json.loads(text)
    if kept:
        assert orjson.dumps(body) == text.encode()
