"""`sprintf`, as Go's `fmt.Sprintf` formats: an operand that does not fit its verb becomes text that says so.

Source: OPA's `topdown/strings.go` (what an operand is for Go) and Go's package `fmt`.
"""

import re
from decimal import Decimal
from functools import cmp_to_key
from typing import Any

from mixer.policy.builtins.numbers import HELD
from mixer.policy.builtins.operands import BuiltinError, UnsupportedError, string

_VERB = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<width>\d{1,4})?(?:\.(?P<precision>\d{0,3}))?(?P<verb>.)?", re.DOTALL
)
_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
_INTEGERS = {"b": "b", "d": "d", "o": "o", "q": "q", "v": "d", "x": "x", "X": "X"}
_FLOATS = frozenset("eEfFgGvbxX")
_STRINGS = frozenset("sqvxX")
_RARE = frozenset("cUOT")  # characters, Go's own notations
_KINDS: tuple[Any, ...] = (
    type(None),
    bool,
    (int, float),
    str,
    list,
    dict,
    (set, frozenset),
)  # in Rego's order


def _sprintf(format_: object, operands: object) -> str:
    text = string(format_)
    if not isinstance(operands, list):
        raise BuiltinError("operands must be an array")
    values = list(map(_operand, operands))
    out: list[str] = []
    at = used = 0
    while (start := text.find("%", at)) >= 0:
        out.append(text[at:start])
        spec = _VERB.match(text, start)
        assert spec is not None  # noqa: S101 (every part of it may be empty)
        at, verb = spec.end(), spec["verb"]
        if verb is None and spec[0] == "%":
            out.append("%!(NOVERB)")
        elif verb == "%":
            out.append("%")
        elif verb is None or verb in "*[." or verb.isdigit():
            raise UnsupportedError(f"sprintf with {spec[0]}")
        elif used >= len(values):
            out.append(f"%!{verb}(MISSING)")
        else:
            out.append(_formatted(values[used], spec))
            used += 1
    out.append(text[at:])
    if extra := values[used:]:
        out.append(f"%!(EXTRA {', '.join(f'{_type(value)}={_plain(value)}' for value in extra)})")
    return "".join(out)


