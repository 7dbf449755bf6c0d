"""`to_number`, and arithmetic on decimals as OPA does it: with 64 bits, rounded to the nearest (Go's `big.Float`).

regorus' numbers have 53 bits, and its 0.1 + 0.2 is not 0.3. What is computed here goes back to it rounded once more,
so that it is the number that OPA has, as near as regorus' are.
"""

import math
import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

from mixer.policy.builtins.operands import BuiltinError, UnsupportedError

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,9})?")
_LARGEST = 1e308
_BITS = 64
_BITS_OF_PRODUCT = 53  # `product` starts from a `big.NewFloat`, which has no more


def _to_number(value: object) -> float:
    if value is None:
        return 0
    if isinstance(value, int | float):
        return int(value) if isinstance(value, bool) else value
    if not isinstance(value, str) or len(value) > 1000 or not _NUMBER.fullmatch(value):
        raise BuiltinError("operand must be a number, or text that is one")
    if value.lstrip("+-").isdigit():
        return fitting(int(value))
    number = float(value)
    if abs(number) > _LARGEST:
        raise BuiltinError("operand must be within the range of numbers")
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def fitting(value: int) -> int:
    """An integer that can go to regorus. Raises `UnsupportedError` for one of more than 64 bits."""
    if not -(2**63) <= value < 2**64:
        raise UnsupportedError("an integer of more than 64 bits")
    return value


def _exact(value: object) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BuiltinError("operand must be a number")
    return _rounded(Fraction(repr(value)))


def _rounded(value: Fraction, bits: int = _BITS) -> Fraction:
    """Ties to even."""
    if not value:
        return value
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length() - bits
    scale = Fraction(2) ** exponent
    if abs(value / scale) >= 2**bits:
        scale *= 2
    return round(value / scale) * scale


def _number(value: Fraction) -> float:
    if value.denominator == 1:
        return fitting(value.numerator)
    number = float(value)
    if not math.isfinite(number):
        raise UnsupportedError("a number that is too large")
    return number


def _folded(
    start: int, step: Callable[[Fraction, Fraction], Fraction], bits: int = _BITS
) -> Callable[[object], float]:
    def fold(values: Any) -> float:
        if not isinstance(values, list | set):
            raise BuiltinError("operand must be an array or a set")
        result = Fraction(start)
        for value in _in_order(values):
            result = _rounded(step(result, _exact(value)), bits)
        return _number(result)

    return fold


def _in_order(values: Iterable[Any]) -> list[Any]:
    """A set's numbers come in their order."""
    try:
        return sorted(values) if isinstance(values, set) else list(values)
    except TypeError:
        raise BuiltinError("elements must be numbers") from None


def _divided(one: object, other: object) -> float:
    divisor = _exact(other)
    if not divisor:
        raise BuiltinError("division by zero")
    return _number(_rounded(_exact(one) / divisor))


BUILTINS: dict[str, Callable[..., Any]] = {
    "to_number": _to_number,
    "mixer.plus": lambda one, other: _number(_rounded(_exact(one) + _exact(other))),
    "mixer.minus": lambda one, other: _number(_rounded(_exact(one) - _exact(other))),
    "mixer.times": lambda one, other: _number(_rounded(_exact(one) * _exact(other))),
    "mixer.divided": _divided,
    "mixer.sum": _folded(0, lambda sum_, value: sum_ + value),
    "mixer.product": _folded(1, lambda product, value: product * value, _BITS_OF_PRODUCT),
}
