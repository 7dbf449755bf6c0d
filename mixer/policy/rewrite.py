"""Modules rewritten so that regorus decides as OPA does, where the two differ in silence.

OPA's compiler takes the operands of an expression out of it and evaluates them before; regorus evaluates them in
place. The answers differ where an operand is undefined:

    not startswith(input.name, "a")    no name: undefined in OPA, true in regorus
    allowed := "a" in input.groups     no groups: undefined in OPA, false in regorus

So the operands are taken out here too, by a comprehension, which is empty where one of them is undefined. And
`[path, value] := walk(x)` finds nothing in regorus, but `walk(x, [path, value])` does; and an output as the last
operand (`io.jwt.decode(token, [_, claims, _])`) is known to regorus only for its own builtins. Regular expressions
are put into Rust's syntax (`policy.patterns`): at once where they stand as text, else by a builtin of ours. Calls of
builtins that regorus lacks or has wrong, and arithmetic on what may be no integer, go to `policy.library`.
Source: OPA's `ast/compile.go`, `rewriteDynamics` and `expandExpr`.
"""

import json
from collections.abc import Callable, Collection
from typing import Any, ClassVar

from mixer.policy.annotations import CALLS, Metadata
from mixer.policy.builtins import BuiltinError, supplied
from mixer.policy.builtins.catalog import ARITY
from mixer.policy.builtins.numbers import LITERAL
from mixer.policy.inference import Inference
from mixer.policy.library import AS_PATTERN, FUNCTIONS, WRAPPED, function, stands_by_itself
from mixer.policy.patterns import rust
from mixer.policy.positions import Arrays, base_path
from mixer.policy.shapes import Scope, shape, takes_apart
from mixer.policy.syntax import (
    COLLECTIONS,
    COMPREHENSIONS,
    INFIX,
    MISSING,
    REFERENCES,
    STRINGS,
    Edit,
    Editor,
    Node,
    children,
    constant,
    extent,
    flatten,
    imports,
    indices,
    kind_of,
    package,
    partial_sets,
)

PATTERN = "mixer.pattern"  # the builtin that gives a pattern in Rust's syntax
_PATTERN_AT = {
    "regex.find_all_string_submatch_n": 0,
    "regex.find_n": 0,
    "regex.match": 0,
    "regex.replace": 1,
    "regex.split": 0,
}


_OF_63_BITS, _OF_64_BITS = 2**63, 2**64
_ORDERS = {"Lt": ("<", False), "Le": ("<=", False), "Gt": ("<", True), "Ge": ("<=", True)}
_OPERATORS = {"Add": "+", "Sub": "-", "Mul": "*", "Div": "/"}


