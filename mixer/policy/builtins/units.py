"""`units.parse` and `units.parse_bytes`: "10Ki" is 10,240. Source: OPA's `topdown/parse_units.go`, `parse_bytes.go`."""

import re
from fractions import Fraction

from mixer.policy.builtins.numbers import fitting
from mixer.policy.builtins.operands import BuiltinError, string

_LETTERS = "kmgtpe"
_DECIMAL = {letter: 1000 ** (index + 1) for index, letter in enumerate(_LETTERS)}
_BINARY = {f"{letter}i": 1024 ** (index + 1) for index, letter in enumerate(_LETTERS)}
_UNITS: dict[str, Fraction] = {
    "": Fraction(1),
    "m": Fraction(0.001),  # the number that Go's float64 is
    "M": Fraction(1000**2),
    **{letter: Fraction(factor) for letter, factor in _DECIMAL.items() if letter != "m"},
    **{letter.upper(): Fraction(factor) for letter, factor in _DECIMAL.items()},
    **{unit: Fraction(factor) for unit, factor in _BINARY.items()},
    **{unit.capitalize(): Fraction(factor) for unit, factor in _BINARY.items()},
}
_BYTES = {
    "": 1,
    **_DECIMAL,
    **{f"{letter}b": factor for letter, factor in _DECIMAL.items()},
    **_BINARY,
    **{f"{unit}b": factor for unit, factor in _BINARY.items()},
}
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NUMERIC = re.compile(r"(?:[0-9.+-]|[eE][+-]?(?=[0-9])|[eE](?=[+-]))*")
_EXPONENT = re.compile(r"[eE][+-]?([0-9]+)")
_MOST_EXPONENT_DIGITS = 6


def _split(text: str) -> tuple[str, str]:
    """The number, and the unit that begins where the number's characters end."""
    if " " in text:
        raise BuiltinError("spaces are not allowed")
    match = _NUMERIC.match(text)
    end = match.end() if match else 0
    number, unit = text[:end], text[end:]
    if any(len(found[1]) > _MOST_EXPONENT_DIGITS for found in _EXPONENT.finditer(number)):
        raise BuiltinError("exponent too large")
    if not number:
        raise BuiltinError("no amount")
    return number, unit


def _amount(number: str) -> Fraction:
    if not _NUMBER.fullmatch(number):
        raise BuiltinError("amount is not a number")
    found = _EXPONENT.search(number)
    if found and int(found[1]) > 400:  # beyond regorus' numbers, and slow
        raise BuiltinError("amount is too large")
    return Fraction(number)


def _parse(text: object) -> float:
    number, unit = _split(string(text).replace('"', ""))
    unit = unit[:1] + unit[1:].lower()
    if unit not in _UNITS:
        raise BuiltinError("unit not recognised")
    value = _amount(number) * _UNITS[unit]
    if value.denominator == 1:
        return fitting(value.numerator)
    return float(round(value, 10))


def _parse_bytes(text: object) -> int:
    number, unit = _split(string(text).replace('"', "").lower())
    if unit not in _BYTES:
        raise BuiltinError("byte unit not recognised")
    return fitting(int(_amount(number) * _BYTES[unit]))


BUILTINS = {"units.parse": _parse, "units.parse_bytes": _parse_bytes}
