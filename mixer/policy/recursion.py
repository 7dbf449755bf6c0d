"""Rules and functions that need themselves. OPA's compiler refuses them; a function of regorus would never return."""

from collections.abc import Iterator, Sequence
from typing import Any

from mixer.errors import Problem
from mixer.policy.syntax import (
    REFERENCES,
    Node,
    imports,
    indices,
    is_expression,
    kind_of,
    own_names,
    package,
    rule_head,
)

Pattern = tuple[str | None, ...]  # a path below data; None is a part that varies


def circles(modules: Sequence[Node]) -> Iterator[Problem]:
    """A problem for each circle of rules, at the first of its rules."""
    first: dict[Pattern, Problem] = {}
    uses: dict[Pattern, set[Pattern]] = {}
    for module in modules:
        rules = _Module(module)
        for path, line, used in rules.uses():
            first.setdefault(path, Problem(module["source"]["file"], f"line {line}", ""))
            uses.setdefault(path, set()).update(used)
    calls = {path: {rule for rule in uses for use in used if _meet(use, rule)} for path, used in uses.items()}
    named: set[Pattern] = set()
    for path, where in first.items():
        if path not in named and (circle := _circle(path, calls)):
            named.update(circle)
            names = " → ".join("data." + ".".join(part or "[…]" for part in rule) for rule in circle)
            yield Problem(where.file, where.path, f"a rule that needs itself: {names}")


def _meet(use: Pattern, rule: Pattern) -> bool:
    """Whether a reference reaches a rule, or something within it, or something that it is within."""
    return all(one is None or other is None or one == other for one, other in zip(use, rule, strict=False))


def _circle(start: Pattern, calls: dict[Pattern, set[Pattern]]) -> list[Pattern]:
    """The way from a rule back to itself, or nothing."""
    came: dict[Pattern, Pattern] = {}
    todo = [start]
    while todo:
        rule = todo.pop()
        for called in calls[rule]:
            if called == start:
                way = [start, rule]
                while way[-1] != start:
                    way.append(came[way[-1]])
                return way[::-1]
            if called not in came:
                came[called] = rule
                todo.append(called)
    return []


class _Module:
    def __init__(self, module: Node) -> None:
        self._rules = module["ast"]["rules"]
        self._source: bytes = module["source"]["contents"].encode()
        self._package = package(module)
        self._imports = {name: path[1:] for name, path in imports(module).items() if path[0] == "data"}
        self._own = own_names(module)

    def uses(self) -> Iterator[tuple[Pattern, int, set[Pattern]]]:
        """Of each rule its path, its line, and the paths that it refers to."""
        for rule in self._rules:
            head = rule_head(rule)
            found: set[Pattern] = set()
            self._walk(indices(head), set(), found)
            self._walk(rule, self._locals(rule), found, head)
            yield (*self._package, *_pattern(head)), head[kind_of(head)]["span"]["line"], found

    def _walk(self, node: Any, own_locals: set[str], found: set[Pattern], head: Node | None = None) -> None:
        if isinstance(node, list):
            for item in node:
                self._walk(item, own_locals, found, head)
        elif not isinstance(node, dict) or node is head:
            return
        elif is_expression(node) and kind_of(node) in REFERENCES:
            self._reference(node, own_locals, found)
            self._walk([*indices(node), _root(node)], own_locals, found, head)
        else:
            for name, item in node.items():
                if name == "with_mods":  # what is replaced is not used
                    self._walk([modifier["as"] for modifier in item], own_locals, found, head)
                elif name != "span":
                    self._walk(item, own_locals, found, head)

    def _reference(self, node: Node, own_locals: set[str], found: set[Pattern]) -> None:
        root, *parts = _pattern(node)
        if root == "data":
            found.add(tuple(parts))
        elif root is None or root in own_locals:
            return
        elif root in self._imports:
            found.add((*self._imports[root], *parts))
        elif root in self._own:
            found.add((*self._package, root, *parts))

    def _locals(self, node: Any) -> set[str]:
        """Names that a rule binds for itself: its operands, by `:=`, `some` and `every`."""
        if isinstance(node, list):
            return {name for item in node for name in self._locals(item)}
        if not isinstance(node, dict):
            return set()
        found = _variables(node.get("args"))
        if "AssignExpr" in node and node["AssignExpr"]["op"] == "ColEq":
            found |= _variables(node["AssignExpr"]["lhs"])
        if "SomeIn" in node:
            found |= _variables([node["SomeIn"]["key"], node["SomeIn"]["value"]])
        spans = node.get("SomeVars", {}).get("vars", [])
        if every := node.get("Every"):
            spans = [every["key"], every["value"]]
        found |= {self._source[span["start"] : span["end"]].decode() for span in spans if span}
        return found.union(*(self._locals(item) for name, item in node.items() if name != "span"))


def _pattern(node: Node) -> Pattern:
    """A reference's parts from its root on; None for one that varies, or a root without a name."""
    parts: list[str | None] = []
    while kind_of(node) in ("RefDot", "RefBrack"):
        body = node[kind_of(node)]
        if "field" in body:
            parts.append(body["field"][1])
        else:
            constant = body["index"].get("String") or body["index"].get("RawString")
            parts.append(constant["value"] if constant else None)
        node = body["refr"]
    return (node["Var"]["value"] if "Var" in node else None, *reversed(parts))


def _root(node: Node) -> Node | None:
    """What a reference is into, where that has no name: a call, an object, a comprehension."""
    while kind_of(node) in ("RefDot", "RefBrack"):
        node = node[kind_of(node)]["refr"]
    return None if "Var" in node else node


def _variables(node: Any) -> set[str]:
    if isinstance(node, list):
        return {name for item in node for name in _variables(item)}
    if not isinstance(node, dict):
        return set()
    if "Var" in node:
        return {node["Var"]["value"]}
    return {name for item in node.values() for name in _variables(item)}
