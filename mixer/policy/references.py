"""Which input paths and builtins a set of modules can use, read from regorus' AST.

The answer is the union over all modules, so it covers every decision that they can make: a rule or function is
followed wherever its body stands. A reference that is not constant (`input[x]`) counts as all of what it can
reach, and a bare `input` as everything. Over-approximation costs speed; anything less would cost right answers.
"""

from dataclasses import dataclass, field
from typing import Any

from mixer.policy.engine import Path

_REFERENCES = ("Var", "RefDot", "RefBrack")


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the callee's name, and where that name stands in the source (byte offsets)."""

    name: str
    file: str
    line: int
    start: int
    end: int
    arity: int


@dataclass(slots=True)
class Uses:
    """What one set of modules uses."""

    paths: set[Path] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)  # of builtins
    functions: list[Call] = field(
        default_factory=list
    )  # of the modules' own; the name is a path, "lib/jwt/claims"
    rules: set[str] = field(default_factory=set)  # "envoy/authz/allow"


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
        self.source: bytes = module["source"]["contents"].encode()
        self.ast = module["ast"]
        self.uses = uses
        self.aliases: dict[str, Path] = {}  # imports of input
        self.imports: dict[str, Path] = {}  # imports of data
        root, parts, _ = _flatten(self.ast["package"]["refr"])
        self.package = (root, *parts)
        self.own: set[str] = set()  # names of rules and functions of this module

    def run(self) -> None:
        for item in self.ast["imports"]:
            root, parts, _ = _flatten(item["refr"])
            span = item.get("as")
            name = self.source[span["start"] : span["end"]].decode() if span else (parts or [root])[-1]
            if root in ("input", "data"):
                (self.aliases if root == "input" else self.imports)[name] = tuple(parts)
        for rule in self.ast["rules"]:
            root, parts, _ = _flatten(_head(rule))
            self.own.add(root)
            self.uses.rules.add("/".join((*self.package, root, *parts)))
        self._walk(self.ast["rules"])

    def _walk(self, node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                self._walk(item)
        elif isinstance(node, dict):
            if call := node.get("Call"):
                self._call(call)
            elif any(kind in node for kind in _REFERENCES):
                self._reference(node)
            else:
                for name, item in node.items():
                    if name != "span":
                        self._walk(item)

    def _call(self, call: dict[str, Any]) -> None:
        root, parts, constant = _flatten(call["fcn"])
        if constant:
            span = _span(call["fcn"])
            where = (self.file, span["line"], span["start"], span["end"], len(call["params"]))
            if root == "data":
                self.uses.functions.append(Call("/".join(parts), *where))
            elif root in self.imports:
                self.uses.functions.append(Call("/".join((*self.imports[root], *parts)), *where))
            elif root not in self.own:
                self.uses.calls.append(Call(".".join((root, *parts)), *where))
        self._walk(call["params"])

    def _reference(self, node: dict[str, Any]) -> None:
        """Record what an input reference reads, and walk what its brackets hold."""
        root, parts, _ = _flatten(node)
        if root == "input":
            self.uses.paths.add(tuple(parts))
        elif (path := self.aliases.get(root)) is not None:
            self.uses.paths.add((*path, *parts))
        while not node.get("Var"):
            kind = next(iter(node))
            if kind not in _REFERENCES:
                self._walk(node)  # a reference into a call, an object, a comprehension
                return
            if kind == "RefBrack":
                self._walk(node[kind]["index"])
            node = node[kind]["refr"]


def _head(rule: dict[str, Any]) -> dict[str, Any]:
    if "Default" in rule:
        return rule["Default"]["refr"]  # type: ignore[no-any-return]
    head = next(iter(rule["Spec"]["head"].values()))
    return head["refr"]  # type: ignore[no-any-return]


def _span(node: dict[str, Any]) -> dict[str, int]:
    return next(iter(node.values()))["span"]  # type: ignore[no-any-return]


def _flatten(node: dict[str, Any]) -> tuple[str, list[str], bool]:
    """A reference as its root's name, its constant parts up to the first that varies, and whether all are constant.

    The root is "" where the reference is into something without a name.
    """
    parts: list[str | None] = []
    while True:
        kind, body = next(iter(node.items()))
        if kind == "Var":
            break
        if kind == "RefDot":
            parts.append(body["field"][1])
        elif kind == "RefBrack":
            parts.append(body["index"]["String"]["value"] if "String" in body["index"] else None)
        else:
            return "", [], False
        node = body["refr"]
    parts.reverse()
    known = parts[: parts.index(None)] if None in parts else parts
    return body["value"], [part for part in known if part is not None], None not in parts
