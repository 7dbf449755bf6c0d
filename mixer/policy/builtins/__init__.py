"""Rego's builtins for the embedded engine: those that regorus lacks or has wrong, made with the field's libraries.

A module of a family is imported when a policy calls one of its builtins. Each builtin takes and gives plain
objects and raises `BuiltinError` for what OPA calls a builtin error.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from mixer.policy.builtins.catalog import ARITY, MODULES
from mixer.policy.builtins.operands import BuiltinError, UnsupportedError

__all__ = ["Builtin", "BuiltinError", "UnsupportedError", "supplied"]

Builtin = tuple[int, Callable[..., Any]]


def supplied(name: str) -> Builtin | None:
    """The number of operands, and the function; None where this package does not have the builtin."""
    if name not in MODULES:
        return None
    module = import_module(f"{__name__}.{MODULES[name]}")
    return ARITY[name], module.BUILTINS[name]
