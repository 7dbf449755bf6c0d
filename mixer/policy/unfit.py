"""Constructs that regorus reads otherwise than OPA and that cannot be rewritten: refused at load."""

from collections.abc import Iterator, Sequence
from typing import Any

from mixer.errors import Problem
from mixer.policy.builtins.catalog import ARITY, NATIVE
from mixer.policy.syntax import (
    COLLECTIONS,
    COMPREHENSIONS,
    INFIX,
    Node,
    flatten,
    imports,
    kind_of,
    own_names,
    package,
    rule_head,
)

OPA_RUNS_IT = "engine: opa runs it"
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
            head: Node = next(iter(rule.get("Spec", {}).get("head", {}).values()), {})
            for argument in head.get("args", ()):
                self._pattern(argument)
                if _computed(argument):
                    self._refuse(argument, "the embedded engine compares no operand with what is computed")
        self._walk(self._ast["rules"])
        return self._found

    def _defined(self, name: Node) -> bool:
        """Whether there is a rule of this name besides its default."""
        rules = [rule for rule in self._ast["rules"] if "Spec" in rule]
        return any(flatten(rule_head(rule)) == flatten(name) for rule in rules)

    def _refuse(self, node: Node, message: str) -> None:
        span = node["span"] if "span" in node else node[kind_of(node)]["span"]
        self._found.append(Problem(self._file, f"line {span['line']}", f"{message}; {OPA_RUNS_IT}"))

    def _pattern(self, node: Node) -> None:
        """An object that takes a value apart: regorus lets it match one with more keys."""
        if "Object" in node and any(_binds(value) for _, _, value in node["Object"]["fields"]):
            self._refuse(
                node,
                "an object as a pattern also matches objects with more keys in the embedded engine; "
                "take the fields by name (object.field)",
            )
        elif "Array" in node:
            for item in node["Array"]["items"]:
                self._pattern(item)

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
            body = node["AssignExpr"]
            for side, other in (("lhs", "rhs"), ("rhs", "lhs")):
                if "Var" not in body[other]:  # a plain name takes the whole value
                    self._pattern(body[side])
        elif "SomeIn" in node:
            body = node["SomeIn"]
            for side in (body["key"], body["value"]):
                if side is not None:
                    self._pattern(side)
        elif "UnaryExpr" in node and "Number" not in node["UnaryExpr"]["expr"]:
            self._refuse(node, "the embedded engine negates numbers only; write 0 - x")
        elif "Call" in node:
            self._call(node)
        for modifier in node.get("with_mods", ()):
            root, parts, _ = flatten(modifier["refr"])
            name = ".".join((root, *parts))
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
        if name == "sprintf" and given == wanted and "Array" in (operands := node["Call"]["params"][1]):
            for item in operands["Array"]["items"]:
                self._number(item)

    def _number(self, node: Node) -> None:
        """`sprintf` tells 1e2 from 100, which regorus does not."""
        number = node.get("Number", {"value": 0.5})
        if isinstance(number["value"], int) and not self._text(number["span"]).isdigit():
            self._refuse(node, "sprintf of a whole number that is not written as one")

    def _text(self, span: Node) -> str:
        return self._source[span["start"] : span["end"]].decode()


def _computed(node: Node) -> bool:
    """Whether an operand of a function's head is, or has in it, more than names and constants."""
    if kind_of(node) in COLLECTIONS:
        return any(map(_computed, _items(node)))
    return kind_of(node) in COMPREHENSIONS | INFIX | {"Call", "Membership"}


def _binds(node: Node) -> bool:
    """Whether a value of an object pattern may bind a name."""
    if kind_of(node) in COLLECTIONS:
        return any(map(_binds, _items(node)))
    return "Var" in node


def _items(node: Node) -> list[Node]:
    kind, body = next(iter(node.items()))
    return [value for _, _, value in body["fields"]] if kind == "Object" else body["items"]
