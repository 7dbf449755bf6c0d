"""Arithmetic as OPA does it: exact on integers, else on decimals with 64 bits, as Go's `big.Float`.

regorus' numbers have 53 bits. Where OPA's result is no number that they can tell from others (0.3 - 0.1 is
0.20000000000000000002), it is held here for the time of one evaluation, and regorus gets the double next to it on its
side: what compares, sorts or computes with that is right, and the decision's text shows the number itself (`Held`).
Source: OPA's `topdown/arithmetic.go` and `topdown/aggregates.go`, Go's `math/big`.
"""

import math
import re
import threading
from collections.abc import Callable, Iterable
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Any

from mixer.policy.builtins.operands import BuiltinError, UnsupportedError
from mixer.policy.written import Number, keys, unusual

if TYPE_CHECKING:
    from mixer.policy.literals import Exposure

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,9})?")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?')
_SMALL = re.compile(r"0\.0000|e-")
_LEAST_PLAIN = 1e-4  # which Go writes without an exponent
LITERAL = "mixer.number"  # the key of an object that is a large number of a policy, as text
_LARGEST = Decimal("1e308")
_SMALLEST = Decimal("1e-300")
_OF_64_BITS, _OF_DOUBLES = 2**64, 2**1023
_BITS = 64
_BITS_OF_PRODUCT = 53  # `product` starts from a `big.NewFloat`, which has no more
_SHORTEST, _LONGEST = 15, 21  # digits that may be needed to tell a number of 64 bits from others


class Held(threading.local):
    """The numbers of this thread's evaluation that no double is, by the doubles that stand for them; and those that the
    evaluation has read and that are written in an unusual way (`policy.written`)."""

    def __init__(self) -> None:
        self._exact: dict[float, Decimal] = {}
        self._document = ""
        self._unusual: set[float] = set()
        self.exposure: Exposure | None = None

    def begin(self, document: str | None, exposure: "Exposure") -> None:
        """`document`: the input, as JSON text."""
        self._document, self.exposure = document or "", exposure
        self._exact.clear()
        self._unusual = {*exposure.kept}

    def end(self) -> None:
        """What is called from now on is no longer in an evaluation by the interpreter."""
        self.exposure = None
        if self._exact:
            self._exact.clear()
        if self._unusual:
            self._unusual.clear()

    def watch(self, text: str) -> None:
        """The evaluation reads the numbers of a JSON text."""
        if self.exposure is not None:
            self.see(unusual(text))

    def see(self, numbers: Iterable[Number]) -> None:
        """Raises `UnsupportedError` for what could not be told where it matters."""
        if (exposure := self.exposure) is None:
            return
        for number in numbers:
            is_index = exposure.names or (exposure.positions and number.exponent and number.is_whole)
            if is_index or not -(2**63) <= number.value < 2**64:
                raise UnsupportedError("a number written in a way that the embedded engine does not keep")
            self._unusual.add(number.value)

    def show(self, value: float) -> None:
        """Raises `UnsupportedError` for a number that would be shown otherwise than it is written."""
        if self._unusual and value in self._unusual:
            raise UnsupportedError("text of a number written in a way that the embedded engine does not keep")

    def checked(self, decision: str) -> str:
        """A decision, as JSON text, whose keys may be numbers."""
        if self._unusual:
            for key in keys(decision):
                self.show(key)
        return decision

    def hold(self, exact: Decimal) -> float:
        """The double that stands for a number. Raises `UnsupportedError` where there is none to spare."""
        nearest = float(exact)
        shown = Decimal(repr(nearest))
        if exact == shown:
            return nearest
        double = math.nextafter(nearest, math.inf if exact > shown else -math.inf)
        self._hold(double, exact)
        return double

    def hold_large(self, large: int) -> None:
        """Let an integer that regorus has whole, but writes as a double, be written whole."""
        if _OF_64_BITS <= large < _OF_DOUBLES:
            self._hold(float(large), Decimal(large))

    def _hold(self, double: float, exact: Decimal) -> None:
        if self._exact.get(double, exact) != exact or repr(double) in self._document:
            raise UnsupportedError("two numbers that differ by less than the embedded engine can tell")
        self._exact[double], self._exact[-double] = exact, -exact

    def value(self, double: float) -> Decimal:
        return self._exact.get(double) or Decimal(repr(double))

    def text(self, double: float) -> str:
        self.show(double)
        exact = self._exact.get(double)
        return repr(double) if exact is None else str(exact).lower()

    def nearest(self, double: float) -> float:
        """What Go's float64 is of it."""
        exact = self._exact.get(double)
        return double if exact is None else float(exact)

    def written(self, text: str) -> str:
        """A JSON text of regorus with the numbers themselves."""
        return _TOKEN.sub(self._token, text) if self._exact else text

    def marshalled(self, text: str) -> str:
        """JSON of regorus within a decision: with numbers as Go writes them."""
        return _TOKEN.sub(self._shown, text) if self._exact or self._unusual or _SMALL.search(text) else text

    def _shown(self, found: re.Match[str]) -> str:
        token = found[0]
        if token[0] == '"':
            if _NUMBER.fullmatch(token[1:-1]):  # a key, perhaps
                self.show(float(token[1:-1]))
            return token
        value = float(token)
        self.show(value)
        small = 0 < abs(value) < _LEAST_PLAIN
        return repr(value) if small and value not in self._exact else self._token(found)

    def _token(self, found: re.Match[str]) -> str:
        token = found[0]
        if token[0] == '"' or token.lstrip("-").isdigit() or (exact := self._exact.get(float(token))) is None:
            return token
        return str(exact).lower()


