"""Which input paths and builtins a set of modules can use, read from regorus' AST.

The answer is the union over all modules, so it covers every decision that they can make: a rule or function is
followed wherever its body stands. A reference that is not constant (`input[x]`) counts as all of what it can
reach, and a bare `input` as everything. Over-approximation costs speed; anything less would cost right answers.
"""

from dataclasses import dataclass, field
from typing import Any

from mixer.policy.engine import Path
from mixer.policy.syntax import REFERENCES, flatten, imports, own_names, rule_head


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the callee's name, and where it is called."""

    name: str
    file: str
    line: int


@dataclass(slots=True)
class Uses:
    """What one set of modules uses."""

    paths: set[Path] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)  # of builtins
    functions: list[Call] = field(
        default_factory=list
    )  # of the modules' own; the name is a path, "lib/jwt/claims"
    rules: set[str] = field(default_factory=set)  # "envoy/authz/allow"
    partial: set[str] = field(default_factory=set)  # those of them that define parts: `allow[x].y := 1`


def analyse(modules: list[dict[str, Any]]) -> Uses:
    """`modules`: what `Engine.get_ast_as_json` gives, parsed."""
    uses = Uses()
    for module in modules:
        _Module(module, uses).run()
    uses.paths = _widest(uses.paths)
    return uses


def _widest(paths: set[Path]) -> set[Path]:
    """Without those that a shorter path covers."""
    return {path for path in paths if not any(path[:end] in paths for end in range(len(path)))}


def dotted(parts: Path) -> str:
    """A path as a policy author writes it: `input.attributes.request`."""
    return ".".join(("input", *parts))


class _Module:
    def __init__(self, module: dict[str, Any], uses: Uses) -> None:
        self.file: str = module["source"]["file"]
        self.ast = module["ast"]
        self.uses = uses
        imported = imports(module).items()
        self.aliases = {name: path[1:] for name, path in imported if path[0] == "input"}
        self.imports = {name: path[1:] for name, path in imported if path[0] == "data"}
        root, parts, _ = flatten(self.ast["package"]["refr"])
        self.package = (root, *parts)
        self.own = own_names(module)

    def run(self) -> None:
        for rule in self.ast["rules"]:
            root, parts, constant = flatten(rule_head(rule))
            path = "/".join((*self.package, root, *parts))
            self.uses.rules.add(path)
            if not constant:
                self.uses.partial.add(path)
        self._walk(self.ast["rules"])

    def _walk(self, node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                self._walk(item)
        elif isinstance(node, dict):
            if call := node.get("Call"):
                self._call(call)
            elif any(kind in node for kind in REFERENCES):
                self._reference(node)
            else:
                for name, item in node.items():
                    if name != "span":
                        self._walk(item)

    def _call(self, call: dict[str, Any]) -> None:
        root, parts, constant = flatten(call["fcn"])
        if constant:
            where = self.file, next(iter(call["fcn"].values()))["span"]["line"]
            if root == "data":
                self.uses.functions.append(Call("/".join(parts), *where))
            elif root in self.imports:
                self.uses.functions.append(Call("/".join((*self.imports[root], *parts)), *where))
            elif root not in self.own:
                self.uses.calls.append(Call(".".join((root, *parts)), *where))
        self._walk(call["params"])

    def _reference(self, node: dict[str, Any]) -> None:
        """Record what an input reference reads, and walk what its brackets hold."""
        root, parts, _ = flatten(node)
        if root == "input":
            self.uses.paths.add(tuple(parts))
        elif (path := self.aliases.get(root)) is not None:
            self.uses.paths.add((*path, *parts))
        while not node.get("Var"):
            kind = next(iter(node))
            if kind not in REFERENCES:
                self._walk(node)  # a reference into a call, an object, a comprehension
                return
            if kind == "RefBrack":
                self._walk(node[kind]["index"])
            node = node[kind]["refr"]