class AsOpa(Editor):
    """`replaced`: builtins that the modules replace by `with`, which keep their names; `functions`: paths below data;
    `arrays`: those of data; `metadata`: where the modules ask for it.

    `used` tells, after the rewriting, which functions of the library the module needs.
    """

    def __init__(
        self,
        module: Node,
        replaced: Collection[str] = (),
        functions: Collection[tuple[str, ...]] = (),
        metadata: Metadata | None = None,
        arrays: Arrays | None = None,
    ) -> None:
        super().__init__(module)
        self._module = module
        self._metadata = metadata
        self._arrays = arrays
        self._functions = functions
        self._package = package(module)
        self._imports = {name: path[1:] for name, path in imports(module).items() if path[0] == "data"}
        self.used: set[str] = set()
        self._replaced = replaced
        self._sets = partial_sets(module)
        self._taken_out: dict[int, bytes] = {}  # an operand's index to the local that stands for it
        self._locals = 0

    def expression(self, node: Node, statement: bool) -> list[Edit] | None:
        kind = kind_of(node)
        if (local := self._taken_out.get(node[kind]["eidx"])) is not None:
            return [(*extent(node, self.source), local)]
        if kind == "Membership" and node["Membership"]["key"] is not None:
            return self._keyed_membership(node)
        if kind == "Membership" and not statement:
            return self._membership(node)
        if kind == "Call":
            return self._call(node, statement)
        rewrite = self._REWRITES.get(kind)
        return None if rewrite is None else rewrite(self, node)

    def _position(self, node: Node) -> list[Edit] | None:
        """`data.list[input.x]`, where data has an array, with text as the number that it is to OPA."""
        index = node["RefBrack"]["index"]
        kind = kind_of(index)
        if self._arrays is None or kind in STRINGS or kind == "Number":
            return None
        if kind == "Var" and not self._scope.has_value(index["Var"]["value"]):
            return None
        path = base_path(node, self._imports)
        if path is None or not self._arrays.at(path[:-1]):
            return None
        self.used.add("[]")
        text = b"%b(%b)" % (function("[]").encode(), self.text(index))
        start, end = extent(index, self.source)
        return [*self.edits(node["RefBrack"]["refr"]), self.replaced(start, end, text)]

    def _call(self, node: Node, statement: bool) -> list[Edit] | None:
        name, arguments = self.builtin(node), node["Call"]["params"]
        if name in CALLS and self._metadata is not None:
            return self._annotations(name, node)
        if name == "walk" and len(arguments) == 1:
            return self._walk(node)
        if statement and name != "walk" and len(arguments) == ARITY.get(name, -2) + 1:
            return self._output(node)
        if len(arguments) == ARITY.get(name, -1) and name not in self._replaced:
            return self._builtin(name, node)
        return None

    def edits(self, node: Any, statement: bool = False) -> list[Edit]:
        if isinstance(node, dict) and "Spec" in node:
            self._scope = Scope(node, self.source, self.names)
            self._rule = node
            self._inference = Inference(node, self.source, self.names, self._sets, self._replaced)
            queries = [body["query"] for body in node["Spec"]["bodies"] if body["query"] is not None]
            self._bare = {query["span"]["start"] for query in queries}  # no statement, unless without braces
            return super().edits(node) + self._operands_taken_apart(node["Spec"])
        if isinstance(node, dict) and "literal" in node and (given := self._given(node)):
            return self._given_before(node, given)
        return super().edits(node, statement)

    def literal(self, kind: str, body: Node) -> list[Edit] | None:
        if kind == "SomeIn" and any(map(takes_apart, self._sides(body))):
            return self._some_in(body)
        operands = self._operands(body["expr"]) if kind == "NotExpr" else []
        return self._negation(body, operands) if operands else None

    def _negation(self, literal: Node, operands: list[Node]) -> list[Edit]:
        """`not f(input.x)` as `1 in [1 | a := input.x; not f(a)]`."""
        bindings = self._take_out(operands)
        body = self.text(literal["expr"], statement=True)
        self._put_back(operands)
        if "Membership" in literal["expr"]:
            body = b"(%b)" % body  # a key and a value are apart by a comma
        start, end = self._around(literal)
        return [self.replaced(start, end, b"1 in [1 | %b; not %b]" % (bindings, body))]

    def _around(self, literal: Node) -> tuple[int, int]:
        """A negation's extent; parentheses around what is negated are in it."""
        start, end = literal["span"]["start"], literal["span"]["end"]
        return start, max(end, extent(literal["expr"], self.source)[1])

    def _membership(self, node: Node) -> list[Edit] | None:
        """`a in input.x` as a value: `[b | c := input.x; b := a in c][0]`."""
        operands = [item for item in self._members(node) if self._may_be_undefined(item)]
        if not operands:
            return None
        bindings = self._take_out(operands)
        start, end = extent(node, self.source)
        below = [edit for item in children(node) for edit in self.edits(item)]
        body = self._apply(below, start, end)
        self._put_back(operands)
        result = self._local()
        text = b"[%b | %b; %b := (%b)][0]" % (result, bindings, result, body)
        return [self.replaced(start, end, text)]

    def _given(self, statement: Node) -> list[Node]:
        """The values that `with` gives and that are not just names of this rule, or constants."""
        values = [modifier["as"] for modifier in statement.get("with_mods", ())]
        return [value for value in values if not self._is_plain(value)]

    def _is_plain(self, value: Node) -> bool:
        kind = kind_of(value)
        if kind in REFERENCES:
            root, parts, _ = flatten(value)
            if root not in self.names:
                return kind == "Var"
            path = self._imports.get(root, (*self._package, root) if root != "data" else ())
            return (*path, *parts) in self._functions
        return kind not in COMPREHENSIONS and all(map(self._is_plain, children(value))) and kind != "Call"

    def _given_before(self, statement: Node, values: list[Node]) -> list[Edit]:
        """`y with input.a as z` as `x := z; y with input.a as x`: regorus does not find in `y` what it read for `z`."""
        at = statement["span"]["start"]
        if self.source[at - 1 : at] in (b'"', b"`"):  # a string's span leaves its quotes out
            at -= 1
        bindings = self._take_out(values)
        edits = super().edits(statement)
        self._put_back(values)
        if statement["span"]["start"] not in self._bare:
            return [(at, at, b"%b; " % bindings), *edits]
        end = extent(statement["with_mods"][-1]["as"], self.source)[1]
        return [(at, at, b"{ %b; " % bindings), *edits, (end, end, b" }")]

    def _assignment(self, node: Node) -> list[Edit] | None:
        """`{"a": x} = input.y` with what gives `input.y` only if its one key is "a"."""
        values = []
        for pattern, value in self._scope.pairs(node["AssignExpr"]):
            values.append(value)
            self._taken_out[value[kind_of(value)]["eidx"]] = self._exact(pattern, self.text(value))
        edits = self.edits(children(node))
        self._put_back(values)
        return edits

    def _exact(self, pattern: Node, value: bytes) -> bytes:
        self.used.add("=")
        return b"%b(%b, %b)" % (function("=").encode(), value, shape(pattern, self.text))

    def _some_in(self, body: Node) -> list[Edit]:
        self.used.add("some")
        shapes = [b"[]" if side is None else shape(side, self.text) for side in (body["key"], body["value"])]
        collection = body["collection"]
        text = b"%b(%b, %b, %b)" % (function("some").encode(), self.text(collection), *shapes)
        return [*self.edits(self._sides(body)), self.replaced(*extent(collection, self.source), text)]

    @staticmethod
    def _sides(body: Node) -> list[Node]:
        return [side for side in (body["key"], body["value"]) if side is not None]

    def _operands_taken_apart(self, rule: Node) -> list[Edit]:
        """`f({"a": x}) if { … }` as `f(y) if { {"a": x} = y; … }`, with what gives `y` only if its one key is "a"."""
        edits = []
        for pattern in filter(takes_apart, next(iter(rule["head"].values())).get("args", ())):
            local, at = self._local(), rule["bodies"][0]["query"]["span"]["start"] + 1
            edits.append(self.replaced(*extent(pattern, self.source), b"%b" % local))
            text = b" %b = %b;" % (self.text(pattern), self._exact(pattern, local))
            edits.append((at, at, text))
        return edits

    def _annotations(self, name: str, node: Node) -> list[Edit]:
        assert self._metadata is not None  # noqa: S101 (looked at before)
        bodies = [body for body in self._rule["Spec"]["bodies"] if body["is_else"]]
        starts = [
            part["span"]["start"] for body in bodies for part in (body["assign"], body["query"]) if part
        ]
        is_else = node["Call"]["span"]["start"] >= min(starts, default=len(self.source))
        value = self._metadata.value(name, self._module, self._rule, is_else).encode()
        output = b"".join(b"%b = " % self.text(argument) for argument in node["Call"]["params"])
        return [self.replaced(*extent(node, self.source), output + value)]

    def _keyed_membership(self, node: Node) -> list[Edit]:
        """`k, v in c` as a call, which is undefined where an operand is."""
        self.used.add("in")
        text = b"%b(%b)" % (function("in").encode(), b", ".join(map(self.text, self._members(node))))
        return [self.replaced(*extent(node, self.source), text)]

    def _walk(self, node: Node) -> list[Edit]:
        pair = self._local()
        text = b"[%b | walk(%b, %b)][_]" % (pair, self.text(node["Call"]["params"][0]), pair)
        return [self.replaced(*extent(node, self.source), text)]

    def _builtin(self, name: str, node: Node) -> list[Edit]:
        """A call of a builtin with all its operands, and no more."""
        arguments, edits = node["Call"]["params"], None
        if name in _PATTERN_AT:
            edits = self._pattern(arguments, _PATTERN_AT[name])
        if name in AS_PATTERN:
            return [self.replaced(*extent(node, self.source), self._as_pattern(name, arguments))]
        if name in WRAPPED:
            self.used.add(name)
            start, end = extent(node, self.source)
            before = (start, start, b"%b(" % WRAPPED[name].encode())
            return [before, *self.edits(arguments), (end, end, b")")]
        callee = []
        if name in FUNCTIONS and not stands_by_itself(
            name, arguments, self._is_collection, lambda node: self._bound(node) is not None
        ):
            self.used.add(name)
            callee.append((*extent(node["Call"]["fcn"], self.source), function(name).encode()))
        return callee + (self.edits(arguments) if edits is None else edits)

    def _is_collection(self, node: Node) -> bool:
        return self._inference.is_collection(node, self._called(node))

    def _called(self, node: Node) -> str:
        return self.builtin(node) if "Call" in node else ""

    def _as_pattern(self, name: str, arguments: list[Node]) -> bytes:
        """`glob.match(p, d, s)` as `regex.match(mixer.glob(p, d), s)`; with constants, the pattern is made here."""
        maker, operands, text = AS_PATTERN[name]
        given = [constant(arguments[at]) for at in operands]
        pattern = None if MISSING in given else _made(maker, given)
        if pattern is not None:
            made = json.dumps(pattern, ensure_ascii=False).encode()
        else:
            self.used.add(name)
            made = b"%b(%b)" % (maker.encode(), b", ".join(self.text(arguments[at]) for at in operands))
        return b"regex.match(%b, %b)" % (made, self.text(arguments[text]))

    def _arithmetic(self, node: Node) -> list[Edit] | None:
        body = node["ArithExpr"]
        operator = _OPERATORS.get(body["op"])
        if operator is None or self._bound(node) is not None:
            return None
        left, right = body["lhs"], body["rhs"]
        if operator == "-" and any(
            self._inference.is_number(side, self._called(side)) for side in (left, right)
        ):
            callee = "mixer.minus"
            self.used.add("mixer.minus")
        else:
            callee = function(operator)
            self.used.add(operator)
        text = b"%b(%b, %b)" % (callee.encode(), self._operand(left), self._operand(right))
        return [self.replaced(*extent(node, self.source), text)]

    def _comparison(self, node: Node) -> list[Edit] | None:
        """An order, where a set may meet an object, as a call."""
        body = node["BoolExpr"]
        one, other = body["lhs"], body["rhs"]
        if body["op"] not in _ORDERS or not self._inference.may_mix(one, other, self._called):
            return None
        operator, turned = _ORDERS[body["op"]]
        sides = self.text(other if turned else one), self.text(one if turned else other)
        self.used.add(operator)
        text = b"%b(%b, %b)" % (function(operator).encode(), *sides)
        return [self.replaced(*extent(node, self.source), text)]

    def _operand(self, node: Node) -> bytes:
        """An operand of arithmetic; a number that would not cross to Python as its text."""
        text = self.text(node)
        large = (
            "Number" in node
            and isinstance(value := node["Number"]["value"], int | float)
            and value >= _OF_64_BITS
        )
        return b'{"%b": "%b"}' % (LITERAL.encode(), text) if large else text

    def _bound(self, node: Node) -> int | None:
        """See `Inference.bound`; here of arithmetic too, so far as it stays within 64 bits with a sign."""
        if "ArithExpr" not in node:
            return self._inference.bound(node, self._called(node))
        body = node["ArithExpr"]
        left, right = self._bound(body["lhs"]), self._bound(body["rhs"])
        if left is None or right is None or body["op"] == "Div":
            return None
        bound = right if body["op"] == "Mod" else left * right if body["op"] == "Mul" else left + right
        return bound if bound < _OF_63_BITS else None

    _REWRITES: ClassVar[dict[str, Callable[["AsOpa", Node], list[Edit] | None]]] = {
        "ArithExpr": _arithmetic,
        "AssignExpr": _assignment,
        "BoolExpr": _comparison,
        "RefBrack": _position,
    }

    def _pattern(self, arguments: list[Node], at: int) -> list[Edit] | None:
        pattern = arguments[at]
        kind, body = next(iter(pattern.items()))
        if kind in STRINGS:
            text = rust(body["value"])
            if text == body["value"]:
                return None
            rewritten = json.dumps(text, ensure_ascii=False).encode()
        else:
            rewritten = b"%b(%b)" % (PATTERN.encode(), self.text(pattern))
        others = [argument for argument in arguments if argument is not pattern]
        return [(*extent(pattern, self.source), rewritten), *self.edits(others)]

    def _output(self, node: Node) -> list[Edit]:
        *inputs, output = map(self.text, node["Call"]["params"])
        name = self.builtin(node)
        if name in AS_PATTERN and name not in self._replaced:
            matched = self._as_pattern(name, node["Call"]["params"][:-1])
            return [self.replaced(*extent(node, self.source), b"%b = %b" % (output, matched))]
        callee = self.source[slice(*extent(node["Call"]["fcn"], self.source))]
        end = b")"
        if name in FUNCTIONS and name not in self._replaced:
            self.used.add(name)
            if name in WRAPPED:
                callee, end = b"%b(%b" % (WRAPPED[name].encode(), callee), b"))"
            else:
                callee = function(name).encode()
        text = b"%b = %b(%b%b" % (output, callee, b", ".join(inputs), end)
        return [self.replaced(*extent(node, self.source), text)]

    def _operands(self, node: Node) -> list[Node]:
        """What OPA evaluates before it negates."""
        kind, body = next(iter(node.items()))
        if kind == "Call":
            return list(filter(self._may_be_undefined, body["params"]))
        if (kind == "BoolExpr" and body["op"] == "Eq") or kind == "AssignExpr":
            # An equality only compares: its sides may be undefined, but not what is within them.
            return [item for side in (body["lhs"], body["rhs"]) for item in self._within(side)]
        if kind in INFIX:
            return list(filter(self._may_be_undefined, (body["lhs"], body["rhs"])))
        if kind == "Membership":
            return list(filter(self._may_be_undefined, self._members(node)))
        return self._within(node)

    def _within(self, node: Node) -> list[Node]:
        kind = kind_of(node)
        if kind in ("RefDot", "RefBrack"):
            return list(filter(self._may_be_undefined, indices(node)))
        if kind in COMPREHENSIONS or kind == "Var":
            return []
        return [node] if self._may_be_undefined(node) else []

    def _may_be_undefined(self, node: Node) -> bool:
        kind = kind_of(node)
        if kind == "Var":
            return node["Var"]["value"] in self.names
        if kind in COLLECTIONS:
            return any(map(self._may_be_undefined, children(node)))
        return kind in INFIX or kind in ("Call", "Membership", "RefBrack", "RefDot")

    @staticmethod
    def _members(node: Node) -> list[Node]:
        body = node["Membership"]
        return [body[side] for side in ("key", "value", "collection") if body[side] is not None]

    def _take_out(self, operands: list[Node]) -> bytes:
        """Bind each operand to a local, which stands for it from now on."""
        bindings = [(operand, self._local(), self.text(operand)) for operand in operands]
        for operand, local, _ in bindings:
            self._taken_out[operand[kind_of(operand)]["eidx"]] = local
        return b"; ".join(b"%b := %b" % (local, text) for _, local, text in bindings)

    def _put_back(self, operands: list[Node]) -> None:
        for operand in operands:
            del self._taken_out[operand[kind_of(operand)]["eidx"]]

    def _local(self) -> bytes:
        self._locals += 1
        return b"mixer_%d" % self._locals


def _made(maker: str, operands: list[Any]) -> str | None:
    """The pattern; None where the builtin that makes it fails."""
    builtin = supplied(maker)
    try:
        return None if builtin is None else str(builtin[1](*operands))
    except BuiltinError:
        return None
