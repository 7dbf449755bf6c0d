"""What terms are made of: closures over the closures of their parts. Where a part is undefined, so is the whole."""

from collections.abc import Callable, Sequence
from typing import Any

from mixer.policy.builtins import BuiltinError, UnsupportedError
from mixer.policy.compiled.steps import Check, Frame, Run
from mixer.policy.compiled.values import UNDEFINED, UnsureError, same


def over(known: list[tuple[Any, Any]], key: int, value: int) -> Callable[[Check], Check]:
    """A loop over entries that are always the same."""

    def loop(following: Check) -> Check:
        def run(frame: Frame) -> bool:
            for name, item in known:
                if key >= 0:
                    frame[key] = name
                frame[value] = item
                if following(frame):
                    return True
            return False

        return run

    return loop


def called(callee: Callable[..., Any], runs: Sequence[Run]) -> Run:
    """A call; undefined where an operand is."""
    if len(runs) == 1:
        (only,) = runs

        def one(frame: Frame) -> Any:
            value = only(frame)
            return UNDEFINED if value is UNDEFINED else callee(value)

        return one
    if len(runs) == 2:
        return binary(callee, *runs)
    if len(runs) == 3:
        first, second, third = runs

        def three(frame: Frame) -> Any:
            a, b, c = first(frame), second(frame), third(frame)
            return UNDEFINED if a is UNDEFINED or b is UNDEFINED or c is UNDEFINED else callee(a, b, c)

        return three

    def run(frame: Frame) -> Any:
        values = [operand(frame) for operand in runs]
        return UNDEFINED if any(value is UNDEFINED for value in values) else callee(*values)

    return run


def asked(builtin: Callable[..., Any], runs: Sequence[Run]) -> Run:
    """A call of a builtin; undefined where that fails."""
    ask = called(builtin, runs)

    def run(frame: Frame) -> Any:
        try:
            return ask(frame)
        except BuiltinError:
            return UNDEFINED
        except UnsupportedError as error:
            raise UnsureError(str(error)) from None

    return run


def binary(operation: Callable[[Any, Any], Any], one: Run, other: Run) -> Run:
    def run(frame: Frame) -> Any:
        a, b = one(frame), other(frame)
        return UNDEFINED if a is UNDEFINED or b is UNDEFINED else operation(a, b)

    return run


def text_compared(run: Run, text: str, wanted: bool) -> Run:
    def compared(frame: Frame) -> Any:
        value = run(frame)
        return UNDEFINED if value is UNDEFINED else (value == text) is wanted

    return compared


def one_of(run: Run, texts: frozenset[str]) -> Run:
    def member(frame: Frame) -> Any:
        value = run(frame)
        if type(value) is str:
            return value in texts
        return UNDEFINED if value is UNDEFINED else False

    return member


def listed(runs: Sequence[Run]) -> Run:
    def run(frame: Frame) -> Any:
        values = []
        for item in runs:
            value = item(frame)
            if value is UNDEFINED:
                return UNDEFINED
            values.append(value)
        return values

    return run


def made(fixed: dict[str, Any], varying: list[tuple[str, Run]], computed: list[tuple[Run, Run]]) -> Run:
    def run(frame: Frame) -> Any:
        made = fixed.copy()
        for key, item in varying:
            value = item(frame)
            if value is UNDEFINED:
                return UNDEFINED
            made[key] = value
        for name, item in computed:
            computed_key, value = name(frame), item(frame)
            if computed_key is UNDEFINED or value is UNDEFINED:
                return UNDEFINED
            put(made, computed_key, value)
        return made

    return run


def put(target: dict[str, Any], key: Any, value: Any) -> None:
    """A key has one value; two are OPA's error, which the interpreter tells."""
    if type(key) is not str:
        raise UnsureError("a key that is no string")
    if not same(target.setdefault(key, value), value):
        raise UnsureError("two values for one key")
