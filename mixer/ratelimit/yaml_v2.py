"""YAML as envoyproxy/ratelimit reads it, so that a limits file means the same here.

That server is written in Go and reads its files with `gopkg.in/yaml.v2`, whose YAML 1.1 is not PyYAML's:
there `y` is true, `1:30` is text, `010` is 8, a key given twice counts once, and only the first document of
a file is read. libyaml scans the file here too; this module turns its events into a tree whose scalars
resolve as they do there.
"""

import base64
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import yaml

MAX_DEPTH = 200  # nested collections; a file of limits has two for each level of descriptors
MAX_EXPANDED_NODES = 1_000_000  # with aliases a file of some lines can stand for billions of nodes

Scalar = str | int | float | bool | None

_CORE = "tag:yaml.org,2002:"
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_INT = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))")
_BASES = (16, 2, 8, 10)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_ZONE = r"Z|[-+](?:[01][0-9]|2[0-4]):(?:[0-5][0-9]|60)"
_TIME = re.compile(
    r"(\d{4})-(\d\d?)-(\d\d?)"
    rf"(?:( +)?(?(4)|[Tt])(\d\d?):(\d\d?):(\d\d?)(?:[.,]\d+)?(?(4)|(?:{_ZONE})))?",  # after a space none
    re.ASCII,
)
_MAX_DIGITS = 400  # a float64 ends long before; Python refuses to convert very long digits at all


