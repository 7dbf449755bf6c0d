"""What a `system.log.mask` rule asks for, done to an event as OPA does it (OPA, `v1/plugins/logs/mask.go`).

Each part of a path is looked for as OPA writes it (percent-escaped), and where that is not there, as it stands in the
rule and as it reads unescaped. OPA looks only for the first, and so passes over a key such as "a b": what its author
wanted gone would stay.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

ROOTS = ("input", "result", "nd_builtin_cache")

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_INDEX = re.compile(r"[+-]?[0-9]{1,9}", re.ASCII)
_UNESCAPED = "$&+:=@"  # what Go's url.PathEscape leaves, beside letters, digits and -_.~

Event = dict[str, Any]


class MaskError(ValueError):
    """The mask rule's value is none that OPA takes."""


@dataclass(frozen=True, slots=True)
class Mask:
    """One thing to do: take away what is at a path, or put a value there."""

    parts: tuple[str, ...]  # as they stand in the rule
    upsert: bool = False
    value: Any = None

    @property
    def name(self) -> str:
        """The path as `erased` and `masked` list it."""
        return escaped(self.parts)

    def apply(self, event: Event) -> bool:
        """Do it to the event, its documents in place. False where there is nothing to do it to."""
        root, *below = self.parts
        if root not in event:
            return False
        if not below:
            if self.upsert:
                event[root] = self.value
            else:
                del event[root]
            return True
        return _put(event[root], below, self.value) if self.upsert else _remove(event[root], below)


def escaped(parts: Sequence[str]) -> str:
    return "".join(f"/{quote(part, safe=_UNESCAPED)}" for part in parts)


def masks(value: Any, roots: Sequence[str] = ROOTS) -> list[Mask]:
    """The masks in a mask rule's value, whose paths begin with one of `roots`. Raises `MaskError` for one that OPA
    refuses."""
    if not isinstance(value, list):
        raise MaskError("expected a set or an array of masks")
    return [_mask(item, roots) for item in value]


def _mask(item: Any, roots: Sequence[str]) -> Mask:
    if isinstance(item, str):
        return Mask(_parts(item, roots))
    if not isinstance(item, dict):
        raise MaskError('a mask is a path, or an object with "op" and "path"')
    if (op := item.get("op")) not in ("remove", "upsert"):
        raise MaskError('"op" of a mask is "remove" or "upsert"')
    path = item.get("path")
    if not isinstance(path, str):
        raise MaskError('"path" of a mask is a string')
    return Mask(_parts(path, roots), op == "upsert", item.get("value"))


def _parts(path: str, roots: Sequence[str]) -> tuple[str, ...]:
    if not path.startswith("/"):
        raise MaskError("the path of a mask begins with /")
    if _BAD_ESCAPE.search(path):
        raise MaskError("the path of a mask has an invalid percent-escape")
    parts = tuple(path[1:].split("/"))
    if parts[0] not in roots:
        few = roots if len(roots) < 10 else (*roots[:3], "…")
        raise MaskError(f"the path of a mask begins with /{', /'.join(few)}")
    return parts


def _remove(node: Any, parts: Sequence[str]) -> bool:
    *way, last = parts
    for part in way:
        found, node = _child(node, part)
        if not found:
            return False
    if isinstance(node, dict):
        key = _key(node, last)
        if key not in node:
            return False
        del node[key]
        return True
    if isinstance(node, list) and (index := _index(last)) is not None and index < len(node):
        del node[index]
        return True
    return False


def _put(node: Any, parts: Sequence[str], value: Any) -> bool:
    """Objects that are missing on the way are made, as OPA makes them; elements of arrays are not."""
    *way, last = parts
    for part in way:
        if isinstance(node, dict):
            node = node.setdefault(_key(node, part), {})
        else:
            found, node = _child(node, part)
            if not found:
                return False
    if isinstance(node, dict):
        node[_key(node, last)] = value
        return True
    if isinstance(node, list) and (index := _index(last)) is not None and index < len(node):
        node[index] = value
        return True
    return False


def _child(node: Any, part: str) -> tuple[bool, Any]:
    if isinstance(node, dict):
        key = _key(node, part)
        return key in node, node.get(key)
    if isinstance(node, list) and (index := _index(part)) is not None and index < len(node):
        return True, node[index]
    return False, None


def _key(node: dict[str, Any], part: str) -> str:
    """The key that a part means in an object; as OPA writes it where there is none."""
    name = quote(part, safe=_UNESCAPED)
    if name in node:
        return name
    return next((other for other in (part, unquote(part)) if other in node), name)


def _index(part: str) -> int | None:
    """An array's index, as Go's strconv.Atoi reads it; None for what is none."""
    if not _INDEX.fullmatch(part):
        return None
    index = int(part)
    return index if index >= 0 else None
