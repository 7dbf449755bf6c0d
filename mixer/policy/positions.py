"""Text as a position in an array of data: OPA's store takes `data.list["0"]` for `data.list[0]`, and so in data alone.

What may be text there goes through a function of the library before (`policy.rewrite`), unless it is clear that
nothing but numbers are found in the brackets.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from mixer.errors import Problem
from mixer.policy.syntax import (
    STRINGS,
    Node,
    Pattern,
    imports,
    kind_of,
    meet,
    pattern,
    replaced,
)

_NUMBER = re.compile(r"[+]?[0-9]{1,19}(?:\.0*)?", re.ASCII)


class Arrays:
    """Where data has arrays. `replaced`: by `with`, which is no longer the store's."""

    def __init__(self, data: dict[str, Any], replaced: Sequence[str] = ()) -> None:
        self._data = data
        self._kinds: dict[Pattern, frozenset[type]] = {}
        self._replaced = [tuple(name.split(".")[1:]) for name in replaced if name.startswith("data.")]
        self._any = _has_array(data)

    def at(self, path: Pattern) -> bool:
        """Whether there is an array at a path below data; None stands for any part."""
        return self._any and list in self._found(path)

    def alone_at(self, path: Pattern) -> bool:
        """Whether nothing else is there that has keys, whatever happens."""
        return dict not in self._found(path) and not any(meet(path, name) for name in self._replaced)

    def has_numbers(self, path: Pattern) -> bool:
        """Whether there is an object with a name that is a number."""
        return any(
            _NUMBER.fullmatch(name.removeprefix("-"))
            for value in self._at(path)
            if isinstance(value, dict)
            for name in value
        )

    def _found(self, path: Pattern) -> frozenset[type]:
        if path not in self._kinds:
            self._kinds[path] = frozenset(map(type, self._at(path)))
        return self._kinds[path]

    def _at(self, path: Pattern) -> list[Any]:
        here: list[Any] = [self._data]
        for part in path:
            here = [item for value in here for item in _below(value, part)]
        return here


def _has_array(value: Any) -> bool:
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, list):
            return True
        if isinstance(item, dict):
            todo += item.values()
    return False


def _below(value: Any, part: str | None) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values()) if part is None else [value[part]] if part in value else []
    return value if isinstance(value, list) and part is None else []


def base_path(node: Node, names: dict[str, tuple[str, ...]]) -> Pattern | None:
    """A reference's path below data; None where it is none into data. `names`: what the module imports of data."""
    root, *parts = pattern(node)
    if root == "data":
        return tuple(parts)
    return (*names[root], *parts) if root in names else None


def texts(modules: Sequence[Node], data: dict[str, Any]) -> Iterator[Problem]:
    """References that cannot be let through: constant ones, and those into what may be an array or an object."""
    arrays = Arrays(data, sorted(replaced(modules)))
    for module in modules:
        names = {name: path[1:] for name, path in imports(module).items() if path[0] == "data"}
        for node, path in _references(module["ast"]["rules"], names):
            index = node["RefBrack"]["index"]
            if not arrays.at(path[:-1]):
                continue
            text = index.get("String") or index.get("RawString")
            what = None
            if text and _NUMBER.fullmatch(text["value"]):
                number = int(text["value"].partition(".")[0])
                what = f'is an array, of which "{text["value"]}" is an element to OPA; write {number}'
            elif not text and not arrays.alone_at(path[:-1]) and _may_be_text(index):
                what = "is an array or something else, and what is in the brackets may be text"
            if what is not None:
                name = ".".join("_" if part is None else part for part in path[:-1])
                line = node["RefBrack"]["span"]["line"]
                yield Problem(
                    module["source"]["file"], f"line {line}", f"data.{name} {what}; engine: opa runs it"
                )


def _may_be_text(index: Node) -> bool:
    return kind_of(index) not in STRINGS | {"Var", "Number", "Bool", "Null", "Array", "Object", "Set"}


def _references(node: Any, names: dict[str, tuple[str, ...]]) -> Iterator[tuple[Node, Pattern]]:
    if isinstance(node, list):
        for item in node:
            yield from _references(item, names)
    elif isinstance(node, dict):
        if "RefBrack" in node and (path := base_path(node, names)) is not None:
            yield node, path
        for name, item in node.items():
            if name != "span":
                yield from _references(item, names)


def names_of_numbers(modules: Sequence[Node], data: dict[str, Any]) -> bool:
    """Whether the modules look something up by what varies where data has names that are numbers."""
    arrays = Arrays(data)
    for module in modules:
        names = {name: path[1:] for name, path in imports(module).items() if path[0] == "data"}
        for node, path in _references(module["ast"]["rules"], names):
            if STRINGS.isdisjoint(node["RefBrack"]["index"]) and arrays.has_numbers(path[:-1]):
                return True
    return False
