"""Operands of builtins, checked as OPA's `topdown/builtins` checks them.

Values of regorus come as plain objects: str, int, float, bool, None, list, set, dict.
"""

from typing import Any


class BuiltinError(Exception):
    """A builtin's error: the call is undefined, as in OPA. Its text holds no value of the request."""


class UnsupportedError(Exception):
    """A call that cannot be answered as OPA would: the evaluation fails. Its text holds no value of the request."""


def string(value: object) -> str:
    if not isinstance(value, str):
        raise BuiltinError("operand must be a string")
    return value


def integer(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise BuiltinError("operand must be an integer")


def mapping(value: object) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise BuiltinError("operand must be an object")
    return value


def fail(name: object) -> None:
    """The builtin's operands do not fit."""
    raise BuiltinError(string(name))


def unordered(operation: object) -> None:
    """Sets and objects together, which regorus orders otherwise than OPA."""
    raise UnsupportedError(f"{string(operation)} of sets and objects together")


BUILTINS = {"mixer.fail": fail, "mixer.unordered": unordered}
