"""`strings.*` builtins that regorus lacks or has wrong."""

from typing import Any

from mixer.policy.builtins.operands import BuiltinError, integer, mapping, string


def _count(text: object, search: object) -> int:
    """Occurrences that do not overlap; of the empty string one more than there are characters."""
    return string(text).count(string(search))


def _split_n(text: object, delimiter: object, n: object) -> list[str]:
    """The first `n` parts, or the last ones where `n` is negative."""
    whole, separator, count = string(text), string(delimiter), integer(n)
    parts = whole.split(separator) if separator else list(whole)
    if count >= 0:
        return parts[:count]
    return parts[max(len(parts) + count, 0) :]


def _replace_n(patterns: object, text: object) -> str:
    """Each place is replaced once, by the first pattern, in their order, that stands there (`strings.Replacer`)."""
    pairs: list[tuple[bytes, bytes]] = []
    for old, new in mapping(patterns).items():
        if not isinstance(old, str) or not isinstance(new, str):
            raise BuiltinError("patterns must be strings")
        pairs.append((old.encode(), new.encode()))
    pairs.sort()
    source, result = string(text).encode(), bytearray()
    at, after_empty = 0, False
    while at <= len(source):
        for old, new in pairs:
            if source.startswith(old, at) and not (after_empty and not old):
                result += new
                at += len(old)
                after_empty = not old
                break
        else:
            result += source[at : at + 1]
            at += 1
            after_empty = False
    return result.decode(errors="replace")


BUILTINS: dict[str, Any] = {
    "strings.count": _count,
    "strings.split_n": _split_n,
    "strings.replace_n": _replace_n,
}
