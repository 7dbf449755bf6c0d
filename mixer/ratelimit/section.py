"""One mapping of a limits file, read key by key, with every mistake and every oddity in it noted.

What is a mistake and what is merely ignored is decided as envoyproxy/ratelimit decides it (`validateYamlKeys`
in its `config_impl.go`, and yaml.v2): a key that it knows nowhere is a mistake, one that it knows elsewhere is
ignored; a number with a fraction is a mistake even where text is wanted. Keys of ours are a mistake in a wrong place.
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mixer.errors import Problem
from mixer.ratelimit.yaml_v2 import Node

FILE_KEYS = ("domain", "descriptors")
FLAGS = ("shadow_mode", "quota_mode", "detailed_metric", "value_to_metric", "share_threshold")
DESCRIPTOR_KEYS = ("key", "value", "rate_limit", "descriptors", *FLAGS, "metadata")
OWN_LIMIT_KEYS = ("algorithm", "window", "burst", "lease", "count_over_limit", "lot")
LIMIT_KEYS = ("unit", "requests_per_unit", "unlimited", "name", "replaces", *OWN_LIMIT_KEYS)
REPLACES_KEYS = ("name",)

_KNOWN = tuple(dict.fromkeys((*FILE_KEYS, *DESCRIPTOR_KEYS, *LIMIT_KEYS)))
_MERGED = ("rate_limit", "metadata")  # given twice, yaml.v2 decodes the second into the first
_DURATION = re.compile(r"([0-9]{1,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_INT64 = range(-(2**63), 2**63)


@dataclass(slots=True)
class Findings:
    """What was found in the files. A warning is something that is legal and does nothing."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


