"""Template strings, `$"user {input.id}"`; see `policy.dialect`."""

from mixer.policy.builtins.formats import term
from mixer.policy.builtins.operands import BuiltinError, UnsupportedError


def _template(parts: object) -> str:
    """`parts`: text, and lists of an expression's value, empty where it is undefined."""
    if not isinstance(parts, list):
        raise BuiltinError("operand must be an array")
    return "".join(part if isinstance(part, str) else _shown(part) for part in parts)


def _shown(values: list[object]) -> str:
    if not values:
        return "<undefined>"
    if len(values) > 1:
        raise UnsupportedError("an expression in a template string with more than one value")
    return values[0] if isinstance(values[0], str) else term(values[0])


BUILTINS = {"mixer.template": _template}
