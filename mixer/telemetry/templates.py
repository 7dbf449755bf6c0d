"""Route templates: `/users/7/orders` is `/users/{id}/orders`, so that a label of the path has few values."""

from collections.abc import Iterable
from typing import Final

OTHER = "other"
"""A path that follows none."""
_ONE: Final = "{}"
_REST: Final = "**"


class _Node(dict[str, "_Node"]):
    template: str | None = None


class Templates:
    """Of two that a path follows, the more specific one counts: text before `{name}`, `{name}` before `**`.

    `{name}` stands for one segment that is not empty, `**` for whatever follows, be it nothing.
    """

    def __init__(self, templates: Iterable[str]) -> None:
        """Raises `ValueError` where two are the same but for the names in them."""
        self._root, self._depth = _Node(), 0
        for template in templates:
            node = self._root
            for part in template.removeprefix("/").split("/"):
                node = node.setdefault(_ONE if part.startswith("{") else part, _Node())
            if node.template is not None:
                raise ValueError(f'"{template}" is the same as "{node.template}"; leave one out')
            node.template = template
            self._depth = max(self._depth, template.count("/"))

    def __call__(self, path: str) -> str:
        """The template that a path without its query follows, else `OTHER`."""
        # What is deeper than every template can only follow one that ends in `**`.
        segments = path.removeprefix("/").split("/", self._depth)
        return _find(self._root, segments, 0) or OTHER


def _find(node: _Node, segments: list[str], at: int) -> str | None:
    if at == len(segments):
        if node.template is not None:
            return node.template
    else:
        segment = segments[at]
        if (
            segment not in (_ONE, _REST)
            and (child := node.get(segment)) is not None
            and (found := _find(child, segments, at + 1)) is not None
        ):
            return found
        if (
            segment
            and (child := node.get(_ONE)) is not None
            and (found := _find(child, segments, at + 1)) is not None
        ):
            return found
    rest = node.get(_REST)
    return None if rest is None else rest.template