HELD = Held()


def _to_number(value: object) -> float:
    if value is None:
        return 0
    if isinstance(value, int | float):
        return int(value) if isinstance(value, bool) else value
    if not isinstance(value, str) or len(value) > 1000 or not _NUMBER.fullmatch(value):
        raise BuiltinError("operand must be a number, or text that is one")
    HELD.watch(value)
    if value.lstrip("+-").isdigit():
        return fitting(int(value))
    if math.isinf(float(value)):
        raise BuiltinError("operand must be within the range of numbers")
    return held(Decimal(value))


def fitting(value: int) -> int:
    """An integer that can go to regorus. Raises `UnsupportedError` for one of more than 64 bits."""
    if not -(2**63) <= value < 2**64:
        raise UnsupportedError("an integer of more than 64 bits")
    return value


def _exact(value: object) -> int | Decimal:
    if isinstance(value, dict) and value.keys() == {LITERAL}:
        number = Decimal(value[LITERAL])
        return int(number) if number == number.to_integral_value() else number
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BuiltinError("operand must be a number")
    return value if isinstance(value, int) else HELD.value(value)


def held(value: Decimal) -> float:
    """A number for regorus. Raises `UnsupportedError` for one that it cannot have."""
    size = abs(value)
    if size > _LARGEST or 0 < size < _SMALLEST:
        raise UnsupportedError("a number beyond the range of doubles")
    if value == value.to_integral_value():
        return fitting(int(value))
    return HELD.hold(value)


def _ratio(value: int | Decimal) -> tuple[int, int]:
    """The number as OPA computes with it, in 64 bits: numerator and denominator."""
    return _rounded(*(value, 1) if isinstance(value, int) else value.as_integer_ratio())


def _rounded(numerator: int, denominator: int, bits: int = _BITS) -> tuple[int, int]:
    """To the nearest number of so many bits; ties to even."""
    if not numerator:
        return 0, 1
    size, shift = abs(numerator), bits - abs(numerator).bit_length() + denominator.bit_length()
    mantissa, rest = _divided(size, denominator, shift)
    if mantissa.bit_length() > bits:
        shift -= 1
        mantissa, rest = _divided(size, denominator, shift)
    mantissa += rest > 0 or (rest == 0 and mantissa & 1)
    mantissa = -mantissa if numerator < 0 else mantissa
    return (mantissa, 1 << shift) if shift >= 0 else (mantissa << -shift, 1)


