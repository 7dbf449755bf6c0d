"""Rules whose name begins with a keyword, `if.allowed := …`, which regorus' parser does not know.

They are put into a module of their own, whose package ends with the keyword, and references to them are written from
`data` on:

    package test                        package test                          package test["if"]
    if.allowed := roles.admin           roles := {…}                          allowed := data.test.roles.admin
    roles := {…}                        x if data.test["if"].allowed
    x if if.allowed

Both keep their lines. Where a name could mean two things, the module is left as it is, for regorus to refuse.
Source: OPA's `ast/parser.go`; a keyword is a reference's first name where a dot follows without a space.
"""

import re
from typing import NamedTuple

from mixer.policy.tokens import ScanError, Token, scan

_KEYWORDS = frozenset(
    "as default else every false if import in not null package some true with".split()  # noqa: SIM905
)
_SUSPECT = re.compile(rf"(?<![\w.])(?:{'|'.join(sorted(_KEYWORDS))})\.")
_MARK = "mixer_keyword_"
_GOES_ON = _KEYWORDS - {"default", "import", "package"} | {"contains"}
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")


class _Statement(NamedTuple):
    """A statement at a module's top: its tokens, from one index up to another."""

    first: int
    last: int


class _AmbiguousError(Exception):
    """A name that could mean two things."""


def split(source: str) -> list[str]:
    """The module, and those taken out of it."""
    if not _SUSPECT.search(source):
        return [source]
    try:
        marked = _marked(source)
        return _Module(marked).split() if marked != source else [source]
    except (ScanError, _AmbiguousError):
        return [source]


def _marked(source: str) -> str:
    """The keywords that begin a reference as plain names."""
    parts, at = [], 0
    tokens = list(scan(source))
    for index, token in enumerate(tokens[:-1]):
        if (
            _begins_reference(tokens, index)
            and token.text in _KEYWORDS
            and _touch(token, tokens[index + 1], ".")
        ):
            parts += [source[at : token.start], _MARK, token.text]
            at = token.end
    return "".join((*parts, source[at:]))


def _touch(one: Token, other: Token, text: str) -> bool:
    return other.kind == "operator" and other.text == text and one.end == other.start


def _begins_reference(tokens: list[Token], index: int) -> bool:
    return tokens[index].kind == "word" and not (
        index and tokens[index - 1].text == "." and tokens[index - 1].kind == "operator"
    )


