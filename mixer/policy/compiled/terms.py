"""Terms as closures: each gives its value in a frame, or `UNDEFINED`.

As OPA's compiler does (`rewriteDynamics` in `ast/compile.go`), what varies within an expression comes before it: a
reference through a name without a value (`input.xs[i]`) is a loop among the steps of its query.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from mixer.policy.builtins.catalog import ARITY
from mixer.policy.compiled.closures import asked, binary, called, listed, made, one_of, over, text_compared
from mixer.policy.compiled.names import Module, Scope, UnsupportedRuleError
from mixer.policy.compiled.operators import ARITHMETIC, COMPARISONS, contains, has_entry
from mixer.policy.compiled.steps import Frame, Run, Steps, bind, each
from mixer.policy.compiled.values import UNDEFINED, Set, UnsureError, entries, lookup
from mixer.policy.engine import Path
from mixer.policy.syntax import STRINGS, Node, extent, flatten, kind_of

_VARIES: Any = object()
_PLAIN_INTEGER = re.compile(rb"-?\s*[0-9]{1,15}")


class Term(NamedTuple):
    """`constant`: the value, where it is always the same; `place`: of the local that it is, else -1."""

    run: Run
    constant: Any = _VARIES
    place: int = -1

    @property
    def is_constant(self) -> bool:
        return self.constant is not _VARIES


def constant(value: Any) -> Term:
    return Term(lambda frame: value, _VARIES if value is UNDEFINED else value)


def local(place: int) -> Term:
    return Term(itemgetter(place), place=place)


class Rules(Protocol):
    """What a term needs of the rules around it."""

    def document(self, path: Path, parts: Sequence["Part"]) -> tuple[Term, Sequence["Part"]]:
        """What `data` and a path is, and the parts that go on from there."""

    def input(self, path: Path, *, kept: bool) -> Run:
        """A path of the input; `kept`: it is looked up once an evaluation."""

    def callee(self, path: Path) -> tuple[Callable[..., Any], int]:
        """A function of the modules, and the number of its operands."""

    def builtin(self, name: str) -> tuple[Callable[..., Any] | None, bool]:
        """A builtin, None where there is none; and whether equal operands may give another result."""

    def comprehension(self, module: Module, scope: Scope, kind: str, body: Node) -> Run: ...


Part = str | Node  # of a reference: a constant, or what gives the key


class Terms:
    """The terms of one query. What comes before them goes into `steps`."""

    def __init__(self, rules: Rules, module: Module, scope: Scope, steps: Steps) -> None:
        self.rules = rules
        self.module = module
        self.scope = scope
        self.steps = steps

    def term(self, node: Node) -> Term:
        kind, body = next(iter(node.items()))
        if kind in STRINGS or kind == "Bool":
            return constant(body["value"])
        if kind == "Null":
            return constant(None)
        if (make := _MAKERS.get(kind)) is None:
            raise self.unsupported(node, kind)
        return make(self, node)

    def unsupported(self, node: Node, what: str) -> UnsupportedRuleError:
        return UnsupportedRuleError(what, self.module.file, node[kind_of(node)]["span"]["line"])

    def is_unbound(self, node: Node) -> bool:
        """A name without a value so far."""
        if "Var" not in node:
            return False
        name = node["Var"]["value"]
        place = self.scope.find(name)
        if place is not None:
            return not self.scope.is_bound(place)
        return name == "_" or not self.module.known(name)

    def place_of(self, name: str) -> int:
        """The place of a name without a value, which it gets now."""
        place = self.scope.find(name) if name != "_" else None
        if place is None:
            place = self.scope.imply(name)
        self.scope.bind(place)
        return place

    def before(self, node: Node) -> Term:
        """A term that is evaluated before the statement it stands in, which fails where it is undefined."""
        term = self.term(node)
        if term.is_constant or term.place >= 0:
            return term
        place = self.scope.places.new()
        self.steps.check(bind(place, term.run))
        return local(place)

    def reference(
        self, node: Node, index: Callable[[Node], Term] | None = None, *, loops: bool = True
    ) -> Term:
        """`index` makes the terms in the brackets; without `loops`, each must have one value."""
        parts: list[Part] = []
        at = node
        while kind_of(at) in ("RefDot", "RefBrack"):
            body = at[kind_of(at)]
            parts.append(body["field"][1] if "field" in body else _part(body["index"]))
            at = body["refr"]
        term, rest = self._root(at, parts[::-1])
        for part in rest:
            if isinstance(part, str):
                term = _field(term, part)
            elif self.is_unbound(part):
                if not loops:
                    raise self.unsupported(part, "a loop within `not`")
                term = self._loop(term, part["Var"]["value"])
            else:
                term = _item(term, (index or self.term)(part))
        return term

    def _loop(self, collection: Term, name: str) -> Term:
        key = -1 if name == "_" else self.place_of(name)
        value = self.scope.places.new()
        run = collection.run
        if collection.is_constant:
            known = list(entries(collection.constant))
            self.steps.loop(over(known, key, value))
        else:
            self.steps.loop(each(run, None, None, (key, value)))
        return local(value)

    def _root(self, node: Node, parts: Sequence[Part]) -> tuple[Term, Sequence[Part]]:
        if "Var" not in node:
            return self.term(node), parts
        name = node["Var"]["value"]
        if (place := self.scope.find(name)) is not None:
            if not self.scope.is_bound(place):
                raise self.unsupported(node, f"{name} before it has a value")
            return local(place), parts
        if name in self.module.own:
            return self.rules.document((*self.module.package, name), parts)
        root, *path = self.module.imports.get(name, (name,))
        if root == "data":
            return self.rules.document(tuple(path), parts)
        if root != "input":
            raise self.unsupported(node, f"{name} before it has a value")
        if path:
            return Term(self.rules.input(tuple(path), kept=True)), parts
        known = next((n for n, part in enumerate(parts) if not isinstance(part, str)), len(parts))
        return Term(self.rules.input(tuple(parts[:known]), kept=False)), parts[known:]  # type: ignore[arg-type]

    def call(self, node: Node, operand: Callable[[Node], Term] | None = None) -> Term:
        """`operand` makes the operands' terms."""
        body = node["Call"]
        make, count, varies = self._callee(node)
        if len(body["params"]) != count:
            raise self.unsupported(node, "a call with an output within an expression")
        operands = [(operand or self.term)(parameter) for parameter in body["params"]]
        run = make([operand.run for operand in operands])
        if varies or not all(operand.is_constant for operand in operands):
            return Term(run)
        try:
            return constant(run([]))
        except UnsureError as error:
            raise self.unsupported(node, str(error)) from None

    def has_output(self, body: Node) -> bool:
        """Whether a call's last operand is matched with its result."""
        return len(body["params"]) == self._callee({"Call": body})[1] + 1

    def _callee(self, node: Node) -> tuple[Callable[[Sequence[Run]], Run], int, bool]:
        """What makes a call of its operands, how many these are, and whether equal ones may give another result."""
        root, parts, known = flatten(node["Call"]["fcn"])
        if not known:
            raise self.unsupported(node, "a call of what varies")
        if (path := self._path_of(root, tuple(parts))) is not None:
            callee, operands = self.rules.callee(path)
            return partial(called, callee), operands, True
        name = ".".join((root, *parts))
        builtin, varies = self.rules.builtin(name)
        if builtin is None:
            raise self.unsupported(node, name)
        return partial(asked, builtin), ARITY[name], varies

    def _path_of(self, root: str, parts: Path) -> Path | None:
        """A function of the modules, below data."""
        if root == "data":
            return parts
        if root in self.module.own:
            return (*self.module.package, root, *parts)
        first, *path = self.module.imports.get(root, ("",))
        return (*path, *parts) if first == "data" else None

    def comparison(self, op: str, one: Term, other: Term) -> Term:
        compare = COMPARISONS[op]
        if op in ("Eq", "Ne") and isinstance(text := other.constant, str):
            return Term(text_compared(one.run, text, op == "Eq"))
        return Term(binary(compare, one.run, other.run))

    def membership(self, members: Sequence[Term]) -> Term:
        *given, collection = members
        if len(given) == 1:
            (value,) = given
            if type(known := collection.constant) is Set and all(type(item) is str for item in known.items):
                return Term(one_of(value.run, frozenset(known.items)))
            return Term(binary(lambda item, items: contains(items, item), value.run, collection.run))
        return Term(called(has_entry, [term.run for term in (collection, *given)]))

    def members(self, node: Node) -> list[Node]:
        body = node["Membership"]
        return [body[side] for side in ("key", "value", "collection") if body[side] is not None]

    def _compared(self, node: Node) -> Term:
        body = node["BoolExpr"]
        return self.comparison(body["op"], self.term(body["lhs"]), self.term(body["rhs"]))

    def _member(self, node: Node) -> Term:
        return self.membership([self.term(member) for member in self.members(node)])

    def arithmetic(self, node: Node, operand: Callable[[Node], Term] | None = None) -> Term:
        body = node[kind_of(node)]
        one, other = map(operand or self.term, (body["lhs"], body["rhs"]))
        return Term(binary(ARITHMETIC[body["op"]], one.run, other.run))

    def _number(self, node: Node) -> Term:
        value = node["Number"]["value"]
        if type(value) is not int or not _PLAIN_INTEGER.fullmatch(
            self.module.source[slice(*extent(node, self.module.source))]
        ):
            raise self.unsupported(node, "a number that is no plain integer")
        return constant(value)

    def _array(self, node: Node) -> Term:
        items = [self.term(item) for item in node["Array"]["items"]]
        if all(item.is_constant for item in items):
            return constant([item.constant for item in items])
        return Term(listed([item.run for item in items]))

    def _set(self, node: Node) -> Term:
        items = [self.term(item) for item in node["Set"]["items"]]
        if all(item.is_constant for item in items):
            return constant(Set(item.constant for item in items))
        make = listed([item.run for item in items])

        def run(frame: Frame) -> Any:
            found = make(frame)
            return found if found is UNDEFINED else Set(found)

        return Term(run)

    def _object(self, node: Node) -> Term:
        fixed: dict[str, Any] = {}
        varying: list[tuple[str, Run]] = []
        computed: list[tuple[Run, Run]] = []
        for _, key_node, value_node in node["Object"]["fields"]:
            key, value = self.term(key_node), self.term(value_node)
            if not isinstance(key.constant, str):
                if key.is_constant:
                    raise self.unsupported(node, "a key that is no string")
                computed.append((key.run, value.run))
                continue
            if key.constant in fixed:
                raise self.unsupported(node, "a key that is given twice")
            fixed[key.constant] = value.constant if value.is_constant else None
            if not value.is_constant:
                varying.append((key.constant, value.run))
        if not varying and not computed:
            return constant(fixed)
        return Term(made(fixed, varying, computed))

    def _comprehension(self, node: Node) -> Term:
        kind = kind_of(node)
        return Term(self.rules.comprehension(self.module, self.scope, kind, node[kind]))


