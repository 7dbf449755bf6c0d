"""Encodings where regorus gives an error and OPA an answer, and what tells whether text is encoded well."""

import base64
import json
import math
import re
from decimal import Decimal, DecimalException
from typing import Any

import orjson

from mixer.policy.builtins.numbers import HELD, fitting, held
from mixer.policy.builtins.operands import BuiltinError, UnsupportedError, string

_STANDARD = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_URL = re.compile(r"(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2}==|[A-Za-z0-9_-]{3}=)?")
_LONG = re.compile(r"[0-9.]{17}")  # digits, of which a double may not hold all
_LARGEST_EXPONENT = 1e5  # `maxNumberExp` of OPA's `ast/term.go`


def _decoded(text: str, alphabet: re.Pattern[str]) -> bytes:
    """Go passes over line ends, and over bits that the last letter has left."""
    bare = text.replace("\r", "").replace("\n", "")
    if not alphabet.fullmatch(bare):
        raise BuiltinError("not base64")
    return base64.b64decode(bare.replace("-", "+").replace("_", "/"))


def _base64_decode(text: object) -> str:
    return _decoded(string(text), _STANDARD).decode(errors="replace")


def _base64url_decode(text: object) -> str:
    encoded = string(text)
    if not encoded.endswith("="):
        encoded += "=" * (-len(encoded.encode()) % 4)
    return _decoded(encoded, _URL).decode(errors="replace")


def _base64_is_valid(text: object) -> bool:
    try:
        _decoded(string(text), _STANDARD)
    except BuiltinError:
        return False
    return True


def _hex_decode(text: object) -> str:
    digits = string(text)
    if not re.fullmatch(r"(?:[0-9A-Fa-f]{2})*", digits):
        raise BuiltinError("not hexadecimal")
    return bytes.fromhex(digits).decode(errors="replace")


def _refuse(_: str) -> None:
    raise ValueError


def _json_is_valid(text: object) -> bool:
    if not isinstance(text, str):
        return False
    try:
        json.loads(text, parse_constant=_refuse)
    except RecursionError:
        return True  # Go goes as deep as 10,000
    except ValueError:
        return False
    return True


def _json_unmarshal(text: object) -> Any:
    given = string(text)
    HELD.watch(given)
    try:
        return orjson.loads(given) if _LONG.search(given) is None else _with_long_numbers(given)
    except orjson.JSONDecodeError:
        pass
    # What orjson does not read and Go does: half of a pair of surrogates, a number beyond doubles, depths.
    try:
        return _with_long_numbers(given)
    except RecursionError:
        raise UnsupportedError("JSON deeper than the embedded engine reads") from None
    except (ValueError, DecimalException):
        raise BuiltinError("not JSON") from None


def _with_long_numbers(text: str) -> Any:
    value = json.loads(text, parse_constant=_refuse, parse_float=_decimal, parse_int=_integer)
    return _whole(value) if "\\u" in text else value


def _integer(digits: str) -> int:
    return fitting(int(digits)) if len(digits) < 1000 else fitting(2**64)


def _decimal(digits: str) -> float:
    """Raises `ValueError` for a number whose binary exponent is beyond OPA's limit."""
    number = Decimal(digits)
    if number and abs(number.adjusted()) * math.log2(10) > _LARGEST_EXPONENT:
        raise ValueError
    return held(number)


def _whole(value: Any) -> Any:
    """With U+FFFD for each half of a pair of surrogates."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return value


BUILTINS = {
    "base64.decode": _base64_decode,
    "base64.is_valid": _base64_is_valid,
    "base64url.decode": _base64url_decode,
    "hex.decode": _hex_decode,
    "json.is_valid": _json_is_valid,
    "mixer.json_unmarshal": _json_unmarshal,
}
