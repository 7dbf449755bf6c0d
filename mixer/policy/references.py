"""Which input paths and builtins a decision can use, read from regorus' AST.

From the decision's rule on, every rule and function is followed that a body, a head, a default, an `else` or a `with`
can reach. What is not constant widens: `data.roles[x]` reaches every rule there, `input[x]` counts as all of what it
can reach, and a bare `input` as everything. Over-approximation costs speed; anything less would cost right answers.

A local that only names a part of the input (`http := input.attributes.request.http`) stands for that part: `http.path`
reads no more than the path. Whether the part is there is read as well, which a reader of a longer path sees too: an
input that is built of paths keeps what is above them.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mixer.policy.builtins.catalog import ARITY, NONDETERMINISTIC
from mixer.policy.engine import Path, References
from mixer.policy.syntax import (
    REFERENCES,
    Node,
    Pattern,
    bindings,
    flatten,
    foundation,
    imports,
    indices,
    kind_of,
    meet,
    own_names,
    package,
    pattern,
    rule_head,
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the callee's name, and where it is called."""

    name: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.name} ({self.file}:{self.line})"


@dataclass(slots=True)
class Uses:
    """What a set of modules has and calls, reachable or not."""

    calls: list[Call] = field(default_factory=list)  # of builtins
    functions: list[Call] = field(default_factory=list)  # of the modules' own, by path: "lib/jwt/claims"
    rules: set[str] = field(default_factory=set)  # "envoy/authz/allow"
    partial: set[str] = field(default_factory=set)  # those of them that define parts: `allow[x].y := 1`


@dataclass(slots=True)
class _Rule:
    """A rule, and what stands in it. `calls`: of builtins; `functions`: of the modules' own that are called by path."""

    pattern: Pattern
    paths: set[Path] = field(default_factory=set)
    uses: set[Pattern] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    functions: list[Call] = field(default_factory=list)


def analyse(modules: list[Node]) -> Uses:
    """`modules`: what `Engine.get_ast_as_json` gives, parsed."""
    uses = Uses()
    for rule in _rules(modules):
        path = "/".join(rule.pattern[: rule.pattern.index(None)] if None in rule.pattern else rule.pattern)  # type: ignore[arg-type]
        uses.rules.add(path)
        if None in rule.pattern:
            uses.partial.add(path)
        uses.calls += rule.calls
        uses.functions += rule.functions
    return uses


def references(
    modules: list[Node], decision: str, unstable: Collection[str] = NONDETERMINISTIC
) -> References:
    """What a decision ("envoy/authz/allow", or a package) can read; `unstable`: builtins that make it uncacheable."""
    rules, entry = list(_rules(modules)), tuple(decision.split("/"))
    paths = {path for rule in _reached(rules, entry, as_opa=True) for path in rule.paths}
    calls = [str(call) for rule in _reached(rules, entry) for call in rule.calls if call.name in unstable]
    return References(frozenset(_widest(paths)), tuple(dict.fromkeys(calls)))


def documents(modules: list[Node], decision: str) -> frozenset[Pattern]:
    """The data that a decision can read and no rule gives: paths below data, None for a part that varies."""
    rules = list(_rules(modules))
    given = {_known(rule.pattern) for rule in rules}
    used = {use for rule in _reached(rules, tuple(decision.split("/"))) for use in rule.uses}
    return frozenset(
        use or (None,) for use in used if not any(use[:end] in given for end in range(1, len(use) + 1))
    )


def dotted(parts: Path) -> str:
    """A path as a policy author writes it: `input.attributes.request`."""
    return ".".join(("input", *parts))


def _widest(paths: set[Path]) -> set[Path]:
    """Without those that a shorter path covers."""
    return {path for path in paths if not any(path[:end] in paths for end in range(len(path)))}


def _reached(rules: Sequence[_Rule], decision: Pattern, *, as_opa: bool = False) -> list[_Rule]:
    """The rules that the decision can use, in the order of the modules. `as_opa`: with those that only `opa deps`
    counts among them, which goes by what stands before the first part that varies, in `data.roles[x].name` and in the
    head `roles[x].rank`."""
    below: dict[Pattern, list[int]] = defaultdict(list)  # by each beginning of a rule's constant part
    at: dict[Pattern, list[int]] = defaultdict(list)  # by a rule's whole constant part
    for index, rule in enumerate(rules):
        known = _known(rule.pattern)
        at[known].append(index)
        for end in range(len(known) + 1):
            below[known[:end]].append(index)
    reached: set[int] = set()
    seen: set[Pattern] = set()
    todo = [decision]
    while todo:
        use = todo.pop()
        if as_opa:
            use = _known(use)
        if use in seen:
            continue
        seen.add(use)
        known = _known(use)
        near = [*below[known], *(index for end in range(len(known)) for index in at[known[:end]])]
        for index in near:
            if index not in reached and (as_opa or meet(use, rules[index].pattern)):
                reached.add(index)
                todo += rules[index].uses
    return [rules[index] for index in sorted(reached)]


def _known(pattern: Pattern) -> Pattern:
    return pattern[: pattern.index(None)] if None in pattern else pattern