class _Module:
    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = list(scan(source))
        self._statements = list(self._split())
        package, *self._rest = self._statements
        first, last = self._tokens[package.first + 1], self._tokens[package.last - 1]
        self._package_name = first.start, last.end
        self._path = f"data.{source[first.start : last.end]}"
        self._imports = [item for item in self._rest if self._tokens[item.first].text == "import"]
        self._rules = [item for item in self._rest if item not in self._imports]
        self._own = {self._head(rule).text for rule in self._rules} - {""}

    def split(self) -> list[str]:
        marks = {self._head(rule).text for rule in self._rules if self._is_marked(self._head(rule).text)}
        kept = [rule for rule in self._rules if not self._is_marked(self._head(rule).text)]
        return [self._text(kept, None), *(self._text(self._of(mark), mark) for mark in sorted(marks))]

    def _of(self, mark: str) -> list[_Statement]:
        return [rule for rule in self._rules if self._head(rule).text == mark]

    @staticmethod
    def _is_marked(name: str) -> bool:
        return name.startswith(_MARK)

    def _head(self, rule: _Statement) -> Token:
        """The first name of the rule's."""
        token = self._tokens[rule.first]
        return self._tokens[rule.first + 1] if token.text == "default" else token

    def _split(self) -> list[_Statement]:
        """Statements begin on lines of their own, out of all brackets; `else` goes on with one."""
        firsts, depth, line_end = [], 0, 0
        for index, token in enumerate(self._tokens):
            new_line = index == 0 or "\n" in self._source[line_end : token.start]
            if (
                depth == 0
                and new_line
                and token.kind == "word"
                and token.text != "else"
                and self._ended(index)
            ):
                firsts.append(index)
            if token.kind == "operator":
                depth += (token.text in _OPENING) - (token.text in _CLOSING)
            line_end = token.end
        return [_Statement(*pair) for pair in zip(firsts, [*firsts[1:], len(self._tokens)], strict=True)]

    @staticmethod
    def _begins(token: Token) -> bool:
        return token.kind == "word" and token.text not in _GOES_ON

    def _ended(self, index: int) -> bool:
        """Whether what stands before cannot go on: no operator and no keyword that wants more."""
        if index == 0:
            return True
        before = self._tokens[index - 1]
        if before.kind == "operator":
            return before.text in _CLOSING
        return before.kind != "word" or before.text not in _KEYWORDS - {"true", "false", "null"} | {
            "contains"
        }

    def _text(self, rules: list[_Statement], mark: str | None) -> str:
        """The source with nothing but these rules, and the package and the imports."""
        parts: list[str] = []
        at = 0
        package = self._statements[0]
        for statement in self._statements:
            start = self._tokens[statement.first].start
            end = self._tokens[statement.last - 1].end
            parts.append(self._source[at:start] if at == 0 else _blank(self._source[at:start]))
            if statement is package:
                parts.append(self._source[start:end] + (f'["{mark.removeprefix(_MARK)}"]' if mark else ""))
            elif statement in self._imports:
                parts.append(self._source[start:end])
            elif statement in rules:
                parts.append(self._rule(statement, mark))
            else:
                parts.append(_blank(self._source[start:end]))
            at = end
        return "".join(parts)

    def _rule(self, rule: _Statement, mark: str | None) -> str:
        tokens = self._tokens[rule.first : rule.last]
        head = self._head(rule)
        if mark:
            self._check_is_one(rule)
        taken = {self._after(other).text for other in self._of(mark)} if mark else set()
        parts, at = [], tokens[0].start
        for index, token in enumerate(tokens):
            if not _begins_reference(tokens, index):
                continue
            if token == head and mark:
                after = self._after(rule)
                parts.append(self._source[at : token.start])
                at = after.start
            elif self._is_marked(token.text):
                parts += [self._source[at : token.start], f'{self._path}["{token.text.removeprefix(_MARK)}"]']
                at = token.end
            elif mark and token.text in self._own:
                if self._binds(tokens, index):
                    raise _AmbiguousError
                parts += [self._source[at : token.start], f"{self._path}.{token.text}"]
                at = token.end
            elif token.text in taken:
                raise _AmbiguousError
        return "".join((*parts, self._source[at : tokens[-1].end]))

    def _check_is_one(self, rule: _Statement) -> None:
        """Raises where another statement stands on a line of this one."""
        depth = 0
        for index in range(rule.first, rule.last):
            token = self._tokens[index]
            if depth == 0 and (
                token.text == ";" or (index > rule.first and self._begins(token) and self._ended(index))
            ):
                raise _AmbiguousError
            if token.kind == "operator":
                depth += (token.text in _OPENING) - (token.text in _CLOSING)

    def _after(self, rule: _Statement) -> Token:
        """The name after the keyword. Raises where that could not begin a rule's name."""
        index = self._tokens.index(self._head(rule))
        token = self._tokens[index + 2]
        if token.kind != "word" or token.text in _KEYWORDS:
            raise _AmbiguousError
        return token

    @staticmethod
    def _binds(tokens: list[Token], index: int) -> bool:
        """Whether a name is perhaps one of the rule's own: declared, or an operand of its function."""
        name = tokens[index].text
        for at, token in enumerate(tokens):
            before, after = tokens[max(0, at - 1)].text, tokens[min(at + 1, len(tokens) - 1)].text
            if token.text == name and (after == ":=" or before in ("some", "every", "as", ",", "(")):
                return True
        return False


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)
