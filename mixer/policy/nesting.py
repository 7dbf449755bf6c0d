"""Modules whose parsing would not end: regorus looks ahead at each bracket, so its time doubles with each level."""

import re
from collections.abc import Iterable, Iterator

from mixer.errors import Problem
from mixer.policy.documents import Module

_TOKENS = re.compile(r'"(?:[^"\\\n]|\\.)*"|`[^`]*`|#[^\n]*|[\[\]{}]')
_DEEPEST = 14  # levels; 14 take 0.7 s, 22 take minutes
_MOST = 2**16  # tries at brackets, each of which takes up to 40 µs
_SHALLOW = 6  # levels that cost nothing to speak of, however many there are


def nested(modules: Iterable[Module]) -> Iterator[Problem]:
    """A problem for each module that must not be parsed."""
    for module in modules:
        depth = deepest = tries = 0
        for token in _TOKENS.finditer(module.source):
            text = token[0]
            if text in "[{":
                depth += 1
                deepest = max(deepest, depth)
                if _SHALLOW < depth <= _DEEPEST:
                    tries += 1 << depth
            elif text in "]}":
                depth = max(0, depth - 1)
        if deepest > _DEEPEST:
            yield Problem(module.file, "", f"nests brackets more than {_DEEPEST} levels deep")
        elif tries > _MOST:
            yield Problem(module.file, "", "nests brackets too deep too often, to be parsed in seconds")
