"""Calls that would take any time and memory, and are not begun: the evaluation is cut off, as by `policy.budget`."""

from typing import Any, Final

from mixer.policy.budget import WATCH
from mixer.policy.builtins.net import network_of
from mixer.policy.builtins.operands import string

LONGEST: Final = 64 * 1024 * 1024  # characters of a text
_MOST_ADDRESSES: Final = 2**20
_MOST_STEPS: Final = 100_000  # along paths of a graph


def exceeded(name: object) -> None:
    raise WATCH.exceeded(f"calls {name} for more than it gives at once (docs/check.md)")


def _few_addresses(cidr: object) -> bool:
    if network_of(string(cidr)).num_addresses > _MOST_ADDRESSES:
        exceeded("net.cidr_expand")
    return True


def _few_paths(edges: Any, starts: Any) -> bool:
    """Whether the paths in a graph, of which there may be 2 to the power of its nodes, can be gone."""
    graph = {repr(node): list(map(repr, neighbours)) for node, neighbours in edges}
    steps = 0
    for start in map(repr, starts):
        path, ways = [start], [iter(graph.get(start, ()))]
        while ways:
            steps += 1
            if steps > _MOST_STEPS:
                exceeded("graph.reachable_paths")
            if (following := next(ways[-1], None)) is None:
                ways.pop()
                path.pop()
            elif following not in path:
                path.append(following)
                ways.append(iter(graph.get(following, ())))
    return True


BUILTINS = {
    "mixer.exceeded": exceeded,
    "mixer.few_addresses": _few_addresses,
    "mixer.few_paths": _few_paths,
}
