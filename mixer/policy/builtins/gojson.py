"""JSON as Go's `encoding/json` writes it: keys in order, and what HTML has a meaning for as escapes."""

import json
import re
from typing import Any

from mixer.policy.builtins.numbers import HELD
from mixer.policy.builtins.operands import BuiltinError, UnsupportedError, mapping, string
from mixer.policy.written import in_order

_OTHER_KEY = re.compile(r'"(?:-?[0-9]|true"|false"|null"|\[|\{)(?:[^"\\]|\\.)*"\s*:|"(?:true|false|null)":')
_IN_HTML = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def dumps(value: Any, indent: str | None = None, prefix: str = "") -> str:
    """`indent`: of each level, on lines of their own that begin with `prefix`; None: all on one line."""
    if isinstance(value, dict):
        members = {_key(key): item for key, item in value.items()}
        items = [
            f"{dumps(key)}:{'' if indent is None else ' '}{dumps(members[key], indent, prefix + (indent or ''))}"
            for key in sorted(members, key=str.encode)
        ]
        return _enclosed("{}", items, indent, prefix)
    if isinstance(value, list | tuple | set | frozenset):
        inner = prefix + (indent or "")
        return _enclosed("[]", [dumps(item, indent, inner) for item in _ordered(value)], indent, prefix)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).translate(_IN_HTML)
    if isinstance(value, float):
        return HELD.text(value)
    if value is not None and not isinstance(value, bool):
        HELD.show(value)
    return json.dumps(value)


def _enclosed(brackets: str, items: list[str], indent: str | None, prefix: str) -> str:
    if indent is None or not items:
        return brackets[0] + ",".join(items) + brackets[1]
    lines = f",\n{prefix}{indent}".join(items)
    return f"{brackets[0]}\n{prefix}{indent}{lines}\n{prefix}{brackets[1]}"


def _key(key: Any) -> str:
    return key if isinstance(key, str) else dumps(key)


def _ordered(values: Any) -> list[Any]:
    if not isinstance(values, set | frozenset):
        return list(values)
    from functools import cmp_to_key

    from mixer.policy.builtins.formats import compare

    return sorted(values, key=cmp_to_key(compare))


def _marshal_with_options(value: Any, options: object) -> str:
    given = mapping(options)
    if given.keys() - {"prefix", "indent", "pretty"}:
        raise BuiltinError("unknown option")
    prefix, indent = string(given.get("prefix", "")), string(given.get("indent", "\t"))
    pretty = given.get("pretty", bool(given))
    if not isinstance(pretty, bool):
        raise BuiltinError("pretty must be a boolean")
    return prefix + dumps(value, indent, prefix) if pretty else dumps(value)


def _marshalled(text: object) -> str:
    """JSON of regorus as Go's, and with the numbers themselves."""
    given = string(text)
    if _OTHER_KEY.search(given):  # in regorus' order of values, not of text
        try:
            given = in_order(given)
        except (ValueError, RecursionError):
            raise UnsupportedError("JSON with a key that is there twice as text") from None
    return HELD.marshalled(given).translate(_IN_HTML)


BUILTINS = {
    "mixer.marshalled": _marshalled,
    "json.marshal_with_options": _marshal_with_options,
}
