"""Rego's operators. Arithmetic is that of integers; all else is left to the interpreter."""

from collections.abc import Callable
from typing import Any

from mixer.policy.compiled.values import UNDEFINED, Set, UnsureError, key_of, same

_EXACT = 2**53  # integers below it are alike in all of OPA, regorus and JSON


def contains(collection: Any, value: Any) -> bool:
    """`value in collection`; nothing is in what is no collection."""
    kind = type(collection)
    if kind is Set:
        return key_of(value) in collection.items
    if kind is dict:
        collection = collection.values()
    elif kind is not list:
        return False
    if type(value) is str:
        return value in collection
    return any(same(value, item) for item in collection)


def has_entry(collection: Any, key: Any, value: Any) -> bool:
    """`key, value in collection`."""
    kind = type(collection)
    if kind is Set:
        return same(key, value) and key_of(value) in collection.items
    if kind is dict:
        return type(key) is str and key in collection and same(collection[key], value)
    if kind is list:
        if type(key) is float:
            raise UnsureError("a fraction as an index")
        return type(key) is int and 0 <= key < len(collection) and same(collection[key], value)
    return False


def _alike(one: Any, other: Any) -> None:
    """Different kinds have an order too; that is the interpreter's."""
    kinds = {type(one), type(other)}
    if kinds != {str} and not kinds <= {int, float}:
        raise UnsureError("an order of what is neither two numbers nor two strings")


def _less(one: Any, other: Any) -> bool:
    _alike(one, other)
    return one < other  # type: ignore[no-any-return]


def _at_most(one: Any, other: Any) -> bool:
    _alike(one, other)
    return one <= other  # type: ignore[no-any-return]


COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "Eq": same,
    "Ne": lambda one, other: not same(one, other),
    "Lt": _less,
    "Le": _at_most,
    "Gt": lambda one, other: _less(other, one),
    "Ge": lambda one, other: _at_most(other, one),
}


def _integers(one: Any, other: Any) -> None:
    if type(one) is not int or type(other) is not int:
        raise UnsureError("arithmetic on what is no integer")


def _exact(value: int) -> int:
    if not -_EXACT < value < _EXACT:
        raise UnsureError("a large integer")
    return value


def _plus(one: Any, other: Any) -> Any:
    _integers(one, other)
    return _exact(one + other)


def _minus(one: Any, other: Any) -> Any:
    if type(one) is Set and type(other) is Set:
        return Set.of({key: item for key, item in one.items.items() if key not in other.items})
    _integers(one, other)
    return _exact(one - other)


def _times(one: Any, other: Any) -> Any:
    _integers(one, other)
    return _exact(one * other)


def _divided(one: Any, other: Any) -> Any:
    _integers(one, other)
    if other == 0:
        return UNDEFINED
    if one % other:
        raise UnsureError("a fraction")
    return _exact(one // other)


def _remainder(one: Any, other: Any) -> Any:
    """With the sign of the dividend, as Go has it."""
    _integers(one, other)
    if other == 0:
        return UNDEFINED
    return abs(one) % abs(other) * (1 if one >= 0 else -1)


def _either(one: Any, other: Any) -> Any:
    if type(one) is not Set or type(other) is not Set:
        return UNDEFINED
    return Set.of(one.items | other.items)


def _both(one: Any, other: Any) -> Any:
    if type(one) is not Set or type(other) is not Set:
        return UNDEFINED
    return Set.of({key: item for key, item in one.items.items() if key in other.items})


ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "Add": _plus,
    "Sub": _minus,
    "Mul": _times,
    "Div": _divided,
    "Mod": _remainder,
    "Union": _either,
    "Intersection": _both,
}
