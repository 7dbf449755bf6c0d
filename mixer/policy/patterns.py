r"""Regular expressions of RE2, which OPA's are, as those of Rust's regex crate, which regorus' are.

The two share syntax and matching, but not all of it: `\d`, `\s`, `\w` and `\b` are ASCII in RE2 and Unicode in Rust;
`\Q…\E`, octal escapes and a brace that counts nothing are RE2's; `[a&&b]`, `[[a]`, `\<` and some flags are Rust's.
Source: https://github.com/google/re2/wiki/Syntax and Go's `regexp/syntax`.
"""

import re
from functools import lru_cache

_CLASSES = {"d": "0-9", "s": r"\t\n\f\r ", "w": "0-9A-Za-z_"}  # the text within brackets
_LITERAL_IN_CLASS = re.compile(r"[\]\[\\^&~-]")
_LITERAL = re.compile(r"[\\.+*?()|\[\]{}^$#&~-]")
_REPEAT = re.compile(r"\{(0|[1-9]\d*)(?:,(0|[1-9]\d*)?)?\}", re.ASCII)
_MOST_REPEATS = 1000
_GROUP = re.compile(r"\((?:\?(?:P?<[A-Za-z0-9_]+>|[imsU]*(?:-[imsU]+)?:|[imsU]+(?:-[imsU]+)?\)|-[imsU]+\)))?")
_UNICODE_CLASS = re.compile(r"\\[pP](?:[A-Z]|\{\^?\w+\})")
_HEX = re.compile(r"\\x(?:([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]+)\})")
_OCTAL = re.compile(r"\\(0[0-7]{0,2}|[1-7][0-7]{1,2})")
_NAMED_CLASS = re.compile(
    r"\[:\^?(?:alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit):\]"
)
_CONTROLS = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_INVALID = "("  # refused by Rust too


class _RefusedError(Exception):
    """RE2 does not know it."""


@lru_cache(1024)
def rust(pattern: str) -> str:
    """The same pattern in Rust's syntax; one that Rust refuses where RE2 does."""
    try:
        return _Reader(pattern).read()
    except _RefusedError:
        return _INVALID


class _Reader:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._out: list[str] = []

    def read(self) -> str:
        repeatable = False  # whether what was last read may be repeated
        while self._at < len(self._text):
            character = self._text[self._at]
            if character in "*+?" or (character == "{" and self._match(_REPEAT)):
                if not repeatable:
                    raise _RefusedError
                self._repeat()
                repeatable = False
            elif character == "(":
                self._take(_GROUP)
                repeatable = False
            else:
                self._one(character)
                repeatable = character != "|"
        return "".join(self._out)

    def _one(self, character: str) -> None:
        if character == "[":
            self._class()
        elif character == "\\":
            self._escape()
        elif character in "{}":
            self._out.append("\\" + character)
            self._at += 1
        else:
            self._out.append(character)
            self._at += 1

    def _match(self, what: re.Pattern[str]) -> re.Match[str] | None:
        return what.match(self._text, self._at)

    def _take(self, what: re.Pattern[str]) -> None:
        found = self._match(what)
        if found is None:
            raise _RefusedError
        self._out.append(found[0])
        self._at = found.end()

    def _repeat(self) -> None:
        if found := self._match(_REPEAT):
            counts = [int(count[:8]) for count in found.groups() if count]
            if max(counts) > _MOST_REPEATS or counts != sorted(counts):
                raise _RefusedError
            self._out.append(found[0])
            self._at = found.end()
        else:
            self._out.append(self._text[self._at])
            self._at += 1
        if self._text[self._at : self._at + 1] == "?":
            self._out.append("?")
            self._at += 1

    def _escape(self) -> None:
        letter = self._text[self._at + 1 : self._at + 2]
        if letter == "Q":
            end = self._text.find("\\E", self._at)
            quoted = self._text[self._at + 2 : end if end >= 0 else None]
            self._out += [_literal(one) for one in quoted]
            self._at = end + 2 if end >= 0 else len(self._text)
        elif letter and letter.lower() in _CLASSES:
            self._out.append(f"[{'^' if letter.isupper() else ''}{_CLASSES[letter.lower()]}]")
            self._at += 2
        elif letter in ("b", "B"):
            self._out.append(f"(?-u:\\{letter})")
            self._at += 2
        elif letter in ("A", "z"):
            self._out.append("\\" + letter)
            self._at += 2
        elif letter in ("p", "P"):
            self._take(_UNICODE_CLASS)
        else:
            self._out.append(_literal(self._character()))

    def _character(self) -> str:
        """The character that an escape, in a class or not, stands for."""
        letter = self._text[self._at + 1 : self._at + 2]
        if found := self._match(_HEX):
            code = int(found[1] or found[2], 16)
            if code > 0x10FFFF:
                raise _RefusedError
            self._at = found.end()
            return chr(code)
        if found := self._match(_OCTAL):
            self._at = found.end()
            return chr(int(found[1], 8))
        if letter in _CONTROLS or (letter.isascii() and letter and not letter.isalnum()):
            self._at += 2
            return _CONTROLS.get(letter, letter)
        raise _RefusedError

    def _class(self) -> None:
        self._at += 1
        out = "["
        if self._text[self._at : self._at + 1] == "^":
            out += "^"
            self._at += 1
        first = True
        while first or self._text[self._at : self._at + 1] != "]":
            if self._at >= len(self._text):
                raise _RefusedError
            out += self._class_item()
            first = False
        self._at += 1
        self._out.append(out + "]")

    def _class_item(self) -> str:
        letter = self._text[self._at + 1 : self._at + 2]
        if found := self._match(_NAMED_CLASS):
            self._at = found.end()
            return found[0]
        if self._text[self._at] == "\\":
            if letter in ("d", "s", "w"):
                self._at += 2
                return _CLASSES[letter]
            if letter in ("D", "S", "W"):
                self._at += 2
                return f"[^{_CLASSES[letter.lower()]}]"
            if found := self._match(_UNICODE_CLASS):
                self._at = found.end()
                return found[0]
        low = self._class_character()
        rest = self._text[self._at : self._at + 2]
        if rest[:1] != "-" or rest[1:] in ("]", ""):
            return _in_class(low)
        self._at += 1
        high = self._class_character()
        if high < low:
            raise _RefusedError
        return f"{_in_class(low)}-{_in_class(high)}"

    def _class_character(self) -> str:
        character = self._text[self._at : self._at + 1]
        if character == "\\":
            return self._character()
        self._at += 1
        return character


def _literal(character: str) -> str:
    return _LITERAL.sub(r"\\\g<0>", character)


def _in_class(character: str) -> str:
    return _LITERAL_IN_CLASS.sub(r"\\\g<0>", character)
