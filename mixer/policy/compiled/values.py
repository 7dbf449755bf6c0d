"""Rego's values as plain objects: those of JSON, sets, and the undefined.

Numbers are `int` and `float`; what would need more than that is left to the interpreter (`UnsureError`).
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

UNDEFINED: Final = object()
_BEGINS_NUMBER = frozenset("+-0123456789")


class UnsureError(Exception):
    """What is met in this evaluation is not decided here; the interpreter decides. `str()` says what it is."""


class Set:
    """`items`: from what tells an element apart (`key_of`) to the element."""

    __slots__ = ("items",)

    def __init__(self, elements: Iterable[Any] = ()) -> None:
        self.items: dict[Any, Any] = {key_of(element): element for element in elements}

    def add(self, element: Any) -> None:
        self.items.setdefault(key_of(element), element)

    def ordered(self) -> list[Any]:
        """Its elements in Rego's order."""
        return ordered(self.items.values())

    @classmethod
    def of(cls, items: dict[Any, Any]) -> "Set":
        made = cls()
        made.items = items
        return made


def key_of(value: Any) -> Any:
    """Hashable, and equal for just those values that are equal in Rego: 1 is 1.0, and is not true."""
    kind = type(value)
    if kind is str or kind is int or kind is float or value is None:
        return value
    if kind is bool:
        return (bool, value)
    if kind is list:
        return (list, *map(key_of, value))
    if kind is dict:
        return (dict, frozenset((key, key_of(item)) for key, item in value.items()))
    return (Set, frozenset(value.items))


def same(one: Any, other: Any) -> bool:  # noqa: PLR0911 (one for each kind)
    """`==`; neither is undefined."""
    kind = type(one)
    if kind is str or one is None:
        return one == other  # type: ignore[no-any-return]
    opposite = type(other)
    if kind is bool or opposite is bool:
        return one is other
    if kind is int or kind is float:
        return (opposite is int or opposite is float) and one == other
    if kind is not opposite:
        return False
    if kind is list:
        return len(one) == len(other) and all(map(same, one, other))
    if kind is dict:
        return one.keys() == other.keys() and all(same(item, other[key]) for key, item in one.items())
    return one.items.keys() == other.items.keys()  # type: ignore[no-any-return]


def lookup(value: Any, key: Any) -> Any:
    """`value[key]`; undefined where either is."""
    kind = type(value)
    if kind is dict:
        if type(key) is int or type(key) is float:
            raise UnsureError("a number as a key")  # which OPA finds in data, and only there
        return value.get(key, UNDEFINED) if type(key) is str else UNDEFINED
    if kind is list:
        if type(key) is int:
            return value[key] if 0 <= key < len(value) else UNDEFINED
        if type(key) is float:
            raise UnsureError("a fraction as an index")
        if type(key) is str and key[:1] in _BEGINS_NUMBER:
            raise UnsureError("text as a position")  # which OPA takes in data, and only there
        return UNDEFINED
    if kind is Set and key is not UNDEFINED:
        return value.items.get(key_of(key), UNDEFINED)
    return UNDEFINED


def entries(value: Any) -> Iterable[tuple[Any, Any]]:
    """The keys and values of a collection, in Rego's order; none of what is no collection."""
    kind = type(value)
    if kind is list:
        return enumerate(value)
    if kind is dict:
        return sorted(value.items())  # no two keys are alike, so that no values are compared
    if kind is Set:
        return ((element, element) for element in value.ordered())
    return ()


def ordered(values: Iterable[Any]) -> list[Any]:
    values = list(values)
    kinds = set(map(type, values))
    if kinds <= {str} or kinds <= {int, float}:
        return sorted(values)
    return sorted(values, key=_rank)


def _rank(value: Any) -> tuple[Any, ...]:  # noqa: PLR0911 (one for each kind)
    """Sorts as OPA's `ast.Compare`: null, booleans, numbers, strings, arrays, objects, sets."""
    kind = type(value)
    if value is None:
        return (0,)
    if kind is bool:
        return (1, value)
    if kind is int or kind is float:
        return (2, value)
    if kind is str:
        return (3, value)
    if kind is list:
        return (4, tuple(map(_rank, value)))
    if kind is dict:
        return (5, tuple((_rank(key), _rank(value[key])) for key in sorted(value)))
    return (6, tuple(map(_rank, value.ordered())))


def plain(value: object) -> list[Any]:
    """What JSON has for a set: `orjson.dumps(…, default=plain)`."""
    if isinstance(value, Set):
        return value.ordered()
    raise TypeError(type(value).__name__)


def held(value: Any) -> Iterator[Any]:
    """All that is in a value and is no array and no object, the value itself included; a set and what is in it."""
    todo = [value]
    while todo:
        item = todo.pop()
        if type(item) is list:
            todo += item
        elif type(item) is dict:
            todo += item.values()
        else:
            if type(item) is Set:
                todo += item.items.values()
            yield item
