"""What is above a rule of several names, `x.a.b := …`: in OPA `x` and `x.a` are objects, also where it has no value.

regorus has nothing there then. A rule that never adds anything, `x[k] := v if { some k, v in {} }`, makes it an object.
"""

import json
from collections.abc import Iterator, Sequence

from mixer.policy.sources import Module
from mixer.policy.syntax import Node, package, pattern, rule_head

# The names of its locals must be none of the package's.
_FILLER = "[mixer_k] := mixer_v if { some mixer_k, mixer_v in {} }"


def fillers(modules: Sequence[Node]) -> Iterator[Module]:
    """A module for each package that has such rules."""
    needed: dict[str, set[str]] = {}
    rules = {_name(module, rule) for module in modules for rule in module["ast"]["rules"]}
    for module in modules:
        text = _written(package(module))
        for rule in module["ast"]["rules"]:
            parts = pattern(rule_head(rule))
            constant = parts.index(None) if None in parts else len(parts) - 1
            for end in range(1, constant + 1):
                names = [str(part) for part in parts[:end]]
                if (*package(module), *names) not in rules:
                    needed.setdefault(text, set()).add(_written(names))
    for number, (text, names_) in enumerate(sorted(needed.items())):
        lines = [f"{name}{_FILLER}" for name in sorted(names_)]
        yield Module(f"<mixer_prefixes_{number}>", "\n".join([f"package {text}", "import rego.v1", *lines]))


def _name(module: Node, rule: Node) -> tuple[str | None, ...]:
    return (*package(module), *pattern(rule_head(rule)))


def _written(names: Sequence[str]) -> str:
    first, *others = names
    return first + "".join(f"[{json.dumps(name, ensure_ascii=False)}]" for name in others)