class Section:
    """A mapping of which the keys in `known` have a meaning. A value of the wrong kind is noted when it is read."""

    def __init__(self, file: str, path: str, node: Node, known: tuple[str, ...], findings: Findings) -> None:
        self.file, self.path = file, path
        self._known = known
        self._findings = findings
        self._values: dict[str, Node] = {}
        self._read(node)

    def at(self, name: str) -> str:
        """The path of a key of this mapping in the file."""
        return f"{self.path}.{name}" if self.path else name

    def problem(self, path: str, expected: str, got: str | None = None) -> None:
        self._findings.problems.append(Problem(self.file, path, expected, got))

    def warn(self, path: str, message: str) -> None:
        self._findings.warnings.append(Problem(self.file, path, message))

    def has(self, name: str) -> bool:
        return name in self._values and not _is_null(self._values[name])

    def text(self, name: str) -> str | None:
        """Text as it stands in the file; "" where there is none, None where it is something else (noted)."""
        if not self.has(name):
            return ""
        node = self._values[name]
        if node.kind != "scalar":
            self.problem(self.at(name), "text", show(node))
            return None
        return self._scalar(node, self.at(name))

    def shown(self, name: str) -> str:
        """A value as it stands in the file."""
        return show(self._values[name])

    def choice(self, name: str, known: tuple[str, ...], default: str) -> str | None:
        """One of the texts in `known`; None for something else (noted)."""
        if not self.has(name):
            return default
        if (text := self.text(name)) in known:
            return text
        if text is not None:
            *most, last = known
            self.problem(self.at(name), f"{', '.join(most)} or {last}", self.shown(name))
        return None

    def flag(self, name: str) -> bool:
        if not self.has(name):
            return False
        value = _value(self._values[name])
        if not isinstance(value, bool):
            self.problem(self.at(name), "true or false", show(self._values[name]))
        return value is True

    def whole_number(self, name: str, most: int) -> int:
        """A number from 0 to `most`; 0 where there is none, or something else (noted)."""
        if not self.has(name):
            return 0
        value = _value(self._values[name])
        if type(value) is int and 0 <= value <= most:
            return value
        self.problem(self.at(name), f"a whole number from 0 to {most}", show(self._values[name]))
        return 0

    def seconds(self, name: str, most: int) -> int | None:
        """A duration, in whole seconds up to `most`; None where there is none, or something else (noted)."""
        if (text := self.text(name)) in (None, ""):
            return None
        match = _DURATION.fullmatch(text or "")
        seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
        if 0 < seconds <= most:
            return seconds
        expected = f'a duration such as "30s", "5m", "1h" or "7d", up to {most // 86400} days'
        self.problem(self.at(name), expected, show(self._values[name]))
        return None

    def section(self, name: str, known: tuple[str, ...]) -> "Section | None":
        """A mapping within this one."""
        if not self.has(name):
            return None
        node = self._values[name]
        if node.kind != "mapping":
            self.problem(self.at(name), f"a mapping with {', '.join(known)}", show(node))
            return None
        return Section(self.file, self.at(name), node, known, self._findings)

    def sections(self, name: str, known: tuple[str, ...]) -> Iterator["Section"]:
        """The mappings of a list within this one."""
        if not self.has(name):
            return
        node = self._values[name]
        if node.kind != "list":
            self.problem(self.at(name), f"a list of mappings with {known[0]}", show(node))
            return
        for index, item in enumerate(node.children):
            path = f"{self.at(name)}[{index}]"
            if item.kind == "mapping":
                yield Section(self.file, path, item, known, self._findings)
            else:
                self.problem(path, f"a mapping with {known[0]}", show(item))

    def anything(self, name: str) -> dict[str, Any] | None:
        """A mapping whose content is the operator's, as plain values; None where there is none or it is empty."""
        if not self.has(name):
            return None
        node = self._values[name]
        if node.kind != "mapping":
            self.problem(self.at(name), "a mapping", show(node))
            return None
        return _plain(node) or None

    def _read(self, node: Node) -> None:
        written = [key.text for key in node.children[::2]]
        for key, value in node.pairs():
            name = _value(key)
            if not isinstance(name, str):
                self.problem(self.path, f"one of the keys {', '.join(self._known)}", f"the key {show(key)}")
            elif name not in _KNOWN:
                close = difflib.get_close_matches(name, self._known, n=1)
                hint = f'did you mean "{close[0]}"?' if close else f"known here: {', '.join(self._known)}"
                self.problem(self.at(name), f"unknown key; {hint}")
            elif name in OWN_LIMIT_KEYS and not set(LIMIT_KEYS) <= set(self._known):
                self.problem(self.at(name), "has its place in a rate_limit")
            elif name not in self._known:
                self.warn(
                    self.at(name), f"has no meaning here and is ignored; known here: {', '.join(self._known)}"
                )
                self._check_ignored(name, value)
            else:
                if name in self._values and written.count(name) > 1:
                    self.warn(self.at(name), "is given twice; the last one counts")
                self._values[name] = self._merged(name, value)

    def _merged(self, name: str, value: Node) -> Node:
        before = self._values.get(name)
        if before is None or name not in _MERGED or not before.kind == value.kind == "mapping":
            return value
        return Node("mapping", value.line, children=before.children + value.children)

    def _check_ignored(self, name: str, node: Node) -> None:
        """What stands below a key without a meaning is read too, and must be of this grammar."""
        path = self.at(name)
        if name == "metadata":
            return  # whatever the operator likes
        if node.kind == "scalar":
            self._scalar(node, path)
            return
        items = [(path, node)]
        if node.kind == "list":
            items = [(f"{path}[{index}]", item) for index, item in enumerate(node.children)]
        for at, item in items:
            if item.kind != "mapping":
                self.problem(at, "a mapping", show(item))
                continue
            section = Section(self.file, at, item, _KNOWN, self._findings)
            for below, value in section._values.items():
                section._check_ignored(below, value)

    def _scalar(self, node: Node, path: str) -> str | None:
        value = node.value()
        if isinstance(value, float) or (type(value) is int and value not in _INT64):
            what = "a number with a fraction" if isinstance(value, float) else "a number beyond 64 bits"
            self.problem(path, f'text in quotes ("{node.text}")', f"{node.text}, which YAML reads as {what}")
            return None
        return value if isinstance(value, str) else node.text


def show(node: Node) -> str:
    """A node as the operator wrote it, short enough for one line."""
    if node.kind != "scalar":
        return f"a {node.kind}"
    if _is_null(node):
        return "nothing"
    text = node.text if node.plain else f'"{node.text}"'
    return text if len(text) <= 80 else text[:77] + "…"


def _value(node: Node) -> Any:
    return node.value() if node.kind == "scalar" else node


def _is_null(node: Node) -> bool:
    return _value(node) is None


def _plain(node: Node) -> Any:
    """A node as plain values, fit for a `google.protobuf.Struct`."""
    if node.kind == "list":
        return [_plain(item) for item in node.children]
    if node.kind == "mapping":
        return {key.text: _plain(value) for key, value in node.pairs()}
    return node.value()
