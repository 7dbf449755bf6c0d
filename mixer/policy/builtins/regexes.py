"""What `regex.template_match` and `glob.match` match, as one regular expression; and `glob.quote_meta`."""

import re
from functools import lru_cache

from mixer.policy.builtins.operands import BuiltinError, string
from mixer.policy.globbing import GlobError, quoted, regex
from mixer.policy.patterns import rust

_META = re.compile(r"[\\.+*?()|\[\]{}^$]")


def _template_pattern(template: object, start: object, end: object) -> str:
    return _pattern(string(template), string(start), string(end))


def glob(pattern: object, delimiters: object) -> str:
    """What `glob.match` matches, as a regular expression that Rust and RE2 know."""
    text = string(pattern)
    if delimiters is None:
        given: tuple[str, ...] = ()
    elif isinstance(delimiters, list) and all(
        isinstance(item, str) and len(item) == 1 for item in delimiters
    ):
        given = tuple(delimiters) or (".",)
    else:
        raise BuiltinError("delimiters must be characters")
    try:
        return regex(text, given)
    except GlobError:
        raise BuiltinError("not a glob") from None


@lru_cache(256)
def _pattern(template: str, start: str, end: str) -> str:
    if len(start.encode()) != 1 or len(end.encode()) != 1:
        raise BuiltinError("a delimiter must be one character")
    out, level, since = ["^"], 0, 0
    for at, character in enumerate(template):
        if character == start:
            level += 1
            if level == 1:
                out.append(_META.sub(r"\\\g<0>", template[since:at]))
                since = at + 1
        elif character == end:
            level -= 1
            if level == 0:
                out.append(f"({template[since:at]})")
                since = at + 1
            elif level < 0:
                raise BuiltinError("delimiters are not balanced")
    if level:
        raise BuiltinError("delimiters are not balanced")
    return rust("".join((*out, _META.sub(r"\\\g<0>", template[since:]), "$")))


BUILTINS = {
    "glob.quote_meta": lambda text: quoted(string(text)),
    "mixer.glob": glob,
    "mixer.template_pattern": _template_pattern,
}
