"""What the text of a rule tells of an expression's value: that it can only be a number, or a collection.

It saves a call of the library (`policy.library`) where regorus' own operator or builtin is right for such a value.
"""

from collections import Counter
from collections.abc import Callable, Collection

from mixer.policy.syntax import (
    COLLECTIONS,
    COMPREHENSIONS,
    REFERENCES,
    STRINGS,
    Node,
    bindings,
    children,
    kind_of,
    pattern,
)

# The largest number, or less than none, that an integer builtin gives.
_INTEGERS = {
    **dict.fromkeys(("count", "indexof", "strings.count"), 2**40),
    **dict.fromkeys(
        ("time.now_ns", "time.parse_ns", "time.parse_rfc3339_ns", "time.parse_duration_ns"), 2**63
    ),
}
_NUMBERS = frozenset(
    [
        "abs",
        "ceil",
        "floor",
        "max",
        "min",
        "product",
        "round",
        "sum",
        "to_number",
        "units.parse",
        "units.parse_bytes",
    ]
)
_TEXTS = frozenset(
    """
    concat format_int json.marshal lower replace sprintf strings.reverse substring time.format time.weekday trim
    trim_left trim_prefix trim_right trim_space trim_suffix type_name upper
    """.split()  # noqa: SIM905
)
_COLLECTIONS = frozenset(
    """
    array.concat array.flatten array.reverse array.slice graph.reachable graph.reachable_paths indexof_n intersection
    json.filter json.patch json.remove net.cidr_expand net.cidr_merge numbers.range numbers.range_step object.filter
    object.keys object.remove object.union object.union_n regex.find_all_string_submatch_n regex.find_n regex.split sort
    split strings.split_n time.clock time.date time.diff union urlquery.decode_object
    """.split()  # noqa: SIM905
)


class Inference:
    """`names`: what the module knows besides locals; `sets`: its rules that are partial sets; `replaced`: by `with`."""

    def __init__(
        self,
        rule: Node,
        source: bytes,
        names: Collection[str],
        sets: Collection[str],
        replaced: Collection[str],
    ) -> None:
        bound: Counter[str] = Counter()
        self._given: dict[str, Node] = {}
        for locals_, assign in bindings(rule, source):
            bound.update(locals_)
            if assign is not None and "Var" in assign["lhs"]:
                self._given[assign["lhs"]["Var"]["value"]] = assign["rhs"]
        self._given = {
            name: node for name, node in self._given.items() if bound[name] == 1 and name not in names
        }
        self._replaces_input = any(name.partition(".")[0] == "input" for name in replaced)
        replaces_data = any(name.partition(".")[0] == "data" for name in replaced)
        self._sets = frozenset() if replaces_data else frozenset(sets) - bound.keys()
        self._replaced = replaced

    def bound(self, node: Node, called: str) -> int | None:
        """What an integer's absolute value cannot exceed; None for what may be no integer. `called`: the builtin that
        the node calls, or ""."""
        if "Number" in node:
            value = node["Number"]["value"]
            return abs(value) if isinstance(value, int) else None
        if (
            "Var" in node
            and (given := self._given.get(node["Var"]["value"])) is not None
            and "Number" in given
        ):
            return self.bound(given, "")
        return None if called in self._replaced else _INTEGERS.get(called)

    def is_number(self, node: Node, called: str) -> bool:
        if self.bound(node, called) is not None or "Number" in node:
            return True
        if "ArithExpr" in node:
            return bool(node["ArithExpr"]["op"] != "Sub")
        return called in _NUMBERS and called not in self._replaced

    def may_mix(self, one: Node, other: Node, called: Callable[[Node], str]) -> bool:
        """Whether one may hold sets and the other objects. `called`: the builtin that a node calls, or ""."""
        if self._is_simple(one, called) or self._is_simple(other, called):
            return False
        return not (self._is_json(one, called) and self._is_json(other, called))

    def _is_simple(self, node: Node, called: Callable[[Node], str]) -> bool:
        """Whether it is no collection."""
        if kind_of(node) in STRINGS | {"Bool", "Null"}:
            return True
        name = called(node)
        if self.is_number(node, name) or (name in _TEXTS and name not in self._replaced):
            return True
        given = self._given.get(node["Var"]["value"]) if "Var" in node else None
        return given is not None and self._is_simple(given, called)

    def _is_json(self, node: Node, called: Callable[[Node], str]) -> bool:
        """Whether there is no set in it."""
        kind = kind_of(node)
        if kind in REFERENCES:
            root = pattern(node)[0]
            if root == "input":
                return not self._replaces_input
            given = self._given.get(root or "")
            return given is not None and self._is_json(given, called)
        if kind in ("Array", "Object"):
            return all(self._is_json(item, called) for item in children(node))
        return self._is_simple(node, called)

    def is_collection(self, node: Node, called: str) -> bool:
        if kind_of(node) in COLLECTIONS | COMPREHENSIONS | {"BinExpr"}:
            return True
        if "Var" in node:
            name = node["Var"]["value"]
            given = self._given.get(name)
            if given is not None:
                return kind_of(given) in COLLECTIONS | COMPREHENSIONS
            return name in self._sets
        return called in _COLLECTIONS and called not in self._replaced
