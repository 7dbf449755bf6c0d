"""Rules and functions that need themselves. OPA's compiler refuses them; a function of regorus would never return."""

from collections.abc import Iterator, Sequence
from typing import Any

from mixer.errors import Problem
from mixer.policy.syntax import (
    REFERENCES,
    Node,
    Pattern,
    bindings,
    foundation,
    imports,
    indices,
    is_expression,
    kind_of,
    meet,
    own_names,
    package,
    pattern,
    rule_head,
)


def circles(modules: Sequence[Node]) -> Iterator[Problem]:
    """A problem for each circle of rules, at the first of its rules."""
    first: dict[Pattern, Problem] = {}
    uses: dict[Pattern, set[Pattern]] = {}
    for module in modules:
        rules = _Module(module)
        for path, line, used in rules.uses():
            first.setdefault(path, Problem(module["source"]["file"], f"line {line}", ""))
            uses.setdefault(path, set()).update(used)
    calls = {path: {rule for rule in uses for use in used if meet(use, rule)} for path, used in uses.items()}
    named: set[Pattern] = set()
    for path, where in first.items():
        if path not in named and (circle := _circle(path, calls)):
            named.update(circle)
            names = " → ".join("data." + ".".join(part or "[…]" for part in rule) for rule in circle)
            yield Problem(where.file, where.path, f"a rule that needs itself: {names}")


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
            own_locals = {name for names, _ in bindings(rule, self._source) for name in names}
            self._walk(rule, own_locals, found, head)
            yield (*self._package, *pattern(head)), head[kind_of(head)]["span"]["line"], found

    def _walk(self, node: Any, own_locals: set[str], found: set[Pattern], head: Node | None = None) -> None:
        if isinstance(node, list):
            for item in node:
                self._walk(item, own_locals, found, head)
        elif not isinstance(node, dict) or node is head:
            return
        elif is_expression(node) and kind_of(node) in REFERENCES:
            self._reference(node, own_locals, found)
            self._walk([*indices(node), foundation(node)], own_locals, found, head)
        else:
            for name, item in node.items():
                if name == "with_mods":  # what is replaced is not used
                    self._walk([modifier["as"] for modifier in item], own_locals, found, head)
                elif name != "span":
                    self._walk(item, own_locals, found, head)

    def _reference(self, node: Node, own_locals: set[str], found: set[Pattern]) -> None:
        root, *parts = pattern(node)
        if root == "data":
            found.add(tuple(parts))
        elif root is None or root in own_locals:
            return
        elif root in self._imports:
            found.add((*self._imports[root], *parts))
        elif root in self._own:
            found.add((*self._package, root, *parts))
