"""Rego's tokens, read as OPA's scanner reads them; only as much as finding where an expression ends takes."""

import re
from collections.abc import Iterator
from typing import NamedTuple

_SPACE = re.compile(r"(?:\s|#[^\n]*)+")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_RAW = re.compile(r"`[^`]*`")
_OPERATOR = re.compile(r":=|==|!=|<=|>=|[^\w\s]")
_IN_TEMPLATE = re.compile(r'(?:[^"\\{\n]|\\.)*')
_IN_RAW_TEMPLATE = re.compile(r"(?:[^`\\{]|\\\{|\\)*")
_ESCAPED_BRACE = re.compile(r"\\(\\|\{)")
_OPENING = {"(": ")", "[": "]", "{": "}"}


class ScanError(Exception):
    """The text at `offset` is no Rego; regorus' parser says why."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        super().__init__(offset)


class Part(NamedTuple):
    """A piece of a template string: its text as written between quotes, or where an expression stands."""

    start: int
    end: int
    expression: bool


class Token(NamedTuple):
    """`kind`: word, number, string, template or operator. `parts`: of a template."""

    kind: str
    text: str
    start: int
    end: int
    parts: tuple[Part, ...] = ()


def scan(source: str, start: int = 0, end: int | None = None) -> Iterator[Token]:
    """The tokens between two offsets. Raises `ScanError`."""
    at, end = start, len(source) if end is None else end
    while True:
        if space := _SPACE.match(source, at, end):
            at = space.end()
        if at >= end:
            return
        token = _token(source, at, end)
        yield token
        at = token.end


def _token(source: str, at: int, end: int) -> Token:
    character = source[at]
    if character == "$" and source[at + 1 : at + 2] in ('"', "`"):
        return _template(source, at, end)
    for kind, pattern in (
        ("word", _WORD),
        ("number", _NUMBER),
        ("string", _RAW if character == "`" else _STRING),
        ("operator", _OPERATOR),
    ):
        if kind == "operator" and character in '"`':
            break
        if match := pattern.match(source, at, end):
            return Token(kind, match[0], at, match.end())
    raise ScanError(at)


def _template(source: str, start: int, end: int) -> Token:
    quote = source[start + 1]
    text_of = _IN_RAW_TEMPLATE if quote == "`" else _IN_TEMPLATE
    parts: list[Part] = []
    at = start + 2
    while True:
        match = text_of.match(source, at, end)
        until = match.end() if match else at
        parts.append(Part(at, until, False))
        closing = source[until : until + 1] if until < end else ""
        if closing == quote:
            return Token("template", source[start : until + 1], start, until + 1, tuple(parts))
        if closing != "{":
            raise ScanError(until)
        at = _closing_brace(source, until + 1, end)
        parts.append(Part(until + 1, at, True))
        at += 1


def _closing_brace(source: str, start: int, end: int) -> int:
    """Where the brace stands that ends an expression in a template."""
    depth = 0
    for token in scan(source, start, end):
        if token.kind != "operator":
            continue
        if token.text in _OPENING:
            depth += 1
        elif token.text in _OPENING.values():
            if depth == 0:
                return token.start
            depth -= 1
    raise ScanError(start)


def template_text(source: str, part: Part, raw: bool) -> str:
    """A text part as it would stand between the quotes of a plain string (in JSON, but for a raw one's own text)."""
    text = source[part.start : part.end]
    if raw:
        return text.replace("\\{", "{")
    return _ESCAPED_BRACE.sub(lambda escape: "{" if escape[1] == "{" else escape[0], text)
