"""Builtins for compiled rules: what policies call most, over plain values, with OPA's answers.

Each gives `UNDEFINED` (or raises `BuiltinError`) for what is a builtin's error in OPA. Those that `policy.builtins`
supplies to the interpreter serve here too, as long as no operand holds what would reach them in another form.
"""

import base64
import re
from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Any

import orjson

from mixer.policy.builtins import supplied
from mixer.policy.builtins.bounds import LONGEST, exceeded
from mixer.policy.compiled.values import UNDEFINED, Set, UnsureError, held, lookup, plain

# What `policy.builtins` has for operands that are text or are checked to be; nothing else gets through.
_OF_TEXT = frozenset(
    """
    base64.decode base64.is_valid base64url.decode crypto.md5 crypto.sha1 crypto.sha256 crypto.hmac.equal
    crypto.hmac.md5 crypto.hmac.sha1 crypto.hmac.sha256 crypto.hmac.sha512 glob.quote_meta hex.decode lower
    net.cidr_contains semver.compare semver.is_valid strings.count upper uri.is_valid urlquery.decode uuid.parse
    """.split()  # noqa: SIM905
)
_OF_ANYTHING = frozenset(["sprintf", "strings.replace_n", "strings.split_n", "urlquery.decode_object"])
_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_FEW = 64  # texts, whose length need not be looked at
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,14})")
_CONTROL = re.compile(r"\\[bfu]|\x7f")
_SPECIAL = re.compile("[<>&\u2028\u2029]")
_IN_HTML = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
_KINDS = {
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    Set: "set",
}


def function(name: str) -> Callable[..., Any] | None:
    """The builtin, which takes as many operands as OPA's; None where there is none here."""
    if (own := _OWN.get(name)) is not None:
        return own
    if name in _OF_TEXT and (found := supplied(name)) is not None:
        return found[1]
    if name in _OF_ANYTHING and (found := supplied(name)) is not None:
        return _guarded(found[1])
    return None


def _guarded(call: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*operands: Any) -> Any:
        for operand in operands:
            for value in held(operand):
                if type(value) is Set or type(value) is float:
                    raise UnsureError("a set or a fraction as an operand of a builtin")
        return call(*operands)

    return checked


def _texts(call: Callable[..., Any]) -> Callable[..., Any]:
    """Of strings alone."""

    def two(one: Any, other: Any) -> Any:
        return call(one, other) if type(one) is str and type(other) is str else UNDEFINED

    return two


def _count(value: Any) -> Any:
    kind = type(value)
    if kind is Set:
        return len(value.items)
    return len(value) if kind is str or kind is list or kind is dict else UNDEFINED


def _concat(delimiter: Any, parts: Any) -> Any:
    if type(parts) is Set:
        parts = list(parts.items.values())
        if all(type(part) is str for part in parts):
            parts.sort()
    if type(delimiter) is not str or type(parts) is not list or not all(type(part) is str for part in parts):
        return UNDEFINED
    if len(parts) > _FEW and sum(map(len, parts)) + len(delimiter) * len(parts) > LONGEST:
        exceeded("concat")
    return delimiter.join(parts)


def _split(text: str, delimiter: str) -> list[str]:
    return text.split(delimiter) if delimiter else list(text)


def _indexof(text: str, part: str) -> Any:
    return text.find(part) if part else UNDEFINED


def _replace(text: Any, old: Any, new: Any) -> Any:
    if type(text) is not str or type(old) is not str or type(new) is not str:
        return UNDEFINED
    if len(text) * len(new) > LONGEST and text.count(old) * len(new) > LONGEST:
        exceeded("replace")
    return text.replace(old, new)


def _substring(text: Any, start: Any, length: Any) -> Any:
    if type(start) is float or type(length) is float:
        raise UnsureError("a fraction as an index")
    if type(text) is not str or type(start) is not int or type(length) is not int or start < 0:
        return UNDEFINED
    return text[start:] if length < 0 else text[start : start + length]


