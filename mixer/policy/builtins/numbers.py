"""`to_number`, which takes of text what Go's `strconv.ParseFloat` takes, and no space around it."""

import re

from mixer.policy.builtins.operands import BuiltinError

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,9})?")
_LARGEST = 1e308


def _to_number(value: object) -> float:
    if value is None:
        return 0
    if isinstance(value, int | float):
        return int(value) if isinstance(value, bool) else value
    if not isinstance(value, str) or len(value) > 1000 or not _NUMBER.fullmatch(value):
        raise BuiltinError("operand must be a number, or text that is one")
    number = float(value)
    if abs(number) > _LARGEST:
        raise BuiltinError("operand must be within the range of numbers")
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


BUILTINS = {"to_number": _to_number}
