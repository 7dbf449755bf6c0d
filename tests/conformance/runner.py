"""One case through the load path and the evaluation that decide in production."""

import asyncio
import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from mixer import config
from mixer.errors import DecisionError, PolicyError
from mixer.policy.budget import Budget
from mixer.policy.network import Network
from mixer.policy.program import Program
from mixer.policy.sources import Module, Sources
from tests.conformance.cases import Case

_RULE = re.compile(r"data((?:\.[A-Za-z_]\w*)+) = (\w+)")
BUDGET = Budget(5.0, 2**30)  # with the places where an evaluation could be ended
_QUERY_PACKAGE = "conformance_query"


@dataclass(frozen=True)
class Outcome:
    """`detail`: for a refusal and an error their text, for an answer the answer."""

    kind: Literal["pass", "refused", "error", "different"]
    detail: str = ""


def run(case: Case) -> Outcome:
    modules = [Module(f"test-{index}.rego", text) for index, text in enumerate(case.modules)]
    match = _RULE.fullmatch(case.query)
    if match and match[2] in ("input", "data"):  # compared with, not bound
        match = None
    term = case.input_term
    document = json.dumps(case.input) if case.has_input else None
    if term is not None and (text := _json_text(term)) is not None:
        document, term = text, None
    if match and term is None:
        decision, variables = match[1].removeprefix(".").replace(".", "/"), [match[2]]
    else:
        variables = sorted({name for row in case.want_result or [] for name in row})
        modules.append(Module("query.rego", _query_module(case.query, variables, term)))
        decision = f"{_QUERY_PACKAGE}/answers"
    network = Network(config.Http())
    try:
        loaded = Sources(tuple(modules), case.data, "")
        program = Program(loaded, decision, strict_errors=case.strict_error, network=network, budget=BUDGET)
    except PolicyError as error:
        return Outcome("refused", str(error))
    try:
        answer = asyncio.run(_answer(program, network, document))
    except DecisionError as error:
        return Outcome("pass" if case.want_result is None else "error", str(error))
    rows: list[dict[str, Any]] = []
    if answer is not None:
        value = json.loads(answer, parse_float=Decimal)
        rows = [{variables[0]: value}] if match and term is None else value
    if case.want_result is not None and _same_rows(rows, case):
        return Outcome("pass")
    return Outcome("different", json.dumps(rows, default=str))


async def _answer(program: Program, network: Network, document: str | None) -> str | None:
    answer = network.decide(
        lambda: (program.evaluate(None if document is None else document.encode()),), None
    )
    return (answer if isinstance(answer, tuple) else await answer)[0]


def _query_module(query: str, variables: list[str], term: str | None) -> str:
    row = ", ".join(f'"{name}": {name}' for name in variables)
    override = f" with input as {term}" if term is not None else ""
    return (
        f"package {_QUERY_PACKAGE}\nimport rego.v1\nanswers contains {{{row}}} if {{\n{query}{override}\n}}"
    )


def _json_text(term: str) -> str | None:
    try:
        json.loads(term)
    except ValueError:
        return None
    return term


def _same_rows(rows: list[dict[str, Any]], case: Case) -> bool:
    wanted = case.want_result or []
    if case.ignore_generated_vars:
        wanted = [{k: v for k, v in row.items() if not k.startswith("__localq")} for row in wanted]
    sort = case.sort_bindings
    return {_canonical(row, sort) for row in rows} == {_canonical(row, sort) for row in wanted}


def _canonical(value: Any, sort: bool = False) -> str:
    """Text that is equal for values that are equal in Rego: 1 is 1.0, and is not true."""
    if isinstance(value, dict):
        return f"{{{','.join(f'{json.dumps(k)}:{_canonical(value[k], sort)}' for k in sorted(value))}}}"
    if isinstance(value, list):
        items = [_canonical(item) for item in value]
        return f"[{','.join(sorted(items) if sort else items)}]"
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return json.dumps(value)
    number = Decimal(str(value))
    return str(int(number)) if number == number.to_integral_value() else str(number.normalize())
