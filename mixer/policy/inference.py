"""What the text of a rule tells of an expression's value: that it can only be a number, or a collection.

It saves a call of the library (`policy.library`) where regorus' own operator or builtin is right for such a value.
"""

from collections import Counter
from collections.abc import Collection

from mixer.policy.syntax import COLLECTIONS, COMPREHENSIONS, Node, bindings, kind_of

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
