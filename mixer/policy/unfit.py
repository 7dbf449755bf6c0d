"""Constructs that regorus reads otherwise than OPA and that cannot be rewritten: refused at load."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from mixer.errors import Problem
from mixer.policy.builtins.catalog import ARITY, NATIVE
from mixer.policy.shapes import Scope, UnfitError, shape, takes_apart
from mixer.policy.syntax import (
    COLLECTIONS,
    COMPREHENSIONS,
    INFIX,
    Node,
    flatten,
    functions,
    imports,
    kind_of,
    own_names,
    package,
    rule_head,
)

OPA_RUNS_IT = "engine: opa runs it"
_MORE_KEYS = (
    "also matches objects with more keys in the embedded engine; take the fields by name (object.field)"
)
_NOTHING = object()


def unfit(modules: Sequence[Node]) -> Iterator[Problem]:
    """Every such construct in the modules."""
    for module in modules:
        yield from _Constructs(module).problems()


def conflicts(modules: Sequence[Node], data: dict[str, Any]) -> Iterator[Problem]:
    """Rules where data has a value too: regorus would take the value."""
    told: set[str] = set()
    for module in modules:
        for rule in module["ast"]["rules"]:
            head = rule_head(rule)
            root, parts, _ = flatten(head)
            path = (*package(module), root, *parts)
            at: Any = data
            for depth, part in enumerate(path, 1):
                at = at.get(part, _NOTHING)
                if not isinstance(at, dict) or depth == len(path):
                    break
            where = ".".join(path[:depth])
            if at is not _NOTHING and where not in told:
                told.add(where)
                line = head[kind_of(head)]["span"]["line"]
                yield Problem(module["source"]["file"], f"line {line}", f"data.{where} is given by data too")


class _Constructs:
    def __init__(self, module: Node) -> None:
        self._file: str = module["source"]["file"]
        self._ast: Node = module["ast"]
        self._source: bytes = module["source"]["contents"].encode()
        self._names = {"input", "data", *imports(module), *own_names(module)}
        self._functions = functions([module])
        self._found: list[Problem] = []

    def problems(self) -> list[Problem]:
        for rule in self._ast["rules"]:
            default = rule.get("Default", {})
            if default.get("args") and "RefBrack" in default["refr"]:
                self._refuse(
                    default, "the embedded engine has no default of a function with brackets in its name"
                )
            elif default.get("args") and "RefDot" in default["refr"] and not self._defined(default["refr"]):
                self._refuse(default, "the embedded engine has no function that is only a default")
            self._patterns(rule)
            head: Node = next(iter(rule.get("Spec", {}).get("head", {}).values()), {})
            for argument in head.get("args", ()):
                if _computed(argument):
                    self._refuse(argument, "the embedded engine compares no operand with what is computed")
            self._walk(rule)
        return self._found

    def _defined(self, name: Node) -> bool:
        """Whether there is a rule of this name besides its default."""
        rules = [rule for rule in self._ast["rules"] if "Spec" in rule]
        return any(flatten(rule_head(rule)) == flatten(name) for rule in rules)

    def _refuse(self, node: Node, message: str) -> None:
        span = node["span"] if "span" in node else node[kind_of(node)]["span"]
        self._found.append(Problem(self._file, f"line {span['line']}", f"{message}; {OPA_RUNS_IT}"))

    def _patterns(self, rule: Node) -> None:
        """Objects that take a value apart: regorus lets one match an object with more keys."""
        self._scope = Scope(rule, self._source, self._names)
        spec: Node = rule.get("Spec", {"head": {"": {}}})
        for pattern in filter(takes_apart, next(iter(spec["head"].values())).get("args", ())):
            bodies = spec["bodies"]
            if len(bodies) != 1 or not _in_braces(bodies[0]["query"], self._source) or not _held(pattern):
                self._refuse(pattern, f"an object as an operand of a function {_MORE_KEYS}")

    def _walk(self, node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                self._walk(item)
        elif isinstance(node, dict):
            self._look_at(node)
            for name, item in node.items():
                if name != "span":
                    self._walk(item)

    def _look_at(self, node: Node) -> None:
        if "AssignExpr" in node:
            try:
                fits = all(_held(pattern) for pattern, _ in self._scope.pairs(node["AssignExpr"]))
            except UnfitError:
                fits = False
            if not fits:
                self._refuse(node, f"an object as a pattern {_MORE_KEYS}")
        elif "SomeIn" in node:
            body = node["SomeIn"]
            for side in (body["key"], body["value"]):
                if side is not None and takes_apart(side) and not _held(side):
                    self._refuse(side, f"an object as a pattern {_MORE_KEYS}")
        elif "UnaryExpr" in node and "Number" not in node["UnaryExpr"]["expr"]:
            self._refuse(node, "the embedded engine negates numbers only; write 0 - x")
        elif "Call" in node:
            self._call(node)
        elif "Number" in node and not self._is_exact(node["Number"]):
            self._refuse(node, "the embedded engine has no number of so many digits")
        for modifier in node.get("with_mods", ()):
            root, parts, _ = flatten(modifier["refr"])
            name = ".".join((root, *parts))
            if root == "data" and tuple(parts) in self._functions:
                self._refuse(
                    modifier, f"the embedded engine replaces {name} by its own name only, {parts[-1]}"
                )
            if root not in self._names and name not in NATIVE:
                self._refuse(modifier, f"the embedded engine cannot replace the builtin {name} by `with`")

    def _call(self, node: Node) -> None:
        root, parts, constant = flatten(node["Call"]["fcn"])
        name, given = ".".join((root, *parts)), len(node["Call"]["params"])
        if not constant or root in self._names:
            return
        wanted = ARITY.get(name)
        if wanted is not None and given not in (wanted, wanted + 1):  # one more: where the value goes to
            self._found.append(
                Problem(
                    self._file,
                    f"line {node['Call']['span']['line']}",
                    f"{wanted} operands of {name}",
                    str(given),
                )
            )

    def _is_exact(self, number: Node) -> bool:
        """Whether regorus' number is the one that is written."""
        value = number["value"]
        return isinstance(value, int) or Decimal(self._text(number["span"])) == Decimal(repr(value))

    def _text(self, span: Node) -> str:
        return self._source[span["start"] : span["end"]].decode()


def _computed(node: Node) -> bool:
    """Whether an operand of a function's head is, or has in it, more than names and constants."""
    if kind_of(node) in COLLECTIONS:
        return any(map(_computed, _items(node)))
    return kind_of(node) in COMPREHENSIONS | INFIX | {"Call", "Membership"}


def _in_braces(query: Node, source: bytes) -> bool:
    span = query["span"]
    return (
        source[span["start"] : span["start"] + 1] == b"{"
        and query["stmts"][0]["span"]["start"] > span["start"]
    )


def _held(pattern: Node) -> bool:
    """Whether a pattern can be held to its keys."""
    try:
        shape(pattern, lambda _: b"")
    except UnfitError:
        return False
    return True


def _items(node: Node) -> list[Node]:
    kind, body = next(iter(node.items()))
    return [value for _, _, value in body["fields"]] if kind == "Object" else body["items"]