_MAKERS: dict[str, Callable[[Terms, Node], Term]] = {
    "Var": Terms.reference,
    "RefDot": Terms.reference,
    "RefBrack": Terms.reference,
    "Call": Terms.call,
    "BoolExpr": Terms._compared,
    "Membership": Terms._member,
    "ArithExpr": Terms.arithmetic,
    "BinExpr": Terms.arithmetic,
    "Number": Terms._number,
    "Array": Terms._array,
    "Set": Terms._set,
    "Object": Terms._object,
    "ArrayCompr": Terms._comprehension,
    "SetCompr": Terms._comprehension,
    "ObjectCompr": Terms._comprehension,
}


def _part(index: Node) -> Part:
    text = index.get("String") or index.get("RawString")
    return text["value"] if text else index


def _field(term: Term, key: str) -> Term:
    if term.is_constant:
        return constant(lookup(term.constant, key))
    run = term.run

    def field(frame: Frame) -> Any:
        value = run(frame)
        return value.get(key, UNDEFINED) if type(value) is dict else lookup(value, key)

    return Term(field)


def _item(term: Term, index: Term) -> Term:
    if term.is_constant and index.is_constant and type(term.constant) is not dict:
        return constant(lookup(term.constant, index.constant))
    run, key = term.run, index.run
    if type(table := term.constant) is dict:

        def found(frame: Frame) -> Any:
            name = key(frame)
            return table.get(name, UNDEFINED) if type(name) is str else lookup(table, name)

        return Term(found)
    return Term(lambda frame: lookup(run(frame), key(frame)))