def _divided(numerator: int, denominator: int, shift: int) -> tuple[int, int]:
    """Quotient with so many bits more, and whether the rest is less than a half of it (-1), a half, or more."""
    if shift >= 0:
        numerator <<= shift
    else:
        denominator <<= -shift
    quotient, rest = divmod(numerator, denominator)
    return quotient, (2 * rest > denominator) - (2 * rest < denominator)


def _number(numerator: int, denominator: int, bits: int = _BITS) -> float:
    """A number of 64 bits as OPA writes it, by its fewest digits, for regorus."""
    if numerator % denominator == 0:
        return fitting(numerator // denominator)
    try:
        nearest = numerator / denominator
    except OverflowError:
        raise UnsupportedError("a number beyond the range of doubles") from None
    shown = Decimal(repr(nearest))
    if _same(shown, numerator, denominator, bits):
        return held(shown)
    with localcontext() as context:
        for context.prec in range(_SHORTEST, _LONGEST + 1):
            digits = Decimal(numerator) / Decimal(denominator)
            if _same(digits, numerator, denominator, bits):
                return held(digits)
    raise UnsupportedError("a number that has no text")


def _same(digits: Decimal, numerator: int, denominator: int, bits: int) -> bool:
    one, other = _rounded(*digits.as_integer_ratio(), bits)
    return one * denominator == numerator * other


def plus(one: object, other: object) -> float:
    if type(one) is int and type(other) is int:
        return fitting(one + other)
    return _computed(_exact(one), _exact(other), _sum, 1)


def minus(one: object, other: object) -> float:
    if type(one) is int and type(other) is int:
        return fitting(one - other)
    return _computed(_exact(one), _exact(other), _sum, -1)


def times(one: object, other: object) -> float:
    if type(one) is int and type(other) is int:
        return fitting(one * other)
    return _computed(_exact(one), _exact(other), _product, 1)


def divided(one: object, other: object) -> float:
    dividend, divisor = _exact(one), _exact(other)
    if not divisor:
        raise BuiltinError("division by zero")
    if type(dividend) is int and type(divisor) is int and not dividend % divisor:
        return fitting(dividend // divisor)
    (a, b), (c, d) = _ratio(dividend), _ratio(divisor)
    return _number(*_rounded(a * d if c > 0 else -a * d, b * abs(c)))


Ratio = tuple[int, int]


def _sum(one: Ratio, other: Ratio, sign: int) -> Ratio:
    return one[0] * other[1] + sign * other[0] * one[1], one[1] * other[1]


def _product(one: Ratio, other: Ratio, _: int) -> Ratio:
    return one[0] * other[0], one[1] * other[1]


def _computed(
    one: int | Decimal, other: int | Decimal, step: Callable[[Ratio, Ratio, int], Ratio], sign: int
) -> float:
    if isinstance(one, int) and isinstance(other, int):
        return fitting(step((one, 1), (other, 1), sign)[0])
    return _number(*_rounded(*step(_ratio(one), _ratio(other), sign)))


def _folded(start: int, step: Callable[[Ratio, Ratio, int], Ratio], bits: int) -> Callable[[object], float]:
    def fold(values: Any) -> float:
        if not isinstance(values, list | set):
            raise BuiltinError("operand must be an array or a set")
        numbers = [_exact(value) for value in _in_order(values)]
        result = start, 1
        if all(isinstance(number, int) for number in numbers):
            for number in numbers:
                result = step(result, (int(number), 1), 1)
            return fitting(result[0])
        for number in numbers:
            result = _rounded(*step(result, _ratio(number), 1), bits)
        return _number(*result, bits)

    return fold


def _in_order(values: Iterable[Any]) -> list[Any]:
    """A set's numbers come in their order."""
    try:
        return sorted(values) if isinstance(values, set) else list(values)
    except TypeError:
        raise BuiltinError("elements must be numbers") from None


BUILTINS: dict[str, Callable[..., Any]] = {
    "to_number": _to_number,
    "mixer.plus": plus,
    "mixer.minus": minus,
    "mixer.times": times,
    "mixer.divided": divided,
    "mixer.sum": _folded(0, _sum, _BITS),
    "mixer.product": _folded(1, _product, _BITS_OF_PRODUCT),
}