def _rules(modules: list[Node]) -> Iterator[_Rule]:
    for module in modules:
        here = _Module(module)
        for rule in module["ast"]["rules"]:
            yield here.rule(rule)


class _Module:
    def __init__(self, module: Node) -> None:
        self.file: str = module["source"]["file"]
        self.source: bytes = module["source"]["contents"].encode()
        self.own = own_names(module)
        self.package = package(module)
        self.imports = imports(module)

    def rule(self, rule: Node) -> _Rule:
        head = rule_head(rule)
        root, *parts = pattern(head)
        return _Body(self, rule, head, _Rule((*self.package, root, *parts))).found


class _Body:
    """One rule, read into `found`."""

    def __init__(self, module: _Module, rule: Node, head: Node, found: _Rule) -> None:
        self.module = module
        self.found = found
        self._head = head
        self._aliases = _aliases(
            rule,
            module.source,
            {"input", *(name for name, path in module.imports.items() if path[0] == "input")},
        )
        self._used: set[str] = set()  # aliases
        self._walk(indices(head))
        self._walk(rule)
        for name in self._aliases.keys() - self._used:  # the rule still needs it to be there
            self._named(name, ())

    def _walk(self, node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                self._walk(item)
        elif not isinstance(node, dict) or node is self._head:
            return
        elif call := node.get("Call"):
            self._call(call)
        elif "with_mods" in node and "literal" in node:
            self._walk(node["literal"])
            for modifier in node["with_mods"]:
                self._with(modifier)
        elif (assign := node.get("AssignExpr")) and self._is_alias(assign):
            return
        elif len(node) == 1 and kind_of(node) in REFERENCES:
            self._reference(node)
        else:
            for name, item in node.items():
                if name != "span":
                    self._walk(item)

    def _is_alias(self, assign: Node) -> bool:
        return assign["op"] == "ColEq" and assign["lhs"].get("Var", {}).get("value") in self._aliases

    def _call(self, call: Node) -> None:
        self._callee(call["fcn"])
        self._walk(call["params"])

    def _callee(self, node: Node) -> None:
        root, parts, constant = flatten(node)
        self._reference(node)
        if not constant:
            return
        where = self.module.file, node[kind_of(node)]["span"]["line"]
        if root == "data":
            self.found.functions.append(Call("/".join(parts), *where))
        elif (path := self.module.imports.get(root)) is not None:
            self.found.functions.append(Call("/".join((*path[1:], *parts)), *where))
        elif root in self.module.own:
            self.found.functions.append(Call("/".join((*self.module.package, root, *parts)), *where))
        else:
            self.found.calls.append(Call(".".join((root, *parts)), *where))

    def _with(self, modifier: Node) -> None:
        """What is replaced counts as read; what replaces it may be a function or a builtin."""
        target = modifier["refr"]
        if flatten(target)[0] in ("input", "data", *self.module.imports):
            self._walk(target)
        value = modifier["as"]
        root, parts, constant = flatten(value) if kind_of(value) in REFERENCES else ("", [], False)
        name = ".".join((root, *parts))
        if constant and name in ARITY and root not in (*self.module.own, *self.module.imports):
            self.found.calls.append(Call(name, self.module.file, value[kind_of(value)]["span"]["line"]))
        self._walk(value)

    def _reference(self, node: Node) -> None:
        root, *parts = pattern(node)
        if root is None:
            self._walk(foundation(node))  # a reference into a call, an object, a comprehension
        else:
            self._named(root, tuple(parts))
        self._walk(indices(node))

    def _named(self, root: str, parts: Pattern) -> None:
        """A reference to `root`; each meaning that the name can have is taken."""
        known = tuple(part for part in _known(parts) if part is not None)
        if root == "input":
            self.found.paths.add(known)
        if root == "data":
            self.found.uses.add(parts)
        if root in self._aliases:
            self._used.add(root)
            below, path = self._aliases[root]
            self._named(below, (*path, *parts))
        if root in self.module.own:
            self.found.uses.add((*self.module.package, root, *parts))
        if (there := self.module.imports.get(root)) is not None:
            if there[0] == "input":
                self.found.paths.add((*there[1:], *known))
            else:
                self.found.uses.add((*there[1:], *parts))


def _aliases(rule: Node, source: bytes, roots: set[str]) -> dict[str, tuple[str, Path]]:
    """Locals that one `:=` binds to a constant reference into one of `roots`, or into another such local.

    `roots` name parts of the input. A name that is bound a second time is no such local."""
    bound: Counter[str] = Counter()
    given: dict[str, tuple[str, Path]] = {}
    for names, assign in bindings(rule, source):
        bound.update(names)
        if assign is not None and "Var" in assign["lhs"] and kind_of(assign["rhs"]) in REFERENCES:
            root, parts, constant = flatten(assign["rhs"])
            if constant and (parts or root in roots):  # `x := y` reads all of y to `opa deps`
                given[assign["lhs"]["Var"]["value"]] = root, tuple(parts)
    found: dict[str, tuple[str, Path]] = {}
    for name, reference in given.items():
        chain, at = [name], reference[0]
        while at in given and at not in chain:
            chain.append(at)
            at = given[at][0]
        if at in roots and not bound[at] and all(bound[local] == 1 for local in chain):
            found[name] = reference
    return found
