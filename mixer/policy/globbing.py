r"""Globs of OPA, which are gobwas/glob's, as regular expressions of Rust, which match in linear time.

`*` stops at a delimiter and `**` does not; `?` is one character that is no delimiter; `[abc]`, `[a-c]` and `[!…]` are
one character; `{a,b*}` is one of its patterns; `\` takes the meaning from what follows.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

_META = re.compile(r"[\\.+*?()|\[\]{}^$#&~-]")


class GlobError(ValueError):
    """The pattern is not a glob."""


@lru_cache(1024)
def regex(pattern: str, delimiters: tuple[str, ...]) -> str:
    """`delimiters`: each one character. Raises `GlobError`."""
    return _Reader(pattern, delimiters).read()


def quoted(text: str) -> str:
    """The glob that matches this text alone."""
    return re.sub(r"[*?\\\[\]{}]", r"\\\g<0>", text)


class _Reader:
    def __init__(self, pattern: str, delimiters: Sequence[str]) -> None:
        self._pattern = pattern
        self._at = 0
        self._one = f"[^{''.join(map(_literal, delimiters))}]" if delimiters else r"(?s:.)"

    def read(self) -> str:
        out, depth = [r"\A(?:"], 0
        while self._at < len(self._pattern):
            character = self._take()
            if character == "{":
                depth += 1
                out.append("(?:")
            elif character == "}" and depth:
                depth -= 1
                out.append(")")
            elif character == "," and depth:
                out.append("|")
            elif character == "*":
                if self._peek() == "*":
                    self._at += 1
                    out.append("(?s:.)*")
                else:
                    out.append(self._one + "*")
            elif character == "?":
                out.append(self._one)
            elif character == "[":
                out.append(self._class())
            else:
                out.append(_literal(self._escaped() if character == "\\" else character))
        if depth:
            raise GlobError("a brace is not closed")
        return "".join((*out, r")\z"))

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self) -> str:
        character = self._peek()
        if not character:
            raise GlobError("ends too early")
        self._at += 1
        return character

    def _escaped(self) -> str:
        return self._take()

    def _class(self) -> str:
        negated = self._peek() == "!"
        if negated:
            self._at += 1
        low = self._take()
        if self._peek() == "-":
            self._at += 1
            high = self._take()
            if high < low:
                raise GlobError("a range that is out of order")
            inside = f"{_literal(low)}-{_literal(high)}"
        else:
            self._at -= 1
            inside = self._listed()
        if self._take() != "]":
            raise GlobError("a class is not closed")
        return f"[{'^' if negated else ''}{inside}]"

    def _listed(self) -> str:
        found = []
        while self._peek() not in ("]", ""):
            character = self._take()
            found.append(_literal(self._escaped() if character == "\\" else character))
        if not found:
            raise GlobError("a class with nothing in it")
        return "".join(found)


def _literal(character: str) -> str:
    return _META.sub(r"\\\g<0>", character)
