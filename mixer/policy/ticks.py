"""Modules in which an evaluation that does not end can be ended.

regorus holds Python's interpreter until it has decided, and offers no limit of time. So where the work may grow beyond
what a policy's text or a document has, a builtin of ours is called, which lets signals in (`policy.budget`):

- at a loop that is run for each turn of another one, `some x in input.a; some y in input.b`, also where it is within a
  function or a comprehension;
- in functions that call functions which call functions, so often that the calls multiply;
- between calls that make their operands longer, where many of them follow from each other.

What has none of these, as most policies, is as fast as before.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from mixer.policy.sources import Module
from mixer.policy.syntax import (
    COMPREHENSIONS,
    REFERENCES,
    Edit,
    Editor,
    Node,
    Pattern,
    children,
    extent,
    foundation,
    imports,
    indices,
    is_expression,
    kind_of,
    package,
    pattern,
    rule_head,
    variables,
)

TICK: Final = "mixer.tick"
_LOOPS: Final = frozenset(["SomeIn", "Every"])  # statements
_CALL: Final = b"mixer.tick()"
_FEW_CALLS: Final = 64  # of functions, for one call of a function
_FEW_GROWING: Final = 6  # calls that make their operands longer, one after the other
# Those of regorus; builtins of ours let signals in by themselves.
_GROWING: Final = frozenset(
    """
    array.concat base64.encode base64url.encode base64url.encode_no_pad concat hex.encode json.marshal json.patch
    object.union object.union_n regex.replace replace urlquery.encode
    """.split()  # noqa: SIM905
)

Found = TypeVar("Found")


class _Work:
    """What the rules of all modules have to do, by their paths."""

    def __init__(self, modules: Sequence[Node]) -> None:
        self._rules: dict[Pattern, list[_Rule]] = {}
        for module in modules:
            editor = Editor(module)
            for rule in module["ast"]["rules"]:
                if "Spec" in rule:
                    path: Pattern = (*package(module), *pattern(rule_head(rule)))
                    self._rules.setdefault(path, []).append(_Rule(editor, module, rule))
        self._known: dict[Pattern, list[Pattern]] = {}  # rules by what is constant of their paths
        for path in self._rules:
            self._known.setdefault(_constant(path), []).append(path)
        self._above = {path[:end] for path in self._known for end in range(len(path))}
        called = {
            path: [each for rule in rules for each in rule.calls] for path, rules in self._rules.items()
        }
        self._loops: dict[Pattern, bool] = _settled(
            called, lambda path, below: any(below) or any(rule.loops for rule in self._rules[path])
        )
        # How many calls of functions one call of a function makes at most, itself included.
        calls: dict[Pattern, int] = _settled(called, lambda _, below: min(1 + sum(below), 2 * _FEW_CALLS))
        self._multiplies = {path for path in called if len(called[path]) > 1 and calls[path] > _FEW_CALLS}
        used = {
            path: [each for rule in rules for use in rule.uses for each in self._met(use)]
            for path, rules in self._rules.items()
        }
        growing: dict[Pattern, int] = _settled(
            used, lambda path, below: max(below, default=0) + sum(rule.growing for rule in self._rules[path])
        )
        self._grows = {path for path, calls in growing.items() if calls > _FEW_GROWING}

    def loops(self, path: Pattern) -> bool:
        """Whether one call of a function loops."""
        return self._loops.get(path, False)

    def multiplies(self, path: Pattern) -> bool:
        """Whether a function calls many, by several calls."""
        return path in self._multiplies

    def grows(self, path: Pattern) -> bool:
        """Whether many calls that make their operands longer come one after the other, up to this rule."""
        return path in self._grows

    def is_whole(self, path: Pattern | None) -> bool:
        """Whether what a path names is had as one: a document, or a rule; not what has rules below it."""
        return path is None or _constant(path) not in self._above

    def _met(self, use: Pattern) -> list[Pattern]:
        """The rules that a reference reaches, or that are within what it reaches."""
        use = _constant(use)
        for end in range(1, len(use) + 1):
            if (rules := self._known.get(use[:end])) is not None:
                return rules
            if use[:end] not in self._above:
                return []
        return [path for path in self._rules if path[: len(use)] == use]


def _constant(path: Pattern) -> Pattern:
    return path[: path.index(None)] if None in path else path


def _settled(
    below: Mapping[Pattern, Sequence[Pattern]], value: Callable[[Pattern, list[Found]], Found]
) -> dict[Pattern, Found]:
    """Each path's value, made of those below it; its own name is there, too, where it is a rule's head."""
    found: dict[Pattern, Found] = {}
    begun: set[Pattern] = set()
    todo = list(below)
    while todo:
        path = todo[-1]
        missing = [each for each in below[path] if each in below and each not in found and each != path]
        if path in found or not missing or path in begun:
            if path not in found:
                found[path] = value(path, [found[each] for each in below[path] if each in found])
            todo.pop()
        else:
            begun.add(path)
            todo += missing
    return found


class _Rule:
    """One rule: whether it loops, the functions it calls (each time), what it refers to, and its growing calls."""

    def __init__(self, editor: Editor, module: Node, rule: Node) -> None:
        self._editor = editor
        self._package: Pattern = package(module)
        self._imports = {name: path[1:] for name, path in imports(module).items() if path[0] == "data"}
        self.locals = _bound(rule, editor)
        self.calls: list[Pattern] = []
        self.uses: set[Pattern] = set()
        self.growing = 0
        self.loops = False
        for node in _below(rule["Spec"]):
            if "literal" in node:
                self.loops |= bool(_LOOPS & node["literal"].keys())
            elif "Call" in node:
                self._call(node)
            elif kind_of(node) in REFERENCES:
                self.loops |= self.looped(node) is not None
                if (path := self.path(node)) is not None:
                    self.uses.add(path)

    def _call(self, node: Node) -> None:
        name = self._editor.builtin(node)
        self.growing += name in _GROWING
        self.loops |= name == "walk"
        if not name and (path := self.path(node["Call"]["fcn"])) is not None:
            self.calls.append(path)
            self.uses.add(path)

    def looped(self, node: Node) -> Node | None:
        """What a reference goes through each element of, by a name that nothing is assigned to; None where none."""
        found = None
        while kind_of(node) in ("RefDot", "RefBrack"):
            body = node[kind_of(node)]
            if "index" in body and any(
                name not in self.locals and name not in self._editor.names
                for name in variables(body["index"])
            ):
                found = body["refr"]
            node = body["refr"]
        return found

    def path(self, node: Node) -> Pattern | None:
        """What a reference names below data; None for what is elsewhere."""
        parts = pattern(node)
        root = parts[0]
        if root is None or root == "input" or root in self.locals:
            return None
        if root == "data":
            return parts[1:]
        return (*self._imports[root], *parts[1:]) if root in self._imports else (*self._package, *parts)


class _Ticking(Editor):
    def __init__(self, module: Node, work: _Work) -> None:
        super().__init__(module)
        self._module = module
        self._work = work

    def edits(self, node: Any, statement: bool = False) -> list[Edit]:
        if isinstance(node, dict) and "Spec" in node:
            self._rule = _Rule(self, self._module, node)
            path: Pattern = (*package(self._module), *pattern(rule_head(node)))
            is_function = "Func" in node["Spec"]["head"]
            self._multiplies = is_function and self._work.multiplies(path)
            self._grows = self._work.grows(path)
            return self._of_rule(node["Spec"])
        return super().edits(node, statement)

    def _of_rule(self, rule: Node) -> list[Edit]:
        head = next(iter(rule["head"].values()))
        found: list[Edit] = []
        for number, body in enumerate(rule["bodies"]):
            looped = body["query"] is not None and self._looped(body["query"], found, False)
            assign = body["assign"] if number else head.get("assign")
            terms = [assign["value"]] if assign else []
            if not number:
                terms += [head["key"]] if head.get("key") else []
            self._terms(terms, looped, found)
        if not rule["bodies"] and head.get("assign"):
            self._terms([head["assign"]["value"]], False, found)
        return found

    def _looped(self, query: Node, found: list[Edit], looped: bool) -> bool:
        """Puts ticks into a query; `looped`: whether what is before it loops. Whether its end is met more than once."""
        bare = query["span"]["start"]
        for statement in query["stmts"]:
            literal = statement["literal"]
            kind, body = next(iter(literal.items()))
            loops, turns = self._of_statement(kind, body, statement)
            if (loops and looped) or self._is_busy(statement):
                found += self._before(statement, bare)
            found += self._inside(statement)
            if kind == "Every":
                self._looped(body["query"], found, True)
            looped |= turns
        return looped

    def _of_statement(self, kind: str, body: Node, statement: Node) -> tuple[bool, bool]:
        """Whether it loops, and whether what follows is met more than once by it."""
        if kind in _LOOPS:
            return True, kind == "SomeIn"
        turns = any(map(self._turns, _shallow(statement)))
        return turns or bool(statement.get("with_mods")) or any(map(self._is_long, _below(statement))), turns

    def _turns(self, node: Node) -> bool:
        if "Call" in node:
            return self.builtin(node) == "walk"
        return kind_of(node) in REFERENCES and self._rule.looped(node) is not None

    def _is_long(self, node: Node) -> bool:
        """Whether what is met in an expression loops."""
        if "literal" in node:
            return bool(_LOOPS & node["literal"].keys())
        if "Call" in node and not self.builtin(node):
            path = self._rule.path(node["Call"]["fcn"])
            return path is not None and self._work.loops(path)
        return self._turns(node)

    def _is_busy(self, node: Node) -> bool:
        if not self._multiplies and not self._grows:
            return False
        for each in _below(node):
            if "Call" not in each:
                continue
            name = self.builtin(each)
            if self._grows and name in _GROWING:
                return True
            if self._multiplies and not name and self._rule.path(each["Call"]["fcn"]) is not None:
                return True
        return False

    def _before(self, statement: Node, bare: int) -> list[Edit]:
        at = statement["span"]["start"]
        if self.source[at - 1 : at] in (b'"', b"`"):  # a string's span leaves its quotes out
            at -= 1
        if statement["span"]["start"] != bare:
            return [(at, at, _CALL + b"; ")]
        last = _end(statement, self.source)
        return [(at, at, b"{ " + _CALL + b"; "), (last, last, b" }")]

    def _terms(self, terms: Iterable[Node], looped: bool, found: list[Edit]) -> None:
        """The values that a query gives."""
        for term in terms:
            found += self._inside(term)
            if (looped and any(map(self._is_long, _below(term)))) or self._is_busy(term):
                found += self._wrapped(term)

    def _wrapped(self, term: Node) -> list[Edit]:
        start, end = extent(term, self.source)
        return [(start, start, b"["), (end, end, b", " + _CALL + b"][0]")]

    def _inside(self, node: Node) -> list[Edit]:
        """Ticks within comprehensions, and at the second and later loops of one expression: `a[_] == b[_]`."""
        found: list[Edit] = []
        first = True
        for each in _shallow(node):
            kind = kind_of(each)
            if kind in COMPREHENSIONS:
                body = each[kind]
                looped = self._looped(body["query"], found, False)
                self._terms([body[name] for name in ("key", "value", "term") if name in body], looped, found)
            elif kind in REFERENCES and (collection := self._rule.looped(each)) is not None:
                if not first and self._work.is_whole(self._rule.path(collection)):
                    found += self._wrapped(collection)
                first = False
        return found


def ticked(modules: Sequence[Node]) -> list[Module] | None:
    """The modules with places where an evaluation can be ended; None where it always ends soon. Of rules that need
    themselves nothing can be said; they are refused before."""
    work = _Work(modules)
    editors = [_Ticking(module, work) for module in modules]
    texts = [editor.rewritten() for editor in editors]
    if all(text == editor.source.decode() for text, editor in zip(texts, editors, strict=True)):
        return None
    return [Module(editor.file, text) for text, editor in zip(texts, editors, strict=True)]


def _below(node: Any) -> Iterator[Node]:
    """All expressions and statements within a node, itself included; of a reference only the whole."""
    todo = [node] if is_expression(node) or "literal" in node else children(node)
    while todo:
        item = todo.pop()
        yield item
        todo += _parts(item)


def _shallow(node: Node) -> list[Node]:
    """The expressions within a node, in their order, but for what is within comprehensions and other statements."""
    found = []
    todo = [node] if is_expression(node) else children(node)
    while todo:
        item = todo.pop()
        if "literal" in item:
            continue
        found.append(item)
        if kind_of(item) not in COMPREHENSIONS:
            todo += _parts(item)
    return sorted(found, key=lambda item: item[kind_of(item)]["span"]["start"])


def _parts(node: Node) -> list[Node]:
    if "literal" in node or kind_of(node) not in REFERENCES:
        return children(node)
    root = foundation(node)
    return indices(node) if root is None else [*indices(node), root]


def _bound(rule: Node, editor: Editor) -> frozenset[str]:
    """The names that a rule gives values to; `some x` alone gives it none."""
    found: set[str] = set()
    for names in _assigned(rule, editor.source):
        found.update(names)
    return frozenset(found)


def _assigned(node: Any, source: bytes) -> Iterator[list[str]]:
    if isinstance(node, list):
        for item in node:
            yield from _assigned(item, source)
    if not isinstance(node, dict):
        return
    if "args" in node:
        yield variables(node["args"])
    if (assign := node.get("AssignExpr")) and assign["op"] == "ColEq":
        yield variables(assign["lhs"])
    if some := node.get("SomeIn"):
        yield variables([some["key"], some["value"]])
    if every := node.get("Every"):
        yield [
            source[span["start"] : span["end"]].decode() for span in (every["key"], every["value"]) if span
        ]
    for name, item in node.items():
        if name != "span":
            yield from _assigned(item, source)


def _end(statement: Node, source: bytes) -> int:
    end: int = statement["span"]["end"]
    return max([end, *(extent(each, source)[1] for each in children(statement))])