class YamlError(Exception):
    """The text is not YAML, or not YAML that may be read. `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        self.line = line
        super().__init__(message)


@dataclass(slots=True, eq=False)
class Node:
    """A scalar, a list or a mapping (whose children are key, value, key, value).

    An alias is its anchor's very node.
    """

    kind: Literal["scalar", "list", "mapping"]
    line: int
    tag: str | None = None  # only as written in the file
    text: str = ""
    plain: bool = False  # a scalar without quotes
    children: list["Node"] = field(default_factory=list)
    expanded: int = 1  # nodes below and including this one, aliases counted each time
    depth: int = 1

    def pairs(self) -> Iterator[tuple["Node", "Node"]]:
        """Keys and values of a mapping in file order, with what `<<` merges in its place.

        Raises:
            YamlError: `<<` with something other than a mapping or a list of mappings.
        """
        children = iter(self.children)
        for key, value in zip(children, children, strict=True):
            if not key.is_merge():
                yield key, value
                continue
            # An earlier mapping of a list of them wins: so it comes last.
            for merged in reversed(value.children) if value.kind == "list" else (value,):
                if merged.kind != "mapping":
                    raise YamlError(key.line, '"<<" takes a mapping or a list of mappings')
                yield from merged.pairs()

    def is_merge(self) -> bool:
        return self.kind == "scalar" and self.text == "<<" and (self.plain or self.tag == f"{_CORE}merge")

    def value(self) -> Scalar:
        """What a scalar resolves to. A timestamp stays text.

        Raises:
            YamlError: a tag that the text contradicts, such as `!!int x`.
        """
        if self.tag == f"{_CORE}binary":
            try:
                return base64.b64decode("".join(self.text.splitlines()), validate=True).decode()
            except ValueError as error:  # of base64 or of UTF-8
                raise YamlError(self.line, "!!binary without base64 of UTF-8 text") from error
        name = self.tag.removeprefix(_CORE) if self.tag else ""
        if name == "timestamp" and not _is_time(self.text):
            raise YamlError(self.line, f"`{self.text}` is tagged !!timestamp, which it is not")
        if self.tag is None:
            return _resolve(self.text) if self.plain else self.text
        if name not in ("bool", "int", "float", "null"):
            return self.text
        value = _resolve(self.text)
        if name == "float" and type(value) is int:
            return float(value)
        if {"bool": bool, "int": int, "float": float, "null": type(None)}[name] is not type(value):
            raise YamlError(self.line, f"`{self.text}` is tagged !!{name}, which it is not")
        return value


def read(content: bytes) -> tuple[Node | None, bool]:
    """The first document of a file, None if there is none, and whether others follow it (nobody reads those).

    Raises:
        YamlError: the content is not YAML, contains itself, or is too deep or too large once expanded.
    """
    document = _Document()
    try:
        events = yaml.parse(content, Loader=yaml.CSafeLoader)
        for event in events:
            if isinstance(event, yaml.DocumentEndEvent):
                break
            document.add(event)
        return document.root, any(isinstance(event, yaml.DocumentStartEvent) for event in events)
    except yaml.MarkedYAMLError as error:
        if document.is_complete():
            return document.root, True  # what is wrong lies in a later document
        mark = error.problem_mark
        raise YamlError(mark.line + 1 if mark else 0, str(error.problem)) from error
    except yaml.YAMLError as error:
        raise YamlError(0, str(error).replace("\n", " ")) from error


class _Document:
    """Grows the tree of one document from libyaml's events."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self._open: list[Node] = []
        self._anchors: dict[str, Node] = {}
        self._has_aliases = False

    def is_complete(self) -> bool:
        return self.root is not None and not self._open

    def add(self, event: yaml.Event) -> None:
        line = event.start_mark.line + 1 if event.start_mark else 0
        match event:
            case yaml.DocumentStartEvent(version=(major, minor)) if (major, minor) != (1, 1):
                message = f"%YAML: expected 1.1, as envoyproxy/ratelimit reads it, got {major}.{minor}"
                raise YamlError(line, message)
            case yaml.ScalarEvent():
                self._attach(
                    Node("scalar", line, event.tag, event.value, plain=event.implicit[0]), event.anchor
                )
            case yaml.MappingStartEvent():
                self._open_new(Node("mapping", line), event.anchor)
            case yaml.SequenceStartEvent():
                self._open_new(Node("list", line), event.anchor)
            case yaml.AliasEvent():
                self._has_aliases = True
                self._attach(self._anchored(event.anchor or "", line), None)
            case yaml.CollectionEndEvent():
                self._close(self._open.pop())

    def _attach(self, node: Node, anchor: str | None) -> None:
        if self._open:
            self._open[-1].children.append(node)
        else:
            self.root = node
        if anchor is not None:
            self._anchors[anchor] = node
        if len(self._open) + node.depth > MAX_DEPTH:
            raise YamlError(node.line, f"is nested deeper than {MAX_DEPTH} levels")

    def _open_new(self, node: Node, anchor: str | None) -> None:
        self._attach(node, anchor)
        self._open.append(node)

    def _anchored(self, anchor: str, line: int) -> Node:
        node = self._anchors.get(anchor)
        if node is None:
            raise YamlError(line, f'alias "*{anchor}" has no anchor before it')
        if any(node is ancestor for ancestor in self._open):
            raise YamlError(line, f'alias "*{anchor}" stands inside its own anchor')
        return node

    def _close(self, node: Node) -> None:
        node.expanded += sum(child.expanded for child in node.children)
        node.depth += max((child.depth for child in node.children), default=0)
        if self._has_aliases and node.expanded > MAX_EXPANDED_NODES:
            raise YamlError(
                node.line, f"expands to more than {MAX_EXPANDED_NODES:,} nodes through its aliases"
            )


def _is_time(text: str) -> bool:
    """Whether it is a time or a date as yaml.v2 reads them (`parseTimestamp` in its `resolve.go`)."""
    match = _TIME.fullmatch(text)
    if match is None:
        return False
    year, month, day, hour, minute, second = (int(number or 0) for number in match.group(1, 2, 3, 5, 6, 7))
    try:
        datetime(year or 4, month, day, hour, minute, second)  # the year 0 is a leap year there
    except ValueError:
        return False
    return True


def _resolve(text: str) -> Scalar:
    """An unquoted scalar by yaml.v2's rules: null, bool, int, float, else text."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    digits = text if text[0] == "." else text.replace("_", "")
    if len(digits) <= _MAX_DIGITS:
        if match := _INT.fullmatch(digits):
            sign, *magnitudes = match.groups()
            magnitude, base = next(found for found in zip(magnitudes, _BASES, strict=True) if found[0])
            value = int(sign + magnitude, base)
            # Past 64 bits a decimal is a float there, and anything else is text.
            if -(2**63) <= value < 2**64:
                return value
        if _FLOAT.fullmatch(digits) and not math.isinf(number := float(digits)):
            return number
    return text