def _trim_space(text: Any) -> Any:
    return text.strip(_SPACE) if type(text) is str else UNDEFINED


def _reverse(text: Any) -> Any:
    return text[::-1] if type(text) is str else UNDEFINED


def _to_number(value: Any) -> Any:
    kind = type(value)
    if kind is int or kind is bool or value is None:
        return int(value or 0)
    if kind is str and _INTEGER.fullmatch(value):
        return int(value)
    if kind in (list, dict, Set):
        return UNDEFINED
    raise UnsureError("to_number of what is no plain integer")


def _array_concat(one: Any, other: Any) -> Any:
    return one + other if type(one) is list and type(other) is list else UNDEFINED


def _array_slice(items: Any, start: Any, end: Any) -> Any:
    if type(start) is float or type(end) is float:
        raise UnsureError("a fraction as an index")
    if type(items) is not list or type(start) is not int or type(end) is not int:
        return UNDEFINED
    return items[max(start, 0) : max(end, 0)]


def _array_reverse(items: Any) -> Any:
    return items[::-1] if type(items) is list else UNDEFINED


def _object_get(value: Any, key: Any, default: Any) -> Any:
    if type(value) is not dict:
        return UNDEFINED
    if type(key) is list:
        if not key:
            return value
        found: Any = value
        for part in key:
            found = lookup(found, part)
    else:
        found = lookup(value, key)
    return default if found is UNDEFINED else found


def _object_keys(value: Any) -> Any:
    return Set.of({key: key for key in value}) if type(value) is dict else UNDEFINED


def _object_union(one: Any, other: Any) -> Any:
    if type(one) is not dict or type(other) is not dict:
        return UNDEFINED
    merged = {**one, **other}
    for key in one.keys() & other.keys():
        if type(one[key]) is dict and type(other[key]) is dict:
            merged[key] = _object_union(one[key], other[key])
    return merged


def _keys_of(value: Any) -> set[str] | None:
    """Those of its elements (of an object: of its keys) that may be keys; None where it has none."""
    kind = type(value)
    if kind is not dict and kind is not list and kind is not Set:
        return None
    return {key for key in (value.items.values() if kind is Set else value) if type(key) is str}


def _object_remove(value: Any, keys: Any) -> Any:
    names = _keys_of(keys)
    if type(value) is not dict or names is None:
        return UNDEFINED
    return {key: item for key, item in value.items() if key not in names}


def _object_filter(value: Any, keys: Any) -> Any:
    names = _keys_of(keys)
    if type(value) is not dict or names is None:
        return UNDEFINED
    return {key: item for key, item in value.items() if key in names}


def _any_match(judge: Callable[[str, tuple[str, ...]], bool]) -> Callable[[Any, Any], Any]:
    def match(texts: Any, parts: Any) -> Any:
        one, other = _strings(texts), _strings(parts)
        if one is None or other is None:
            return UNDEFINED
        return any(judge(text, other) for text in one)

    return match


def _strings(value: Any) -> tuple[str, ...] | None:
    if type(value) is str:
        return (value,)
    items = value.items.values() if type(value) is Set else value
    if type(value) not in (list, Set) or not all(type(item) is str for item in items):
        return None
    return tuple(items)


def _json_unmarshal(text: Any) -> Any:
    if type(text) is not str:
        return UNDEFINED
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise UnsureError("text that is no JSON") from None
    if any(type(item) is float for item in held(value)):
        raise UnsureError("a fraction in JSON")
    return value