def _operand(value: Any) -> float | str:
    if isinstance(value, int) and not isinstance(value, bool):
        HELD.show(value)  # a fraction is a double here, however it is written
    if isinstance(value, float):
        return HELD.nearest(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else term(value)


def _formatted(value: float | str, spec: re.Match[str]) -> str:
    verb = spec["verb"]
    fits = _STRINGS if isinstance(value, str) else _INTEGERS if isinstance(value, int) else _FLOATS
    plain = spec[0] == f"%{verb}"
    large = isinstance(value, int) and abs(value) >= 2**63  # a *big.Int formats itself
    if plain and (verb == "T" or (large and verb in "dsv")):
        return str(value) if large else _type(value)
    if large or verb in _RARE or (verb not in fits and not plain):
        raise UnsupportedError(f"sprintf with {spec[0]}")
    if verb not in fits:
        return f"%!{verb}({_type(value)}={_plain(value)})"
    return _text(value, spec) if isinstance(value, str) else _number(value, spec)


def _number(value: float, spec: re.Match[str]) -> str:
    flags, verb, precision = spec["flags"], spec["verb"], _precision(spec)
    if "#" in flags or verb == "q" or (isinstance(value, float) and verb in "bxX"):
        raise UnsupportedError(f"sprintf with {spec[0]}")
    if isinstance(value, int):
        digits = format(abs(value), _INTEGERS[verb]).rjust(precision or 0, "0")
        if precision is not None:
            flags = flags.replace("0", "")
        if precision == 0 and value == 0:
            return _padded("", spec)
    elif verb in "vgG":
        digits = shortest(abs(value)) if precision is None else format(abs(value), f".{precision}g")
        digits = digits.upper() if verb == "G" else digits
    else:
        digits = format(abs(value), f".{6 if precision is None else precision}{verb}")
    if verb == "v":
        flags = flags.replace("+", "")  # asks %v for more detail, which numbers have not
    sign = "-" if value < 0 else "+" if "+" in flags else " " if " " in flags else ""
    if "0" in flags and "-" not in flags and spec["width"]:
        return sign + digits.rjust(int(spec["width"]) - len(sign), "0")
    return _padded(sign + digits, spec)


def _text(value: str, spec: re.Match[str]) -> str:
    verb, precision = spec["verb"], _precision(spec)
    if set(spec["flags"]) - {"-"}:
        raise UnsupportedError(f"sprintf with {spec[0]} of a string")
    if verb in "xX":
        digits = value.encode()[:precision].hex()
        return _padded(digits.upper() if verb == "X" else digits, spec)
    shown = value[:precision]
    return _padded(_quoted(shown) if verb == "q" else shown, spec)


def _precision(spec: re.Match[str]) -> int | None:
    return None if spec["precision"] is None else int(spec["precision"] or 0)


def _padded(text: str, spec: re.Match[str]) -> str:
    if not spec["width"]:
        return text
    return text.ljust(int(spec["width"])) if "-" in spec["flags"] else text.rjust(int(spec["width"]))


def _type(value: float | str) -> str:
    if isinstance(value, str):
        return "string"
    if isinstance(value, int):
        return "int64" if abs(value) < 2**63 else "*big.Int"
    return "float64"


def _plain(value: float | str) -> str:
    """As `%v`."""
    if isinstance(value, float):
        return ("-" if value < 0 else "") + shortest(abs(value))
    return str(value)


def shortest(value: float) -> str:
    """The fewest digits that are this number (`strconv.FormatFloat`, 'g', -1)."""
    _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)  # noqa: S101 (JSON has no infinity)
    figures = "".join(map(str, digits))
    power = len(figures) + exponent - 1 if value else 0
    if not -4 <= power < 6:
        fraction = f".{figures[1:]}" if len(figures) > 1 else ""
        return f"{figures[0]}{fraction}e{'-' if power < 0 else '+'}{abs(power):02d}"
    return format(Decimal(repr(value)).normalize(), "f")


def term(value: Any) -> str:
    """A value as OPA writes it (`ast.Value.String`)."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, int | float):
        HELD.show(value)
        return HELD.text(value) if isinstance(value, float) else repr(value)
    if isinstance(value, dict):
        pairs = sorted(value.items(), key=lambda pair: cmp_to_key(compare)(pair[0]))
        return "{%s}" % ", ".join(f"{term(key)}: {term(item)}" for key, item in pairs)  # noqa: UP031 (braces)
    if isinstance(value, set | frozenset):
        items = sorted(value, key=cmp_to_key(compare))
        return "{%s}" % ", ".join(map(term, items)) if items else "set()"  # noqa: UP031 (braces)
    return f"[{', '.join(map(term, value))}]"


def compare(one: Any, other: Any) -> int:
    """Rego's order of values: null, booleans, numbers, strings, arrays, objects, sets."""
    kind, other_kind = _kind(one), _kind(other)
    if kind != other_kind:
        return kind - other_kind
    if isinstance(one, dict):
        one, other = ([part for pair in sorted(value.items(), key=lambda pair: cmp_to_key(compare)(pair[0]))
                       for part in pair] for value in (one, other))  # fmt: skip
    elif isinstance(one, set | frozenset):
        one, other = (sorted(value, key=cmp_to_key(compare)) for value in (one, other))
    if isinstance(one, list):
        for left, right in zip(one, other, strict=False):
            if order := compare(left, right):
                return order
        return len(one) - len(other)
    return 0 if one is None or one == other else -1 if one < other else 1


def _kind(value: Any) -> int:
    return next(index for index, kind in enumerate(_KINDS) if isinstance(value, kind))


def _quoted(text: str) -> str:
    """Go's `strconv.Quote`."""
    out = []
    for character in text:
        if character in '"\\':
            out.append("\\" + character)
        elif character in _ESCAPES:
            out.append(_ESCAPES[character])
        elif character == " " or character.isprintable():
            out.append(character)
        else:
            code = ord(character)
            out.append(
                f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
            )
    return f'"{"".join(out)}"'


BUILTINS = {"sprintf": _sprintf}
