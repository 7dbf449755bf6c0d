"""regorus' syntax tree: its kinds of nodes, and where each stands in the source.

`Engine.get_ast_as_json` gives each node as a mapping of one key, its kind. Its spans are byte offsets, and a few
of them are off: a string's leaves its quotes out, and so does the span of what begins or ends with it; an object's
begins at its last key; that of `set()` takes the next token in. `extent` gives the true ones.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Node = dict[str, Any]
Pattern = tuple[str | None, ...]  # a path; None is a part that varies
Edit = tuple[int, int, bytes]  # from, to (byte offsets), and what stands there instead

REFERENCES = frozenset(["Var", "RefDot", "RefBrack"])
INFIX = frozenset(["ArithExpr", "AssignExpr", "BinExpr", "BoolExpr"])
COMPREHENSIONS = frozenset(["ArrayCompr", "ObjectCompr", "SetCompr"])
COLLECTIONS = frozenset(["Array", "Object", "Set"])
STRINGS = frozenset(["RawString", "String"])
EXPRESSIONS = (
    REFERENCES
    | INFIX
    | COMPREHENSIONS
    | COLLECTIONS
    | STRINGS
    | frozenset(["Bool", "Call", "Membership", "Null", "Number", "UnaryExpr"])
)

MISSING: Any = object()

_EMPTY_SET = re.compile(rb"set\s*\(\s*\)")
_UP_TO_KEY = re.compile(rb"\{(?:[\s(]|#[^\n]*\n)*")


def kind_of(node: Node) -> str:
    return next(iter(node))


def is_expression(node: Node) -> bool:
    """An expression; the head of a rule that makes a set has a kind of the same name, but no index."""
    return len(node) == 1 and (kind := next(iter(node))) in EXPRESSIONS and "eidx" in node[kind]


def children(node: Node) -> list[Node]:
    """The expressions and statements right below a node."""
    found: list[Node] = []
    todo: list[Any] = list(node.values()) if not is_expression(node) else list(node[kind_of(node)].values())
    while todo:
        item = todo.pop()
        if isinstance(item, list):
            todo.extend(item)
        elif isinstance(item, dict):
            if is_expression(item) or "literal" in item:
                found.append(item)
            else:
                todo.extend(item.values())
    return found


def flatten(node: Node) -> tuple[str, list[str], bool]:
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
            index = body["index"]
            constant = index.get("String") or index.get("RawString")
            parts.append(constant["value"] if constant else None)
        else:
            return "", [], False
        node = body["refr"]
    parts.reverse()
    known = parts[: parts.index(None)] if None in parts else parts
    return body["value"], [part for part in known if part is not None], None not in parts


def imports(module: Node) -> dict[str, tuple[str, ...]]:
    """What a module imports: the name here to the path there, "input" or "data" included."""
    source = module["source"]["contents"].encode()
    found = {}
    for item in module["ast"]["imports"]:
        root, parts, _ = flatten(item["refr"])
        span = item.get("as")
        name = source[span["start"] : span["end"]].decode() if span else (parts or [root])[-1]
        if root in ("input", "data"):
            found[name] = (root, *parts)
    return found


def package(module: Node) -> tuple[str, ...]:
    """A module's path below data."""
    root, parts, _ = flatten(module["ast"]["package"]["refr"])
    return (root, *parts)


def own_names(module: Node) -> set[str]:
    """The first name of each rule and function of a module, and of its package in other files (`share_names`)."""
    names: set[str] | None = module.get("names")
    return {flatten(rule_head(rule))[0] for rule in module["ast"]["rules"]} if names is None else names


def share_names(modules: Sequence[Node]) -> None:
    """Let each module know the names of its package in the others, which it can use without an import."""
    names: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for module in modules:
        names[package(module)] |= own_names(module)
    for module in modules:
        module["names"] = names[package(module)]


def functions(modules: Iterable[Node]) -> set[tuple[str, ...]]:
    """The paths of all functions below data."""
    return {
        (*package(module), root, *parts)
        for module in modules
        for rule in module["ast"]["rules"]
        if "Func" in rule.get("Spec", {}).get("head", {}) or rule.get("Default", {}).get("args")
        for root, parts, _ in [flatten(rule_head(rule))]
    }


