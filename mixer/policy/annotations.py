"""What `rego.metadata.rule` and `.chain` give: the annotations above a rule, its document and its packages.

They are known at load, and stand in the module as constants then. Source: OPA's `ast/annotations.go`, `ast/parser.go`
(https://www.openpolicyagent.org/docs/policy-language#annotations).
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from mixer.errors import PolicyError, Problem
from mixer.policy import yaml_data
from mixer.policy.builtins import BuiltinError
from mixer.policy.builtins.uri import parse
from mixer.policy.syntax import Node, flatten, kind_of, package, rule_head
from mixer.policy.tokens import scan

Path = tuple[str, ...]
CALLS = frozenset(["rego.metadata.chain", "rego.metadata.rule"])
_MARK = re.compile(r"#\s*METADATA")
_EMAIL = re.compile(r"<(.*)>", re.DOTALL)
_TEXTS = ("title", "description")
_SCOPES = {"rule": ("rule", "document"), "package": ("package", "subpackages")}


class _UnfitError(ValueError):
    """Annotations that OPA refuses, or reads in a way that is not followed here."""


@dataclass(frozen=True, slots=True)
class _Annotations:
    scope: str
    shown: dict[str, Any]
    path: Path
    line: int


class Metadata:
    """The annotations of a set of modules. Raises `PolicyError` for those that cannot be used."""

    def __init__(self, modules: Sequence[Node]) -> None:
        self._by_rule: dict[tuple[str, int], list[_Annotations]] = {}
        self._by_path: dict[tuple[str, Path], _Annotations] = {}
        problems: list[Problem] = []
        for module in modules:
            for line, text in _blocks(module["source"]["contents"]):
                try:
                    self._add(module, line, text)
                except (_UnfitError, ValueError, yaml.YAMLError) as error:
                    file = module["source"]["file"]
                    what = str(error) if isinstance(error, _UnfitError) else "annotations that are no YAML"
                    problems.append(Problem(file, f"line {line}", what))
        if problems:
            raise PolicyError(problems)

    def _add(self, module: Node, line: int, text: str) -> None:
        below = min((found for found in _statements(module) if found[0] > line), default=None)
        if below is None or below[1] == "import":
            raise _UnfitError("annotations that belong to no rule and no package")
        at, kind, path = below
        given = yaml_data.load(text)
        shown = _shown(given)
        scope = given.get("scope") or (
            kind if kind == "package" else "document" if shown.get("entrypoint") else "rule"
        )
        if scope not in _SCOPES[kind]:
            raise _UnfitError(f"annotations of the scope {scope} above a {kind}")
        found = _Annotations(scope, {**shown, "scope": scope}, path, line)
        if scope == "rule":
            self._by_rule.setdefault((module["source"]["file"], at), []).append(found)
        elif self._by_path.setdefault((scope, path), found) is not found:
            raise _UnfitError(f"annotations of the scope {scope} are there twice")

    def value(self, call: str, module: Node, rule: Node, is_else: bool) -> str:
        """What the call gives in a rule, as JSON text."""
        head = rule_head(rule)
        where = module["source"]["file"], head[kind_of(head)]["span"]["line"]
        own = [] if is_else else sorted(self._by_rule.get(where, ()), key=lambda each: -each.line)
        if call == "rego.metadata.rule":
            value: Any = own[-1].shown if own else {}
        else:
            value = list(self._chain(own, _path(module, rule), package(module)))
        return json.dumps(value, ensure_ascii=False)

    def _chain(self, own: list[_Annotations], path: Path, package_: Path) -> Iterator[dict[str, Any]]:
        if not own:
            yield {"path": path}
        for each in own:
            yield {"path": path, "annotations": each.shown}
        outer = [("document", path), ("package", package_)]
        outer += [("subpackages", package_[:end]) for end in range(len(package_), 0, -1)]
        for key in outer:
            if (found := self._by_path.get(key)) is not None:
                yield {"path": found.path, "annotations": found.shown}


def _path(module: Node, rule: Node) -> Path:
    root, parts, _ = flatten(rule_head(rule))
    return (*package(module), root, *parts)


def _statements(module: Node) -> Iterator[tuple[int, str, Path]]:
    """Line, kind ("package", "import", "rule") and path of each statement."""
    ast = module["ast"]
    yield ast["package"]["span"]["line"], "package", package(module)
    for item in ast["imports"]:
        yield item["span"]["line"], "import", ()
    for rule in ast["rules"]:
        if "Default" in rule:
            yield rule["Default"]["span"]["line"], "rule", _path(module, rule)
        else:
            head = rule_head(rule)
            yield head[kind_of(head)]["span"]["line"], "rule", _path(module, rule)


def _blocks(source: str) -> Iterator[tuple[int, str]]:
    """The line of each block's mark, and its YAML."""
    inside = set[int]()  # lines that begin within a string
    for token in scan(source) if "`" in source else ():
        if token.kind == "string" and "\n" in token.text:
            first = source.count("\n", 0, token.start) + 1
            inside.update(range(first + 1, first + 1 + token.text.count("\n")))
    lines = source.split("\n")
    number = 0
    while number < len(lines):
        number += 1
        if not _MARK.match(lines[number - 1]) or number in inside:
            continue
        mark, text = number, []
        while number < len(lines) and lines[number].startswith("#") and not _MARK.match(lines[number]):
            text.append(lines[number].removesuffix("\r")[1:])
            number += 1
        yield mark, "".join(f"{line}\n" for line in text)


