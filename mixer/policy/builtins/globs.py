"""`regex.globs_match`: do two globs have a string in common that is not empty?

After yashtewari/glob-intersection, which OPA uses, its greedy corners included: a glob is a list of characters,
sets `[a-z]` and any characters `.`, each with `*` or `+` or neither.
"""

from typing import NamedTuple

from mixer.policy.builtins.operands import BuiltinError, string


class Token(NamedTuple):
    """`characters`: None for any."""

    characters: frozenset[str] | None
    flag: str = ""
    single: bool = False

    def meets(self, other: "Token") -> bool:
        if self.characters is None or other.characters is None:
            return True
        return not self.characters.isdisjoint(other.characters)

    def equals(self, other: "Token") -> bool:
        return self.characters == other.characters and self.single == other.single


Glob = list[Token]


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def next(self) -> tuple[str, bool] | None:
        """The next character, and whether it was escaped."""
        if self._at >= len(self._text):
            return None
        character, escaped = self._text[self._at], False
        if character == "\\":
            self._at += 1
            if self._at >= len(self._text):
                raise BuiltinError("glob ends with an escape")
            character, escaped = self._text[self._at], True
        self._at += 1
        return character, escaped

    def tokens(self) -> Glob:
        found: Glob = []
        while (read := self.next()) is not None:
            character, escaped = read
            if escaped or character not in ".[]+*":
                token = Token(frozenset(character), single=True)
            elif character == ".":
                token = Token(None)
            elif character == "[":
                token = Token(self._set())
            else:
                raise BuiltinError("misplaced character in glob")
            if self._at < len(self._text) and self._text[self._at] in "+*":
                token = token._replace(flag=self._text[self._at])
                self._at += 1
            found.append(token)
        return found

    def _set(self) -> frozenset[str]:
        found: set[str] = set()
        previous: str | None = None
        while (read := self.next()) is not None:
            character, escaped = read
            if escaped or character not in "-]":
                found.add(character)
                previous = character
            elif character == "]":
                return frozenset(found)
            else:
                end = self.next() if self._at < len(self._text) - 1 else None
                if previous is None or end is None or (end[0] in "]-" and not end[1]) or end[0] < previous:
                    raise BuiltinError("bad range in glob")
                found.update(map(chr, range(ord(previous), ord(end[0]) + 1)))
                previous = None
        raise BuiltinError("set in glob is not closed")


def _simplified(glob: Glob) -> Glob:
    """Equal flagged tokens that follow each other are one."""
    result: Glob = []
    for token in glob:
        if result and token.flag and result[-1].flag and token.equals(result[-1]):
            flag = "+" if "+" in (token.flag, result[-1].flag) else "*"
            result[-1] = result[-1]._replace(flag=flag)
        else:
            result.append(token)
    return result


def _trimmed(one: Glob, other: Glob) -> tuple[Glob, Glob] | None:
    """Without the plain tokens that both begin and end with, but for one of each; None where they do not meet."""
    start = 0
    while start < min(len(one), len(other)) and not one[start].flag and not other[start].flag:
        if not one[start].meets(other[start]):
            return None
        start += 1
    start = max(start - 1, 0)
    end, other_end = len(one) - 1, len(other) - 1
    while min(end, other_end) >= start and not one[end].flag and not other[other_end].flag:
        if not one[end].meets(other[other_end]):
            return None
        end, other_end = end - 1, other_end - 1
    if end < len(one) - 1:
        end, other_end = end + 1, other_end + 1
    return one[start : end + 1], other[start : other_end + 1]


def _plain(one: Glob, other: Glob) -> bool:
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a.flag or b.flag:
            return _flagged(one[index:], other[index:])
        if not a.meets(b):
            return False
    return len(one) == len(other)


def _flagged(one: Glob, other: Glob) -> bool:
    if not one[0].flag:
        one, other = other, one
    return _plus(one, other) if one[0].flag == "+" else _star(one, other)


def _plus(plussed: Glob, other: Glob) -> bool:
    if not plussed[0].meets(other[0]):
        return False
    return _star(plussed, other[1:]) or (bool(other[0].flag) and _plain(plussed[1:], other))


def _star(starred: Glob, other: Glob) -> bool:
    following = starred[1] if len(starred) > 1 else None
    for index, token in enumerate(other):
        if following is not None and token.meets(following) and _plain(starred[1:], other[index:]):
            return True
        if not token.meets(starred[0]):
            return False
    return following is None


def _globs_match(one: object, other: object) -> bool:
    globs = _simplified(_Reader(string(one)).tokens()), _simplified(_Reader(string(other)).tokens())
    trimmed = _trimmed(*globs)
    return trimmed is not None and _plain(*trimmed)


BUILTINS = {"regex.globs_match": _globs_match}