def partial_sets(module: Node) -> set[str]:
    """The rules of one name that a module makes sets of, `deny contains …`."""
    heads = [rule["Spec"]["head"].get("Set", {}) for rule in module["ast"]["rules"] if "Spec" in rule]
    return {head["refr"]["Var"]["value"] for head in heads if "Var" in head.get("refr", {})}


def constant(node: Node) -> Any:
    """A constant's value, and a list's of constants; `MISSING` for any other."""
    kind, body = next(iter(node.items()))
    if kind in STRINGS or kind in ("Bool", "Number"):
        return body["value"]
    if kind == "Null":
        return None
    if kind == "Array":
        items = [constant(item) for item in body["items"]]
        return MISSING if MISSING in items else items
    return MISSING


def rule_head(rule: Node) -> Node:
    """The reference that a rule defines."""
    if "Default" in rule:
        return rule["Default"]["refr"]  # type: ignore[no-any-return]
    head = next(iter(rule["Spec"]["head"].values()))
    return head["refr"]  # type: ignore[no-any-return]


def indices(node: Node) -> list[Node]:
    """What stands in the brackets of a reference."""
    found = []
    while kind_of(node) in ("RefDot", "RefBrack"):
        body = node[kind_of(node)]
        if "index" in body:
            found.append(body["index"])
        node = body["refr"]
    return found


def pattern(node: Node) -> Pattern:
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


def foundation(node: Node) -> Node | None:
    """What a reference is into, where that has no name."""
    while kind_of(node) in ("RefDot", "RefBrack"):
        node = node[kind_of(node)]["refr"]
    return None if "Var" in node else node


def meet(use: Pattern, rule: Pattern) -> bool:
    """Whether a reference reaches a rule, or something within it, or something that it is within."""
    return all(one is None or other is None or one == other for one, other in zip(use, rule, strict=False))


def variables(node: Any) -> list[str]:
    """The names that stand anywhere below a node."""
    if isinstance(node, list):
        return [name for item in node for name in variables(item)]
    if not isinstance(node, dict):
        return []
    if "Var" in node:
        return [node["Var"]["value"]]
    return [name for item in node.values() for name in variables(item)]


def bindings(node: Any, source: bytes) -> Iterator[tuple[list[str], Node | None]]:
    """Each place below a node that binds locals: their names, and the assignment where it is one."""
    if isinstance(node, list):
        for item in node:
            yield from bindings(item, source)
    if not isinstance(node, dict):
        return
    if "args" in node:
        yield variables(node["args"]), None
    if (assign := node.get("AssignExpr")) and assign["op"] == "ColEq":
        yield variables(assign["lhs"]), assign
    if some := node.get("SomeIn"):
        yield variables([some["key"], some["value"]]), None
    spans = node.get("SomeVars", {}).get("vars", [])
    if every := node.get("Every"):
        spans = [every["key"], every["value"]]
    yield [source[span["start"] : span["end"]].decode() for span in spans if span], None
    for name, item in node.items():
        if name != "span":
            yield from bindings(item, source)


def extent(node: Node, source: bytes) -> tuple[int, int]:
    """Where an expression begins and ends, quotes and brackets included, parentheses around it not."""
    kind = kind_of(node)
    span = node[kind]["span"]
    start, end = span["start"], span["end"]
    if kind == "Object" and (fields := node[kind]["fields"]):
        start = _brace_before(extent(fields[0][1], source)[0], source)
    if kind == "Set" and (empty := _EMPTY_SET.match(source, start)):
        end = empty.end()
    first, last = _edge(node, "lhs"), _edge(node, "rhs")
    if first is not None and first["span"]["start"] == start:
        start -= 1
    if last is not None and last["span"]["end"] == end:
        end += 1
    return start, end


def _brace_before(key: int, source: bytes) -> int:
    """Where the object begins whose first key stands at `key`: nothing but space and comments is between."""
    brace = source.rfind(b"{", 0, key)
    while brace > 0 and _UP_TO_KEY.fullmatch(source, brace, key) is None:
        brace = source.rfind(b"{", 0, brace)
    return brace


