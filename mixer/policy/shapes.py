"""Objects that take a value apart: `{"a": x} = input.y`, `some {"a": x} in input.ys`, `f({"a": x}) := …`.

regorus lets such a pattern match an object that has more keys. So what it is matched with is let through a function
of the library before, which gives it back if its objects have the pattern's keys and no more (`exact`).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any

from mixer.policy.syntax import COLLECTIONS, REFERENCES, STRINGS, Node, kind_of

Pair = tuple[Node, Node]  # a pattern, and what it is matched with
_CONSTANTS = STRINGS | {"Bool", "Null", "Number"}


class UnfitError(Exception):
    """A pattern that cannot be held to its keys."""


def takes_apart(node: Node) -> bool:
    """Whether there is an object in a pattern with a name in it."""
    if "Array" in node:
        return any(map(takes_apart, node["Array"]["items"]))
    return "Object" in node and _binds(node)


class Scope:
    """What is known of a rule's names. `names`: those of the module, imports included."""

    def __init__(self, rule: Node, source: bytes, names: Collection[str]) -> None:
        self._bound = {*names, *_bound(rule, source)}
        self._unified = Counter(_unified(rule))

    def pairs(self, body: Node) -> list[Pair]:
        """The patterns of `=` or `:=` to hold to their keys, with their values. Raises `UnfitError`."""
        given = body["op"] == "ColEq"
        found = list(_pairs(body["lhs"], body["rhs"], given))
        return [(pattern, value) for pattern, value in found if given or self._has_value(value)]

    def has_value(self, name: str) -> bool:
        """Whether a name is one of the module, or gets its value where it stands first in the rule."""
        return name in self._bound

    def _has_value(self, node: Node) -> bool:
        """Whether a node has a value before it is unified; a name that gets its value there has not."""
        if "Var" not in node or node["Var"]["value"] in self._bound:
            return True
        if self._unified[node["Var"]["value"]] > 1:
            raise UnfitError
        return False


def _pairs(one: Node, other: Node, left: bool) -> Iterator[Pair]:
    """`left`: only what stands on that side is a pattern."""
    if not takes_apart(one) and not takes_apart(other):
        return
    if "Object" in one and "Object" in other:
        mine, others = _fields(one), _fields(other)
        if mine.keys() != others.keys():
            raise UnfitError
        for key, value in mine.items():
            yield from _pairs(value, others[key], left)
    elif "Array" in one and "Array" in other:
        for item, opposite in zip(one["Array"]["items"], other["Array"]["items"], strict=False):
            yield from _pairs(item, opposite, left)
    else:
        for pattern, value in ((one, other),) if left else ((one, other), (other, one)):
            if takes_apart(pattern):
                if kind_of(value) in COLLECTIONS:
                    raise UnfitError
                yield pattern, value


def shape(pattern: Node, text: Callable[[Node], bytes]) -> bytes:
    """The pattern's objects as Rego: the way to each, and its keys; `text` gives a node's. Raises `UnfitError`."""
    found = [
        b"[[%b], {%b}]" % (b", ".join(way), b", ".join(keys)) for way, keys in _objects(pattern, [], text)
    ]
    return b"[%b]" % b", ".join(found)


def _bound(node: Any, source: bytes) -> set[str]:
    """Names that have a value: by `:=`, `some … in` and `every`, and as a function's operands."""
    if isinstance(node, list):
        return {name for item in node for name in _bound(item, source)}
    if not isinstance(node, dict):
        return set()
    found = set(_variables(node.get("args")))
    if "AssignExpr" in node and node["AssignExpr"]["op"] == "ColEq":
        found.update(_variables(node["AssignExpr"]["lhs"]))
    if "SomeIn" in node:
        found.update(_variables([node["SomeIn"]["key"], node["SomeIn"]["value"]]))
    if every := node.get("Every"):
        spans = [span for span in (every["key"], every["value"]) if span]
        found |= {source[span["start"] : span["end"]].decode() for span in spans}
    return found.union(*(_bound(item, source) for name, item in node.items() if name != "span"))


def _unified(node: Any) -> Iterator[str]:
    """Names where they may get a value by being unified, each as often as that is."""
    if isinstance(node, list):
        for item in node:
            yield from _unified(item)
    elif isinstance(node, dict):
        if "AssignExpr" in node:
            yield from _variables([node["AssignExpr"]["lhs"], node["AssignExpr"]["rhs"]])
        elif "RefBrack" in node:
            yield from _variables(node["RefBrack"]["index"])
        elif "Call" in node:  # the last operand may be the output
            yield from _variables(node["Call"]["params"][-1:])
        for name, item in node.items():
            if name != "span":
                yield from _unified(item)


def _objects(
    pattern: Node, way: list[bytes], text: Callable[[Node], bytes]
) -> Iterator[tuple[list[bytes], list[bytes]]]:
    if "Array" in pattern:
        for index, item in enumerate(pattern["Array"]["items"]):
            yield from _objects(item, [*way, b"%d" % index], text)
    elif "Object" in pattern and takes_apart(pattern):
        fields = pattern["Object"]["fields"]
        if any(kind_of(key) not in _CONSTANTS for _, key, _ in fields):
            raise UnfitError
        yield way, [text(key) for _, key, _ in fields]
        for _, key, value in fields:
            yield from _objects(value, [*way, text(key)], text)


def _fields(node: Node) -> dict[tuple[str, Any], Node]:
    fields = {}
    for _, key, value in node["Object"]["fields"]:
        if kind_of(key) not in _CONSTANTS:
            raise UnfitError
        kind = "String" if kind_of(key) in STRINGS else kind_of(key)
        fields[kind, key[kind_of(key)].get("value")] = value
    return fields


def _binds(node: Node) -> bool:
    """Whether a value of an object pattern may bind a name."""
    if kind_of(node) in COLLECTIONS:
        return any(map(_binds, _items(node)))
    return "Var" in node


def _items(node: Node) -> list[Node]:
    kind, body = next(iter(node.items()))
    return [value for _, _, value in body["fields"]] if kind == "Object" else body["items"]


def _variables(node: Any) -> Iterator[str]:
    """The names in a pattern."""
    if isinstance(node, list):
        for item in node:
            yield from _variables(item)
    elif isinstance(node, dict):
        if "Var" in node:
            yield node["Var"]["value"]
        elif not node.keys() & (REFERENCES | {"Call"}):
            for item in node.values():
                yield from _variables(item)
