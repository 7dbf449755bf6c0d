"""`strings.render_template`: Go's `text/template`, so far as templates show, choose and repeat what is given to them.

Fields, variables, `if`, `range`, `with`, `else`, `and`, `or`, `not`, `eq`, `ne`, `len` and `index` are known; what goes
further (pipes, parentheses, other functions, `define`) fails the evaluation. Source: Go's `text/template`, OPA's
`topdown/template.go`.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from mixer.policy.builtins.json_schema import plain
from mixer.policy.builtins.numbers import HELD
from mixer.policy.builtins.operands import BuiltinError, UnsupportedError, mapping, string

_ACTION = re.compile(r"\{\{(?P<left>-[ \t\r\n])?(?P<body>.*?)(?P<right>[ \t\r\n]-)?\}\}", re.DOTALL)
_WORD = re.compile(
    r'\s*(?:(?P<path>(?:\$\w*|(?=\.))(?:\.\w+)*\.?)|(?P<text>"(?:[^"\\\n]|\\.)*"|`[^`]*`)|(?P<number>-?[0-9]+)'
    r"|(?P<name>[A-Za-z]\w*))(?=\s|\Z)"
)
_RANGE = re.compile(r"(?:(\$\w+)(?:\s*,\s*(\$\w+))?\s*:=)?(.*)", re.DOTALL)
_SET = re.compile(r"(\$\w+)\s*(:=|=)(.*)", re.DOTALL)
_MISSING = "<no value>"
MISSING = object()
Variables = dict[str, Any]


class Number(str):
    """A number of JSON, which is text to Go."""

    __slots__ = ()


class Block(NamedTuple):
    """`if`, `range` or `with`, and what stands in it."""

    kind: str
    words: str
    body: list[Any]
    otherwise: list[Any]


def _parsed(text: str) -> list[Any]:
    """Texts, actions (as a tuple of one text) and blocks."""
    parts: list[str | tuple[str]] = []
    at, trims = 0, False
    for found in _ACTION.finditer(text):
        before = text[at : found.start()]
        before = before.lstrip(" \t\r\n") if trims else before
        parts.append(before.rstrip(" \t\r\n") if found["left"] else before)
        body = found["body"].strip()
        if "{{" in body or "}}" in body:
            raise UnsupportedError("a template with braces within an action")
        if not (body.startswith("/*") and body.endswith("*/")):
            parts.append((body,))
        at, trims = found.end(), found["right"] is not None
    rest = text[at:]
    if "{{" in rest:
        raise BuiltinError("a template with an action that does not end")
    parts.append(rest.lstrip(" \t\r\n") if trims else rest)
    parts.reverse()
    nodes, end = _block(parts)
    if end is not None:
        raise BuiltinError("a template with an end that ends nothing")
    return nodes


def _block(parts: list[str | tuple[str]]) -> tuple[list[Any], str | None]:
    """Nodes up to `end` or `else`, and which it was."""
    nodes: list[Any] = []
    while parts:
        part = parts.pop()
        if isinstance(part, str):
            nodes.append(part)
            continue
        kind, _, words = part[0].partition(" ")
        if kind in ("if", "range", "with"):
            nodes.append(_branch(kind, words, parts))
        elif kind in ("end", "else"):
            return nodes, part[0]
        elif kind in ("define", "template", "block", "break", "continue"):
            raise UnsupportedError(f"a template with {kind}")
        elif not part[0]:
            raise BuiltinError("a template with an empty action")
        else:
            nodes.append(part)
    return nodes, None


def _branch(kind: str, words: str, parts: list[str | tuple[str]]) -> Block:
    body, end = _block(parts)
    otherwise: list[Any] = []
    if end is not None and end.startswith("else"):
        following = end.removeprefix("else").strip()
        if following:
            inner, _, condition = following.partition(" ")
            if inner not in ("if", "with") or inner != kind:
                raise UnsupportedError("a template with an else of another kind")
            return Block(kind, words, body, [_branch(inner, condition, parts)])
        otherwise, end = _block(parts)
    if end != "end":
        raise BuiltinError("a template with a block that does not end")
    return Block(kind, words, body, otherwise)


class _Renderer:
    def __init__(self, data: Any) -> None:
        self._out: list[str] = []
        self._data = data

    def render(self, nodes: list[Any]) -> str:
        self._nodes(nodes, self._data, {"$": self._data})
        return "".join(self._out)

    def _nodes(self, nodes: list[Any], dot: Any, variables: Variables) -> None:
        variables = dict(variables)
        for node in nodes:
            if isinstance(node, str):
                self._out.append(node)
            elif isinstance(node, Block):
                self._block(node, dot, variables)
            elif found := _SET.fullmatch(node[0]):
                if found[2] == "=":
                    raise UnsupportedError("a template that assigns to a variable")
                variables[found[1]] = _value(found[3], dot, variables)
            else:
                self._out.append(_shown(_value(node[0], dot, variables)))

    def _block(self, block: Block, dot: Any, variables: Variables) -> None:
        if block.kind == "range":
            self._range(block, dot, variables)
            return
        if ":=" in block.words:
            raise UnsupportedError("a template with a variable in a condition")
        value = _value(block.words, dot, variables)
        if _holds(value):
            self._nodes(block.body, value if block.kind == "with" else dot, variables)
        else:
            self._nodes(block.otherwise, dot, variables)

    def _range(self, block: Block, dot: Any, variables: Variables) -> None:
        found = _RANGE.fullmatch(block.words)
        first, second, words = found.groups() if found else (None, None, "")
        value = _value(words, dot, variables)
        if isinstance(value, dict):
            pairs: list[tuple[Any, Any]] = sorted(value.items(), key=lambda pair: pair[0].encode())
        elif isinstance(value, list):
            pairs = list(enumerate(value))
        elif value is None:
            pairs = []
        else:
            raise BuiltinError("range cannot iterate over this")
        for key, item in pairs:
            given: Variables = {}
            if first is not None:
                given = {first: key, second: item} if second else {first: item}
            self._nodes(block.body, item, {**variables, **given})
        if not pairs:
            self._nodes(block.otherwise, dot, variables)


def _value(words: str, dot: Any, variables: Variables) -> Any:
    found, at = [], 0
    words = words.strip()
    while at < len(words):
        word = _WORD.match(words, at)
        if word is None:
            raise UnsupportedError("a template with a pipe, parentheses or the like")
        found.append(word)
        at = word.end()
    if not found:
        raise BuiltinError("a template with a missing value")
    if (name := found[0]["name"]) in _FUNCTIONS:
        return _FUNCTIONS[name](*(_operand(word, dot, variables) for word in found[1:]))
    if len(found) > 1:
        raise UnsupportedError("a template with operands of what is no function")
    return _operand(found[0], dot, variables)


def _operand(word: re.Match[str], dot: Any, variables: Variables) -> Any:
    if word["text"] is not None:
        text = word["text"]
        if text[0] == '"' and "\\" in text:
            raise UnsupportedError("a template with an escape in a text")
        return text[1:-1]
    if word["number"] is not None:
        return int(word["number"])
    if word["name"] is not None:
        if word["name"] not in ("true", "false"):
            raise UnsupportedError("a template with a function")
        return word["name"] == "true"
    root, *names = word["path"].split(".")
    if root and root not in variables:
        raise BuiltinError("a template with an undefined variable")
    value = variables[root] if root else dot
    if root == "" and names == [""]:
        return value
    for name in names:
        if not name:
            raise BuiltinError("a template with a dot too many")
        if value is MISSING:
            continue
        if not isinstance(value, dict):
            raise BuiltinError("a template that asks for a field of what has none")
        value = value.get(name, MISSING)
    return None if value is MISSING else value


def _holds(value: Any) -> bool:
    return bool(value)


def _len(*operands: Any) -> int:
    if len(operands) != 1 or not isinstance(operands[0], str | list | dict):
        raise BuiltinError("len of what has no length")
    return len(operands[0].encode()) if isinstance(operands[0], str) else len(operands[0])


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value):
            value = value[key]
        elif isinstance(value, dict) and isinstance(key, str) and not isinstance(key, Number):
            value = value.get(key)
        else:
            raise BuiltinError("index of what is not there")
    return value


def _equal(*operands: Any) -> bool:
    one, *others = operands or (None,)
    if not others:
        raise BuiltinError("eq without an operand")
    for other in others:
        kinds = {
            bool if isinstance(each, bool) else int if isinstance(each, int) else str for each in (one, other)
        }
        if not all(isinstance(each, bool | int | str) for each in (one, other)):
            raise UnsupportedError("a template that compares what is not plain")
        if len(kinds) > 1:
            raise BuiltinError("incompatible types for comparison")
    return one in others


def _not_equal(*operands: Any) -> bool:
    if len(operands) != 2:
        raise BuiltinError("ne of two operands")
    return not _equal(*operands)


def _not(*operands: Any) -> bool:
    if len(operands) != 1:
        raise BuiltinError("not of one operand")
    return not _holds(operands[0])


def _and(*operands: Any) -> Any:
    return next((each for each in operands if not _holds(each)), _last(operands))


def _or(*operands: Any) -> Any:
    return next((each for each in operands if _holds(each)), _last(operands))


def _last(operands: tuple[Any, ...]) -> Any:
    if not operands:
        raise BuiltinError("and, or without an operand")
    return operands[-1]


_FUNCTIONS: dict[str | None, Callable[..., Any]] = {
    "and": _and,
    "eq": _equal,
    "index": _index,
    "len": _len,
    "ne": _not_equal,
    "not": _not,
    "or": _or,
}


def _shown(value: Any) -> str:
    """As Go's `fmt.Fprint` writes it."""
    if value is None:
        return _MISSING
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    return _nested(value)


def _nested(value: Any) -> str:
    if value is None:
        return "<nil>"
    if isinstance(value, list):
        return f"[{' '.join(map(_nested, value))}]"
    if isinstance(value, dict):
        items = sorted(value.items(), key=lambda pair: pair[0].encode())
        return f"map[{' '.join(f'{name}:{_nested(item)}' for name, item in items)}]"
    return _shown(value)


def _for_go(value: Any) -> Any:
    """With numbers as the text that they are to Go."""
    if isinstance(value, float):
        return Number(HELD.text(value))
    if isinstance(value, int) and not isinstance(value, bool):
        HELD.show(value)
        return Number(value)
    if isinstance(value, list):
        return [_for_go(item) for item in value]
    if isinstance(value, dict):
        return {name: _for_go(item) for name, item in value.items()}
    return value


_nodes = lru_cache(100)(_parsed)


def _render(template: object, variables: object) -> str:
    nodes = _nodes(string(template))
    try:
        return _Renderer(_for_go(plain(mapping(variables)))).render(nodes).replace(_MISSING, "<undefined>")
    except RecursionError:
        raise UnsupportedError("a template that is nested too deeply") from None


BUILTINS = {"strings.render_template": _render}