def _json_marshal(value: Any) -> Any:
    """As Go's `encoding/json`: keys in order, and what HTML has a meaning for escaped."""
    if any(type(item) is float for item in held(value)):
        raise UnsureError("a fraction in JSON")
    try:
        text = orjson.dumps(value, default=plain, option=orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONEncodeError:
        raise UnsureError("a value that JSON does not have") from None
    if _CONTROL.search(text):
        raise UnsureError("control characters in JSON")
    return text.translate(_IN_HTML) if _SPECIAL.search(text) else text


@lru_cache(1024)
def _expression(pattern: str) -> Any:
    import re2  # Go's regular expressions; 3 MB of memory that not every policy needs

    if "\\C" in pattern:
        raise UnsureError("a pattern that only RE2 knows")
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error:
        raise UnsureError("a pattern that RE2 does not know") from None


def _regex_match(pattern: str, text: str) -> bool:
    return _expression(pattern).search(text) is not None


def _glob_match(pattern: Any, delimiters: Any, text: Any) -> Any:
    if type(text) is not str or type(pattern) is not str:
        return UNDEFINED
    return _regex_match(_glob_pattern(pattern, delimiters), text)


def _glob_pattern(pattern: str, delimiters: Any) -> str:
    from mixer.policy.builtins.regexes import glob

    return glob(pattern, delimiters)


def _base64_encode(value: Any) -> Any:
    return base64.b64encode(value.encode()).decode() if type(value) is str else UNDEFINED


def _sum(values: Any) -> Any:
    return sum(_integers(values))


def _extreme(choose: Callable[[Collection[int]], int]) -> Callable[[Any], Any]:
    def extreme(values: Any) -> Any:
        numbers = _integers(values)
        return choose(numbers) if numbers else UNDEFINED

    return extreme


def _integers(values: Any) -> Collection[int]:
    items = values.items.values() if type(values) is Set else values
    if type(values) not in (list, Set) or not all(type(item) is int and abs(item) < 2**40 for item in items):
        raise UnsureError("a fold over what is not all integers")
    return items


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in kinds


def _type_name(value: Any) -> str:
    return _KINDS.get(type(value), "null")


def _set_of_sets(values: Any) -> list[dict[Any, Any]] | None:
    if type(values) is not Set:
        return None
    inner = list(values.items.values())
    return [item.items for item in inner] if all(type(item) is Set for item in inner) else None


def _union(values: Any) -> Any:
    if (inner := _set_of_sets(values)) is None:
        return UNDEFINED
    return Set.of({key: item for items in inner for key, item in items.items()})


def _intersection(values: Any) -> Any:
    if (inner := _set_of_sets(values)) is None:
        return UNDEFINED
    if not inner:
        return Set()
    first, *others = inner
    return Set.of({key: item for key, item in first.items() if all(key in other for other in others)})


_OWN: dict[str, Callable[..., Any]] = {
    "array.concat": _array_concat,
    "array.reverse": _array_reverse,
    "array.slice": _array_slice,
    "base64.encode": _base64_encode,
    "concat": _concat,
    "contains": _texts(lambda text, part: part in text),
    "count": _count,
    "endswith": _texts(str.endswith),
    "indexof": _texts(_indexof),
    "glob.match": _glob_match,
    "intersection": _intersection,
    "is_array": _is(list),
    "is_boolean": _is(bool),
    "is_null": _is(type(None)),
    "is_number": _is(int, float),
    "is_object": _is(dict),
    "is_set": _is(Set),
    "is_string": _is(str),
    "json.marshal": _json_marshal,
    "json.unmarshal": _json_unmarshal,
    "max": _extreme(max),
    "min": _extreme(min),
    "object.filter": _object_filter,
    "object.get": _object_get,
    "object.keys": _object_keys,
    "object.remove": _object_remove,
    "object.union": _object_union,
    "regex.match": _texts(_regex_match),
    "replace": _replace,
    "split": _texts(_split),
    "startswith": _texts(str.startswith),
    "strings.any_prefix_match": _any_match(str.startswith),
    "strings.any_suffix_match": _any_match(str.endswith),
    "strings.reverse": _reverse,
    "substring": _substring,
    "sum": _sum,
    "to_number": _to_number,
    "trim": _texts(str.strip),
    "trim_left": _texts(str.lstrip),
    "trim_prefix": _texts(str.removeprefix),
    "trim_right": _texts(str.rstrip),
    "trim_space": _trim_space,
    "trim_suffix": _texts(str.removesuffix),
    "type_name": _type_name,
    "union": _union,
}