def _edge(node: Node, side: str) -> dict[str, Any] | None:
    """The string that an expression begins ("lhs") or ends ("rhs") with, where it does."""
    kind, body = next(iter(node.items()))
    if kind in STRINGS:
        return body  # type: ignore[no-any-return]
    if kind in INFIX:
        return _edge(body[side], side)
    if kind == "Membership":
        return _edge((body["key"] or body["value"]) if side == "lhs" else body["collection"], side)
    if kind in ("RefDot", "RefBrack") and side == "lhs":
        return _edge(body["refr"], side)
    return None


def replaced(node: Any) -> set[str]:
    """The names of what `with` replaces, anywhere below a node."""
    if isinstance(node, list):
        return {name for item in node for name in replaced(item)}
    if not isinstance(node, dict):
        return set()
    found = {name for item in node.values() for name in replaced(item)}
    for modifier in node.get("with_mods", ()):
        root, parts, _ = flatten(modifier["refr"])
        found.add(".".join((root, *parts)))
    return found


class Editor:
    """Rewrites one module. A subclass says what becomes of an expression or of a negation.

    `names` is what the module knows besides its locals: its rules, its imports, input and data."""

    def __init__(self, module: Node) -> None:
        self.file: str = module["source"]["file"]
        self.source: bytes = module["source"]["contents"].encode()
        self.ast: Node = module["ast"]
        self.names = frozenset(("input", "data", *imports(module), *own_names(module)))

    def rewritten(self) -> str:
        return self._apply(self.edits(self.ast["rules"]), 0, len(self.source)).decode()

    def text(self, node: Node, statement: bool = False) -> bytes:
        """An expression's source, rewritten."""
        return self._apply(self.edits(node, statement), *extent(node, self.source))

    def builtin(self, call: Node) -> str:
        """The name of the builtin that is called, or "" for a function of the modules."""
        root, parts, constant = flatten(call["Call"]["fcn"])
        return ".".join((root, *parts)) if constant and root not in self.names else ""

    def expression(self, node: Node, statement: bool) -> list[Edit] | None:
        """What becomes of an expression, a statement by itself or not; None: only what is below it is looked at."""
        return None

    def literal(self, kind: str, body: Node) -> list[Edit] | None:
        """What becomes of a statement of this kind ("NotExpr", "SomeIn", …); None as above."""
        return None

    def edits(self, node: Any, statement: bool = False) -> list[Edit]:
        """The edits of a node and of all below it; none overlaps another."""
        if isinstance(node, list):
            return [edit for item in node for edit in self.edits(item)]
        if not isinstance(node, dict):
            return []
        if is_expression(node):
            edits = self.expression(node, statement)
            return self.edits(children(node)) if edits is None else edits
        if "literal" in node:  # a statement
            values = [modifier["as"] for modifier in node.get("with_mods", ())]
            return self._statement(node["literal"]) + self.edits(values)
        return [edit for name, item in node.items() if name != "span" for edit in self.edits(item)]

    def _statement(self, literal: Node) -> list[Edit]:
        kind, body = next(iter(literal.items()))
        if (edits := self.literal(kind, body)) is not None:
            return edits
        if kind in ("Expr", "NotExpr"):
            return self.edits(body["expr"], statement=True)
        return self.edits(body)

    def replaced(self, start: int, end: int, text: bytes) -> Edit:
        """An edit that keeps the number of lines, so that what follows stays on its line."""
        lost = self.source.count(b"\n", start, end) - text.count(b"\n")
        if lost > 0:
            at = re.search(rb"[\[(]", text)
            assert at is not None  # noqa: S101 (every text given here has a bracket)
            text = text[: at.end()] + b"\n" * lost + text[at.end() :]
        return start, end, text

    def _apply(self, edits: list[Edit], start: int, end: int) -> bytes:
        parts = []
        for at, until, text in sorted(edits):
            parts += [self.source[start:at], text]
            start = until
        return b"".join((*parts, self.source[start:end]))
