"""Policies and data from disk: `.rego` modules, and `data.json` / `data.yaml` documents.

A folder is read as OPA reads a bundle: a data document's place under `data` is its folder's path below the
given root (`policies/roles/data.json` is `data.roles`). Files named `*_test.rego` are tests and are left out.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml

from mixer.errors import PolicyError, Problem
from mixer.policy import yaml_data

_MOST_NESTED = 100  # regorus takes up to 127
DATA_NAMES = ("data.json", "data.yaml", "data.yml")


@dataclass(frozen=True, slots=True)
class Module:
    file: str
    source: str


@dataclass(frozen=True, slots=True)
class Sources:
    """`revision`: the first 12 hex digits of a SHA-256 over all modules and data."""

    modules: tuple[Module, ...]
    data: dict[str, Any]
    revision: str


def load(paths: Iterable[Path]) -> Sources:
    """Read every module and document below `paths`. Raises `PolicyError` with every mistake found."""
    problems: list[Problem] = []
    modules: list[Module] = []
    data: dict[str, Any] = {}
    origin: dict[tuple[str, ...], str] = {}
    digest = hashlib.sha256()
    for root in paths:
        if not root.exists():
            problems.append(Problem(str(root), "", "no such file or folder"))
            continue
        files = sorted(root.rglob("*")) if root.is_dir() else [root]
        for file in files:
            if file.is_dir() or file.name.endswith("_test.rego"):
                continue
            is_data = file.name in DATA_NAMES or (file == root and file.suffix in (".json", ".yaml", ".yml"))
            if file.suffix != ".rego" and not is_data:
                continue
            try:
                text = file.read_bytes()
                source = text.decode()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 at byte {error.start}"
                problems.append(Problem(str(file), "", f"cannot be read: {reason}"))
                continue
            if is_data:
                prefix = file.parent.relative_to(root).parts if root.is_dir() else ()
                problems += _add(data, prefix, file, source, origin)
                digest.update(b"\0data\0" + "/".join(prefix).encode() + b"\0" + text)
            else:
                modules.append(Module(str(file), source))
                digest.update(b"\0module\0" + text)
    if not modules and not problems:
        problems.append(Problem(", ".join(map(str, paths)), "", "holds no .rego file"))
    if problems:
        raise PolicyError(problems)
    return Sources(tuple(modules), data, digest.hexdigest()[:12])


def _add(
    data: dict[str, Any], prefix: tuple[str, ...], file: Path, source: str, origin: dict[tuple[str, ...], str]
) -> list[Problem]:
    try:
        document = orjson.loads(source) if file.suffix == ".json" else yaml_data.load(source)
    except orjson.JSONDecodeError as error:
        return [Problem(str(file), f"line {error.lineno}, column {error.colno}", f"is not JSON: {error.msg}")]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else ""
        return [Problem(str(file), where, f"is not YAML: {getattr(error, 'problem', error)}")]
    except ValueError as error:
        return [Problem(str(file), "", f"is no data: {error}")]
    if not isinstance(document, dict):
        return [Problem(str(file), "", "an object at the root of data", type(document).__name__)]
    if _depth(document) + len(prefix) > _MOST_NESTED:
        return [Problem(str(file), "", f"is nested more than {_MOST_NESTED} levels deep")]
    for part in reversed(prefix):
        document = {part: document}
    return _merge(data, document, (), str(file), origin)


def _depth(value: Any) -> int:
    levels, here = 0, [value]
    while here:
        levels += 1
        below = [item for item in here if isinstance(item, dict | list)]
        here = [item for box in below for item in (box.values() if isinstance(box, dict) else box)]
    return levels


def _merge(
    into: dict[str, Any],
    new: dict[str, Any],
    at: tuple[str, ...],
    file: str,
    origin: dict[tuple[str, ...], str],
) -> list[Problem]:
    """Merge objects; a leaf given twice is a mistake, since the order of files would decide."""
    problems = []
    for key, value in new.items():
        here = (*at, str(key))
        if key not in into:
            into[str(key)] = value
            origin[here] = file
        elif isinstance(value, dict) and isinstance(into[key], dict):
            problems += _merge(into[key], value, here, file, origin)
        else:
            first = next(origin[here[:end]] for end in range(len(here), 0, -1) if here[:end] in origin)
            problems.append(Problem(file, f"data.{'.'.join(here)}", f"is given already by {first}"))
    return problems
