"""A query as closures: checks, one after the other, and loops around what comes after them.

What runs gets the frame of its rule, a list with a place for each local. A check says whether to go on; what follows
the last step says whether enough was found, and then the loops end.
"""

from collections.abc import Callable
from typing import Any

from mixer.policy.compiled.values import UNDEFINED, Set, entries, same

Frame = list[Any]
Run = Callable[[Frame], Any]
Check = Callable[[Frame], bool]


class Steps:
    """The steps of a query, in their order."""

    def __init__(self) -> None:
        self._parts: list[tuple[Check | None, Callable[[Check], Check] | None]] = []
        self.loops = False

    def check(self, check: Check) -> None:
        self._parts.append((check, None))

    def loop(self, loop: Callable[[Check], Check]) -> None:
        """`loop` makes, of what comes after it, what runs it many times."""
        self._parts.append((None, loop))
        self.loops = True

    def then(self, last: Check) -> Check:
        """All of it as one; `last` is called for each solution, until it says that there are enough."""
        following, checks = last, list[Check]()
        for check, loop in reversed(self._parts):
            if check is not None:
                checks.insert(0, check)
            elif loop is not None:
                following, checks = loop(_joined(checks, following)), []
        return _joined(checks, following)


def _joined(checks: list[Check], following: Check) -> Check:
    if not checks:
        return following
    if len(checks) == 1:
        (only,) = checks
        return lambda frame: only(frame) and following(frame)
    if len(checks) == 2:
        first, second = checks
        return lambda frame: first(frame) and second(frame) and following(frame)
    every = tuple(checks)

    def run(frame: Frame) -> bool:
        for check in every:
            if not check(frame):
                return False
        return following(frame)

    return run


def holds(term: Run) -> Check:
    """A term as a statement: defined, and not false."""

    def check(frame: Frame) -> bool:
        value = term(frame)
        return value is not UNDEFINED and value is not False

    return check


def bind(place: int, term: Run) -> Check:
    """A local gets a term's value."""

    def check(frame: Frame) -> bool:
        frame[place] = value = term(frame)
        return value is not UNDEFINED

    return check


def equal(one: Run, other: Run) -> Check:
    def check(frame: Frame) -> bool:
        a, b = one(frame), other(frame)
        return a is not UNDEFINED and b is not UNDEFINED and same(a, b)

    return check


def each(
    collection: Run, key: Check | None, value: Check | None, at: tuple[int, int]
) -> Callable[[Check], Check]:
    """Goes through a collection's entries; `key` and `value` judge what is put at the places `at`. -1 is no place."""
    key_at, value_at = at

    def loop(following: Check) -> Check:
        def run(frame: Frame) -> bool:
            for name, item in entries(collection(frame)):
                if key_at >= 0:
                    frame[key_at] = name
                    if key is not None and not key(frame):
                        continue
                if value_at >= 0:
                    frame[value_at] = item
                    if value is not None and not value(frame):
                        continue
                if following(frame):
                    return True
            return False

        def run_values(frame: Frame) -> bool:
            items = collection(frame)
            if type(items) is not list:
                return run(frame)
            for item in items:
                frame[value_at] = item
                if following(frame):
                    return True
            return False

        return run_values if key_at < 0 and value is None and value_at >= 0 else run

    return loop


def is_collection(value: object) -> bool:
    return type(value) in (list, dict, Set)
