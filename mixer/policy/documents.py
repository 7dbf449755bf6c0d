"""Modules and data documents: what policies come in, from a folder or a bundle, and how documents are merged."""

import gc
import json
import re
from dataclasses import dataclass, field
from typing import Any

import orjson
import yaml

from mixer.errors import Problem
from mixer.policy import yaml_data
from mixer.policy.written import unusual

DATA_NAMES = ("data.json", "data.yaml", "data.yml")
_LONG = re.compile(r"(?<![\w\".+-])-?[0-9]{19}")
_MOST_NESTED = 100  # regorus takes up to 127


@dataclass(frozen=True, slots=True)
class Module:
    file: str
    source: str


@dataclass(slots=True)
class Documents:
    """Data merged from documents. A value given twice is a mistake, since the order of files would decide."""

    data: dict[str, Any] = field(default_factory=dict)
    unusual: list[tuple[str, float, bool]] = field(default_factory=list)  # see `Sources`
    _origin: dict[tuple[str, ...], str] = field(default_factory=dict)

    def add(self, prefix: tuple[str, ...], file: str, source: str) -> list[Problem]:
        """Put the text of a document where its folder says. `file`: its name in messages; `.json` or YAML."""
        try:
            document = _parsed(source) if file.endswith(".json") else yaml_data.load(source)
        except orjson.JSONDecodeError as error:
            return [Problem(file, f"line {error.lineno}, column {error.colno}", f"is not JSON: {error.msg}")]
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"line {mark.line + 1}" if mark else ""
            return [Problem(file, where, f"is not YAML: {getattr(error, 'problem', error)}")]
        except (ValueError, RecursionError) as error:
            return [Problem(file, "", f"is no data: {error}")]
        if not prefix and not isinstance(document, dict):
            return [Problem(file, "", "an object at the root of data", type(document).__name__)]
        if _depth(document) + len(prefix) > _MOST_NESTED:
            return [Problem(file, "", f"is nested more than {_MOST_NESTED} levels deep")]
        if file.endswith(".json"):
            self.unusual += [(file, *number) for number in sorted({*unusual(source)})]
        for part in reversed(prefix):
            document = {part: document}
        return self.merge(document, file)

    def merge(self, document: dict[str, Any], file: str) -> list[Problem]:
        """Take in an object of the root; `file` is its name in messages."""
        return self._merge(self.data, document, (), file)

    def _merge(
        self, into: dict[str, Any], new: dict[str, Any], at: tuple[str, ...], file: str
    ) -> list[Problem]:
        problems = []
        for key, value in new.items():
            here = (*at, str(key))
            if key not in into:
                into[str(key)] = value
                self._origin[here] = file
            elif isinstance(value, dict) and isinstance(into[key], dict):
                into[key] = dict(into[key])  # what it was given is its giver's
                problems += self._merge(into[key], value, here, file)
            else:
                first = next(
                    self._origin[here[:end]] for end in range(len(here), 0, -1) if here[:end] in self._origin
                )
                problems.append(Problem(file, f"data.{'.'.join(here)}", f"is given already by {first}"))
        return problems


def _parsed(source: str) -> Any:
    """Without the collector, which would look through a large document again and again as it grows: half the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        value = orjson.loads(source)
        if _LONG.search(source) is not None:
            json.loads(source, parse_int=_integer, parse_float=str, parse_constant=str)
        return value
    finally:
        if collects:
            gc.enable()


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= (value := int(digits)) < 2**64:
        raise ValueError("it holds an integer of more than 64 bits, which the embedded engine has not")
    return value


def _depth(value: Any) -> int:
    levels, here = 0, [value]
    while here:
        levels += 1
        below = [item for item in here if isinstance(item, dict | list)]
        here = [item for box in below for item in (box.values() if isinstance(box, dict) else box)]
    return levels
