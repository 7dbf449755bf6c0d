"""YAML data as OPA reads it (sigs.k8s.io/yaml): plain text is a boolean, null or a number only as in JSON's sense.

YAML 1.1, which PyYAML reads, would make `no` false, `22:30` the number 1350, and `2020-01-02` a date.
"""

import math
import re
from collections.abc import Hashable
from typing import Any

import yaml

from mixer import yaml_bounds

_BOOLEAN = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_NUMBER = re.compile(
    r"""^[-+]?(?:
      0b[01_]+ | 0o[0-7_]+ | 0x[0-9a-fA-F_]+
    | (?:\.[0-9_]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?
    )$""",
    re.VERBOSE,
)
_OCTAL = re.compile(r"^([-+]?)0([0-7]+)$")
_LARGEST_INTEGER = 2**64 - 1


def load(text: str) -> Any:
    """The document. Raises `yaml.YAMLError`, and `ValueError` for what JSON cannot hold."""
    yaml_bounds.check(text)
    return _plain(yaml.load(text, Loader=_Loader))  # noqa: S506 (a SafeLoader)


def load_all(text: str) -> list[Any]:
    """All documents of a text. Raises as `load`."""
    yaml_bounds.check(text)
    return [_plain(document) for document in yaml.load_all(text, Loader=_Loader)]


class _Loader(yaml.CSafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 (as in the base class)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """With names as keys from the start: 1 and true would be one key to Python."""
        self.flatten_mapping(node)
        return {
            _key(self.construct_object(key, deep=True)): self.construct_object(value, deep=True)
            for key, value in node.value
        }

    def construct_number(self, node: yaml.ScalarNode) -> float | str:
        given: str = self.construct_scalar(node)
        text = given.replace("_", "")
        if octal := _OCTAL.match(text):
            text = f"{octal[1]}0o{octal[2]}"
        try:
            whole = int(text, 0)
        except ValueError:
            number = float(text)
            return given if math.isinf(number) else int(number) if number.is_integer() else number
        return whole if abs(whole) <= _LARGEST_INTEGER else float(whole)


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOLEAN, list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", _NULL, ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"])
_Loader.add_implicit_resolver("!number", _NUMBER, list("-+.0123456789"))
_Loader.add_constructor("!number", _Loader.construct_number)


def _key(key: object) -> str:
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, str | int | float):
        return str(key)
    raise ValueError(f"a key is {'null' if key is None else 'no text'}")


def _plain(value: Any, above: tuple[int, ...] = ()) -> Any:
    if id(value) in above:
        raise ValueError("an anchor holds itself")
    if isinstance(value, dict):
        return {name: _plain(item, (*above, id(value))) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, (*above, id(value))) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(f"a value is no JSON: {type(value).__name__}")