def _shown(given: Any) -> dict[str, Any]:
    """Annotations as a policy sees them."""
    if not isinstance(given, dict):
        raise _UnfitError("annotations that are no mapping")
    if given.get("schemas") is not None or given.get("compile") is not None:
        raise _UnfitError("annotations with schemas or compile")
    if any(not isinstance(given.get(name) or "", str) for name in (*_TEXTS, "scope")):
        raise _UnfitError("annotations whose title, description or scope is no text")
    shown: dict[str, Any] = {name: given[name] for name in _TEXTS if given.get(name)}
    if not isinstance(entrypoint := given.get("entrypoint") or False, bool):
        raise _UnfitError("annotations whose entrypoint is neither true nor false")
    if entrypoint:
        shown["entrypoint"] = True
    readers = {"organizations": _text, "related_resources": _resource, "authors": _author}
    for name, read in readers.items():
        if not isinstance(items := given.get(name) or [], list):
            raise _UnfitError(f"annotations whose {name} are no list")
        if items:
            shown[name] = [read(item) for item in items]
    for name in ("custom", "labels"):
        if not isinstance(items := given.get(name) or {}, dict):
            raise _UnfitError(f"annotations whose {name} are no mapping")
        if items:
            shown[name] = items
    return shown


def _text(item: object) -> str:
    if not isinstance(item, str):
        raise _UnfitError("annotations with an organization that is no text")
    return item


def _resource(item: object) -> dict[str, str]:
    fields = _fields(item if isinstance(item, dict) else {"ref": item}, "ref", "description")
    if not (ref := fields.get("ref")):
        raise _UnfitError("annotations with a related resource that has no ref")
    try:
        url = parse(ref)
    except BuiltinError:
        raise _UnfitError("annotations with a related resource whose ref is no URL") from None
    if url.user is not None or "%" in ref or "#" in ref or not ref.isascii() or " " in ref:
        raise _UnfitError("annotations with a related resource whose URL has a user or escapes")
    return fields


def _author(item: object) -> dict[str, str]:
    if isinstance(item, dict):
        fields = _fields(item, "name", "email")
    elif isinstance(item, str):
        *parts, last = item.split() or [""]
        email = _EMAIL.fullmatch(last)
        name = " ".join(parts if email else [*parts, last])
        fields = {"name": name, "email": email[1] if email else ""}
        fields = {key: value for key, value in fields.items() if value}
    else:
        fields = {}
    if not fields and item not in ("<>",):
        raise _UnfitError("annotations with an author who has no name")
    return fields


def _fields(item: dict[str, Any], *names: str) -> dict[str, str]:
    found = {name: value.strip() for name in names if isinstance(value := item.get(name), str)}
    return {name: value for name, value in found.items() if value}
